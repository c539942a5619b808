"""Writes stage1_train.npz: the recorded stage-1 training clip, without what only a later stage needs.

    python tests/golden/make_stage1_train.py ../shared/golden

Images are not in it: they are noise from a seed. Predicted boxes are kept for matched rows only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

INPUTS = ("lidar2img", "images_rule", "img_first64", "sdc_box", "l2g_r_mat", "l2g_t", "timestamp", "can_bus_relative",
          "can_bus_absolute", "gt_lane_labels", "gt_lane_bboxes", "gt_lane_masks", "command")  # fmt: skip
FRAMES, LAYERS = 5, 6


def compact(golden: Path) -> dict[str, np.ndarray]:
    """Arrays of the extract, by name."""
    inputs, outputs = np.load(golden / "tiny_stage1_train_inputs.npz"), np.load(golden / "tiny_stage1_train_outputs.npz")
    recorded = json.loads((golden / "tiny_stage1_train_losses.json").read_text())
    out = {f"in/{k}": inputs[k] for k in inputs.files if k in INPUTS or k.startswith(tuple(f"f{t}/" for t in range(FRAMES)))}
    out |= {k: outputs[k] for k in outputs.files if k.startswith("bev_norms")}
    for t in range(FRAMES):
        for layer in range(LAYERS):
            out[f"f{t}/matched_{layer}"] = outputs[f"match/f{t}_l{layer}_matched"].astype(np.int16)
        ids = outputs[f"match/f{t}_obj_idxes_after"]
        rows = np.flatnonzero(ids != -1)
        out[f"f{t}/num_rows"], out[f"f{t}/rows"], out[f"f{t}/ids"] = np.int64(len(ids)), rows, ids[rows]
        for name in ("iou", "matched_gt", "pred_boxes"):
            out[f"f{t}/{name}"] = outputs[f"match/f{t}_{name}"][rows]
    out["loss_names"] = np.array(list(recorded["losses"]))
    out["losses"] = np.array(list(recorded["losses"].values()), np.float64)
    norms = {k: v for k, v in recorded["grad_norms"].items() if v is not None}
    out["grad_names"], out["grad_norms"] = np.array(list(norms)), np.array(list(norms.values()), np.float64)
    out["grad_none"] = np.array([k for k, v in recorded["grad_norms"].items() if v is None])
    out["total"], out["grad_norm_total"] = np.float64(recorded["total"]), np.float64(recorded["grad_norm_total"])
    return out


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("stage1_train.npz"), **compact(Path(sys.argv[1])))
