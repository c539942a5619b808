"""Writes motion.npz: recorded motion numbers, thinned, the recorded stage-2 training clip, and what its losses compare.

    python tests/golden/make_motion.py ../shared/golden

Predicted trajectories of the training clip were not recorded. They are made by this repository's own model from the recorded
clip (a minute), and written only if the recorded losses follow from them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import Tensor

from helpers import motion_data, stage2_clip, weights
from uniad.interface.types import Agents, MotionOutput
from uniad.losses.criterion import Criterion
from uniad.losses.motion import motion_losses
from uniad.models.agents import select_training_agents
from uniad.models.motion import MotionHead
from uniad.models.uniad import UniAD
from uniad.training.clip import forward_clip

MODELS = {"tiny": ("tiny_stage2", 3), "base": ("base_stage2_small", 2)}
# name -> thinning of tiny's first frame, which is tested alone, and of frames that whole runs are tested by
INPUTS = ("in_boxes", "in_labels", "in_scores")
OUTPUTS = {"all_traj_scores": (1, 3), "all_traj_preds": (11, 61), "traj_query": (37, 61), "track_query_pos": (17, 61)}
MODULES = {"mf_reference_trajs": 13, "mf_agent_level_embedding": 97, "mf_scene_level_ego_embedding": 97,
           "mf_scene_level_offset_embedding": 97, "mf_learnable_embed": 97, "mf_inter_references": 37}  # fmt: skip
LOSS = 1e-4  # images to losses


class Trained(NamedTuple):
    """One pass of the recorded clip through our model."""

    agents: Agents
    matched: Tensor
    motion: MotionOutput
    head: MotionHead
    losses: dict[str, Tensor]


def train(given: dict[str, Tensor], image_seed: int) -> Trained:
    """Images to motion losses, with gradient."""
    ahead = motion_data.clip_spec().model.stage2
    spec = replace(motion_data.clip_spec().model, stage2=None)
    model = motion_data.without_dropout(weights.fill(UniAD(spec), kind="train"))
    head = motion_data.without_dropout(motion_data.recorded_head(given["anchors"], "train"))
    clip = stage2_clip.clip(given, image_seed)
    _, out = forward_clip(model, clip, Criterion(spec))
    match = out.match[-1]
    agents, matched = select_training_agents(
        out.det[-1], out.rows[-1].valid, match.obj_id, match.iou, match.gt_of_row[-1], motion_data.CAPACITY, spec.track
    )
    lanes = model.seg_head.queries(out.bev[:, -1])
    motion = head(out.bev[:, -1], agents, lanes.query, lanes.query_pos)
    return Trained(agents, matched, motion, head, motion_losses(motion, agents, matched, clip.targets, ahead.motion))


def forward(golden: Path) -> dict[str, np.ndarray]:
    """Frames, by name; ``meta`` holds how they were thinned."""
    out: dict[str, np.ndarray] = {"anchors": np.load(golden / "motion_anchors.npy")}
    meta: dict[str, str] = {}

    def keep(name: str, key: str, value: np.ndarray, stride: int, rule: str) -> None:
        out[name] = value.reshape(-1)[::stride] if stride > 1 else value
        steps = [rule, f"flattened C order [::{stride}]" if stride > 1 else ""]
        meta[name] = "; then ".join(filter(None, steps))

    for model, (stem, frames) in MODELS.items():
        rules = json.loads((golden / f"{stem}_index.json").read_text())["meta"]
        data = np.load(golden / f"{stem}_forward.npz")
        for f in range(frames):
            alone = model == "tiny" and f == 0
            for name in INPUTS + ("in_track_query",) * alone:
                out[f"{model}/f{f}/mot/{name}"] = data[f"f{f}/mot/{name}"]
            for name, strides in OUTPUTS.items():
                key = f"f{f}/mot/{name}"
                keep(f"{model}/{key}", key, data[key], strides[0] if alone else strides[1], rules.get(key, ""))
    modules = np.load(golden / "tiny_stage2_modules.npz")
    rules = json.loads((golden / "tiny_stage2_index.json").read_text())["meta"]
    for name, stride in MODULES.items():
        key = f"f1/mot/{name}"
        keep(f"tiny/{key}", key, modules[key], stride, rules.get(key, ""))
    out["meta"] = np.array(json.dumps(meta))
    return out


def training(golden: Path) -> dict[str, np.ndarray]:
    """The clip, its recorded losses and gradients, and our predictions."""
    inputs, outputs = (np.load(golden / f"tiny_stage2_train_{part}.npz") for part in ("inputs", "outputs"))
    recorded = json.loads((golden / "tiny_stage2_train_losses.json").read_text())
    out = {f"train/in/{k}": inputs[k] for k in inputs.files}
    out |= {f"train/{k}": outputs[k] for k in outputs.files if k.startswith(("smoother/", "motion_"))}
    losses = {k: v for k, v in recorded["losses"].items() if k.startswith("motion.")}
    out["train/loss_names"], out["train/losses"] = np.array(list(losses)), np.array(list(losses.values()))
    norms = {k: v for k, v in recorded["grad_norms"].items() if k.startswith("motion_head.") and v is not None}
    out["train/grad_names"], out["train/grad_norms"] = np.array(list(norms)), np.array(list(norms.values()))

    torch.set_num_threads(1)
    ours = train(*motion_data.clip_inputs(out, "train/in/"))
    for name, value in ours.losses.items():
        error = abs(value.item() - losses[name]) / abs(losses[name])
        assert error < LOSS, f"{name} is {value.item()}, recorded {losses[name]}"
    keep = torch.nonzero(ours.agents.valid[0])[:, 0]
    assert ours.matched[0, keep[:-1]].tolist() == outputs["motion_all_matched_idxes"][:-1].tolist()
    out["train/traj"] = ours.motion.traj[:, :, keep].detach().numpy()
    out["train/score"] = ours.motion.score[:, :, keep].detach().numpy()
    out["train/boxes"] = ours.agents.boxes[:, keep].detach().numpy()
    return out


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    np.savez_compressed(Path(__file__).with_name("motion.npz"), **forward(folder), **training(folder))
