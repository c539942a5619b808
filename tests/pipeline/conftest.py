"""A small synthetic world with info files, whole and to be spoilt, and random weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from helpers.command_line import World
from helpers.specs import edit, nano_spec


@pytest.fixture(scope="session")
def world(synthetic_root: Path, synthetic_infos: Path) -> World:
    return World(synthetic_root, synthetic_infos)


@pytest.fixture
def damaged(world: World, tmp_path: Path) -> World:
    """A copy of the world that a test may spoil. Its images and sweeps are links."""
    root = tmp_path / "damaged"
    shutil.copytree(world.root, root, copy_function=os.link)
    return World(root, world.infos)


@pytest.fixture(scope="session")
def nano_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random nano weights."""
    from uniad.models.uniad import UniAD

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.pth"
    torch.save({"state_dict": UniAD(nano_spec().model).state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def anchors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a motion anchor file, random within what cars drive."""
    import numpy as np

    from uniad.data.anchors import save_motion_anchors

    spec, rng = nano_spec(2), np.random.default_rng(0)
    motion = spec.model.stage2.motion
    shape = (motion.predict_modes, motion.predict_steps, 2)
    folder = tmp_path_factory.mktemp("anchors")
    groups = [rng.normal(size=shape).cumsum(1) for _ in motion.group_ids]
    save_motion_anchors(folder / Path(motion.anchor_path).name, groups, motion, spec.data.class_names)
    return folder


@pytest.fixture(scope="session")
def nano_e2e_checkpoint(anchors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random nano weights of stage 2."""
    from uniad.training.build import build_model

    spec = nano_spec(2)
    spec = edit(spec, model__stage2__motion__anchor_path=str(anchors / Path(spec.model.stage2.motion.anchor_path).name))
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano_e2e.pth"
    torch.save({"state_dict": build_model(spec).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """World, infos and a nano checkpoint."""
    from helpers.weights import nano_state_dict
    from uniad.data.infos import create_infos
    from uniad.data.synthetic.generate import generate
    from uniad.data.synthetic.params import WorldParams
    from uniad.models.uniad import UniAD
    from uniad.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("pipeline")
    generate(WorldParams(train_scenes=1, val_scenes=2, frames=6, lidar_columns=180), folder / "world")
    create_infos(folder / "world", folder / "infos", workers=1, progress=False)
    state = nano_state_dict(UniAD(nano_spec().model))
    save_checkpoint(folder / "nano.pth", {"meta": {"uniad": {"variant": "nano"}}, "state_dict": state})
    return folder
