"""File names of exported graphs: upstream's for the end-to-end step, ours for stage 1."""

from __future__ import annotations

import sys

from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.config.variants import stem_of
from uniad.errors import run_cli


def onnx_name(spec: Spec) -> str:
    if spec.stage == 1:
        return f"uniad_{spec.variant}_track_map.onnx"
    return f"uniad_{stem_of(spec.name)}_cp.onnx"


def main() -> None:
    print(onnx_name(load_spec(sys.argv[1])))


if __name__ == "__main__":
    run_cli(main)
