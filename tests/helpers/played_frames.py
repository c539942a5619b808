"""Whole recorded frames through our model, images to plan with the state fed back. Played once for all tests."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers.recorded import Prefixed, Recorded, golden_dir
from helpers.specs import full_spec, tiny_spec
from helpers.weights import fill
from uniad.config.spec import Spec
from uniad.interface.types import DetOutput, Frame, State, StepOutputs
from uniad.models.track import Rows
from uniad.models.uniad import UniAD

CELLS, HALF = (50, 50), (-50.0, 50.0, 2.0)  # the recorded base model has a small BEV
SPECS = {
    "tiny": tiny_spec(2),
    "base": full_spec(
        2, model__bev__height=50, model__bev__width=50, model__map__bev_hw=CELLS, model__map__canvas_hw=CELLS,
        model__stage2__motion__bev_hw=CELLS, model__stage2__plan__bev_hw=CELLS, model__stage2__occ__bev_hw=CELLS,
        model__stage2__occ__xbound=HALF, model__stage2__occ__ybound=HALF,
    ),
}  # fmt: skip
STEMS = {"tiny": "tiny_stage2", "base": "base_stage2_small"}


class Played(NamedTuple):
    """One frame of ours, and what the step began and ended with."""

    rows: Rows
    det: DetOutput
    outputs: StepOutputs
    state: State


class Run(NamedTuple):
    model: str
    spec: Spec
    frames: list[Played]
    sources: list[Recorded]  # each holds "<model>/f<i>/<name>"


def recorded_frame(data: Recorded, at: str, i: int, command: Tensor) -> Frame:
    cams, (height, width) = 6, data.arrays[f"{at}image_shape"][-2:]
    shape = (1, cams, 3, int(height), int(width))
    noise = np.random.RandomState(data.arrays[f"{at}image_seeds"][i]).standard_normal(np.prod(shape))
    now = f"{at}f{i}/"
    return Frame(
        img=torch.from_numpy(noise.astype(np.float32).reshape(shape)),
        lidar2img=data[f"{at}lidar2img"].float()[None],
        can_bus=data[now + "can_bus"][None],  # float64, as recorded: fp32 moves a pose of 1,600 m by 1e-4 m
        l2g_r=data[now + "l2g_r_mat"][None],
        l2g_t=data[now + "l2g_t"][None],
        time_s=(data[now + "timestamp"] - data[f"{at}f0/timestamp"]).float()[None],
        scene_start=torch.tensor([i == 0]),
        command=command.reshape(1).int(),
    )


@lru_cache
@torch.no_grad()
def play(name: str, frames: int) -> Run:
    torch.set_num_threads(1)
    extract, plans, at = Recorded.extract("frames"), Recorded.extract("planning"), f"{name}/"
    model = fill(UniAD(SPECS[name].model, Recorded.extract("occ")["anchors"]), kind=name)
    state, played = model.init_state(), []
    for i in range(frames):
        frame = recorded_frame(extract, at, i, plans[f"{at}f{i}/command"])
        rows = model.rows(model.propagate(frame, state))
        outputs, state = model.step(frame, state)
        played.append(Played(rows, model.detect(outputs.bev, rows), outputs, state))
    sources = [extract]
    if golden_dir() is not None:
        sources.append(Prefixed(Recorded.golden(golden_dir(), STEMS[name], ("forward",)), at))
    return Run(name, SPECS[name], played, sources)
