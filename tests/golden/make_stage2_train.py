"""Writes stage2_train.npz: losses, matches and gradient norms of the recorded stage-2 training clip.

    python tests/golden/make_stage2_train.py ../shared/golden

The clip itself is in motion.npz. Predicted occupancy is thinned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from training_record import losses_and_gradients, matches  # noqa: E402

FRAMES = 3
OCC_STRIDE = 31
KEPT = ("planning_sdc_traj", "motion_all_matched_idxes", "motion_veh_matched_idxes")


def compact(golden: Path) -> dict[str, np.ndarray]:
    """Arrays of the extract, by name."""
    outputs = np.load(golden / "tiny_stage2_train_outputs.npz")
    recorded = json.loads((golden / "tiny_stage2_train_losses.json").read_text())
    out = {k: outputs[k] for k in outputs.files if k in KEPT or k.startswith(("bev_norms", "bn_after/"))}
    for name in ("occ_mask_preds", "occ_ins_logits"):
        out[name] = outputs[name].reshape(-1)[::OCC_STRIDE]
    out |= matches(outputs, FRAMES, ("iou",))
    return out | losses_and_gradients(recorded, np.float32)


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("stage2_train.npz"), **compact(Path(sys.argv[1])))
