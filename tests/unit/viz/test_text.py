"""Words never lie over each other, nor beyond the picture."""

from __future__ import annotations

import itertools

import numpy as np

from uniad.viz.text import Labels, extent, fit, plain


def canvas(size: int = 200) -> np.ndarray:
    return np.zeros((size, size, 3), np.uint8)


def meet(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_ids_of_a_crowd_and_the_title_never_overlap():
    rng = np.random.default_rng(0)
    words = Labels(canvas())
    assert words.put("front left", [(8, 8)], 0.7)
    placed = 0
    for number in range(60):
        x, y = rng.integers(0, 190, 2)
        placed += words.put_beside(str(number), (x, y, x + 6, y + 6), 0.5)
    assert 10 < placed < 60, "some find a place, the others are left out"
    assert not any(meet(a, b) for a, b in itertools.combinations(words.taken, 2))
    assert all(0 <= l and 0 <= t and r <= 200 and b <= 200 for l, t, r, b in words.taken)


def test_what_comes_first_has_the_place():
    words = Labels(canvas())
    assert words.put("title", [(5, 5)], 0.7) and not words.put("12", [(8, 8)], 0.5)
    assert words.put("12", [(8, 8), (100, 100)], 0.5), "another place is taken where there is one"


def test_words_are_drawn_inside_the_rectangle_that_is_kept_for_them():
    image = canvas()
    words = Labels(image)
    words.put("gy27", [(60, 60)], 0.6, (255, 255, 255), 2)
    words.draw()
    left, top, right, bottom = words.taken[0]
    rows, columns = np.argwhere(image.max(-1) > 60).T
    assert left <= columns.min() and columns.max() <= right and top <= rows.min() and rows.max() <= bottom


def test_long_lines_are_cut_to_their_width_and_foreign_letters_stay_one_each():
    cut = fit("a long caption of a model with many figures", 120, 0.6)
    assert cut.endswith("...") and extent(cut, 0.6)[0] <= 120
    assert fit("short", 120, 0.6) == "short" and plain("Zürich") == "Z?rich"
