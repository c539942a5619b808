#!/usr/bin/env python3
"""Where a frame spends its time on a GPU: kernels of each part of the step, and the longest ones.

Each mode (as in latency.py) is timed as it runs in a car, recorded as a CUDA graph; then its kernels are queued one by one
under the profiler, which tells the part that each comes from. Parts that run side by side add up to more than the frame.

    benchmarks/frame_parts.py --variant tiny --modes parts-fp16 layers-fp16
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _tools  # noqa: F401

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from gpu_step import milliseconds
from latency import TORCH_MODES, inductor_options, make_model, read_frames, spec_options, store_frames, the_spec
from uniad.backends.cuda_graph import CudaGraphStep, parts
from uniad.errors import UserError, run_cli
from uniad.interface.contract import contract_for

PART = "part: "
BETWEEN = "between parts"


@dataclass
class Kernel:
    name: str
    part: str
    start_us: float
    took_us: float
    stream: int


def kernels(trace: list[dict[str, Any]]) -> list[Kernel]:
    """The GPU's work in a profiler's trace, in the order of its start, each with the part whose host code queued it."""
    spans: dict[Any, list[tuple[float, float, str]]] = defaultdict(list)
    queued: dict[int, tuple[Any, float]] = {}
    work = []
    for event in trace:
        kind = event.get("cat")
        if kind == "user_annotation" and event["name"].startswith(PART):
            spans[event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"].removeprefix(PART)))
        elif kind in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {}):
            queued[event["args"]["correlation"]] = (event["tid"], event["ts"])
        elif kind in ("kernel", "gpu_memcpy", "gpu_memset"):
            work.append(event)
    for rows in spans.values():
        rows.sort()

    def part(correlation: int) -> str:
        thread, when = queued.get(correlation, (None, 0.0))
        rows = spans.get(thread, [])
        at = bisect_right(rows, (when, float("inf"), "")) - 1
        return rows[at][2] if at >= 0 and when <= rows[at][1] else BETWEEN

    return [
        Kernel(e["name"], part(e["args"].get("correlation", -1)), e["ts"], e["dur"], e["args"].get("stream", 0))
        for e in sorted(work, key=lambda e: e["ts"])
    ]


def traced(call: Callable[[], object]) -> list[Kernel]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as prof:
        call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        prof.export_chrome_trace(str(path))
        return kernels(json.loads(path.read_text())["traceEvents"])


def mark(step: CudaGraphStep) -> None:
    """Put each part of the step under its name in a trace."""
    names = {module: name for name, module in step.model.named_modules()}
    for owner, method in parts(step.model):
        label = ".".join(filter(None, (names[owner], method.replace("forward", ""))))
        setattr(owner, method, _marked(getattr(owner, method), label))


def _marked(call: Callable[..., Any], label: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(PART + label):
            return call(*args, **kwargs)

    return run


def report(mode: str, ready_s: float, frame_ms: float, replay: list[Kernel], queued: list[Kernel], longest: int) -> None:
    span = max(k.start_us + k.took_us for k in replay) - replay[0].start_us
    print(f"\n{mode}: {frame_ms:.2f} ms a frame, {len(replay)} kernels, first to last {span / 1e3:.2f} ms, "
          f"at work {busy(replay) / 1e3:.2f} ms, added up {sum(k.took_us for k in replay) / 1e3:.2f} ms; "
          f"ready after {ready_s:.0f} s", flush=True)  # fmt: skip
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for kernel in queued:
        rows[kernel.part][0] += 1
        rows[kernel.part][1] += kernel.took_us
    for name, (count, took) in sorted(rows.items(), key=lambda row: -row[1][1]):
        print(f"  {name:20s} {count:5.0f} kernels {took / 1e3:7.3f} ms")
    by_name: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for kernel in queued:
        by_name[kernel.part, kernel.name][0] += 1
        by_name[kernel.part, kernel.name][1] += kernel.took_us
    for (part, name), (count, took) in sorted(by_name.items(), key=lambda row: -row[1][1])[:longest]:
        print(f"    {took:8.1f} us {count:4.0f} x {part:18s} {name[:110]}")


def busy(work: list[Kernel]) -> float:
    """Microseconds in which any kernel runs."""
    total, until = 0.0, 0.0
    for kernel in work:
        end = kernel.start_us + kernel.took_us
        total += max(0.0, end - max(kernel.start_us, until))
        until = max(until, end)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec_options(parser)
    parser.add_argument("--stored", type=Path, help="frames as an earlier run stored them here (stored now if absent)")
    parser.add_argument("--modes", nargs="+", default=["parts-fp16"], help=f"of {', '.join(TORCH_MODES)}")
    parser.add_argument("--longest", type=int, default=25, help="kernels to list")
    parser.add_argument("--out", type=Path, help="folder for every kernel of every mode as a table")
    args = parser.parse_args()
    unknown = [mode for mode in args.modes if mode not in TORCH_MODES]
    if unknown:
        raise UserError(f"unknown mode {unknown[0]!r}: choose {', '.join(TORCH_MODES)}")
    if not torch.cuda.is_available():
        raise UserError("this benchmark needs a GPU and PyTorch sees none")
    spec = the_spec(args)
    contract = contract_for(spec)
    with tempfile.TemporaryDirectory() as folder:
        stored = args.stored or Path(folder) / "frames.pt"
        if not stored.exists():
            store_frames(spec, contract, 4, stored)
        frames = read_frames(spec, stored, "cuda")
    for mode in args.modes:
        step_mode, precision = mode.split("-")
        torch._dynamo.reset()
        begun = time.perf_counter()
        model = make_model(spec, args.checkpoint)
        step = CudaGraphStep(model, contract, precision, step_mode, compile_options=inductor_options(args))
        for frame in frames:
            step.load(frame)
            step.run()
        ready_s = time.perf_counter() - begun
        frame_ms = milliseconds(step.run, 50)
        replay = traced(step.run)
        if step_mode != "compile":  # nothing of it is called by name any more
            mark(step)
        report(mode, ready_s, frame_ms, replay, traced(step.advance), args.longest)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            for kind, work in (("replay", replay), ("queued", traced(step.advance))):
                rows = (f"{k.start_us - work[0].start_us:.1f}\t{k.took_us:.1f}\t{k.stream}\t{k.part}\t{k.name}" for k in work)
                (args.out / f"{mode}.{kind}.tsv").write_text("start_us\ttook_us\tstream\tpart\tkernel\n" + "\n".join(rows) + "\n")
        del step
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
