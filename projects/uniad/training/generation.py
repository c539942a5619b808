"""Whether a checkpoint is of the generation that a config computes as. One line, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from uniad.config.spec import UNIAD_V2, CompatSpec, Spec
from uniad.errors import UserError
from uniad.formats.checkpoints import UNUSED_OF_V2, Recognised, recognise_as
from uniad.formats.published import BENCH2DRIVE, TITLES, UNIAD_V1


def generation_of(compat: CompatSpec) -> str:
    """Whose weights a config is for, of nuScenes: that decides what the BEV encoder has learnt of the car's own motion."""
    return UNIAD_V2 if UNIAD_V2 in (compat.bev_shift, compat.anchor_rotation) else UNIAD_V1


def unused(spec: Spec) -> tuple[str, ...]:
    """Entries that published weights of the config's generation carry and that nothing reads."""
    return UNUSED_OF_V2 if generation_of(spec.model.compat) == UNIAD_V2 else ()


def check_generation(
    content: Mapping[str, Any], state: Mapping[str, Tensor], spec: Spec, path: str | Path, say: Callable[[str], None] | None
) -> None:
    """UserError for weights of a fork, of another generation than the config's, or of Bench2Drive with nuScenes' classes.

    Where names and shapes alone speak against a config that names its generation, the config is believed, and ``say`` told.
    """
    found = recognise_as(content, {name: tuple(value.shape) for name, value in state.items()}, Path(path))
    if found.own:
        return  # its own config is compared key by key, see carried.check_made_with
    if found.generation is None:
        if found.strange:
            raise UserError(
                f"checkpoint {path} is none of UniAD's generations ({', '.join(TITLES.values())}): {found.strange}; a fork's "
                "weights need that fork's code"
            )
        return  # what is missing is named by the loading
    classes = len(spec.data.class_names)
    if found.sizes is not None and found.sizes.classes not in (0, classes):
        remedy = "VARIANT=b2d-base or b2d-tiny" if found.generation == BENCH2DRIVE else "a variant of nuScenes"
        raise UserError(
            f"checkpoint {path} is of {found.title} ({found.sizes.classes} classes), {spec.name} has {classes} classes: "
            f"take {remedy} for it"
        )
    wanted = generation_of(spec.model.compat)
    if spec.stage == 0 or found.generation in (wanted, BENCH2DRIVE):
        _check_box_code(found, spec, path)
        return
    if found.certain or found.generation == UNIAD_V2:
        raise UserError(
            f"checkpoint {path} is of {found.title} ({found.why}), {spec.name} computes as {TITLES[wanted]}: add "
            f"native.compat={found.generation} (make: GENERATION={found.generation})"
        )
    if say:
        say(f"{path}: taken for {TITLES[wanted]}, as {spec.name} says ({found.title} {found.why})")


def _check_box_code(found: Recognised, spec: Spec, path: str | Path) -> None:
    code = UNIAD_V2 if spec.model.compat.box_code == UNIAD_V2 else UNIAD_V1
    if spec.stage and found.box_code not in (None, code):
        raise UserError(
            f"checkpoint {path} says boxes as {TITLES[str(found.box_code)]} does, {spec.name} reads them as {TITLES[code]}: add "
            f"{found.option}"
        )
