"""Bench2Drive for tests: the small model of the recordings under tests/golden/b2d, and what it is fed."""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from helpers import stage2_clip
from helpers.recorded import EXTRACTS
from helpers.specs import CONFIGS, edit
from helpers.train_clip import given_clip, given_targets
from uniad.config.read import load_spec
from uniad.config.spec import ModelSpec, Spec
from uniad.interface.types import Clip, Frame

FOLDER = EXTRACTS / "b2d"


def module(name: str) -> ModuleType:
    """A file of numpy alone that the recorder and the tests share."""
    spec = importlib.util.spec_from_file_location(f"b2d_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = module("small")


@lru_cache
def small_spec() -> Spec:
    """Tiny of Bench2Drive with the recordings' sizes."""
    spec = load_spec(CONFIGS / "stage2_e2e/b2d-tiny_e2e.py", [f"{key}={value}" for key, value in small.OPTIONS.items()])
    return edit(spec, data__image__height=small.IMAGE[0], data__image__width=small.IMAGE[1])


@lru_cache
def clip_spec(stage: int) -> ModelSpec:
    """Tiny of Bench2Drive as the clips and the modules were recorded: a BEV of 40x40 cells, one image scale, nothing random."""
    folder, kind = {1: ("stage1_track_map", "track_map"), 2: ("stage2_e2e", "e2e")}[stage]
    options = [f"{key}={value}" for key, value in small.CLIP_OPTIONS.items()]
    cells, step = (small.CELLS, small.CELLS), 2 * small.HALF_M / small.CELLS
    spec = edit(
        load_spec(CONFIGS / folder / f"b2d-tiny_{kind}.py", options).model,
        queue_length=small.CLIP_FRAMES, use_grid_mask=False, bev_upsample=1, backbone__depth=18, backbone__out_indices=(3,),
        neck__in_channels=(512,), neck__num_outs=1, bev__height=small.CELLS, bev__width=small.CELLS, bev__num_levels=1,
        map__bev_hw=cells, map__canvas_hw=cells, track__random_drop=0.0, track__fp_ratio=0.0, track__capacity=32,
    )  # fmt: skip
    if stage == 1:
        return spec
    bound = (-small.HALF_M, small.HALF_M, step)
    return edit(
        spec, stage2__motion__bev_hw=cells, stage2__plan__bev_hw=cells, stage2__occ__bev_hw=cells, stage2__occ__slice_bev=True,
        stage2__occ__xbound=bound, stage2__occ__ybound=bound, stage2__agent_capacity=32,
    )  # fmt: skip


def clip(given: dict[str, Tensor], stage: int) -> Clip:
    """The recorded clip; given: its inputs by name."""
    given = {name: value.long() if value.dtype == torch.int16 else value for name, value in given.items()}
    for name in ("sdc_planning", "sdc_planning_mask", "gt_sdc_fut_traj", "gt_sdc_fut_traj_mask"):
        given[name] = given[name][0]  # the other arrays have no batch axis
    images = torch.from_numpy(small.clip_images())
    given.update(img_first64=images.flatten()[:64], can_bus_absolute=given["can_bus"])
    ahead = stage2_clip.stage2_targets(given) if stage == 2 else None
    targets = given_targets(given, small.CLIP_FRAMES, ahead, num_things=6)
    nothing = torch.zeros(1, small.CELLS, small.CELLS, dtype=torch.uint8)  # Bench2Drive's map has no areas
    return given_clip(given, images, targets._replace(drivable=nothing))


def frame(i: int) -> Frame:
    """A frame of the recordings, in the precision that they were made in."""
    now = small.pose(i)
    return Frame(
        img=torch.from_numpy(small.image(i)),
        lidar2img=torch.from_numpy(small.lidar2img()).float()[None],
        can_bus=torch.from_numpy(now["can_bus"])[None],
        l2g_r=torch.from_numpy(np.ascontiguousarray(now["l2g_r"]))[None],
        l2g_t=torch.from_numpy(now["l2g_t"])[None],
        time_s=torch.from_numpy(now["timestamp"] - small.pose(0)["timestamp"]).float(),
        scene_start=torch.tensor([i == 0]),
        command=torch.tensor([small.COMMANDS[i]], dtype=torch.int32),
    )


class Numbers:
    """A file of tests/golden/b2d: tensors by name, thinned as they were stored."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as data:
            self.arrays = {key: data[key] for key in data.files}
        self.thinned = json.loads(str(self.arrays["thinned"])) if "thinned" in self.arrays else {}

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def thin(self, name: str, value: Tensor) -> Tensor:
        """``value`` as the number ``name`` (without its frame) was stored."""
        return value.flatten()[:: self.thinned[name]] if name in self.thinned else value
