"""Losses on fixed clips: the same clips, the same random draws, one checkpoint after the other.

The losses of two log lines of a training differ by their clips more than by what was learnt between them. These do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from uniad.config.spec import Spec
from uniad.data.collate import collate
from uniad.data.dataset import ClipDataset, Split
from uniad.errors import UserError
from uniad.interface.types import Clip
from uniad.losses.criterion import Criterion
from uniad.models.uniad import UniAD
from uniad.training.clip import ClipOptions, forward_clip
from uniad.training.loader import map_tensors

LEARNT_LATE = ("motion", "occ", "planning")  # what stage 2 adds to the losses


def held_clips(spec: Spec, split: Split, count: int) -> list[Clip]:
    """``count`` clips of a split, evenly spread over its frames, each a batch of one."""
    dataset = ClipDataset(spec.data, split, spec.stage)
    if len(dataset) < count:
        raise UserError(f"the {split} split has {len(dataset)} frames that end a clip, fewer than the {count} clips asked for")
    # In the middle of equal parts. Where a scene has just begun the dataset takes another frame, for this key always the same.
    clips = []
    for number in range(count):
        clip = dataset[0, int((number + 0.5) * len(dataset) / count)]
        assert isinstance(clip, Clip)  # the data set was asked for no raw ones
        clips.append(collate([clip]))
    return clips


def held_losses(model: UniAD, spec: Spec, clips: Sequence[Clip], seed: int, device: torch.device) -> dict[str, list[float]]:
    """Every loss of each clip, weighted as in training. The model is left in evaluation mode: no dropout, no masks."""
    criterion = Criterion(spec.model).to(device)
    model.to(device).eval()
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for number, clip in enumerate(clips):
            draws = torch.Generator().manual_seed(seed + number)  # the same draws for every model
            here = map_tensors(lambda tensor: tensor.to(device), clip)
            terms, _ = forward_clip(model, here, criterion, draws, ClipOptions(history_features="shared"))
            for name, value in terms.items():
                found.setdefault(name, []).append(float(value))
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def totals(losses: dict[str, float]) -> dict[str, float]:
    """``loss``, what training minimises, and the share of each task in it: ``track``, ``map``, ``motion``, ..."""
    counted = {name: value for name, value in losses.items() if "loss" in name}
    tasks = dict.fromkeys(name.partition(".")[0] for name in counted)
    shares = {task: sum(v for name, v in counted.items() if name.startswith(f"{task}.")) for task in tasks}
    return {"loss": sum(counted.values()), **shares}


def of_each(losses: dict[str, list[float]], tasks: Sequence[str]) -> list[float]:
    """What training minimises of these tasks, clip by clip: one in which all goes wrong may outweigh the mean of the others."""
    counted = [values for name, values in losses.items() if "loss" in name and name.partition(".")[0] in tasks]
    return [sum(column) for column in zip(*counted)]


def learnt_tasks(spec: Spec, tasks: Sequence[str]) -> list[str]:
    """Those whose losses a training of this config can change."""
    return [task for task in tasks if not spec.model.freeze.stage1 or task in LEARNT_LATE]
