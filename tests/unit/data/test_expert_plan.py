"""What the planner learns of driven worlds takes the place of the car's own future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from uniad.data.labels import Labeller
from uniad.data.table import load_table
from uniad.geometry import transforms as tf


def test_a_future_is_learned_as_the_plan_that_it_is(data_spec):
    """An expert who would do what the car does changes no label but the forecast beyond the plan."""
    table = load_table(data_spec.ann_file_train, data_spec.data_root)
    plain = Labeller(table, data_spec)
    known = {int(first): int(stop - first - 1) for first, stop in zip(table.scene_frames, table.scene_frames[1:])}
    assert min(known.values()) >= 2
    plan, command = np.zeros((len(table), 6, 3)), np.zeros(len(table), np.int64)
    for frame, steps in known.items():
        for step in range(6):
            pose = table.global_from_ego[frame + 1 + min(step, steps - 1)]
            plan[frame, step] = *pose[:2, 3], tf.heading(pose)
        command[frame] = 2 - plain.command(frame)
    taught = Labeller(replace(table, expert_plan=plan, expert_command=command), data_spec)
    for frame, steps in known.items():
        n = min(steps, 6)
        a, b = plain.ego_future(frame), taught.ego_future(frame)
        assert np.allclose(a.planning[0, :n, :2], b.planning[0, :n, :2], atol=2e-3)
        turned = a.planning[0, :n, 2] - b.planning[0, :n, 2]
        assert np.allclose(np.sin(turned), 0.0, atol=2e-3) and (np.cos(turned) > 0).all()
        assert np.allclose(a.traj[:, :n], b.traj[:, :n], atol=2e-3) and not b.traj_mask[:, 6:].any()
        assert b.planning_mask.all() and b.traj_mask[:, :6].all()
        assert b.command == taught.command(frame) == 2 - a.command
