"""What make_stage1_train.py and make_stage2_train.py keep alike of a recorded training clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

LAYERS = 6


def matches(outputs: Mapping[str, np.ndarray], frames: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Of each frame the match of every layer and the rows that are tracked, with ``names`` of those rows."""
    out: dict[str, np.ndarray] = {}
    for t in range(frames):
        for layer in range(LAYERS):
            out[f"f{t}/matched_{layer}"] = outputs[f"match/f{t}_l{layer}_matched"].astype(np.int16)
        ids = outputs[f"match/f{t}_obj_idxes_after"]
        rows = np.flatnonzero(ids != -1)
        out[f"f{t}/num_rows"], out[f"f{t}/rows"], out[f"f{t}/ids"] = np.int64(len(ids)), rows, ids[rows]
        for name in names:
            out[f"f{t}/{name}"] = outputs[f"match/f{t}_{name}"][rows]
    return out


def losses_and_gradients(recorded: Mapping[str, Any], norms_as: DTypeLike) -> dict[str, np.ndarray]:
    norms = {k: v for k, v in recorded["grad_norms"].items() if v is not None}
    return {
        "loss_names": np.array(list(recorded["losses"])),
        "losses": np.array(list(recorded["losses"].values()), np.float64),
        "grad_names": np.array(list(norms)),
        "grad_norms": np.array(list(norms.values()), norms_as),
        "grad_none": np.array([k for k, v in recorded["grad_norms"].items() if v is None]),
        "total": np.float64(recorded["total"]),
        "grad_norm_total": np.float64(recorded["grad_norm_total"]),
    }
