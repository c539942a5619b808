"""Clips whose images travel as bytes are the same clips."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from helpers import specs
from uniad.config.spec import DataSpec, ImageSpec
from uniad.data.arena import Arena
from uniad.data.dataset import ClipDataset
from uniad.data.detection import DetectionClips
from uniad.data.pixels import bgr_to_hsv, collate_raw, distort, hsv_to_bgr, network_images
from uniad.data.transforms import Distortion, finish, resampler
from uniad.training.loader import map_tensors

KEY = (0, 5)


def both(spec: DataSpec, stage: int = 2) -> tuple:
    made = ClipDataset(spec, "train", stage=stage, seed=3)[KEY]
    dataset = ClipDataset(spec, "train", stage=stage, seed=3, raw=True)
    return made, dataset[KEY], dataset.finish


@pytest.mark.parametrize("cache", ["off", "exact", "scaled"])
@pytest.mark.parametrize("photometric", [False, True])
def test_a_clip_of_bytes_is_the_clip(data_spec: DataSpec, tmp_path: Path, cache: str, photometric: bool):
    spec = specs.edit(data_spec, image_cache=cache, image_cache_dir=str(tmp_path), image__photometric=photometric)
    clip, raw, finished = both(spec)
    assert raw.clip.frames.img.dtype == torch.uint8 and (raw.distortions is not None) == photometric
    found = finished(collate_raw([raw, raw]))
    assert found.frames.img.shape == (2, *clip.frames.img.shape)
    if photometric:
        torch.testing.assert_close(found.frames.img[1], clip.frames.img, rtol=0, atol=1e-4)
    else:
        assert torch.equal(found.frames.img[1], clip.frames.img), "to the digit on a CPU"
    for one, other in zip((*found.frames[1:], *found.targets), (*clip.frames[1:], *clip.targets)):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one[1], other)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("stage", [0, 2])
def test_images_are_written_where_the_batch_is(data_spec: DataSpec, stage: int, raw: bool):
    clips = DetectionClips if stage == 0 else ClipDataset
    spec = specs.edit(data_spec, image__photometric=True)
    dataset = clips(spec, "train", stage, seed=3, raw=raw)
    wanted, arena = dataset[KEY], Arena(dataset[0, 4], 2, 1)
    made = dataset.write(KEY, arena.row(0, 1))
    images = [(value.clip if raw else value).frames.img for value in (made, arena.batches[0], wanted)]
    assert images[0].data_ptr() == images[1][1].data_ptr() and torch.equal(images[1][1], images[2])
    arena.fill(0, [dataset[0, 4], made])
    leaves = [[], []]
    map_tensors(leaves[0].append, arena.row(0, 1))
    map_tensors(leaves[1].append, wanted)
    assert len(leaves[0]) > 20 and all(torch.equal(one, other) for one, other in zip(*leaves, strict=True))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_full_size_images_without_scaling_too(scale: float):
    image = ImageSpec((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False, scale, False, 96 if scale == 1 else 32, 160)
    scaler = resampler((90, 160), scale)
    planes = scaler.pick(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8))
    wanted = np.empty((3, image.height, image.width), np.float32)
    finish(planes, image, scaler, None, wanted)
    found = network_images(torch.from_numpy(planes)[None, None], image, scaler)
    assert torch.equal(found[0, 0], torch.from_numpy(wanted))


def test_colours_turn_as_opencv_turns_them():
    image = np.random.default_rng(1).uniform(-30, 290, (40, 50, 3)).astype(np.float32)
    image[0] = image[0, :, :1]  # greys
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    found = bgr_to_hsv(torch.from_numpy(image))
    for channel, value in enumerate(found):
        np.testing.assert_allclose(value.numpy(), hsv[..., channel], rtol=1e-5, atol=1e-3)
    back = hsv_to_bgr(*(torch.from_numpy(np.ascontiguousarray(hsv[..., c])) for c in range(3)))
    np.testing.assert_allclose(back.numpy(), cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), rtol=1e-4, atol=1e-3)


def test_every_distortion_is_that_of_the_loader():
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (12, 20, 3)).astype(np.float32)
    draws = [Distortion.draw(rng) for _ in range(40)]
    found = distort(torch.from_numpy(image).expand(40, -1, -1, -1), torch.tensor([draw.row() for draw in draws]))
    for draw, one in zip(draws, found):
        np.testing.assert_allclose(one.numpy(), draw.apply(image), rtol=1e-4, atol=2e-3)


def test_maps_are_drawn_once(data_spec: DataSpec, tmp_path: Path, monkeypatch):
    spec = specs.edit(data_spec, image_cache="scaled", image_cache_dir=str(tmp_path))
    plain = ClipDataset(data_spec, "train", stage=1, seed=3)[KEY].targets
    first = ClipDataset(spec, "train", stage=1, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first[KEY].targets, plain) if isinstance(a, torch.Tensor))
    again = ClipDataset(spec, "train", stage=1, seed=3)
    monkeypatch.setattr(type(again.targets), "_draw_map", lambda *_: pytest.fail("it is in the cache"))
    assert torch.equal(again[KEY].targets.lane_masks, plain.lane_masks)
    # other lines are another cache
    thick = ClipDataset(specs.edit(spec, lane_thickness=spec.lane_thickness + 2), "train", stage=1, seed=3)
    assert thick.targets.drawn.pixels_path != again.targets.drawn.pixels_path
