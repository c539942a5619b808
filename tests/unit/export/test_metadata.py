"""The inputs of upstream's deployment: names, shapes and types as its export script and inference program expect them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import ran, refused
from helpers.specs import config_path, full_spec, nano_spec, tiny_spec
from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.data.dataset import SceneStream
from uniad.errors import UserError
from uniad.export.metadata import shapes, write_metadata

# As upstream's inference program declares the inputs that it reads from files: name, float32 numbers in a file
PROGRAM = {
    "timestamp": 1, "l2g_r_mat": 9, "l2g_t": 3, "command": 1, "img_metas_can_bus": 18, "img_metas_lidar2img": 96,
    "img_metas_scene_token": 32,
}  # fmt: skip
# As upstream's export declares its inputs for tiny; None where they differ from frame to frame
EXPORT_TINY = {
    "img": (1, 6, 3, 256, 416), "timestamp": (1,), "l2g_r_mat": (1, 3, 3), "l2g_t": (1, 3), "command": (1,),
    "img_metas_can_bus": (18,), "img_metas_lidar2img": (1, 6, 4, 4), "img_metas_scene_token": (32,),
    "gt_lane_labels": (1, None), "gt_lane_masks": (1, None, 50, 50), "gt_segmentation": (1, 7, 50, 50),
}  # fmt: skip
EXPORT_FULL = EXPORT_TINY | {
    "img": (1, 6, 3, 928, 1600), "gt_lane_masks": (1, None, 200, 200), "gt_segmentation": (1, 7, 200, 200),
}  # fmt: skip


@pytest.fixture(scope="module")
def options(synthetic_root: Path, synthetic_infos: Path) -> list[str]:
    return [f"data_root={synthetic_root}/", f"info_root={synthetic_infos}/", "data.workers_per_gpu=0"]


@pytest.fixture(scope="module")
def spec(options: list[str]) -> Spec:
    return load_spec(config_path("nano", 2), options)


@pytest.fixture(scope="module")
def written(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "nuscenes_np"
    code, output, err = ran("tools/process_metadata.py", "--config", config_path("nano", 2), "--dump_folder", folder,
                                   "--num_frame", 6, "--cfg-options", *options)  # fmt: skip
    assert code == 0 and "6 frames of 1 scene" in output, err
    return folder


def test_sizes_of_each_variant_are_upstreams() -> None:
    assert shapes(tiny_spec(2)) == EXPORT_TINY
    assert shapes(full_spec(2)) == EXPORT_FULL


def test_the_program_finds_its_files(written: Path, spec: Spec) -> None:
    trt = written / "uniad_trt_input"
    assert {p.name for p in trt.iterdir()} == {*PROGRAM, "info.txt"}
    for name, count in PROGRAM.items():
        assert sorted(p.name for p in (trt / name).iterdir()) == [f"{i}.bin" for i in range(6)]
        assert all((trt / name / f"{i}.bin").stat().st_size == 4 * count for i in range(6)), name
    lines = (trt / "info.txt").read_text().splitlines()
    assert len(lines) == 6
    for line in lines:
        *paths, rest = line.split(";")
        assert rest == "" and all(Path(path).is_file() for path in paths)
        assert [Path(path).parent.name for path in paths] == [
            "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"
        ]  # fmt: skip


def test_the_export_finds_its_files(written: Path) -> None:
    onnx = written / "uniad_onnx_input"
    expected = shapes(nano_spec(2))
    assert {p.name for p in onnx.iterdir()} == expected.keys() == EXPORT_TINY.keys()
    for name, shape in expected.items():
        assert sorted(p.name for p in (onnx / name).iterdir()) == [f"{i}.npy" for i in range(6)]
        for frame in range(6):
            array = np.load(onnx / name / f"{frame}.npy")
            assert array.dtype == (np.float64 if name == "timestamp" else np.float32), name
            assert len(array.shape) == len(shape) and all(want in (None, got) for got, want in zip(array.shape, shape)), name
        if name in PROGRAM and name != "timestamp":
            binary = np.fromfile(written / "uniad_trt_input" / name / "5.bin", np.float32)
            np.testing.assert_array_equal(binary, array.ravel())
    labels, masks = (np.load(onnx / name / "0.npy")[0] for name in ("gt_lane_labels", "gt_lane_masks"))
    assert len(labels) == len(masks) and labels[-1] == 3 and set(labels[:-1]) <= {0, 1, 2}


def test_values_are_the_datasets(written: Path, spec: Spec) -> None:
    samples = list(SceneStream(spec.data, "val", stage=2, workers=0))

    def read(name: str, frame: int) -> np.ndarray:
        return np.fromfile(written / "uniad_trt_input" / name / f"{frame}.bin", np.float32)

    for number, sample in enumerate(samples):
        frame, onnx = sample.frame, written / "uniad_onnx_input"
        np.testing.assert_array_equal(read("l2g_r_mat", number), frame.l2g_r.numpy().ravel())
        np.testing.assert_array_equal(read("img_metas_lidar2img", number), frame.lidar2img.numpy().ravel())
        np.testing.assert_allclose(read("timestamp", number), frame.time_s.numpy(), atol=1e-6)
        np.testing.assert_array_equal(read("command", number), frame.command.numpy())
        np.testing.assert_array_equal(np.load(onnx / "img" / f"{number}.npy"), frame.img.numpy())
        assert np.load(onnx / "timestamp" / f"{number}.npy")[0] == sample.info["timestamp"] / 1e6
        token = "".join(chr(int(code)) for code in read("img_metas_scene_token", number))
        assert token == sample.info["scene_token"]
        moved, now = read("img_metas_can_bus", number), frame.can_bus.numpy()[0]
        before = samples[number - 1].frame.can_bus.numpy()[0] if number else np.zeros(18, np.float32)
        np.testing.assert_allclose(moved[:3], now[:3] - before[:3], atol=1e-3)
        np.testing.assert_allclose(moved[17], now[17] - before[17], atol=1e-3)
        np.testing.assert_array_equal(moved[3:17], now[3:17])


@pytest.mark.parametrize("frames", [5, 7, -1])
def test_too_few_and_too_many_frames_are_refused_and_nothing_is_written(spec: Spec, tmp_path: Path, frames: int) -> None:
    with pytest.raises(UserError, match=f"{frames} frames asked for: the export takes 6, and .* holds 6"):
        write_metadata(spec, tmp_path / "onnx", tmp_path / "trt", frames)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_what_was_there_before(spec: Spec, tmp_path: Path) -> None:
    for name in ("onnx", "trt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "earlier").write_text("kept")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_metadata(spec, tmp_path / "onnx", tmp_path / "trt", progress=stop)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["earlier", "earlier", "onnx", "trt"]
    assert write_metadata(spec, tmp_path / "onnx", tmp_path / "trt").frames == 6, "fewer than upstream's number are all"
    assert not list(tmp_path.rglob("earlier")) and {p.name for p in tmp_path.iterdir()} == {"onnx", "trt"}


def test_a_missing_dataset_gets_one_line(tmp_path: Path) -> None:
    message = refused("tools/process_metadata.py", "--dump_folder", tmp_path / "out", "--cfg-options", f"info_root={tmp_path}/")
    assert str(tmp_path) in message and not (tmp_path / "out").exists()
