"""Writes stage2_train.npz: losses, matches and gradient norms of the recorded stage-2 training clip.

    python tests/golden/make_stage2_train.py ../shared/golden

The clip itself is in motion.npz. Predicted occupancy is thinned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FRAMES, LAYERS = 3, 6
OCC_STRIDE = 31
KEPT = ("planning_sdc_traj", "motion_all_matched_idxes", "motion_veh_matched_idxes")


def compact(golden: Path) -> dict[str, np.ndarray]:
    """Arrays of the extract, by name."""
    outputs = np.load(golden / "tiny_stage2_train_outputs.npz")
    recorded = json.loads((golden / "tiny_stage2_train_losses.json").read_text())
    out = {k: outputs[k] for k in outputs.files if k in KEPT or k.startswith(("bev_norms", "bn_after/"))}
    for name in ("occ_mask_preds", "occ_ins_logits"):
        out[name] = outputs[name].reshape(-1)[::OCC_STRIDE]
    for t in range(FRAMES):
        for layer in range(LAYERS):
            out[f"f{t}/matched_{layer}"] = outputs[f"match/f{t}_l{layer}_matched"].astype(np.int16)
        ids = outputs[f"match/f{t}_obj_idxes_after"]
        rows = np.flatnonzero(ids != -1)
        out[f"f{t}/num_rows"], out[f"f{t}/rows"], out[f"f{t}/ids"] = np.int64(len(ids)), rows, ids[rows]
        out[f"f{t}/iou"] = outputs[f"match/f{t}_iou"][rows]
    out["loss_names"] = np.array(list(recorded["losses"]))
    out["losses"] = np.array(list(recorded["losses"].values()), np.float64)
    norms = {k: v for k, v in recorded["grad_norms"].items() if v is not None}
    out["grad_names"], out["grad_norms"] = np.array(list(norms)), np.array(list(norms.values()), np.float32)
    out["grad_none"] = np.array([k for k, v in recorded["grad_norms"].items() if v is None])
    out["total"], out["grad_norm_total"] = np.float64(recorded["total"]), np.float64(recorded["grad_norm_total"])
    return out


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("stage2_train.npz"), **compact(Path(sys.argv[1])))
