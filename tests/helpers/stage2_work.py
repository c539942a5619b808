"""A checkpoint of stage 2 whose agents live, and how to export it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from helpers import REPO
from helpers.command_line import World
from helpers.specs import nano_spec
from helpers.weights import nano_state_dict
from uniad.data.anchors import save_motion_anchors
from uniad.models.uniad import UniAD
from uniad.training.checkpoint import save_checkpoint

EXPORT_CONFIG = REPO / "projects/configs/stage2_e2e/nano_e2e_trt_p.py"


class Work:
    """A folder with anchors and a checkpoint, and how to export it."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder = folder
        spec = nano_spec(2)
        motion = spec.model.stage2.motion
        rng = np.random.default_rng(0)
        shape = (motion.predict_modes, motion.predict_steps, 2)
        anchors = [np.cumsum(rng.uniform(-0.5, 1.5, shape), axis=1) for _ in motion.group_ids]
        save_motion_anchors(folder / "motion_anchor_infos_mode6.pkl", anchors, motion, spec.data.class_names)
        state = nano_state_dict(UniAD(spec.model, torch.from_numpy(np.stack(anchors))))
        save_checkpoint(folder / "nano.pth", {"meta": {"uniad": {"variant": "nano"}}, "state_dict": state})
        self.options = [
            "--cfg-options", f"data_root={world.root}/", f"info_root={world.infos}/", f"anchor_root={folder}/",
            "data.workers_per_gpu=0", "model.score_thresh=0.88", "model.filter_score_thresh=0.86",
        ]  # fmt: skip

    def export(self, out: Path, *args: object, checkpoint: Path | None = None) -> list[object]:
        return ["tools/export_onnx.py", EXPORT_CONFIG.relative_to(REPO), checkpoint or self.folder / "nano.pth", "--out", out,
                *args, *self.options]  # fmt: skip
