"""Where anchors and predicted goals lie, and the code that the network reads a position by.

Axis letters as in types.py; ``...`` stands for modes and steps after the agent axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uniad.config.spec import UNIAD_V2, UPSTREAM, CompatChoice, Range6

# Upstream's half a turn; published weights were trained with these digits, so not math.pi.
YAW_OFFSET = 3.1415953
TEMPERATURE = 10000.0


def scene_from_agent(points: Tensor, boxes_BA9: Tensor, rotation: CompatChoice) -> Tensor:
    """Turns offsets [B, A, ..., 2] (metres) from an agent's own axes into lidar axes; the agent's centre stays the origin.

    In its own axes an agent faces +y. It heads for -pi/2 - yaw, so the turn is heading - pi/2 = -pi - yaw. ``UPSTREAM`` turns
    the other way round, by yaw - pi, as UniAD v1 does: right for agents along the lidar's y axis, backwards for those that cross.
    ``UNIAD_V2``: an agent faces +x, as in the anchors of that generation, and the turn is the heading.
    """
    return _turn(points, turn_of(boxes_BA9[..., 6], rotation))


def agent_from_scene(points: Tensor, boxes_BA9: Tensor, rotation: CompatChoice) -> Tensor:
    """The inverse of ``scene_from_agent``."""
    return _turn(points, -turn_of(boxes_BA9[..., 6], rotation))


def turn_of(yaw: Tensor, rotation: CompatChoice) -> Tensor:
    """Angle by which ``scene_from_agent`` turns, of the same shape as yaw, radians."""
    if rotation == UPSTREAM:
        return yaw - YAW_OFFSET
    return -(math.pi / 2 if rotation == UNIAD_V2 else math.pi) - yaw


def at_centre(points: Tensor, boxes_BA9: Tensor) -> Tensor:
    """Offsets [B, A, ..., 2] from an agent's centre -> lidar positions, metres."""
    return points + _spread(boxes_BA9[..., :2], points, 1)


def to_fraction(points: Tensor, pc_range: Range6) -> Tensor:
    """Lidar positions [..., 2] in metres -> fractions of ``pc_range``."""
    x, y = points.unbind(-1)
    return torch.stack(
        [(x - pc_range[0]) / (pc_range[3] - pc_range[0]), (y - pc_range[1]) / (pc_range[4] - pc_range[1])], -1
    )


def inv_freq(dim: int) -> Tensor:
    """Divisors [dim / 2] of ``position_code``; being constant, hold them in a buffer."""
    half = dim // 2
    exponent = torch.div(torch.arange(half), 2, rounding_mode="floor").float() * 2.0 / half
    return TEMPERATURE**exponent


def position_code(fraction: Tensor, divisor: Tensor) -> Tensor:
    """Sines and cosines, alternating, of positions [..., 2] given as fractions of the range -> [..., D]; y in the first half.

    divisor: [D / 2] from ``inv_freq``.
    """
    angle = (fraction.flip(-1) * (2.0 * math.pi)).unsqueeze(-1) / divisor
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-3)


def steps_so_far(steps: Tensor) -> Tensor:
    """Running sum of [..., F, 2] over the steps. Inference engines run a cumulative sum as a loop, and a product with a
    triangular matrix would lose digits under autocast; this is a masked sum over pairs of steps."""
    count = steps.shape[-2]
    index = torch.arange(count, device=steps.device)
    earlier = (index[None, :] <= index[:, None]).to(steps.dtype)
    return (steps.unsqueeze(-3) * earlier[..., None]).sum(-2)


def _spread(per_agent: Tensor, like: Tensor, trailing: int) -> Tensor:
    """[B, A, ...] with axes of one inserted after the agent axis, so that it broadcasts against ``like``."""
    extra = like.dim() - 2 - trailing
    return per_agent.reshape(*per_agent.shape[:2], *[1] * extra, *per_agent.shape[2:])


def _turn(points: Tensor, angle_BA: Tensor) -> Tensor:
    angle = _spread(angle_BA, points, 1)
    sin, cos = angle.sin(), angle.cos()
    x, y = points.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
