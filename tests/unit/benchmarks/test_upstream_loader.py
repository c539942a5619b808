"""Upstream's loader beside ours: one method of measuring, a process that is asked line by line, images that are compared."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from _loading import size_between_processes
from _upstream import UpstreamLoader, image_difference
from data_loading import beside_upstream
from helpers import REPO
from uniad.errors import UserError

FOLDER = REPO / "benchmarks"
FRAMES, CAMERAS = 2, 6

# What upstream_loader.py calls of upstream, with its names, and what comes of it: clips of one value, a distortion that adds 100.
MODULES = {
    "mmcv/__init__": """
import runpy
__version__ = "1.4.0"
class Tree(dict):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__
class Config:
    @staticmethod
    def fromfile(path):
        return Tree(data=Tree({k: Tree(v) if isinstance(v, dict) else v for k, v in runpy.run_path(path)["data"].items()}))
""",
    **{f"{name}/__init__": '__version__ = "0"' for name in ("mmdet", "mmseg", "mmdet3d", "mmdet3d/ops")},
    "projects/__init__": "",
    "projects/mmdet3d_plugin/__init__": "from mmdet3d.ops.iou3d_cuda import overlap\nprint('loud')",
    "projects/mmdet3d_plugin/datasets/__init__": "",
    "projects/mmdet3d_plugin/datasets/builder": """
import types, torch
class PhotoMetricDistortionMultiViewImage:
    def __call__(self, img):
        return img + 100
class Set(torch.utils.data.Dataset):
    def __init__(self, cfg):
        assert (cfg.data_root, cfg.ann_file, cfg.pipeline[0]["img_root"]) == ("world/", "infos.pkl", "world/")
        self.length = cfg.queue_length
        named = [PhotoMetricDistortionMultiViewImage() for step in cfg.pipeline if "Photo" in step["type"]]
        self.pipeline = types.SimpleNamespace(transforms=named)
    def __len__(self):
        return 3
    def prepare_train_data(self, last):
        img = torch.full((self.length, 6, 3, 2, 2), float(last))
        for step in self.pipeline.transforms:
            img = step(img)
        return {"img": types.SimpleNamespace(data=img)}
    def __getitem__(self, index):
        return self.prepare_train_data(index)["img"].data
def custom_build_dataset(cfg):
    return Set(cfg)
def build_dataloader(dataset, samples, workers, dist, shuffle, seed, shuffler_sampler, nonshuffler_sampler, **more):
    assert dist and shuffle
    return torch.utils.data.DataLoader(dataset, samples, num_workers=workers, **more)
""",
}
CONFIG = """
data = dict(
    train=dict(pipeline=[dict(type="Load", img_root=""), dict(type="PhotoMetricDistortionMultiViewImage")]),
    shuffler_sampler=dict(type="A"), nonshuffler_sampler=dict(type="B"),
)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with upstream's names."""
    folder = tmp_path_factory.mktemp("upstream")
    for name, text in MODULES.items():
        (folder / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)
    (folder / "config.py").write_text(CONFIG)
    return folder


def data(distorts: bool) -> SimpleNamespace:
    image = SimpleNamespace(photometric=distorts, std=(2.0, 2.0, 2.0))
    return SimpleNamespace(data_root="world/", ann_file_train="infos.pkl", queue_length=FRAMES, image=image)


def test_upstream_s_loader_is_timed_by_the_same_method_and_its_images_are_compared(root: Path):
    opened = UpstreamLoader(sys.executable, str(root), str(root / "config.py"), data(True), 2)
    with opened as upstream:
        assert upstream.opened["samples"] == 3
        assert upstream.opened["stood_in_for"] == ["mmdet3d.ops.iou3d_cuda"]
        rate = upstream.rate(1, 4, 0.0)
        assert rate.clips_s > 0 and rate.workers_ms > 0
        pixels = 2 * FRAMES * CAMERAS * 3 * 2 * 2 * 4  # a batch of two clips
        assert pixels < rate.bytes < pixels + 1000
        assert (upstream.images(2) == 2).all(), "nothing is distorted"

        def ours(value: float) -> SimpleNamespace:
            img = torch.full((FRAMES, CAMERAS, 3, 2, 2), value)
            clip = lambda last, rng: SimpleNamespace(frames=SimpleNamespace(img=img))  # noqa: E731
            return SimpleNamespace(clip=clip, spec=data(False))

        assert image_difference(upstream, ours(2.0), 2) == 0
        with pytest.raises(UserError, match="ends at frame 1 differ by 2 grey levels"):
            image_difference(upstream, ours(2.0), 1)


@pytest.mark.parametrize("python, tree, said", [
    (sys.executable, "", "holds no projects/mmdet3d_plugin"),
    ("/no/python", "root", "--upstream-python /no/python: No such file"),
    (sys.executable, "half", "No module named 'mmcv'"),
])  # fmt: skip
def test_what_cannot_run_is_one_line(root: Path, tmp_path: Path, python: str, tree: str, said: str):
    (tmp_path / "half/projects/mmdet3d_plugin").mkdir(parents=True)
    (tmp_path / "half/projects/mmdet3d_plugin/__init__.py").write_text("import mmcv")
    place = root if tree == "root" else tmp_path / tree
    with pytest.raises(UserError, match=said):
        UpstreamLoader(python, str(place), str(root / "config.py"), data(True), 1)


def test_a_batch_s_size_is_its_tensors_once_and_what_is_pickled():
    tensor = torch.zeros(1000)
    size = size_between_processes({"a": tensor, "b": [tensor, np.zeros(100, np.uint8)]})
    assert 4100 < size < 4500


def test_the_table_says_how_many_times_less_of_a_processor_a_clip_takes():
    theirs = dict(way="upstream's loader", workers=1, main_ms=10.0, workers_ms=190.0, frames_s=5.0, shared_bytes=4e6)
    ours = dict(way="bytes", workers=1, main_ms=1.0, workers_ms=9.0, frames_s=50.0, shared_bytes=1e6)
    head, first, second = beside_upstream([ours, theirs]).splitlines()
    assert first == "1 | bytes | 1.00 + 9.00 | 1/20.0 | 50.00 | 10.0 | 1.00 | 1/4.0"
    assert second.endswith("1/1.0 | 5.00 | 1.0 | 4.00 | 1/1.0") and head.count("|") == second.count("|")


@pytest.mark.parametrize("name", ["_loading", "upstream_loader"])
def test_upstream_s_python_can_read_what_it_runs(name: str):
    tree = ast.parse((FOLDER / f"{name}.py").read_text(), feature_version=(3, 8))
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in names if name.split(".")[0] == "uniad"}, "the package needs Python 3.10"
