"""What the command lines of audit and robust have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from uniad.backends import options as backends
from uniad.errors import UserError


def add_options(p: argparse.ArgumentParser, least_frames: int) -> None:
    """Which model in which back end, which frames, and how many processes."""
    p.add_argument("model", type=Path, help="checkpoint with --config, ONNX or TensorRT engine; of the end-to-end model")
    p.add_argument("--out", required=True, type=Path, help="folder for the report")
    backends.add_options(p)
    p.add_argument("--scene", action="append", default=[], help="scene of the split by number, name or token (default: all)")
    p.add_argument("--frames", type=int, help=f"first frames of each scene only, {least_frames} or more")
    p.add_argument("--jobs", type=int, default=1, help="processes; the numbers are the same for any")
    p.add_argument("--limits", nargs="*", default=[], metavar="NAME=VALUE", help="what a frame may hold; docs/inference.md")


def check_least(args: argparse.Namespace, **least: int) -> None:
    """Raises UserError where a number that was given lies below its least."""
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f"--{name} {value}: give a number from {low} on")
