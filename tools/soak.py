#!/usr/bin/env python3
"""Run a model for an hour: latency percentiles over time, memory, temperatures, clocks. Exit 1 where it may not be called ready.

An ONNX or a TensorRT engine replays the recorded sequence beside the ONNX (--onnx), so no data set is needed; with --scenes, and
for a checkpoint, scenes of the data set run from raw images. The outcome goes to the card of the ONNX or TensorRT engine.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _environment  # noqa: F401

from uniad.backends.options import add_options
from uniad.errors import UserError, run_cli

PICTURE = "soak.png"


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path, help="ONNX, TensorRT engine, or a checkpoint with --config")
    p.add_argument("--out", required=True, type=Path, help="folder of the report")
    p.add_argument("--minutes", type=float, default=60.0, help="default 60; only an hour calls it ready")
    p.add_argument("--onnx", type=Path, help="of a TensorRT engine: the graph whose recorded sequence is replayed")
    p.add_argument("--scenes", nargs="+", default=[], help="scenes of the data set instead, by number, name or token")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--most", type=int, default=10, help="frames of a scene (default 10): they are held in memory")
    add_options(p)
    p.add_argument("--threads", type=int, default=0, help="of onnxruntime, 0 its own choice")
    p.add_argument("--limits", nargs="*", default=[], metavar="NAME=VALUE", help="as of tools/infer.py")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    if not 0 < args.minutes <= 7 * 24 * 60 or args.most < 2:
        raise UserError("--minutes: above 0 and at most a week; --most: 2 or more")
    from uniad.artifacts.card import read_card, write_card
    from uniad.backends.identity import this_device
    from uniad.backends.open import find_model
    from uniad.deploy.machine import Machine
    from uniad.deploy.plausible import Limits
    from uniad.deploy.runtime import Runtime
    from uniad.deploy.soak import report_of, soak
    from uniad.engines.jetpack import describe_device
    from uniad.files import alone_in, try_place
    from uniad.formats.report import keep_report

    draws = find_spec("matplotlib") is not None  # a car's installation may lack it
    model = find_model(args.model, args.config, args.cfg_options)
    try_place(args.out / PICTURE)
    limits = Limits.parse(args.limits)
    opening = Runtime.open(model, args.device, args.backend, threads=args.threads, limits=limits)
    with opening as runtime, alone_in(args.out):
        scenes, setting = frames_of(args, runtime, model)
        count = sum(map(len, scenes))
        print(f"{args.minutes:g} minutes of {runtime.backend}, {count} frames by turns, one after the other", flush=True)
        result = soak(runtime, scenes, args.minutes, lambda line: print(line, flush=True), Machine().read)
        device = (this_device() or {}).get("model") or str(describe_device()["model"])
        subject = {"model": str(model.path), "backend": runtime.backend, "device": device}
    if model.card is not None:
        subject["sha256"] = model.card["sha256"]
    pictures = {PICTURE: "latency, memory and heat over time"} if draws else {}
    report = report_of(result, subject, setting, pictures)

    def draw(place: Path) -> None:
        if draws:
            from uniad.viz.soak import draw_soak

            draw_soak(result, f"{model.path.name} in {runtime.backend}", place / PICTURE)

    page = keep_report(report, args.out, draw)
    if model.card is not None:
        # read again: an hour is long, and the file may be another by now
        card = read_card(model.path)
        if card["sha256"] != model.card["sha256"]:
            raise UserError(f"{model.path}: was made anew while it was soaked, so its card is left alone; run it again")
        write_card(model.path, {**card, "soaked": result.entry(subject["backend"], subject["device"])})
    for finding in report.findings:
        print(finding)
    print(page)
    for fault in result.faults:
        print(f"error: {model.path}: not ready: {fault}", file=sys.stderr)
    return 0 if result.passed else 1


def frames_of(args: argparse.Namespace, runtime: Any, model: Any) -> tuple[list[list[Any]], dict[str, Any]]:
    """Scenes to run by turns, and what the report says of them."""
    from uniad.artifacts import sequence as recorded
    from uniad.artifacts.card import read_card, sequence_path
    from uniad.deploy.soak import recorded_frames

    if args.scenes or model.card is None:
        from uniad.deploy.sources import DatasetFrames

        data = DatasetFrames(runtime.spec.data, args.split)
        names = args.scenes or ["0", "1"]
        scenes = [[record.sensors for record in data.scene(name, args.most)] for name in names]
        return scenes, {"scenes": names, "split": args.split, "input": "raw images"}
    onnx = args.onnx or model.path
    card = read_card(onnx)
    if card.get("kind") == "engine":
        raise UserError(f"{onnx}: a TensorRT engine has no recorded sequence of its own: name its graph with --onnx")
    if model.card.get("kind") == "engine" and model.card["onnx_sha256"] != card["sha256"]:
        raise UserError(f"{model.path}: was built from another ONNX than {onnx}; run `make engine` again")
    path = sequence_path(onnx)
    frames = recorded_frames(runtime.contract, recorded.load(path, runtime.contract, card))
    return [frames], {"recorded": str(path), "input": "prepared images"}


if __name__ == "__main__":
    sys.exit(run_cli(main))
