"""Whether the encoder's fixed room holds what a camera rig sees: on the host, in plain numpy, for a car without PyTorch, too."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uniad.config.spec import BevSpec
from uniad.errors import UserError

MIN_DEPTH = 1e-5  # metres; a point nearer than this, or behind the camera, is not seen


def camera_slots(spec: BevSpec) -> int:
    """Cells that one camera may see."""
    cells = spec.height * spec.width
    return min(cells, -(-int(cells * spec.sca_capacity) // 8) * 8)


def check_rig(spec: BevSpec, lidar2img: ArrayLike, img_hw: tuple[int, int]) -> int:
    """Largest number of cells that a camera of these sees; UserError where they are more than the graph has room for.

    lidar2img [..., 4, 4], in pixels of the network's image of ``img_hw``. A cell is seen where any point of its pillar is, as the
    encoder has it (``models.bev_encoder.project_pillars``). Call it once per camera rig, outside the step.
    """
    matrices = np.asarray(lidar2img.detach().cpu() if hasattr(lidar2img, "detach") else lidar2img, np.float32)
    x, y, z = pillar_points(spec)
    most = 0
    for m in matrices.reshape(-1, 4, 4):
        u, v, depth = (m[i, 0] * x + m[i, 1] * y + m[i, 2] * z + m[i, 3] for i in range(3))
        scale = np.maximum(depth, np.float32(MIN_DEPTH))
        u, v = u / scale / np.float32(img_hw[1]), v / scale / np.float32(img_hw[0])
        seen = (depth > MIN_DEPTH) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
        most = max(most, int(seen.any(-1).sum()))
    room = camera_slots(spec)
    if most > room:
        share = math.ceil(100 * most / (spec.height * spec.width)) / 100
        raise UserError(
            f"a camera sees {most} BEV cells, but native.sca_capacity = {spec.sca_capacity} gives room for {room}: "
            f"set native.sca_capacity={share:.2f} in the config or by --cfg-options, or check lidar2img"
        )
    return most


def pillar_points(spec: BevSpec) -> tuple[NDArray[np.float32], ...]:
    """x, y, z (m, lidar frame) of the points of every cell's pillar, each to be broadcast to [rows, columns, points]."""
    x0, y0, z0, x1, y1, z1 = spec.pc_range

    def spaced(number: int, length: float) -> NDArray[np.float32]:
        return np.linspace(0.5, length - 0.5, number, dtype=np.float32) / np.float32(length)

    x = spaced(spec.width, spec.width) * np.float32(x1 - x0) + np.float32(x0)
    y = spaced(spec.height, spec.height) * np.float32(y1 - y0) + np.float32(y0)
    z = spaced(spec.points_in_pillar, z1 - z0) * np.float32(z1 - z0) + np.float32(z0)
    return x[None, :, None], y[:, None, None], z[None, None, :]
