"""What the three builders of TensorRT engines have in common; ``engines.build`` chooses one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BACKENDS = ("tensorrt_rtx", "tensorrt", "trtexec")


@dataclass(frozen=True)
class BuildOptions:
    backend: str = "tensorrt_rtx"
    compute_capabilities: tuple[str, ...] = ()  # e.g. ("8.6", "8.9"); empty: the GPU here, else all that the package knows
    workspace_gib: float = 4.0
    verbose: bool = False
    precision: str = "fp32"
    timing_cache: str = ""  # file that later builds read and add to; empty: none
    refittable: bool = False  # so that ``engines.refit`` can change its weights
    progress: Callable[[str], None] | None = None  # told what the builder is at
    killable: bool = False  # build in a process of its own, which Ctrl-C ends at once
    log: Callable[[str], None] | None = None  # told the builder's errors, which it prints otherwise


@dataclass(frozen=True)
class Built:
    """What a backend says of the engine it wrote."""

    version: str
    targets: list[str]
    typing: str  # strong: types are the graph's; weak: the builder may choose lower ones
    notes: tuple[str, ...] = ()  # where the engine is not all that was asked for; for its card, and for people


class Backend(Protocol):
    def build(self, onnx: Path, source: dict, part: Path, options: BuildOptions) -> Built:
        """Write the engine of ``onnx`` (its card: ``source``) to ``part``. Raises UserError."""
