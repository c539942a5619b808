#!/usr/bin/env python3
"""Write the inputs of upstream's deployment: nuscenes_np/uniad_onnx_input and nuscenes_np/uniad_trt_input."""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--config", default="projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py", help="sizes follow from it")
    p.add_argument("--dump_folder", type=Path, default=Path("nuscenes_np"), help="folder of both (default nuscenes_np)")
    p.add_argument("--dump_trt_path", type=Path, help="default: uniad_trt_input in it")
    p.add_argument("--dump_onnx_path", type=Path, help="default: uniad_onnx_input in it")
    p.add_argument("--num_frame", type=int, help="frames, 6 or more (default 69: the first two scenes of nuScenes)")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from tqdm import tqdm

    from uniad.config.read import load_spec
    from uniad.export.metadata import ONNX_FRAMES, write_metadata
    from uniad.files import try_place

    onnx = args.dump_onnx_path or args.dump_folder / "uniad_onnx_input"
    trt = args.dump_trt_path or args.dump_folder / "uniad_trt_input"
    if onnx.resolve() == trt.resolve():
        raise UserError(f"{onnx}: both folders are the same; give two")
    for folder in (onnx, trt):
        try_place(folder / "info.txt")
    spec = load_spec(args.config, args.cfg_options)
    try:
        with tqdm(unit="frame", desc="metadata", disable=None) as bar:
            written = write_metadata(spec, onnx, trt, args.num_frame, args.split, bar.update)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; `make data` prepares the dataset") from None
    print(f"{written.onnx}: the first {ONNX_FRAMES} frames with images and ground truth")
    print(f"{written.trt}: {written.frames} frames of {written.scenes} scene(s)")


if __name__ == "__main__":
    run_cli(main)
