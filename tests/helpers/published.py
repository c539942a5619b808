"""Stand-ins for published checkpoints: their names and shapes, one number in place of each tensor, so that a file is small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from helpers.specs import edit, full_spec
from uniad.config.spec import Spec
from uniad.formats.checkpoints import UNUSED_OF_V2
from uniad.models.uniad import UniAD


def shapes_of(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a config's weights."""
    motion = spec.model.stage2.motion if spec.model.stage2 else None
    anchors = torch.zeros(len(motion.group_ids), motion.predict_modes, motion.predict_steps, 2) if motion else None
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in UniAD(spec.model, anchors).state_dict().items()}


def small(shape: tuple[int, ...]) -> Tensor:
    """A tensor of that shape that takes four bytes in a file."""
    return torch.zeros(1).expand(shape) if shape else torch.zeros(())


def stand_in(path: Path, stage: int = 2, *, v2: bool = False, change: Callable[[dict], object] = lambda shapes: None) -> Path:
    """A file with the names and shapes of UniAD-base as v1 published it, or as v2.0 did."""
    shapes = shapes_of(edit(full_spec(stage), model__bev__num_layers=6))
    if v2:
        shapes |= dict(zip(UNUSED_OF_V2, ((3, 256), (3,))))
    change(shapes)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"meta": {"epoch": 20}, "state_dict": {f"module.{k}": small(v) for k, v in shapes.items()}}, path)
    return path


def of_bench2drive(shapes: dict[str, tuple[int, ...]]) -> None:
    """Nine classes and six commands."""
    for name, shape in shapes.items():
        if name.startswith("pts_bbox_head.cls_branches.") and ".6." in name:
            shapes[name] = (9, *shape[1:])
    shapes["planning_head.navi_embed.weight"] = (6, 256)


def of_a_fork(shapes: dict[str, tuple[int, ...]]) -> None:
    shapes["lidar_backbone.conv.weight"] = (2, 2)
