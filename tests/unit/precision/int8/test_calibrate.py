"""What calibration sees: each scene from its own beginning, no more of it than was asked, whatever fits into memory at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from helpers import toy_graph as toy
from helpers.replays import draw_sequence
from uniad.errors import UserError
from uniad.precision.int8 import calibrate
from uniad.precision.int8.calibrate import Calibration

TENSORS = ("less", "moved", "state_bev")  # what the toy computes of the BEV of the frame before
SCENES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path: Path = toy.write_toy(tmp_path_factory.mktemp("toy") / "toy.onnx")
    return onnx.shape_inference.infer_shapes(onnx.load(str(path)))


@pytest.fixture(scope="module")
def contract():
    return toy.contract()


class Scenes:
    """Scenes of one recording: the same frames over and over."""

    scenes = list(range(len(SCENES)))
    table = SimpleNamespace(scene_token=np.array(SCENES))

    def __init__(self, contract) -> None:
        self.frames = [SimpleNamespace(frame=feed) for feed in draw_sequence(contract).feeds]

    def scene(self, number: int):
        return iter(self.frames)


@pytest.fixture
def drive(model, contract, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calibration]:
    monkeypatch.setattr(calibrate, "pack_frame", lambda contract, frame: [Values(frame[p.name]) for p in contract.frame])
    stream = Scenes(contract)

    def run(*scenes: int, frames: int = 9, **options: int) -> Calibration:
        chosen = SimpleNamespace(frames=frames, split="train", open=lambda: (stream, list(scenes)))
        layers = [SimpleNamespace(activation=name) for name in TENSORS]
        return calibrate.calibrate(model, layers, contract, chosen, threads=1, **options)

    return run


class Values(np.ndarray):
    """An array where the data set has a tensor."""

    def __new__(cls, values: np.ndarray) -> Values:
        return values.view(cls)

    def numpy(self) -> np.ndarray:
        return self.view(np.ndarray)


def counts(found: Calibration) -> dict[str, list[int]]:
    return {name: magnitudes.counts.tolist() for name, magnitudes in found.magnitudes.items()}


def test_every_scene_begins_without_what_the_scene_before_left(drive) -> None:
    one, two = drive(0), drive(0, 2)
    assert (one.frames, two.frames, two.scenes) == (3, 6, ["a", "c"]) and two.active == 2 * one.active > 0
    for name, found in counts(one).items():  # not the zeros, which a tensor's first frames count by another rule
        beside = np.abs(np.array(counts(two)[name][1:]) - 2 * np.array(found[1:]))
        assert beside.sum() < 100, "but for values on the edge of a bin"
    assert {name: m.largest for name, m in one.magnitudes.items()} == {name: m.largest for name, m in two.magnitudes.items()}


def test_state_is_fed_back_within_a_scene(drive) -> None:
    first, all_of_it = drive(0, frames=1), drive(0)
    assert first.magnitudes["state_bev"].largest == 0 < all_of_it.magnitudes["state_bev"].largest
    assert (first.frames, all_of_it.frames) == (1, 3) and first.digest != all_of_it.digest


def test_what_fits_into_memory_decides_how_often_it_drives_and_nothing_else(drive) -> None:
    at_once, one_by_one = drive(0, 1), drive(0, 1, memory_mib=0)
    assert counts(at_once) == counts(one_by_one)
    for name in ("digest", "frames", "active", "scenes"):
        assert getattr(at_once, name) == getattr(one_by_one, name)


def test_scenes_without_a_frame_are_no_calibration(drive) -> None:
    with pytest.raises(UserError, match="hold no frame"):
        drive(0, frames=0)


@pytest.mark.parametrize("asked, chosen", [(1, [0]), (2, [0, 8]), (3, [0, 4, 8]), (9, list(range(9)))])
def test_scenes_are_spread_over_the_whole_of_the_split_that_was_asked_for(monkeypatch, asked, chosen) -> None:
    opened = []
    monkeypatch.setattr(
        calibrate, "SceneStream", lambda data, split, **_: opened.append(split) or SimpleNamespace(scenes=list(range(9)))
    )
    spec = SimpleNamespace(data=None)
    assert calibrate.CalibrationSet(spec, scenes=asked).open()[1] == chosen and opened == ["train"], "never what is evaluated on"
    assert calibrate.CalibrationSet(spec, "val", scenes=asked).open()[1] == chosen and opened[1:] == ["val"]
    for scenes, frames, why in ((0, 1, "is empty"), (1, 0, "is empty"), (10, 1, "CALIB_SCENES 10: the train split has 9 scenes")):
        with pytest.raises(UserError, match=why):
            calibrate.CalibrationSet(spec, scenes=scenes, frames=frames).open()


def test_what_is_watched_at_once_fits_into_memory_and_all_of_it_is_watched(model) -> None:
    size = {name: 4 * int(np.prod(shape)) for name, shape in calibrate.tensor_shapes(model).items()}
    for mib in (0, 1, 2, 5, 1024):
        parts = calibrate._portions(list(TENSORS), model, mib)
        assert [name for part in parts for name in part] == list(TENSORS)
        assert all(len(part) == 1 or sum(size[name] for name in part) <= mib * 2**20 for part in parts), mib
    assert [len(calibrate._portions(list(TENSORS), model, mib)) for mib in (0, 1024)] == [3, 1]
