"""A planner that sees nothing: a small network from the car's own motion and the command, trained in seconds.

It is the question that AD-MLP (Zhai et al., 2023) and "Is Ego Status All You Need" (Li et al., 2024) put to open-loop scores:
what does a plan score that rests on ego status alone? A model that is no better has shown nothing about what it sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from uniad.data.labels import Labeller
from uniad.data.table import InfoTable
from uniad.geometry import transforms as tf
from uniad.interface.command import COMMANDS

F64 = NDArray[np.float64]
HIDDEN = 128
STEPS, BATCH = 1500, 512
RATE, DECAY = 2e-3, 1e-2


def ego_status(table: InfoTable, labeller: Labeller, frame: int) -> F64:
    """What a car knows of itself [19], without an image: how it moved over the last two steps (x, y m/s and rad/s each), the CAN
    bus's acceleration, angular rate and velocity, whether there is a past, and the command.
    """
    begins = table.frames_of(int(table.scene[frame])).start
    can_bus = np.asarray(table.can_bus[frame], np.float64)
    moved = np.zeros((2, 3))
    for back in range(2):
        now = frame - back
        if now <= begins:
            break
        seconds = (int(table.timestamp_us[now]) - int(table.timestamp_us[now - 1])) / 1e6
        now_from_before = np.linalg.inv(table.global_from_lidar[now]) @ table.global_from_lidar[now - 1]
        moved[back, :2] = -now_from_before[:2, 3] / seconds
        moved[back, 2] = -float(tf.heading(now_from_before)) / seconds
    command = np.eye(len(COMMANDS))[labeller.command(frame)]
    return np.concatenate([moved.ravel(), can_bus[7:16], [float(frame > begins)], command])


@dataclass
class EgoAlone:
    """The trained network; ``plan`` gives a path for a status."""

    network: nn.Module
    mean: Tensor
    scale: Tensor
    frames: int  # that it was trained on

    def plan(self, status: F64) -> NDArray[np.float32]:
        """[P, 2] metres, lidar frame, for a status [19]."""
        with torch.no_grad():
            x = (torch.from_numpy(np.asarray(status, np.float32))[None] - self.mean) / self.scale
            return self.network(x)[0].reshape(-1, 2).numpy()


def _adamw(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], moments: Sequence[tuple[Tensor, Tensor]], rate: float, step: int
) -> None:
    """A step of AdamW (Loshchilov and Hutter, 2019), in place. torch.optim takes seconds to be imported."""
    first, second = 0.9, 0.999
    with torch.no_grad():
        for parameter, gradient, (mean, square) in zip(parameters, gradients, moments):
            mean.lerp_(gradient, 1 - first)
            square.lerp_(gradient**2, 1 - second)
            change = (mean / (1 - first**step)) / ((square / (1 - second**step)).sqrt() + 1e-8)
            parameter.mul_(1 - rate * DECAY).sub_(rate * change)


def train(table: InfoTable, labeller: Labeller, seed: int = 0) -> EgoAlone:
    """On every frame of a split's infos whose future is known for a step at least; the same for the same seed."""
    status, paths, known = [], [], []
    for frame in range(len(table)):
        future = labeller.ego_future(frame)
        mask = future.planning_mask[0, :, 0] != 0
        if mask.any():
            status.append(ego_status(table, labeller, frame))
            paths.append(future.planning[0, :, :2].reshape(-1))
            known.append(np.repeat(mask, 2))
    x, y, mask = (torch.from_numpy(np.asarray(values, np.float32)) for values in (status, paths, known))
    mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how many there are
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, y.shape[1])
            )
            inputs, parameters = (x - mean) / scale, list(network.parameters())
            moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
            for step in range(STEPS):
                chosen = torch.randint(len(x), (min(BATCH, len(x)),))
                loss = ((network(inputs[chosen]) - y[chosen]).abs() * mask[chosen]).sum() / mask[chosen].sum()
                rate = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
                _adamw(parameters, torch.autograd.grad(loss, parameters), moments, rate, step + 1)
    finally:
        torch.set_num_threads(threads)
    return EgoAlone(network.eval(), mean, scale, len(x))
