"""Into which plain operators bilinear sampling is decomposed when a graph is exported.

There are three ways because no single one is right on every TensorRT: ``gridsample`` (one GridSample per level),
``gather`` (pad and gather; some TensorRT 10.13 to 11.1 builds miscompile GridSample in deformable attention) and
``plugin`` (deformable attention leaves as the MultiscaleDeformableAttnPlugin_TRT node that every stock TensorRT carries).
All compute the same numbers. Outside an export the fastest one for the device is taken, unless one was asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch

SAMPLINGS = ("gridsample", "gather", "plugin")
_chosen: str | None = None


def set_sampling(sampling: str | None) -> None:
    """Choose the operators for this process; None lets each device take what suits it."""
    global _chosen
    if sampling is not None and sampling not in SAMPLINGS:
        raise ValueError(f"sampling {sampling!r} is unknown; choose one of {', '.join(SAMPLINGS)}")
    _chosen = sampling


def get_sampling() -> str | None:
    return _chosen


@contextlib.contextmanager
def sampling_as(sampling: str | None) -> Generator[None, None, None]:
    """Choose the operators for the length of a ``with`` block."""
    before = _chosen
    set_sampling(sampling)
    try:
        yield
    finally:
        set_sampling(before)


def exporting() -> bool:
    """True while a graph is being recorded for another runtime, where only plain operators may appear."""
    if torch.compiler.is_dynamo_compiling():
        return False  # exports here do not go through dynamo, inside which PyTorch before 2.13 takes is_exporting() for True
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
