"""What command lines that run a model have in common."""

from __future__ import annotations

import argparse


def add_options(p: argparse.ArgumentParser, config: bool = True) -> None:
    """Where it runs and with which values of its config; with ``config`` also which config that is."""
    p.add_argument("--backend", default="auto", help="auto, torch, compiled, onnxruntime, tensorrt, tensorrt_rtx or trtexec")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    if config:
        p.add_argument("--config", help="config of a checkpoint; of an ONNX or engine its card names it")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="config values on top")
