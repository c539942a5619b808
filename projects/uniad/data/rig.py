"""The camera rigs of a data set, for checks that need no image: has a graph of fixed size room for what its cameras see?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from uniad.config.spec import Spec
from uniad.data.table import InfoTable
from uniad.data.transforms import scaled_projection
from uniad.errors import UserError
from uniad.interface.pillars import check_rig


def rigs_of(table: InfoTable, scale: float) -> Tensor:
    """lidar2img [K, N, 4, 4] in pixels of the network's images: of the first frame at every location.

    A location has its own vehicles; within one, calibrations differ by fractions of a degree.
    """
    _, scenes = np.unique(table.location, return_index=True)
    frames = [table.frames_of(int(scene)).start for scene in scenes]
    return torch.from_numpy(scaled_projection(table.img_from_lidar[frames], scale).astype(np.float32))


def check_dataset_rigs(spec: Spec, table: InfoTable) -> None:
    """UserError where a camera of the data set sees more BEV cells than the encoder has slots for.

    Call it once when a data set was opened: further cells would be dropped by the step without a word.
    """
    try:
        check_rig(spec.model.bev, rigs_of(table, spec.data.image.scale), (spec.data.image.height, spec.data.image.width))
    except UserError as error:
        raise UserError(f"{table.path}: {error}") from None
