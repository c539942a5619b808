"""Which pixels scaling reads, and how they are fetched."""

import numpy as np
import pytest

from uniad.data.transforms import Resampler


@pytest.mark.parametrize(
    "hw, scale", [((900, 1600), 0.25), ((90, 160), 0.5), ((90, 160), 0.4), ((91, 163), 0.25), ((90, 160), 1.5)]
)
def test_pixels_evenly_apart_are_those_that_an_index_reads(hw: tuple[int, int], scale: float) -> None:
    """Also of images that lie in memory in another way than a decoder leaves them."""
    scaler = Resampler(hw, scale)
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    wide = np.random.default_rng(1).integers(0, 256, (*hw, 4), np.uint8)
    rows, columns = scaler.places
    for given in (image, image[::-1], image[:, ::-1], np.asfortranarray(image), wide[..., :3], image[..., ::-1]):
        wanted = np.concatenate([given[y][:, x] for y in rows for x in columns])
        assert np.array_equal(scaler.pick(given), wanted)
        room = np.zeros((2, *scaler.planes_shape), np.uint8)
        assert scaler.pick(given, room[1]).base is room
        assert np.array_equal(room[1], wanted) and not room[0].any()


def test_at_a_quarter_no_index_is_needed() -> None:
    """What nuScenes' cameras are read with, at the scales of nano, tiny and Bench2Drive's tiny."""
    for scale in (0.25, 0.5):
        assert Resampler((900, 1600), scale)._slices


def test_an_image_that_is_not_scaled_is_handed_on_or_copied_to_a_place() -> None:
    scaler = Resampler((9, 16), 1.0)
    image = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    assert scaler.pick(image) is image
    room = np.zeros(scaler.planes_shape, np.uint8)
    assert scaler.pick(image, room) is room and np.array_equal(room, image)
