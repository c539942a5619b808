"""The JSON card beside every ONNX and engine: what it is, what it was made from, and whether it was checked."""

from __future__ import annotations

import json
from pathlib import Path

from uniad.errors import UserError
from uniad.files import atomic_path, sha256
from uniad.formats.card import checked
from uniad.spec import Spec


def card_path(artefact: str | Path) -> Path:
    return Path(f"{artefact}.json")


def sequence_path(onnx_path: str | Path) -> Path:
    return Path(onnx_path).with_suffix(".sequence.npz")


def write_card(artefact: str | Path, card: dict) -> Path:
    """Write the card of an artefact that is already in place; adds its digest and size. ``formats.card`` has its keys."""
    artefact = Path(artefact)
    full = {**card, "file": artefact.name, "sha256": sha256(artefact), "bytes": artefact.stat().st_size}
    checked(full, str(card_path(artefact)))
    with atomic_path(card_path(artefact)) as temporary:
        temporary.write_text(json.dumps(full, indent=2) + "\n")
    return card_path(artefact)


def future_entries(spec: Spec, checkpoint: str | Path = "") -> dict:
    """What the card of an end-to-end graph says besides: the anchors inside it, and what a host does after it.

    checkpoint: where the anchors come from if they have no file of their own.
    """
    plan, motion, compat = spec.model.plan, spec.model.motion, spec.model.compat
    anchors = motion.anchor_path if Path(motion.anchor_path).is_file() else str(checkpoint)
    return {
        "anchors": anchors,
        "anchors_sha256": sha256(anchors),
        "post_processing": {
            "collision_optimiser": {
                "what": "not in the graph: plan_traj, recorded and verified, is the path before it; a host applies "
                "uniad.deploy.collision.optimise_plan to plan_traj and occ_seg",
                "wanted_by_config": plan.use_col_optim,
                "filter_range_m": plan.col_filter_range,
                "sigma_m": plan.col_sigma,
                "alpha": plan.col_alpha,
                "cells": compat.collision_pixels,
            }
        },
    }


def read_card(artefact: str | Path) -> dict:
    """The card of an artefact, checked against the file: a missing card or a changed file is an error that says what to do."""
    artefact = Path(artefact)
    if not artefact.is_file():
        raise UserError(f"{artefact}: no such file; `make export` writes the ONNX, `make engine` the engine")
    path = card_path(artefact)
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path}: the card of {artefact.name} is missing; make it again, cards are written with their file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a card ({error}); make {artefact.name} again") from None
    card = checked(card, str(path))
    if card.get("sha256") != sha256(artefact):
        raise UserError(f"{artefact}: changed after its card was written (digest differs); make it again")
    return card
