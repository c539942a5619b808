"""Each mistake a person can make is one line and a status other than 0, and leaves nothing half-written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from helpers import REPO
from helpers.command_line import NANO, World, ran, refused
from helpers.specs import tiny_spec
from uniad.models.uniad import UniAD


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.pth")}


def cut_images(world: World, camera: str) -> None:
    """Every image of a camera ends after a third of it."""
    for image in (world.root / "samples" / camera).iterdir():
        content = image.read_bytes()
        image.unlink()  # a link: the world's own file stays whole
        image.write_bytes(content[: len(content) // 3])


def test_an_unknown_variant_is_one_line_and_runs_nothing():
    done = subprocess.run(["make", "-n", "train", "VARIANT=huge"], cwd=REPO, capture_output=True, text=True)
    output = [line for line in done.stderr.splitlines() if "huge" in line]
    assert done.returncode != 0 and len(output) == 1 and "nano" in output[0] and "tiny" in output[0], done.stderr
    assert "tools/train.py" not in done.stdout


def test_a_missing_dataset_is_named_and_leaves_no_infos(tmp_path):
    line = refused("tools/create_data.py", "nuscenes", "--root-path", tmp_path / "nowhere", "--out-dir", tmp_path / "infos")
    assert str(tmp_path / "nowhere") in line
    assert not (tmp_path / "infos").exists() or files_under(tmp_path / "infos") == []


def test_a_dataset_without_a_table_is_refused_by_its_name(damaged, tmp_path):
    (damaged.root / "v1.0-trainval" / "sample_annotation.json").unlink()
    line = refused("tools/create_data.py", "nuscenes", "--root-path", damaged.root, "--out-dir", tmp_path / "infos")
    assert "sample_annotation" in line
    assert not (tmp_path / "infos").exists() or files_under(tmp_path / "infos") == []


def test_training_without_infos_says_which_and_writes_no_checkpoint(world, tmp_path):
    line = refused(*World(world.root, tmp_path / "no_infos").train(tmp_path / "run"))
    assert "nuscenes_infos_temporal_train.pkl" in line
    assert checkpoints(tmp_path) == set()


def test_training_on_infos_whose_images_are_gone_names_the_first(damaged, tmp_path):
    shutil.rmtree(damaged.root / "samples" / "CAM_BACK")
    line = refused(*damaged.train(tmp_path / "run", "--max-iters", 2))
    assert "CAM_BACK" in line
    assert checkpoints(tmp_path) == set()


def test_training_stops_at_a_truncated_image_and_names_it(damaged, tmp_path):
    cut_images(damaged, "CAM_BACK")
    line = refused(*damaged.train(tmp_path / "run", "--max-iters", 2))
    assert "samples/CAM_BACK/" in line and "cut short" in line
    assert checkpoints(tmp_path) == set()


def test_evaluation_stops_at_a_truncated_image_and_writes_no_result(damaged, nano_checkpoint, tmp_path):
    cut_images(damaged, "CAM_FRONT")
    out = tmp_path / "out" / "results.json"
    line = refused("tools/test.py", NANO, nano_checkpoint, "--device", "cpu", "--out", out, "--cfg-options",
                   *damaged.data_options())  # fmt: skip
    assert "samples/CAM_FRONT/" in line and "cut short" in line
    assert not out.exists() and not out.parent.exists()


def test_evaluation_refuses_the_checkpoint_of_another_variant(world, tmp_path):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in UniAD(tiny_spec().model).state_dict().items()}
    tiny = tmp_path / "tiny.pth"
    torch.save({"state_dict": {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}}, tiny)
    out = tmp_path / "out" / "results.json"
    line = refused("tools/test.py", NANO, tiny, "--device", "cpu", "--out", out, "--cfg-options", *world.data_options())
    assert "tiny.pth" in line and "nano_track_map" in line and "tiny checkpoint" in line
    assert not out.parent.exists()


@pytest.mark.parametrize("tool, option, value", [
    ("visualize.py", "--frame", "999"), ("visualize.py", "--frame", "-1"), ("visualize.py", "--scene", "99"),
    ("visualize.py", "--scene", "-1"), ("export_onnx.py", "--frames", "999"), ("export_onnx.py", "--frames", "0"),
])  # fmt: skip
def test_a_number_beyond_what_there_is_names_the_range(world, nano_checkpoint, tmp_path, tool, option, value):
    out = tmp_path / "out" / "product"
    options = (f"{option}={value}", "--cfg-options", *world.data_options())
    line = refused(f"tools/{tool}", NANO, nano_checkpoint, "--out", out, *options)
    assert f"{option} {value}: " in line
    assert "at least one frame" in line or re.search(r"frames 0 to \d+$|scenes 0 to 0$|has \d+ frames$", line)
    assert not out.exists()


def test_evaluation_without_a_checkpoint_says_so(world, tmp_path):
    line = refused("tools/test.py", NANO, tmp_path / "none.pth", "--device", "cpu", "--cfg-options", *world.data_options())
    assert "none.pth" in line


def test_a_config_key_that_native_lacks_is_named_before_anything_is_written(world, tmp_path):
    line = refused(*world.train(tmp_path / "run", "--cfg-options", "model.img_neck.extra_convs=on_output"))
    assert "model.img_neck.extra_convs" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_nan_names_its_module_and_the_last_good_checkpoint_stays(world, tmp_path):
    work_dir = tmp_path / "run"
    code, _, err = ran(*world.train(work_dir, "--max-iters", 4, "--stop-after", 1))
    assert code == 0, err
    line = refused(*world.train(work_dir, "--max-iters", 4, "--save-every", 1, "--cfg-options", "optimizer.lr=1e25"))
    assert (
        "not finite at step" in line and "first in the output of module '" in line and str(work_dir / "iter_latest.pth") in line
    )
    kept = torch.load(work_dir / "iter_latest.pth", weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in kept["state_dict"].values() if value.is_floating_point())
    assert not [name for name in os.listdir(work_dir) if name.startswith(".")]
