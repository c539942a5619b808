"""The small model of UniAD v2.0 that tests/golden/v2 was recorded from, as ours."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from helpers import stage2_clip
from helpers.recorded import EXTRACTS, Recorded, thin
from helpers.specs import config_path, edit
from helpers.train_clip import given_clip
from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.interface.types import Clip

CELLS, FRAMES = (40, 40), 3
FOLDER = EXTRACTS / "v2"


def box9_of_v2(box: Tensor) -> Tensor:
    """Box (x, y, z, l, w, h, heading, ...) [..., >=7] of UniAD v2 -> box9, and back: its own inverse. yaw is not wrapped."""
    return torch.cat(
        (box[..., :3], box[..., 4:5], box[..., 3:4], box[..., 5:6], -math.pi / 2 - box[..., 6:7], box[..., 7:]), dim=-1
    )


def small_spec(compat: str = "uniad-v2", **changes: object) -> Spec:
    half = (-50.0, 50.0, 2.5)
    return edit(
        load_spec(config_path("tiny", 2), [f"native.compat={compat}"]),
        model__backbone__depth=18, model__neck__in_channels=(512,), model__bev__height=40, model__bev__width=40,
        model__bev__num_layers=2, model__map__bev_hw=CELLS, model__map__canvas_hw=CELLS, model__stage2__motion__bev_hw=CELLS,
        model__stage2__plan__bev_hw=CELLS, model__stage2__occ__bev_hw=CELLS, model__stage2__occ__slice_bev=True,
        model__stage2__occ__xbound=half, model__stage2__occ__ybound=half, model__track__capacity=32,
        model__stage2__agent_capacity=32, **changes,
    )  # fmt: skip


class RecordedV2(Recorded):
    """A file of tests/golden/v2 by name, with its thinning rules."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as data:
            self.arrays = {k: data[k] for k in data.files}
        self.meta = json.loads(str(self.arrays.pop("meta", np.array("{}"))))

    def thin(self, name: str, tensor: Tensor) -> Tensor:
        return thin(tensor, self.meta.get(name, ""))


def anchors() -> Tensor:
    return Recorded.extract("occ")["anchors"]


def same_boxes(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both [n, 9] as ours, yaw as sine and cosine: [n, 10]."""

    def flat(box: Tensor) -> Tensor:
        return torch.cat([box[:, :6], box[:, 6:7].sin(), box[:, 6:7].cos(), box[:, 7:]], -1)

    return flat(ours), flat(box9_of_v2(theirs))


def clip_of(given: Mapping[str, Tensor], seed: int) -> Clip:
    """The recorded clip, with boxes and the plan's yaw turned into our convention at the door, as infos of v2 are."""
    ours = {name: value.long() if value.dtype == torch.int16 else value for name, value in given.items()}
    for name, value in given.items():
        if name.endswith("gt_boxes") or name == "sdc_box" or name.startswith("gt_future_boxes"):
            ours[name] = box9_of_v2(value)
    plan = given["sdc_planning"]
    ours["sdc_planning"] = torch.cat([plan[..., :2], -math.pi / 2 - plan[..., 2:]], -1)
    for name in ("sdc_planning", "sdc_planning_mask", "gt_sdc_fut_traj", "gt_sdc_fut_traj_mask"):
        ours[name] = ours[name][0]  # the other arrays have no batch axis
    shape = (1, FRAMES, 6, 3, 128, 224)
    img = torch.from_numpy(np.random.RandomState(seed).standard_normal(np.prod(shape)).astype(np.float32).reshape(shape))
    ours["img_first64"] = img.flatten()[:64]
    ours["can_bus_absolute"] = torch.stack([given[f"f{t}/can_bus"] for t in range(FRAMES)])
    return given_clip(ours, img, stage2_clip.targets(ours))
