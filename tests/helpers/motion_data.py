"""What the motion tests share: agents as recorded, specs of the recorded models, and the recorded stage-2 training clip."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from helpers import weights
from helpers.recorded import Recorded
from helpers.specs import edit, full_spec, tiny_spec
from uniad.config.spec import MotionSpec, Spec
from uniad.interface.types import Agents
from uniad.models.motion import MotionHead
from uniad.training import regularisation

CAPACITY = 12  # objects and agents of the recorded clip fit
RANDOM_OFF = {"model__use_grid_mask": False, "model__track__random_drop": 0.0, "model__track__fp_ratio": 0.0}
SPECS: dict[str, MotionSpec] = {
    "tiny": tiny_spec(2).model.stage2.motion,
    "base": edit(full_spec(2).model.stage2.motion, bev_hw=(50, 50)),  # the recorded base model has a small BEV
}


def recorded_agents(source: Recorded, at: str, padding: int = 0) -> Agents:
    """The agents [1, n + padding] that ``mot/in_*`` under ``at`` describes, empty slots before the ego car."""
    boxes, query = source[f"{at}mot/in_boxes"], source[f"{at}mot/in_track_query"].reshape(-1, 256)
    count = len(boxes)
    order = torch.tensor([*range(count - 1), *[0] * padding, count - 1])
    valid = torch.tensor([*[True] * (count - 1), *[False] * padding, True])
    obj_id = torch.where(valid, torch.arange(len(valid)), -1).int()
    obj_id[-1] = -2
    return Agents(
        query=query[order][None],
        boxes=boxes[order][None],
        label=source[f"{at}mot/in_labels"][order][None].int(),
        score=source[f"{at}mot/in_scores"][order][None],
        obj_id=obj_id[None],
        valid=valid[None],
        row=order[None],
        dropped=torch.zeros(1, dtype=torch.int32),
    )


def recorded_head(anchors: Tensor, kind: str = "tiny") -> MotionHead:
    """The motion head with the recorded weights. kind: tiny, base or train."""
    return weights.fill(MotionHead(SPECS["base" if kind == "base" else "tiny"], anchors), "motion_head.", kind)


def without_dropout(module: nn.Module) -> nn.Module:
    """In training mode, as the golden numbers were recorded."""
    module.train()
    regularisation.without_dropout(module)
    return module


def clip_inputs(arrays: dict[str, np.ndarray], prefix: str = "") -> tuple[dict[str, Tensor], int]:
    """Recorded training inputs by name, and the seed of their images."""
    named = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    seed = int(re.search(r"images\((\d+)", str(named["images_rule"]))[1])
    return {k: torch.from_numpy(v) for k, v in named.items() if v.dtype.kind != "U"}, seed


def clip_spec() -> Spec:
    """UniAD-tiny's second stage with nothing random."""
    return tiny_spec(2, **RANDOM_OFF, model__track__capacity=CAPACITY)
