"""File names of exported graphs: the documented ones for the end-to-end step, ours for stage 1."""

from __future__ import annotations

import sys

from uniad.errors import run_cli
from uniad.spec import Spec, load_spec

END_TO_END = {"tiny": "uniad_tiny_imgx0.25_cp.onnx", "full": "uniad_full_cp.onnx"}


def onnx_name(spec: Spec) -> str:
    if spec.stage == 1:
        return f"uniad_{spec.variant}_track_map.onnx"
    return END_TO_END.get(spec.variant, f"uniad_{spec.variant}_cp.onnx")


def main() -> None:
    print(onnx_name(load_spec(sys.argv[1])))


if __name__ == "__main__":
    run_cli(main)
