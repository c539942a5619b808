#!/usr/bin/env python3
"""Which way the futures of moving objects point in the axes that motion anchors are turned into, by compat.anchor_rotation.

    python benchmarks/anchor_rotation.py projects/configs/stage2_e2e/nano_e2e.py --cfg-options data_root=... info_root=...

An anchor faces +y of its agent's axes. A future that points backwards there starts from anchors that do.
"""

from __future__ import annotations

import argparse

import _tools  # noqa: F401

import numpy as np
import torch

from uniad.config.read import load_spec
from uniad.config.spec import UPSTREAM
from uniad.data.dataset import open_table
from uniad.data.labels import Labeller
from uniad.errors import UserError, run_cli
from uniad.models.motion_geometry import agent_from_scene

MOVES_M = 2.0  # within the horizon, or an object has no direction


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE")
    args = p.parse_args()
    spec = load_spec(args.config, args.cfg_options)
    table = open_table(spec.data, "train")
    labeller = Labeller(table, spec.data)
    ends, boxes = [], []
    for frame in range(len(table)):
        objects = labeller.objects(frame)
        steps = (objects.fut_traj_mask > 0).all(-1).sum(-1)
        there = objects.fut_traj[np.arange(len(steps)), np.maximum(steps - 1, 0)]
        if spec.data.use_nonlinear_optimizer:
            there = there - objects.boxes[:, :2]
        moving = (steps > 0) & (np.linalg.norm(there, axis=-1) > MOVES_M)
        ends.append(there[moving])
        boxes.append(objects.boxes[moving])
    end, box = (torch.from_numpy(np.concatenate(x)).float()[None] for x in (ends, boxes))
    if not end.shape[1]:
        raise UserError(f"{table.path}: no object moves {MOVES_M:g} m")
    print(f"{end.shape[1]} objects of {len(table)} frames that move more than {MOVES_M:g} m")
    for word, rotation in (("upstream", UPSTREAM), ("fixed", "fixed")):
        x, y = agent_from_scene(end, box, rotation)[0].unbind(-1)
        angle = torch.rad2deg(torch.atan2(x, y)).abs()
        print(f"{word:10}  forwards within 30 degrees {100 * (angle < 30).float().mean():.0f} %, "
              f"backwards (over 90 degrees) {100 * (angle > 90).float().mean():.0f} %")  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
