"""The camera rigs of a data set, for checks that need no image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from uniad.data.table import InfoTable
from uniad.data.transforms import scaled_projection


def rigs_of(table: InfoTable, scale: float) -> Tensor:
    """lidar2img [K, N, 4, 4] in pixels of the network's images: of the first frame at every location.

    A location has its own vehicles; within one, calibrations differ by fractions of a degree.
    """
    _, scenes = np.unique(table.location, return_index=True)
    frames = [table.frames_of(int(scene)).start for scene in scenes]
    return torch.from_numpy(scaled_projection(table.img_from_lidar[frames], scale).astype(np.float32))
