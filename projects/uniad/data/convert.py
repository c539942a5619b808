"""Info files and motion anchors of one generation as files of another. What it does is in ``formats.conventions``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.data import unpickle
from uniad.errors import UserError
from uniad.files import sha256
from uniad.formats import infos as schema
from uniad.formats.checkpoints import CONVERTED_FROM
from uniad.formats.conventions import (
    BOXES,
    FACING,
    YAW_REST,
    Report,
    anchor_convention,
    box_convention,
    convention_now,
    convert_anchors,
    convert_boxes,
)


def convert_pickle(source: str | Path, target: str | Path, to: str, said: str | None = None) -> Report:
    """Writes the info file or the anchors at ``source`` to ``target`` in the convention ``to``; whole or not at all.

    said: what ``source`` is where it does not tell. Converting back gives the very content that there was before.
    Raises UserError for a file of another kind, of neither convention, or of ``to`` already.
    """
    content = unpickle.load(source)
    if isinstance(content, dict) and "anchors_all" in content:
        report = _convert_anchors(content, str(source), str(target), to, said)
    elif isinstance(content, dict) and "infos" in content:
        report = _convert_infos(content, str(source), str(target), to, said)
    else:
        raise UserError(f"{source} holds neither infos ({{infos, metadata}}) nor motion anchors ({{anchors_all}})")
    unpickle.save(target, content)
    report.sha256 = (sha256(source), sha256(target))
    return report


def _convert_infos(content: dict[str, Any], source: str, target: str, to: str, said: str | None) -> Report:
    infos, version = schema.structure(content, source)
    frames = [info for info in infos if "gt_boxes" in info]
    boxes: list[NDArray[np.float64]] = []
    for number, info in enumerate(frames):
        found = np.asarray(info["gt_boxes"])
        if found.ndim != 2 or found.shape[1] != 7 or found.dtype != np.float64:
            raise UserError(
                f"{source}: frame {number}: gt_boxes is {found.dtype} {list(found.shape)}; needed is float64 [m, 7], as every "
                "generation writes it"
            )
        boxes.append(found)
    if not any(len(b) for b in boxes):
        raise UserError(f"{source} has no boxes ({version}), so it is the same in every convention: nothing to convert")
    names = np.concatenate([np.asarray(info["gt_names"]).reshape(-1).astype(np.str_) for info in frames])
    velocity = np.concatenate([np.asarray(info["gt_velocity"], dtype=np.float64).reshape(-1, 2) for info in frames])
    old = convention_now(box_convention(np.concatenate(boxes), names, velocity, source), said, to, source, "boxes")
    for info, found in zip(frames, boxes):
        info["gt_boxes"], lost = convert_boxes(found, info.pop(YAW_REST, None))
        if lost.any():
            info[YAW_REST] = lost
    metadata = content["metadata"]
    if metadata.get(CONVERTED_FROM) == to:
        del metadata[CONVERTED_FROM]
    else:
        metadata[CONVERTED_FROM] = old
    return Report(
        source, target, "infos", old, to,
        {"frames": len(infos), f"boxes ({BOXES[old]} -> {BOXES[to]})": sum(map(len, boxes))},
    )  # fmt: skip


def _convert_anchors(content: dict[str, Any], source: str, target: str, to: str, said: str | None) -> Report:
    groups = content["anchors_all"]
    good = isinstance(groups, (list, tuple)) and all(
        isinstance(g, np.ndarray) and g.ndim == 3 and g.shape[2] == 2 and g.dtype.kind == "f" for g in groups
    )
    if not good:
        raise UserError(f"{source}: anchors_all is no list of arrays [modes, steps, 2]")
    old = convention_now(anchor_convention(groups), said, to, source, "motion anchors")
    content["anchors_all"] = [convert_anchors(group, to) for group in groups]
    return Report(
        source, target, "motion anchors", old, to,
        {"groups": len(groups), f"trajectories (agents face {FACING[old]} -> {FACING[to]})": sum(map(len, groups))},
    )  # fmt: skip
