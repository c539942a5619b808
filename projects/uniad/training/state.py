"""What a training checkpoint says beside weights: where the run stood and what it was run with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import torch

from uniad.config.spec import Spec
from uniad.training.identity import without_harmless

FORMAT = 1
_NO_STAGE2: dict[str, Any] = {"motion": None, "occ": None, "plan": None, "agent_capacity": 0}


def flatten(spec: Spec) -> dict[str, Any]:
    """``{"model.bev.height": 50, ...}``, JSON values only.

    Checkpoints name the parts of stage 2 beside those of stage 1 (``model.motion.num_layers``), and have them empty without it.
    """
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    found = json.loads(json.dumps(dataclasses.asdict(spec)))
    found["model"] |= found["model"].pop("stage2") or _NO_STAGE2
    walk("", found)
    return flat


def digest(spec: Spec) -> str:
    """Short digest of everything in the spec that shapes the numbers of a run."""
    return hashlib.sha256(json.dumps(without_harmless(flatten(spec)), sort_keys=True).encode()).hexdigest()[:16]


def differences(spec: Spec, saved_json: str) -> list[str]:
    """What differs between ``spec`` and the one in a checkpoint, as ``key: saved -> now``."""
    saved, now = without_harmless(json.loads(saved_json)), without_harmless(flatten(spec))
    return [f"{k}: {saved.get(k)} -> {now.get(k)}" for k in sorted({*saved, *now}) if saved.get(k) != now.get(k)]


def meta_of(spec: Spec, *, epoch: int, iteration: int, run: Mapping[str, Any]) -> dict[str, Any]:
    """The ``meta`` of a checkpoint. The first keys are the upstream stack's; ``uniad`` is ours.

    Args:
        epoch: whole epochs done.
        iteration: iterations done.
        run: seed, precision, world size and the like.
    """
    return {
        "epoch": epoch,
        "iter": iteration,
        "time": time.asctime(),
        "exp_name": f"{spec.name}.py",
        "seed": run["seed"],
        "CLASSES": list(spec.data.class_names),
        "uniad": {
            "format": FORMAT,
            "variant": spec.variant,
            "stage": spec.stage,
            "config": spec.path,
            "config_digest": digest(spec),
            "spec": json.dumps(flatten(spec)),
            "torch": str(torch.__version__),
            **run,
        },
    }
