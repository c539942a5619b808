"""What a checkpoint carries beside its weights, which are nothing without it: motion anchors, and what they were made with.

Motion anchors and a digest of the weights lie under the key ``native``, the resolved config (compat, classes) in ``meta``;
upstream reads neither. A checkpoint without them, upstream's or an older one, takes the anchors from their file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uniad.config.presets import convention_of, generations_of
from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.formats.published import TITLES
from uniad.models.bevformer import BevFormer
from uniad.models.uniad import UniAD
from uniad.training.checkpoint import LoadReport, load_state, read_checkpoint, state_dict_of
from uniad.training.generation import check_generation, unused
from uniad.training.state import flatten

ANCHORS = "motion_anchors"
# Of these, v1's way and the corrected one are the same
_CONVENTIONS = ("model.compat.bev_shift", "model.compat.box_code", "model.compat.can_bus_order")
# What weights are meaningless without; shapes alone do not tell it. Faults of evaluation and of losses are not among it.
MADE_WITH = (
    "data.class_names",
    *(f"data.image.{key}" for key in ("mean", "std", "to_rgb", "scale")),
    *(f"model.bev.{key}" for key in ("height", "width", "pc_range", "num_layers", "rotate_prev_bev", "use_shift", "use_can_bus")),
    *(f"model.compat.{key}" for key in (
        "can_bus_quaternion", "timestamps", "first_frame_pose", "rotate_center", "shift_now", "occ_grid", "anchor_rotation",
    )),
    *_CONVENTIONS,
    *(f"model.motion.{key}" for key in ("predict_modes", "predict_steps", "group_ids")),
    *(f"model.occ.{key}" for key in ("slice_bev", "xbound", "ybound")),
)


def carried(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of the model holds under ``native`` besides: the anchors [groups, K, F, 2] of a motion head."""
    head: Any = getattr(model, "motion_head", None)
    return {} if head is None else {ANCHORS: head.anchors.detach().cpu().clone()}


def own_anchors(content: Mapping[str, Any]) -> Tensor | None:
    return (content.get("native") or {}).get(ANCHORS)


def check_anchors(content: Mapping[str, Any], spec: Spec, path: str | Path) -> Tensor | None:
    """The anchors that the checkpoint carries, if any; a UserError where those of the config's file are others."""
    own, stage2 = own_anchors(content), spec.model.stage2
    if own is None or stage2 is None:
        return own
    motion = stage2.motion
    wanted = [len(motion.group_ids), motion.predict_modes, motion.predict_steps, 2]
    good = isinstance(own, Tensor) and own.dtype == torch.float32 and list(own.shape) == wanted and bool(own.isfinite().all())
    if not good:
        raise UserError(
            f"checkpoint {path}: the motion anchors that it carries are no finite float32 tensor of {wanted}; take a good copy, "
            "or the config that it was trained with"
        )
    if not Path(motion.anchor_path).is_file():
        return own
    from uniad.data.anchors import load_motion_anchors  # needs what data needs

    if not torch.equal(load_motion_anchors(motion.anchor_path, motion), own):
        raise UserError(
            f"checkpoint {path} was trained with other motion anchors than those in {motion.anchor_path}: move that file away, "
            "the checkpoint carries its own, or name the folder of another with anchor_root=FOLDER/"
        )
    return own


def check_made_with(content: Mapping[str, Any], spec: Spec, path: str | Path) -> None:
    """Stops at a checkpoint of this implementation whose config means something else by the same weights."""
    made = ((content.get("meta") or {}).get("uniad")) or {}
    if "spec" not in made:
        return
    then, now = json.loads(made["spec"]), flatten(spec)
    for key in _CONVENTIONS:
        then[key], now[key] = convention_of(then.get(key)), convention_of(now[key])
    unlike = [f"{key}={then[key]} (here {now[key]})" for key in MADE_WITH if key in then and key in now and then[key] != now[key]]
    if unlike:
        whose = [_titles(values) for values in (then, now)]
        as_whom = f" as {whose[0]} computes (here {whose[1]})" if whose[0] != whose[1] else ""
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        raise UserError(
            f"checkpoint {path} does not fit {spec.name}: it was made by {made.get('variant')} ({made.get('config')}){as_whom} "
            f"with {', '.join(unlike[:3])}{more}; take that config, or a checkpoint of this one"
        )


def _titles(flat: Mapping[str, Any]) -> str:
    """The generations whose ways a flattened config has, for a person."""
    values = {key.removeprefix("model.compat."): value for key, value in flat.items()}
    return " and ".join(TITLES[name] for name in generations_of(values))


def _read_checked(spec: Spec, path: str | Path, say: Callable[[str], None] | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint's content and its weights. UserError for one of another config or generation."""
    content = read_checkpoint(path)
    state = state_dict_of(content, path)
    check_made_with(content, spec, path)
    check_generation(content, state, spec, path, say)
    return content, state


def load_detector(spec: Spec, path: str | Path, say: Callable[[str], None] | None = print) -> BevFormer:
    """The model of stage 0 with a checkpoint's weights. UserError for a file that does not fit."""
    content, state = _read_checked(spec, path, say)
    if "query_embedding.weight" in state:
        raise UserError(f"checkpoint {path} is of UniAD, {spec.name} of stage 0: choose a config of its own stage (make: STAGE)")
    model = BevFormer(spec.model)
    report = load_state(model, state, path=path, meta=content.get("meta"), name=spec.name)
    if say:
        say(str(report))
    return model


def load_trained(spec: Spec, path: str | Path, say: Callable[[str], None] | None = print) -> tuple[UniAD, LoadReport]:
    """The model of a config with a checkpoint's weights, and what they gave it. Its own anchors come before a file's.

    Raises UserError for a file that does not fit: of another stage, size, compat or vocabulary, or beside other anchors.
    """
    if spec.stage == 0:
        raise UserError(f"{spec.path} is of stage 0, a detector, only trained and evaluated: take stage 1 or 2 (make: STAGE)")
    content, state = _read_checked(spec, path, say)
    anchors = check_anchors(content, spec, path)
    if spec.model.stage2 is not None and anchors is None:
        motion = spec.model.stage2.motion
        if any(key.startswith("motion_head.") for key in state):
            from uniad.data.anchors import load_motion_anchors

            if not Path(motion.anchor_path).is_file():
                raise UserError(
                    f"motion anchors {motion.anchor_path} are missing, and checkpoint {path} carries none: put those there "
                    "that it was trained with (published ones: `make weights`; of this dataset: `make anchors`)"
                )
            anchors = load_motion_anchors(motion.anchor_path, motion)
        else:  # of stage 1, as loading is about to say
            anchors = torch.zeros(len(motion.group_ids), motion.predict_modes, motion.predict_steps, 2)
    model = UniAD(spec.model, anchors)
    report = load_state(
        model, state, path=path, meta=content.get("meta"), name=spec.name, allow_unexpected=unused(spec)
    )
    if say:
        say(str(report))
    return model, report
