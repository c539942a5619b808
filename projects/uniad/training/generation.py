"""Whether a checkpoint is of the generation that a config computes as. One line, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from uniad.config.presets import generations_of
from uniad.config.spec import UNIAD_V2, CompatSpec, Spec
from uniad.errors import UserError
from uniad.formats.checkpoints import UNUSED_OF_V2, Recognised, recognise_as
from uniad.formats.published import BENCH2DRIVE, TITLES, UNIAD_V1


def generations_in(compat: CompatSpec) -> tuple[str, ...]:
    """Whose weights a config is for: one generation, or several whose ways were chosen key by key."""
    return generations_of(asdict(compat))


def generation_of(compat: CompatSpec) -> str:
    """The same where one word is wanted: of several the one that is not v1."""
    return generations_in(compat)[0]


def unused(spec: Spec) -> tuple[str, ...]:
    """Entries that published weights of the config's generation carry and that nothing reads."""
    return UNUSED_OF_V2 if UNIAD_V2 in generations_in(spec.model.compat) else ()


def check_generation(
    content: Mapping[str, Any], state: Mapping[str, Tensor], spec: Spec, path: str | Path, say: Callable[[str], None] | None
) -> None:
    """UserError for weights of a fork, of another generation than the config's, or of Bench2Drive with nuScenes' classes.

    v1's weights are told from v2.0's by what they lack. That alone does not overrule a config that names v2.0: it is believed,
    and ``say`` told. Single keys of a generation's conventions may be chosen; those of another generation whole may not.
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
    computes_as = generations_in(spec.model.compat)
    if found.generation in computes_as or (spec.stage == 0 and BENCH2DRIVE not in (found.generation, *computes_as)):
        _check_box_code(found, spec, path)  # stage 0 of v1 and v2.0 are alike
        return
    titles = " and ".join(TITLES[name] for name in computes_as)
    if found.certain or found.generation == UNIAD_V2 or BENCH2DRIVE in computes_as:
        raise UserError(
            f"checkpoint {path} is of {found.title} ({found.why}), {spec.name} computes as {titles}: add "
            f"native.compat={found.generation} (make: GENERATION={found.generation}), or change single keys of it, "
            f"native.compat=\"dict(preset='{found.generation}',KEY='fixed')\""
        )
    if say:
        say(f"{path}: taken for {titles}, as {spec.name} says ({found.title} {found.why})")


def _check_box_code(found: Recognised, spec: Spec, path: str | Path) -> None:
    code = UNIAD_V2 if spec.model.compat.box_code == UNIAD_V2 else UNIAD_V1
    if spec.stage and found.box_code not in (None, code):
        raise UserError(
            f"checkpoint {path} says boxes as {TITLES[str(found.box_code)]} does, {spec.name} reads them as {TITLES[code]}: add "
            f"{found.option}"
        )
