"""Writes stage1_train.npz: the recorded stage-1 training clip, without what only a later stage needs.

    python tests/golden/make_stage1_train.py ../shared/golden

Images are not in it: they are noise from a seed. Predicted boxes are kept for matched rows only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from training_record import losses_and_gradients, matches  # noqa: E402

INPUTS = ("lidar2img", "images_rule", "img_first64", "sdc_box", "l2g_r_mat", "l2g_t", "timestamp", "can_bus_relative",
          "can_bus_absolute", "gt_lane_labels", "gt_lane_bboxes", "gt_lane_masks", "command")  # fmt: skip
FRAMES = 5


def compact(golden: Path) -> dict[str, np.ndarray]:
    """Arrays of the extract, by name."""
    inputs, outputs = np.load(golden / "tiny_stage1_train_inputs.npz"), np.load(golden / "tiny_stage1_train_outputs.npz")
    recorded = json.loads((golden / "tiny_stage1_train_losses.json").read_text())
    out = {f"in/{k}": inputs[k] for k in inputs.files if k in INPUTS or k.startswith(tuple(f"f{t}/" for t in range(FRAMES)))}
    out |= {k: outputs[k] for k in outputs.files if k.startswith("bev_norms")}
    out |= matches(outputs, FRAMES, ("iou", "matched_gt", "pred_boxes"))
    return out | losses_and_gradients(recorded, np.float64)


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("stage1_train.npz"), **compact(Path(sys.argv[1])))
