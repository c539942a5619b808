#!/usr/bin/env python3
"""An hour of frames through the runtime: does memory stay flat, does latency, do results come back the same?

    python benchmarks/endurance.py onnx/uniad_tiny_imgx0.25_cp.onnx --out outputs/endurance.json

Three things, one after the other, until the frames are used up: scene A and scene B by turns, each from a reset, for half of
them; then a car that is parked at A's last frame while its clock goes on without a reset; then A again. A must give what it gave
the first time, whatever came before it.
Exits with 1 where memory grew, a result differed, or the parked car's plan wandered. Latencies are reported, not judged: they are
the machine's. On a GPU its memory is measured, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _tools  # noqa: F401  the environment and the code of this tree

import numpy as np

from uniad.deploy.plausible import Limits
from uniad.deploy.runtime import Runtime
from uniad.deploy.sensors import Sensors
from uniad.deploy.sources import DatasetFrames
from uniad.deploy.watch import MOST_GROWTH_MIB, Watch
from uniad.errors import UserError, run_cli
from uniad.files import atomic_path
from uniad.geometry.nuscenes import STEP_S
from uniad.postprocess.result import Result

HOUR = 7200  # frames of 2 Hz
SAMPLES = 60  # of memory, over the run
MOST_WANDERING_M = 0.5  # of the parked car's plan, from its second minute on
SAME_M = 1e-3  # where a backend adds up in another order each time


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path, help="ONNX, TensorRT engine, or a checkpoint with --config")
    p.add_argument("--frames", type=int, default=HOUR, help=f"frames in all (default {HOUR}: an hour)")
    p.add_argument("--scenes", nargs=2, default=["0", "1"], help="scenes A and B (default 0 1)")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--most", type=int, default=10, help="frames of a scene (default 10): they are held in memory")
    p.add_argument("--backend", default="auto")
    p.add_argument("--device", default="auto")
    p.add_argument("--config", help="config of a checkpoint")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--limits", nargs="*", default=[], metavar="NAME=VALUE", help="as of tools/infer.py")
    p.add_argument("--out", type=Path, help="JSON report")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE")
    return p.parse_args()


def watch(runtime: Runtime, frames: int) -> Watch:
    """Samples memory now and then, and says where it is."""
    every = max(frames // SAMPLES, 1)

    def due(watch: Watch) -> bool:
        if watch.frames % every:
            return False
        median, held = np.median(watch.times_ms[-every:]), watch.held()[0]
        text = f"{watch.frames} of {frames} frames, median of the last {every} {median:.1f} ms, {held:.0f} MiB"
        print(text, file=sys.stderr, flush=True)
        return True

    return Watch(runtime, due)


def difference(one: Sequence[Result], two: Sequence[Result]) -> float:
    """Largest difference between two passes through a scene, in metres; infinite where other objects are seen."""
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        if not np.array_equal(a.tracks.ids, b.tracks.ids) or len(a.detections) != len(b.detections):
            return float("inf")
        pairs = [(a.tracks.boxes, b.tracks.boxes)]
        if a.plan is not None and b.plan is not None:
            pairs.append((a.plan.path, b.plan.path))
        worst = max([worst, *(float(np.abs(x - y).max()) for x, y in pairs if x.size)])
    return worst


def endure(runtime: Runtime, a: Sequence[Sensors], b: Sequence[Sensors], frames: int) -> dict[str, Any]:
    """Report of ``frames`` frames, no fewer than A, B, A, two parked ones and A again take."""
    seen = watch(runtime, frames)
    alone = seen.scene(a)
    worst, turns = 0.0, 0
    while turns == 0 or seen.frames + len(a) + len(b) <= frames // 2:
        seen.scene(b)
        worst = max(worst, difference(alone, seen.scene(a)))
        turns += 1
    settled = seen.frames
    # The last pass through A goes on where it stands.
    plans, parked = [], max(frames - settled - len(a), 2)
    for i in range(parked):
        result = seen.step(dataclasses.replace(a[-1], time_s=a[-1].time_s + (i + 1) * STEP_S))
        plans.append(np.zeros((1, 2)) if result.plan is None else result.plan.path)
    calm = plans[min(120, parked // 2) :]
    wandering = float(np.abs(np.stack(calm) - calm[0]).max())
    worst = max(worst, difference(alone, seen.scene(a)))
    times = np.array(seen.times_ms[1:])
    last = seen.samples[-1] if seen.samples else seen.sample()
    first = next((m for m in seen.samples if m.frames >= len(a) + len(b)), seen.samples[0])
    median, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    parts = {name: list(taken[1:]) for name, taken in seen.parts_ms.items()}
    grown = (last.process_mib - first.process_mib, last.gpu_mib - first.gpu_mib)
    report: dict[str, Any] = {
        "frames": seen.frames,
        "turns_of_a_and_b": turns,
        "parked_s": parked * STEP_S,
        "median_ms": round(median, 3),
        "p99_ms": round(p99, 3),
        "p99_over_median": round(p99 / median, 3),
        "parts_ms": {
            name: {f"p{q}": round(float(np.percentile(taken, q)), 3) for q in (50, 99, 100)} for name, taken in parts.items()
        },
        "memory_mib": {
            "after_first_turn": round(first.process_mib, 1), "end": round(last.process_mib, 1), "growth": round(grown[0], 1),
        },
        "gpu_memory_mib": {"growth": round(grown[1], 1), "end": round(last.gpu_mib, 1)},
        "a_after_b_m": worst,
        "parked_plan_wanders_m": round(wandering, 4),
    }  # fmt: skip
    report["faults"] = faults(report)
    return report


def faults(report: dict[str, Any]) -> list[str]:
    """What an hour must not do, one line each."""
    found = []
    for what in ("memory_mib", "gpu_memory_mib"):
        if report[what]["growth"] > MOST_GROWTH_MIB:
            found.append(f"{what} grew by {report[what]['growth']} (at most {MOST_GROWTH_MIB})")
    if report["a_after_b_m"] > SAME_M:
        found.append(f"scene A after others differs from A alone by {report['a_after_b_m']:g} m (at most {SAME_M})")
    if report["parked_plan_wanders_m"] > MOST_WANDERING_M:
        found.append(f"the parked car's plan wandered by {report['parked_plan_wanders_m']} m (at most {MOST_WANDERING_M})")
    return found


def main() -> int:
    args = parse_args()
    if args.frames < 1 or args.most < 2:
        raise UserError("--frames: 1 or more, --most: 2 or more")
    with Runtime.open(
        args.model,
        args.device,
        args.backend,
        config=args.config,
        options=args.cfg_options,
        threads=args.threads,
        limits=Limits.parse(args.limits),
    ) as runtime:
        dataset = DatasetFrames(runtime.spec.data, args.split)
        a, b = ([record.sensors for record in dataset.scene(name, args.most)] for name in args.scenes)
        report = {"model": str(args.model), "backend": runtime.backend, **endure(runtime, a, b, args.frames)}
    if args.out:
        with atomic_path(args.out) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    for fault in report["faults"]:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
