"""Boxes: the two codes of ``uniad.interface.types`` and the geometry that labels, matching and metrics share.

``box9`` is (x, y, z, w, l, h, yaw, vx, vy) in the lidar frame, z at the *bottom* of the box. Its yaw follows the
mmdet3d 0.x rule that published weights were trained with: it grows clockwise seen from above, yaw 0 puts the width along
x and the length along y, so the heading of travel is ``-pi/2 - yaw`` in the usual counter-clockwise sense.
Rotation of a row vector is ``p @ R`` with ``R = [[c, -s], [s, c]]``.

Everything broadcasts over leading axes, has no data-dependent shape and exports with plain operators.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Order in which upstream lists corners: unit cube coordinates (x, y, z) from the bottom centre.
_CORNER_UNITS = (
    (-0.5, -0.5, 0.0), (-0.5, -0.5, 1.0), (-0.5, 0.5, 1.0), (-0.5, 0.5, 0.0),
    (0.5, -0.5, 0.0), (0.5, -0.5, 1.0), (0.5, 0.5, 1.0), (0.5, 0.5, 0.0),
)  # fmt: skip


def limit_period(value: Tensor, offset: float = 0.5, period: float = math.pi) -> Tensor:
    """Shift angles by whole periods into [-offset * period, (1 - offset) * period). Any shape, radians."""
    return value - torch.floor(value / period + offset) * period


def encode_boxes(box9: Tensor) -> Tensor:
    """box9 [..., 9] -> box10 [..., 10], the code that the network regresses. z is carried over as it is."""
    x, y, z, w, l, h, yaw, vx, vy = box9.unbind(-1)
    return torch.stack((x, y, w.log(), l.log(), z, h.log(), yaw.sin(), yaw.cos(), vx, vy), dim=-1)


def decode_boxes(box10: Tensor) -> Tensor:
    """box10 [..., 10] -> box9 [..., 9]; yaw in (-pi, pi]."""
    x, y, log_w, log_l, z, log_h, sin_yaw, cos_yaw, vx, vy = box10.unbind(-1)
    yaw = torch.atan2(sin_yaw, cos_yaw)
    return torch.stack((x, y, z, log_w.exp(), log_l.exp(), log_h.exp(), yaw, vx, vy), dim=-1)


def box10_of_v2(code: Tensor) -> Tensor:
    """What UniAD v2 regresses [..., 10] -> box10 [..., 10]. Its own inverse, and exact: values change places and signs.

    v2 has (x, y, log l, log w, z, log h, sin, cos of its yaw, vx, vy), and its yaw is the heading -pi/2 - yaw of ours; so our
    sine is minus its cosine, and our cosine minus its sine.
    """
    x, y, log_l, log_w, z, log_h, sin, cos, vx, vy = code.unbind(-1)
    return torch.stack((x, y, log_w, log_l, z, log_h, -cos, -sin, vx, vy), dim=-1)


def bottom_from_gravity(boxes: Tensor) -> Tensor:
    """Boxes whose z is the middle (as nuScenes annotates) -> boxes whose z is the bottom. [..., >=7]."""
    return torch.cat((boxes[..., :2], boxes[..., 2:3] - boxes[..., 5:6] * 0.5, boxes[..., 3:]), dim=-1)


def corners(boxes: Tensor) -> Tensor:
    """Eight corners [..., 8, 3] in metres of boxes [..., >=7]: (x0y0z0, x0y0z1, x0y1z1, x0y1z0), then the same at x1."""
    unit = boxes.new_tensor(_CORNER_UNITS)
    offset = boxes[..., None, 3:6] * unit
    sin, cos = boxes[..., None, 6].sin(), boxes[..., None, 6].cos()
    x = offset[..., 0] * cos + offset[..., 1] * sin
    y = offset[..., 1] * cos - offset[..., 0] * sin
    return torch.stack((x, y, offset[..., 2]), dim=-1) + boxes[..., None, :3]


def footprints(boxes: Tensor) -> Tensor:
    """Corners on the ground [..., 4, 2] in metres of boxes [..., >=7], in drawing order."""
    return corners(boxes)[..., (0, 3, 7, 4), :2]


def nearest_bev(boxes: Tensor) -> Tensor:
    """Axis-aligned box (x0, y0, x1, y1) [..., 4] after turning each of [..., >=7] to its nearest right angle."""
    turned = limit_period(boxes[..., 6:7], 0.5, math.pi).abs() > math.pi / 4
    size = torch.where(turned, boxes[..., 3:5].flip(-1), boxes[..., 3:5])
    return torch.cat((boxes[..., :2] - size / 2, boxes[..., :2] + size / 2), dim=-1)


def rect_area(rect: Tensor) -> Tensor:
    """Area [...] of rectangles (x0, y0, x1, y1) [..., 4]."""
    return (rect[..., 2] - rect[..., 0]) * (rect[..., 3] - rect[..., 1])


def rect_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union [...] of two broadcastable sets of rectangles [..., 4]. For all pairs pass a[..., :, None, :]."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    return overlap / (rect_area(a) + rect_area(b) - overlap).clamp(min=eps)


def nearest_bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU [...] of box pairs a, b [..., >=7] seen from above after snapping to right angles; what tracker matching uses."""
    return rect_iou(nearest_bev(a), nearest_bev(b))


def in_bev_range(boxes: Tensor, pc_range: tuple[float, ...]) -> Tensor:
    """True where the centre lies strictly inside (x0, y0, z0, x1, y1, z1), z ignored. [..., >=2] -> [...] bool."""
    x, y = boxes[..., 0], boxes[..., 1]
    return (x > pc_range[0]) & (y > pc_range[1]) & (x < pc_range[3]) & (y < pc_range[4])


def rotate_boxes(box9: Tensor, rotation: Tensor) -> Tensor:
    """Turn boxes [..., 9] by a row-vector rotation [3, 3] (``p @ R``): centres, velocity, and yaw by R's angle."""
    centre = box9[..., :3] @ rotation
    yaw = box9[..., 6:7] + torch.atan2(rotation[1, 0], rotation[0, 0])
    return torch.cat((centre, box9[..., 3:6], yaw, box9[..., 7:9] @ rotation[:2, :2]), dim=-1)


def translate_boxes(boxes: Tensor, offset: Tensor) -> Tensor:
    """Move boxes [..., >=3] by offset [3] in metres."""
    return torch.cat((boxes[..., :3] + offset, boxes[..., 3:]), dim=-1)


def reframe_boxes(
    box9: Tensor, global_from_ego: Tensor, ego_from_lidar: Tensor, global_from_ego_dst: Tensor, ego_from_lidar_dst: Tensor
) -> Tensor:
    """Boxes [..., 9] of one lidar frame seen from another (dst), through global, in the boxes' own precision.

    The four transforms are [4, 4] for column vectors. Boxes stay upright: only the angle about z reaches yaw. Taken in four
    steps of float32 as in upstream: at global coordinates of thousands of metres that rounds by about 0.1 mm, enough to move
    a footprint's vertex to the next cell now and then.
    """
    for dst_from_src in (ego_from_lidar, global_from_ego):
        matrix = dst_from_src.to(box9)
        box9 = translate_boxes(rotate_boxes(box9, matrix[:3, :3].T), matrix[:3, 3])
    for src_from_dst in (global_from_ego_dst, ego_from_lidar_dst):
        matrix = src_from_dst.to(box9)
        box9 = rotate_boxes(translate_boxes(box9, -matrix[:3, 3]), torch.linalg.inv(matrix[:3, :3]).T)
    return box9
