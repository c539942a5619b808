"""Compare two sets of map elements.

They come in the order of their scores, and two that nearly tie may change places; at the end of the list one may even be
exchanged for another. So elements are matched first, by all that they are, and each pair is compared then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Mapping  # noqa: UP035  Python 3.8 cannot index the newer one

import numpy as np

from uniad.verify.assignment import assign

if TYPE_CHECKING:
    from uniad.postprocess.map_merge import MergeRule
    from uniad.verify.tolerances import Tolerance

Outputs = Mapping[str, np.ndarray]
BROKEN = float("inf")  # what no tolerance allows


def compare_elements(got: Outputs, want: Outputs, merge: MergeRule, limit: Tolerance) -> Iterator[tuple[str, str, float]]:
    """(tensor, row of the tolerance, value) of every check. Tensors are map_* with a leading axis of 1."""
    g = {name: got[f"map_{name}"][0] for name in ("score", "label", "box", "mask", "kept")}
    w = {name: want[f"map_{name}"][0] for name in g}
    inside_g, inside_w = (x["mask"].reshape(len(x["mask"]), -1) > merge.mask_threshold for x in (g, w))
    pair = match(g, w, inside_g, inside_w)
    g, inside_g = {name: value[pair] for name, value in g.items()}, inside_g[pair]

    box = np.abs(g["box"] - w["box"]).max(-1)
    mask = np.abs(g["mask"] - w["mask"]).reshape(len(box), -1).max(-1)
    mask = mask / max(1.0, float(np.abs(w["mask"]).max()))
    flips, area = (inside_g != inside_w).sum(-1), inside_w.sum(-1)
    # Two are the same element if label and either of box and mask say so; what differs then is an error of the other.
    named = g["label"] != w["label"]
    strange = named | ((box > limit.map_box) & (mask > limit.map_mask))
    same = ~strange
    blame = "map_label" if named[strange].sum() * 2 > strange.sum() else "map_box and map_mask"
    exchanged = float(strange.mean())
    if exchanged and limit.ids == 0 and ((g["kept"] | w["kept"])[strange] != 0).any():
        exchanged = BROKEN  # the merged map is made of these
    yield blame, "map_elements", exchanged
    yield "map_box", "map_box", _largest(box, same)
    yield "map_mask", "map_mask", _largest(mask, same)

    # A score is a class probability times the squared mean of the mask inside: a cell on the edge moves it by its share.
    scale = np.maximum(1.0, np.abs(w["score"]))
    room = 3.0 * flips / (np.minimum(area, inside_g.sum(-1)) + 1) * np.abs(w["score"])
    yield "map_score", "score", _largest(np.maximum(np.abs(g["score"] - w["score"]) - room, 0.0) / scale, same)
    order = np.diff(got["map_score"][0])
    yield "map_score", "score", float(np.maximum(order, 0.0).max(initial=0.0))
    clear = np.abs(w["score"] - merge.quality_threshold) > limit.score * scale + room
    wrong = same & clear & (g["kept"] != w["kept"])
    yield "map_kept", "map_elements", BROKEN if wrong.any() and limit.ids == 0 else float(wrong.mean())


def match(got: Outputs, want: Outputs, inside_got: np.ndarray, inside_want: np.ndarray) -> np.ndarray:
    """For each wanted element the row of ``got`` that is most like it, each row once.

    Every property has its say and none an unlimited one, so that a wrong value of one does not hide what belongs together.
    """
    both = inside_want.astype(np.float32) @ inside_got.astype(np.float32).T
    either = inside_want.sum(-1, dtype=np.float32)[:, None] + inside_got.sum(-1, dtype=np.float32)[None] - both
    apart = 1.0 - both / np.maximum(either, 1.0)
    apart[either == 0] = 0.0
    box = np.abs(want["box"][:, None] - got["box"][None]).max(-1)
    score = np.abs(want["score"][:, None] - got["score"][None])
    label = want["label"][:, None] != got["label"][None]
    cost = np.minimum(apart, 1.0) + np.minimum(10.0 * box, 1.0) + np.minimum(score, 1.0) + 2.0 * label
    return assign(cost)


def _largest(values: np.ndarray, rows: np.ndarray) -> float:
    return float(values[rows].max()) if rows.any() else 0.0
