"""Writes map.npz: recorded map-head numbers, thinned, and what the map losses were recorded from.

    python tests/golden/make_map.py ../shared/golden

The losses' inputs were not recorded. They are made by this repository's own model from the recorded clip (half a minute), and
written only if the recorded losses follow from them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import train_clip
from helpers.map_losses import losses_of
from helpers.recorded import Recorded
from helpers.specs import tiny_spec
from helpers.tolerances import TOLERANCES
from helpers.weights import rule_state_dict
from uniad.losses.map_matcher import canvas_size, map_targets, match_queries
from uniad.models.track import take_rows
from uniad.models.uniad import UniAD
from uniad.training.clip import ClipOptions, clip_bevs

FRAMES, BASE_FRAMES = 3, 2
# name -> further thinning of frame 0's outputs; 1 keeps what golden has
FORWARD = {"outputs_classes": 1, "outputs_coords": 3, "memory": 23, "query": 11, "query_pos": 23, "reference": 1,
           "things_mask": 17, "things_query_last": 7, "stuff_mask": 1, "stuff_query_last": 1, "stuff_inter_masks": 5}  # fmt: skip
RESULTS = ("r_bbox", "r_labels", "r_segm", "r_lane", "r_drivable", "r_panoptic")


def compact(golden: Path) -> dict[str, np.ndarray]:
    """Arrays of the extract, by name; ``meta`` holds how they were thinned."""
    forward = Recorded.golden(golden, "tiny_stage2", ("forward", "inputs"))
    metrics = np.load(golden / "metrics.npz")
    out, meta = {}, {}
    for name, stride in FORWARD.items():
        key = f"f0/seg/{name}"
        out[key], meta[key] = thinned(forward, key, stride)
    for f in range(FRAMES):
        for name in RESULTS:
            out[f"f{f}/seg/{name}"] = small(forward.arrays[f"f{f}/seg/{name}"])
        for key in forward.arrays:
            if key.startswith(f"f{f}/seg/iou_") or key in (f"f{f}/lane_labels", f"f{f}/lane_masks"):
                out[key] = forward.arrays[key]
        key = f"f{f}/seg/query"
        if f:  # frame 0 has it already
            out[key], meta[key] = thinned(forward, key, 31)
    base = Recorded.golden(golden, "base_stage2_small", ("forward",))
    for f in range(BASE_FRAMES):
        for name in RESULTS:
            if name not in ("r_segm", "r_panoptic"):
                out[f"base/f{f}/seg/{name}"] = small(base.arrays[f"f{f}/seg/{name}"])
        key = f"f{f}/seg/query"
        out[f"base/{key}"], meta[f"base/{key}"] = thinned(base, key, 31)
    for key in ("lidar2img", "image_seeds", "f0/can_bus", "f0/img_first64"):
        out[key] = forward.arrays[key]
    out |= {key: metrics[key] for key in metrics.files if key.startswith("map/")}
    out |= {f"train/{key}": value.numpy() for key, value in loss_inputs().items()}
    out["meta"] = np.array(json.dumps(meta))
    return out


def thinned(source: Recorded, key: str, stride: int) -> tuple[np.ndarray, str]:
    """Every ``stride``-th value and the rule that thins a whole tensor alike."""
    value, rule = source.arrays[key], source.meta.get(key, "")
    if stride == 1:
        return value, rule
    return value.reshape(-1)[::stride], "; ".join(filter(None, [rule, f"flattened C order [::{stride}]"]))


def small(value: np.ndarray) -> np.ndarray:
    """Scores as they are; labels, masks and ids of at most 255 as bytes."""
    return value.astype(np.float32 if value.dtype.kind == "f" else np.uint8)


@torch.no_grad()
def loss_inputs() -> dict[str, torch.Tensor]:
    """Map queries of the recorded training clip's last frame, and the masks that their losses compare."""
    spec = tiny_spec(model__use_grid_mask=False)
    model = UniAD(spec.model)
    model.load_state_dict(rule_state_dict(model.state_dict(), "train"), strict=False)
    model.eval()
    recorded = train_clip.record()
    clip = train_clip.clip(recorded)
    bev, _, _ = clip_bevs(model, clip.frames, None, ClipOptions())
    head = model.seg_head
    queries = head.queries(bev[:, -1])
    losses = losses_of(head, queries, clip.targets, spec.model.map_loss)
    want = dict(zip(recorded["loss_names"].tolist(), recorded["losses"].tolist()))
    for name, value in losses.items():
        error = abs(value.item() - want[name]) / max(abs(want[name]), 1e-3)
        assert error < TOLERANCES["map_loss"], f"{name} is {value.item()}, recorded {want[name]}"
    gt = map_targets(clip.targets, canvas_size(head.spec.canvas_hw), spec.model.map.num_things)
    chosen = match_queries(queries.cls[-1], queries.boxes[-1], gt, canvas_size(head.spec.canvas_hw), spec.model.map_loss)
    things = head.thing_masks(queries.memory, take_rows(queries.query, chosen.clamp(min=0))).mask
    return {
        "cls": queries.cls, "boxes": queries.boxes, "chosen": chosen,
        "things_mask": things[:, : int(gt.valid.sum())], "stuff_mask": head.stuff_masks(queries.memory).mask,
    }  # fmt: skip


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("map.npz"), **compact(Path(sys.argv[1])))
