"""Writes occ.npz: recorded occupancy, thinned, and what its metrics were recorded from.

    python tests/golden/make_occ.py ../shared/golden

BEVs are not in it; tests make them from the images of frames.npz. The logits that losses were recorded from are too many to
keep: tests of recorded losses need the golden data itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.recorded import Recorded

MODELS = {"tiny": ("tiny_stage2", 3), "base": ("base_stage2_small", 2)}
STRIDES = {"ins_query": 11, "mask_preds": 29, "ins_occ_logits": 29}  # on top of what golden thinned


def compact(golden: Path) -> dict[str, np.ndarray]:
    """Arrays of the extract, by name; ``meta`` holds how they were thinned."""
    out: dict[str, np.ndarray] = {"anchors": np.load(golden / "motion_anchors.npy").astype(np.float32)}
    meta = {}
    for model, (stem, frames) in MODELS.items():
        forward = Recorded.golden(golden, stem, ("forward",))
        for i in range(frames):
            at = f"f{i}/occ/"
            for name, stride in STRIDES.items():
                key = f"{model}/{at}{name}"
                out[key] = forward.arrays[at + name].reshape(-1)[::stride]
                rule = forward.meta.get(at + name, "")
                meta[key] = "; ".join(filter(None, [rule, f"flattened C order [::{stride}]"]))
            for name in ("seg_out", "ins_seg_out"):
                out[f"{model}/{at}{name}"] = forward.arrays[at + name].astype(np.uint8)
        names = json.loads((golden / f"state_dict_{model}_stage2.json").read_text())
        entries = [name for name in names if name[0].startswith("occ_head.")]
        out[f"{model}/state_dict"] = np.array(json.dumps(sorted(entries)))
    metrics = np.load(golden / "metrics.npz")
    out |= {key: metrics[key] for key in metrics.files if key.startswith(("occ_tiny/", "occ_base/"))}
    for name, dtype in (("pred_ins_sigmoid", np.float32), ("seg_out", np.uint8), ("ins_seg_out", np.uint8)):
        out[f"occ_ins/{name}"] = metrics[f"occ_ins/{name}"].astype(dtype)
    out["meta"] = np.array(json.dumps(meta))
    return out


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("occ.npz"), **compact(Path(sys.argv[1])))
