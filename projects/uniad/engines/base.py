"""Three ways to make an engine of an ONNX, by one interface: ``backend(name).build(onnx, engine_part, options) -> Built``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from uniad.backends.trtexec import PRECISIONS
from uniad.errors import UserError

BACKENDS = ("tensorrt_rtx", "tensorrt", "trtexec")


@dataclass(frozen=True)
class BuildOptions:
    backend: str = "tensorrt_rtx"
    compute_capabilities: tuple[str, ...] = ()  # e.g. ("8.6", "8.9"); empty: the GPU here, else all that the package knows
    workspace_gib: float = 4.0
    verbose: bool = False
    precision: str = "fp32"
    timing_cache: str = ""  # file that later builds read and add to; empty: none
    progress: Callable[[str], None] | None = None  # told what the builder is at
    killable: bool = False  # build in a process of its own, which Ctrl-C ends at once


@dataclass(frozen=True)
class Built:
    """What a backend says of the engine it wrote."""

    version: str
    targets: list[str]
    typing: str  # strong: types are the graph's; weak: the builder may lower them
    notes: tuple[str, ...] = ()  # where the engine is not all that was asked for; for its card, and for people


class Backend(Protocol):
    def build(self, onnx: Path, source: dict, part: Path, options: BuildOptions) -> Built:
        """Write the engine of ``onnx`` (its card: ``source``) to ``part``. Raises UserError."""


def backend(name: str) -> Backend:
    """The backend of that name; a UserError names the choices."""
    if name == "trtexec":
        from uniad.engines.trtexec import CommandBackend

        return CommandBackend()
    if name in BACKENDS:
        from uniad.engines.tensorrt import PythonBackend

        return PythonBackend(name)
    raise UserError(f"unknown engine backend {name!r}: choose one of {', '.join(BACKENDS)}")


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision}: choose one of {', '.join(PRECISIONS)}")
