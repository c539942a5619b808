"""Regenerates tests/golden/planning.npz from the golden data: planning head, its losses, the collision optimiser and metrics.

    python tests/golden/make_planning.py GOLDEN_DIR

BEVs are not stored; tests make them from the images of frames.npz.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

MODELS = {"tiny": ("tiny_stage2", 3), "base": ("base_stage2_small", 2)}
STAGES = ("mlp_fuser_out", "attn_out", "before_collision_optim", "after_collision_optim")


def main(golden: Path) -> None:
    keep: dict[str, np.ndarray] = {}
    for model, (stem, frames) in MODELS.items():
        inputs, outputs = np.load(golden / f"{stem}_inputs.npz"), np.load(golden / f"{stem}_forward.npz")
        for i in range(frames):
            at = f"{model}/f{i}/"
            keep[at + "command"] = inputs[f"f{i}/command"]
            keep[at + "traj_query"] = outputs[f"f{i}/mot/out_sdc_traj_query"][-1]
            keep[at + "track_query"] = outputs[f"f{i}/mot/out_sdc_track_query"]
            keep[at + "occ"] = outputs[f"f{i}/occ/seg_out"][0, :, 0].astype(np.uint8)
            for name in STAGES:
                keep[at + name] = outputs[f"f{i}/plan/{name}"]
        names = json.loads((golden / f"state_dict_{model}_stage2.json").read_text())
        keep[f"{model}/state_dict"] = np.array(json.dumps(sorted(n for n in names if n[0].startswith("planning_head."))))
    inputs, outputs = np.load(golden / "tiny_stage2_train_inputs.npz"), np.load(golden / "tiny_stage2_train_outputs.npz")
    losses = json.loads((golden / "tiny_stage2_train_losses.json").read_text())
    keep["train/traj"] = outputs["planning_sdc_traj"]
    for name in ("sdc_planning", "sdc_planning_mask", *(f"gt_future_boxes/{i}" for i in range(7))):
        keep[f"train/{name}"] = inputs[name]
    keep |= {f"train/{k}": np.float64(v) for k, v in losses["losses"].items() if k.startswith("planning.")}
    metrics = np.load(golden / "metrics.npz")
    for name in metrics.files:
        if name.startswith(("colopt", "planning_")):
            keep[f"metrics/{name}"] = metrics[name]
    np.savez_compressed(Path(__file__).with_name("planning.npz"), meta=np.array("{}"), **keep)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
