"""Whether a graph of fixed size has room for what a data set's cameras see."""

from __future__ import annotations

from uniad.data.rig import rigs_of
from uniad.data.table import InfoTable
from uniad.errors import UserError
from uniad.geometry.pillars import check_rig
from uniad.spec import Spec


def check_dataset_rigs(spec: Spec, table: InfoTable) -> None:
    """UserError where a camera of the data set sees more BEV cells than the encoder has slots for.

    Call it once when a data set was opened: further cells would be dropped by the step without a word.
    """
    try:
        check_rig(spec.model.bev, rigs_of(table, spec.data.image.scale), (spec.data.image.height, spec.data.image.width))
    except UserError as error:
        raise UserError(f"{table.path}: {error}") from None
