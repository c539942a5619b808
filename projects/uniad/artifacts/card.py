"""The JSON card beside every ONNX and engine: what it is, what it was made from, and whether it was checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from uniad.config.file import load_config, override
from uniad.config.read import from_config, load_spec
from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.files import atomic_path, read_json, sha256
from uniad.formats.card import Card, checked
from uniad.interface.contract import CONTRACT_VERSION, Contract, contract_for

CHECKPOINTS = (".pth", ".pt")
ROOT = Path(__file__).resolve().parents[3]  # of the checkout that this code lies in, where it lies in one


def card_path(artefact: str | Path) -> Path:
    return Path(f"{artefact}.json")


def sequence_path(onnx_path: str | Path) -> Path:
    return Path(onnx_path).with_suffix(".sequence.npz")


def inherited(card: dict) -> dict:
    """What of a graph's card holds for a graph made from it: not what was measured of, or lies beside, that very file."""
    return {key: value for key, value in card.items() if key not in ("soaked", "weights_record")}


def write_card(artefact: str | Path, card: dict) -> Path:
    """Write the card of an artefact that is already in place; adds its digest and size. ``formats.card`` has its keys."""
    artefact = Path(artefact)
    full = {**card, "file": artefact.name, "sha256": sha256(artefact), "bytes": artefact.stat().st_size}
    checked(full, str(card_path(artefact)))
    with atomic_path(card_path(artefact)) as temporary:
        temporary.write_text(json.dumps(full, indent=2) + "\n")
    return card_path(artefact)


def config_entries(config: str | Path, options: Sequence[str]) -> dict:
    """What a card says of its config: the file it was, and every value, so that a car needs no file."""
    return {
        "config": str(config),
        "config_options": list(options),
        "config_sha256": sha256(config),
        "config_values": load_config(config, options),
    }


def spec_of(card: Card, config: str | Path | None = None, options: Sequence[str] = ()) -> Spec:
    """The spec that a graph or TensorRT engine was made with.

    config: another file in place of the card's; options: ``key.sub=value`` texts on top. A card from before ``config_values``
    needs its file, and so do options that other values of the config follow from.
    """
    values = card.get("config_values")
    if config is None and values is not None and all("." in text.partition("=")[0] for text in options):
        return from_config(override(values, options), card["config"])
    path = Path(config) if config is not None else place_of(card["config"])
    if config is None and not path.is_file():
        need = f"the options {' '.join(options)} need" if values is not None else "this card, of an earlier version, needs"
        raise UserError(f"{card.path}: {need} its config {path}, which is not here: name it (config=), or export again")
    return load_spec(path, [*card.get("config_options", []), *options])


def place_of(path: str | Path) -> Path:
    """Where a file lies that a card names: from the folder of the moment, else from the checkout."""
    path = Path(path)
    return path if path.exists() or not (ROOT / path).exists() else ROOT / path


def future_entries(spec: Spec, checkpoint: str | Path = "") -> dict:
    """What the card of an end-to-end graph says besides: the anchors inside it, and what a host does after it.

    checkpoint: where the anchors come from if they have no file of their own.
    """
    stage2, compat = spec.model.stage2, spec.model.compat
    assert stage2 is not None
    plan, motion = stage2.plan, stage2.motion
    applied = "uniad.postprocess.collision.optimise_plan to plan_traj and occ_seg"
    if plan.col_moves == "speed":
        applied = "uniad.postprocess.giving_way.give_way to plan_traj, the car's speed and the tracked boxes"
    anchors = motion.anchor_path if Path(motion.anchor_path).is_file() else str(checkpoint)
    return {
        "anchors": anchors,
        "anchors_sha256": sha256(anchors),
        "post_processing": {
            "collision_optimiser": {
                "what": f"not in the graph: plan_traj, recorded and verified, is the path before it; a host applies {applied}",
                "wanted_by_config": plan.use_col_optim,
                "moves": plan.col_moves,
                "filter_range_m": plan.col_filter_range,
                "sigma_m": plan.col_sigma,
                "alpha": plan.col_alpha,
                "cells": compat.collision_pixels,
            }
        },
    }


def read_card(artefact: str | Path) -> Card:
    """The card of an artefact, checked against the file: a missing card or a changed file is an error that says what to do."""
    artefact = Path(artefact)
    if not artefact.is_file():
        raise UserError(f"{artefact}: no such file; `make export` writes the ONNX, `make engine` the engine")
    path = card_path(artefact)
    try:
        card = read_json(path)
    except FileNotFoundError:
        if artefact.suffix in CHECKPOINTS:
            needed = "needed is a graph, as `make export` writes it from one, or an engine"
            raise UserError(f"{artefact} is a checkpoint; {needed}") from None
        raise UserError(
            f"{path}: the card of {artefact.name} is missing; make it again, cards are written with their file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a card ({error}); make {artefact.name} again") from None
    card = checked(card, str(path))
    if card.get("sha256") != sha256(artefact):
        raise UserError(f"{artefact}: changed after its card was written (digest differs); make it again")
    return card


def contract_of(onnx_path: str | Path) -> tuple[Card, Contract]:
    """Card and contract of an exported ONNX; an error when the config has changed its sizes since."""
    card = read_card(onnx_path)
    return card, check_contract(card, contract_for(spec_of(card)), onnx_path)


def check_contract(card: Card, contract: Contract, artefact: str | Path) -> Contract:
    """The contract, after making sure that the artefact of ``card`` was made with the same."""
    if card["contract"].get("version") != CONTRACT_VERSION or _binding(card["contract"]) != _binding(contract.to_json()):
        again = "run `make export`" if card.get("kind") == "onnx" else "make it again"
        raise UserError(f"{artefact}: was exported with another interface than {card['config']} has now; {again}")
    return contract


def _binding(contract: dict) -> dict:
    """What a graph and its host must agree on. A tensor's meaning is told to people, and may be worded anew."""

    def rows(key: str) -> list[dict]:
        return [{name: value for name, value in row.items() if name != "meaning"} for row in contract[key]]

    return json.loads(json.dumps({**contract, "inputs": rows("inputs"), "outputs": rows("outputs")}))
