"""Regenerates tests/golden/frames.npz and state_dict.json from the golden data: whole frames, images to tracks, thinned.

    python tests/golden/make_frames.py GOLDEN_DIR

Images are not stored; ``seed`` regenerates them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

MODELS = {"tiny": ("tiny_stage2", 3), "base": ("base_stage2_small", 2)}
STATE_DICTS = ("tiny_stage1", "base_stage1", "tiny_stage2", "base_stage2")
INPUTS = ("can_bus", "l2g_r_mat", "l2g_t", "timestamp")
WHOLE = (
    "trk/after_obj_idxes", "trk/active_index", "trk/result_labels", "trk/result_track_ids", "trk/result_bbox_index",
    "trk/result_bboxes", "trk/result_scores", "trk/sdc_bbox", "qim/out_obj_idxes", "qim/out_ref_pts", "qim/out_save_period",
    "res/labels_3d_det", "res/scores_3d_det",
)  # fmt: skip
THINNED = {"dec/last_ref_points": 7, "dec/all_cls_scores": 61, "dec/all_bbox_preds": 61, "bev_embed": 61, "qim/out_query": 37,
           "trk/track_query_embeddings": 11}  # fmt: skip


def digest(golden: Path, name: str) -> dict[str, str | int]:
    """How many entries an upstream checkpoint has, and a digest of their names, shapes, dtypes and requires_grad."""
    entries = sorted(json.loads((golden / f"state_dict_{name}.json").read_text()))
    return {"entries": len(entries), "sha256": hashlib.sha256(json.dumps(entries).encode()).hexdigest()}


def main(golden: Path) -> None:
    here = Path(__file__).parent
    keep: dict[str, np.ndarray] = {}
    meta: dict[str, str] = {}
    for model, (stem, frames) in MODELS.items():
        rules = json.loads((golden / f"{stem}_index.json").read_text())["meta"]
        inputs, outputs = np.load(golden / f"{stem}_inputs.npz"), np.load(golden / f"{stem}_forward.npz")
        for name in ("lidar2img", "image_seeds", "image_shape"):
            keep[f"{model}/{name}"] = inputs[name]
        for i in range(frames):
            for name in INPUTS:
                keep[f"{model}/f{i}/{name}"] = inputs[f"f{i}/{name}"]
            for name in WHOLE:
                value = outputs[f"f{i}/{name}"]
                keep[f"{model}/f{i}/{name}"] = value.astype(np.int16) if value.dtype.kind in "iu" else value
            for name, stride in THINNED.items():
                keep[f"{model}/f{i}/{name}"] = outputs[f"f{i}/{name}"].reshape(-1)[::stride]
                before = rules.get(f"f{i}/{name}")
                meta[f"{model}/f{i}/{name}"] = (f"{before}; then " if before else "") + f"flattened [::{stride}]"
    np.savez_compressed(here / "frames.npz", meta=np.array(json.dumps(meta)), **keep)
    text = json.dumps({name: digest(golden, name) for name in STATE_DICTS}, indent=1)
    (here / "state_dict.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
