"""A checkpoint of one generation with the box code of another.

What a branch says of a box is the only number of the network whose meaning depends on the convention of boxes: its last layer
changes, exactly, and every output stays the same box. What the rest has learnt (how the BEV is shifted, which quaternion the CAN
bus holds, which way anchors face) no rewriting undoes: that stays a matter of ``native.compat``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from uniad.errors import UserError
from uniad.files import sha256
from uniad.formats.checkpoints import CONVERTED_FROM, compat_option, recognise
from uniad.formats.conventions import Report, convention_now, convert_box_code
from uniad.formats.published import TITLES, UNIAD_V1, UNIAD_V2, convention_of
from uniad.training.checkpoint import WEIGHTS_DIGEST, read_checkpoint, save_checkpoint, state_dict_of, weights_digest

BOX_LAYERS = "pts_bbox_head.reg_branches."
# What belongs to an interrupted training and not to the weights
_OF_TRAINING = ("iteration", "epoch_len", "parameter_names", "loss_scale", "window", "random")


def convert_checkpoint(source: str | Path, target: str | Path, to: str, said: str | None = None) -> Report:
    """Writes the checkpoint at ``source`` to ``target`` with the box code of ``to``; whole or not at all.

    said: the generation of ``source``, where its digest and keys do not tell or somebody knows better. Twice gives the weights
    that there were. Raises UserError for a file that is no UniAD or has the code of ``to`` already.
    """
    found = recognise(source)
    if found.certain and said and said != found.generation:
        raise UserError(f"{source}: --from {said}, but it is of {found.title} ({found.why}): leave --from out")
    if found.generation is None and not found.own:
        raise UserError(f"checkpoint {source} is none of UniAD's: {found.why.removeprefix('by its keys: ')}")
    content = read_checkpoint(source)
    state = state_dict_of(content, source)
    code_now = found.box_code if said is None else convention_of(said)
    old = convention_now(code_now, None, to, str(source), "box layers")
    layers = [name for name in state if name.startswith(BOX_LAYERS) and name.split(".")[3] == _last_layer(state)]
    if not layers:
        raise UserError(f"checkpoint {source} has no {BOX_LAYERS}*: it regresses no boxes")
    for name in layers:
        if state[name].shape[0] != 10:
            raise UserError(f"checkpoint {source}: {name} has {state[name].shape[0]} rows, a box has 10 numbers")
        state[name] = torch.from_numpy(convert_box_code(state[name].numpy()))
    left_out = [key for key in content if key not in ("meta", "state_dict", "native")] if "state_dict" in content else []
    payload: dict[str, Any] = {"meta": _meta(content, old, to), "state_dict": state}
    native = {key: value for key, value in (content.get("native") or {}).items() if key not in _OF_TRAINING}
    if native:
        payload["native"] = native | {WEIGHTS_DIGEST: weights_digest(state)}
    save_checkpoint(Path(target), payload)
    notes = [f"recognised {found.why}" if said is None else f"{TITLES[said]}, as you say"]
    if left_out:
        notes.append(f"left out: {', '.join(left_out)} (what an interrupted training needs)")
    learnt = said or found.generation
    if learnt is None:  # this repository's own
        notes.append(f"run it with its own config and native.compat's box_code={'upstream' if to == UNIAD_V1 else to}")
    else:
        notes.append(f"run it with {compat_option(learnt, to)}: beside its box code it stays what {TITLES[learnt]} learnt")
    return Report(
        str(source), str(target), "checkpoint", old, to,
        {"box layers rewritten": len(layers), "entries kept as they were": len(state) - len(layers)},
        notes, (sha256(source), sha256(target)),
    )  # fmt: skip


def _last_layer(state: Mapping[str, Any]) -> str:
    """The number of the branches' last layer, ``4`` in all generations."""
    return max((name.split(".")[3] for name in state if name.startswith(BOX_LAYERS)), key=int, default="")


def _meta(content: Mapping[str, Any], old: str, to: str) -> dict[str, Any]:
    """What the file says of itself, with where it comes from; the same file is that again once it is converted back."""
    meta = dict(content.get("meta") or {})
    if meta.get(CONVERTED_FROM) == to:
        del meta[CONVERTED_FROM]
    else:
        meta[CONVERTED_FROM] = old
    ours = meta.get("uniad")
    if isinstance(ours, Mapping) and "spec" in ours:
        spec = json.loads(ours["spec"])
        word = {UNIAD_V1: "documented", UNIAD_V2: UNIAD_V2}[to]
        spec |= {f"{part}.box_code": word for part in ("model.compat", "data.compat", "model.decoder")}
        meta["uniad"] = {**ours, "spec": json.dumps(spec)}
    return meta
