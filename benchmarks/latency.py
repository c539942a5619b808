#!/usr/bin/env python3
"""What a frame takes, and what speed costs in accuracy: the step in eager PyTorch, as a CUDA graph, compiled, in onnxruntime.

Scenes of a data set run frame after frame, each mode with its own state carried; where a scene ends the next begins, as in a car.
Frames are decoded and on the device beforehand. A mode is WAY-PRECISION (eager, graph, compile, parts or layers; fp32, tf32,
bf16 or fp16), or ort-cpu, ort-cuda, ort-cuda-tf32, ort-tensorrt, which run every --onnx, or a fresh export of the model where
none is given. Each mode has a process of its own: one that fails prints one line. Errors are against eager-fp32, which always
runs first. On a CPU, products of halves run in float and are rounded: errors tell what a GPU would give, times do not.

    benchmarks/latency.py --variant tiny --checkpoint ckpts/uniad_tiny.pth --modes graph-fp32 compile-bf16 ort-cuda
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import _tools  # noqa: F401

import numpy as np
import torch

from train_step import random_uniad
from uniad.backends.cuda_graph import MODES, PRECISIONS
from uniad.config.read import load_spec
from uniad.config.spec import CompatSpec, Spec, Stage2Spec
from uniad.config.variants import KINDS, config_files
from uniad.errors import UserError, run_cli
from uniad.interface.contract import Contract, contract_for, pack_frame
from uniad.models.uniad import UniAD
from uniad.training.build import build_model
from uniad.verify.objects import pairs

VARIANTS = sorted(config_files(1))
REFERENCE = "eager-fp32"
TORCH_MODES = tuple(f"{mode}-{precision}" for mode in MODES for precision in PRECISIONS)
ORT_MODES = ("ort-cpu", "ort-cuda", "ort-cuda-tf32", "ort-tensorrt")
KEPT = ("boxes", "obj_id", "label", "active", "plan_traj")  # outputs that modes are compared by


# Frames ---------------------------------------------------------------------------------------------------------------


def store_frames(spec: Spec, contract: Contract, count: int, path: Path) -> tuple[int, int]:
    """Writes the first ``count`` frames of the split's scenes, or all that there are. Returns frames and scenes.

    Images are kept as pixels of the network's size, rounded to whole ones: all modes see the same.
    """
    from uniad.artifacts.sequence import quantise_images
    from uniad.deploy.sensors import prepare
    from uniad.deploy.sources import DatasetFrames

    dataset, jobs, scenes = DatasetFrames(spec.data, "val"), [], 0
    while len(jobs) < count:
        try:
            scene = dataset.scene(str(scenes))
        except UserError:
            if not scenes:
                raise
            break
        start_s = dataset.read(scene.keys[0])[0].time_s
        jobs += [(key, number, start_s) for number, key in enumerate(scene.keys)]
        scenes += 1

    def row(job: tuple[int, int, float]) -> list[torch.Tensor]:
        key, number, start_s = job
        frame = prepare(dataset.read(key)[0], spec.data, start_s, number == 0)
        return [torch.from_numpy(quantise_images(frame.img, spec.data.image)), *pack_frame(contract, frame)[1:]]

    with ThreadPoolExecutor(min(12, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(row, jobs[:count]))
    if not rows:
        raise UserError(f"{spec.data.ann_file_val} has no frames")
    torch.save(rows, path)
    return len(rows), scenes


def read_frames(spec: Spec, path: Path, device: str) -> list[list[torch.Tensor]]:
    """Graph inputs of every frame on the device, images normalised."""
    image = spec.data.image
    mean, std = (torch.tensor(v, device=device).view(1, 1, 3, 1, 1) for v in (image.mean, image.std))
    frames = []
    for pixels, *rest in torch.load(path, mmap=True, weights_only=True):
        img = (pixels.to(device).permute(0, 3, 1, 2)[None].float() - mean) / std
        frames.append([img.contiguous(), *(t.to(device) for t in rest)])
    return frames


# One mode -------------------------------------------------------------------------------------------------------------


def make_model(spec: Spec, checkpoint: str | None) -> UniAD:
    torch.manual_seed(0)
    if checkpoint is None and spec.stage:
        return random_uniad(spec.model).eval()
    model = build_model(spec).eval()
    if checkpoint is not None:
        from uniad.training.checkpoint import load_checkpoint

        load_checkpoint(model, checkpoint, name=spec.name, say=None)
    return model


def make_step(spec: Spec, contract: Contract, mode: str, args: argparse.Namespace) -> Any:
    """The mode's step: ``load``, ``run``, ``outputs``, ``reset``."""
    if mode in ORT_MODES:
        from uniad.backends.onnxruntime_step import OnnxRuntimeStep

        _, provider, *more = mode.split("-")
        make = dict(provider=provider, tf32="tf32" in more, threads=args.threads)
        try:
            return OnnxRuntimeStep(contract, args.graph, **make, capture=provider == "cuda" and not args.no_capture)
        except UserError:
            raise
        except Exception as error:
            if provider != "cuda" or args.no_capture:
                raise
            print(f"{mode}: no CUDA graph ({first_line(error)})", file=sys.stderr, flush=True)
            return OnnxRuntimeStep(contract, args.graph, **make, capture=False)
    from uniad.backends.cuda_graph import CudaGraphStep

    step_mode, precision = mode.split("-")
    model = make_model(spec, args.checkpoint)
    return CudaGraphStep(model, contract, precision, step_mode, args.device, inductor_options(args))


def run_mode(spec: Spec, contract: Contract, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times a mode in this process. Outputs go to ``<work>/<mode>.npz``."""
    gpu = args.device == "cuda" and mode != "ort-cpu"
    device = "cuda" if gpu else "cpu"
    synchronise = torch.cuda.synchronize if gpu else (lambda: None)
    if not gpu:
        torch.set_num_threads(args.threads or torch.get_num_threads())
    frames = read_frames(spec, args.work / "frames.pt", device)
    synchronise()
    used = memory(gpu)
    begun = time.perf_counter()
    step = make_step(spec, contract, mode, args)
    for _ in range(3 if gpu else 1):
        step.load(frames[0])
        step.run()
    synchronise()
    ready_s = time.perf_counter() - begun
    starts = [p.name for p in contract.frame].index("scene_start")
    took, kept = [], {name: [] for name in (*KEPT, "occ_seg") if name in step.outputs}
    gc.collect()
    gc.freeze()
    with torch.no_grad():
        for number in range(args.frames):
            frame = frames[number % len(frames)]
            if int(frame[starts]) or not number:
                step.reset()
            synchronise()
            begun = time.perf_counter()
            step.load(frame)
            step.run()
            synchronise()
            took.append(1e3 * (time.perf_counter() - begun))
            for name, values in kept.items():
                if name != "occ_seg" or mode == REFERENCE:
                    value = step.outputs[name][0].detach()
                    value = value != 0 if name in ("active", "occ_seg") else value
                    values.append(value.cpu().numpy().copy())  # on the CPU the next frame writes over it
    np.savez(args.work / f"{args.label}.npz", **{n: np.stack(v) for n, v in kept.items() if v})
    broken = [n for n, v in kept.items() if v and not all(np.isfinite(x).all() for x in v)]
    row: dict[str, Any] = {"median_ms": float(np.median(took)), "p99_ms": float(np.percentile(took, 99)), "ready_s": ready_s,
                           "memory_gib": memory(gpu) - used if gpu else None, "broken": broken}  # fmt: skip
    if gpu:
        row["copy_ms"] = input_copy_ms(frames[0])
    if mode in ORT_MODES:
        row["captured"] = step.captured
        if mode.startswith("ort-cuda") and not step.captured:
            row["nodes_on_cpu"] = on_cpu(contract, args)
    else:
        row["kept_fp32"] = step.kept_fp32
    return row


def memory(gpu: bool) -> float:
    """GiB of the GPU that are taken, by whomever: onnxruntime allocates beside PyTorch."""
    if not gpu:
        return 0.0
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def input_copy_ms(frame: list[torch.Tensor]) -> float:
    """Median of what a frame's way from pinned host memory to the device takes."""
    host = [t.cpu().pin_memory() for t in frame]
    times = []
    for _ in range(30):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for here, there in zip(host, frame):
            there.copy_(here, non_blocking=True)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times))


def on_cpu(contract: Contract, args: argparse.Namespace) -> Any:
    from uniad.backends.onnxruntime_step import nodes_on_cpu

    try:
        return nodes_on_cpu(contract, args.graph, args.work)
    except Exception as error:  # what it would tell is worth no failed mode
        return first_line(error)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


# All modes ------------------------------------------------------------------------------------------------------------


def errors(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Distances to the reference over all frames. plan: mean distance of a step, and the mean squared error of a coordinate;
    ids: share of (frame, id) that both report, where one birth more renames all that follow; objects: share of reported objects
    that the other reports too, by class and place; box: median distance of the centres of those, metres."""
    row: dict[str, float | None] = {}
    if "plan_traj" in want:
        off = got["plan_traj"].astype(np.float64) - want["plan_traj"]
        far = np.linalg.norm(off, axis=-1).mean(-1)
        row |= {"plan_l2_m": float(far.mean()), "plan_worst_m": float(far.max()), "plan_mse_m2": float((off**2).mean())}
    both, either, reported, distances = 0, 0, 0, []
    for frame in range(len(want["obj_id"])):
        here, there = ({name: x[name][frame : frame + 1] for name in ("boxes", "obj_id", "label", "active")} for x in (got, want))
        rows = [np.flatnonzero(x["active"][0]) for x in (there, here)]
        ids = [set(x["obj_id"][0][r].tolist()) for x, r in zip((there, here), rows)]
        both, either = both + len(ids[0] & ids[1]), either + len(ids[0] | ids[1])
        ours, theirs = pairs(here, there, *rows)
        reported += len(rows[0]) + len(rows[1])
        distances += np.linalg.norm(there["boxes"][0][ours, :2] - here["boxes"][0][theirs, :2], axis=-1).tolist()
    box = float(np.median(distances)) if distances else None
    objects = 2 * len(distances) / reported if reported else None
    return row | {"tracks": either, "ids": both / either if either else None, "objects": objects, "box_m": box}


def collision_row(spec: Stage2Spec, compat: CompatSpec, outputs: dict[str, np.ndarray]) -> dict[str, Any] | str:
    """What the collision optimiser takes on the host, after the step."""
    try:
        from uniad.postprocess.collision import optimise_plan
    except ImportError as error:
        return f"not timed: {error}"
    plan = replace(spec.plan, use_col_optim=True)
    grid = (spec.occ.xbound, spec.occ.ybound)
    took, moved = [], 0
    for traj, occ in zip(outputs["plan_traj"], outputs["occ_seg"]):
        begun = time.perf_counter()
        path = optimise_plan(traj, occ, plan, compat, grid)
        took.append(1e3 * (time.perf_counter() - begun))
        moved += int(not np.array_equal(path, traj))
    return {"median_ms": float(np.median(took)), "p99_ms": float(np.percentile(took, 99)), "moved": moved, "frames": len(took)}


def child(argv: list[str], mode: str, onnx: str | None, label: str, work: Path, limit: float) -> dict[str, Any]:
    """Runs one mode in a process of its own. Its row, or {"failed": why}."""
    command = [sys.executable, __file__, *argv, "--only", mode, "--label", label, "--work", str(work)]
    command += ["--graph", onnx] if onnx else []
    log = work / f"{label}.log"
    with open(log, "w") as sink:
        try:
            code = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {limit:.0f} s"}
    result = work / f"{label}.json"
    if result.exists():
        return json.loads(result.read_text())
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:] or ["no output"]
    return {"failed": f"ended with status {code}: {last[0][:300]}"}


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, one mode a line."""
    base = rows.get(REFERENCE, {}).get("median_ms")
    head = ("mode", "median ms", "p99 ms", "times eager fp32", "GiB", "plan L2 m", "worst frame m", "plan MSE m2", "ids",
            "objects", "box m", "ready s")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for label, row in rows.items():
        if "failed" in row:
            lines.append(f"| {label} | {row['failed'].replace('|', '/')} |" + " |" * (len(head) - 2))
            continue
        cells = (label, number(row["median_ms"], ".2f"), number(row["p99_ms"], ".2f"),
                 number(base / row["median_ms"] if base else None, ".1f"), number(row["memory_gib"], ".2f"),
                 *(number(row.get(key), ".2g") for key in ("plan_l2_m", "plan_worst_m", "plan_mse_m2")),
                 number(row.get("ids"), ".1%"), number(row.get("objects"), ".1%"), number(row.get("box_m"), ".2g"),
                 number(row["ready_s"], ".0f"))  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec_options(p)
    p.add_argument("--frames", type=int, default=200, help="frames to time (default 200); fewer are run again")
    p.add_argument("--modes", nargs="+", default=["eager-fp32", "graph-fp32", "compile-bf16", "compile-fp16"])
    p.add_argument("--onnx", action="append", default=[], metavar="FILE", help="graph for the ort modes; may be repeated")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--limit", type=float, default=300, help="seconds that a mode may take (default 300)")
    p.add_argument("--threads", type=int, default=0, help="of the modes on the CPU (default: their own choice)")
    p.add_argument("--no-capture", action="store_true", help="no CUDA graph in onnxruntime")
    p.add_argument("--out", type=Path, help="folder for report.json, outputs and logs of the modes (default: not kept)")
    p.add_argument("--only", help=argparse.SUPPRESS)  # of a mode's own process, with what follows
    p.add_argument("--graph", help=argparse.SUPPRESS)
    p.add_argument("--label", help=argparse.SUPPRESS)
    p.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return p.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    unknown = [mode for mode in args.modes if mode not in (*TORCH_MODES, *ORT_MODES)]
    if unknown:
        raise UserError(f"unknown mode {unknown[0]!r}: choose {', '.join((*TORCH_MODES, *ORT_MODES))}")
    if args.frames < 1:
        raise UserError(f"--frames {args.frames}: give a number from 1 on")
    for path in (*args.onnx, *([args.checkpoint] if args.checkpoint else [])):
        if not Path(path).exists():
            raise UserError(f"{path}: no such file")
    stems = [Path(path).stem for path in args.onnx]
    if len(set(stems)) < len(stems):
        raise UserError(f"two of --onnx are called {max(stems, key=stems.count)}: rows are labelled by file name, rename one")
    faulty = [pair for pair in args.inductor if "=" not in pair]
    if faulty:
        raise UserError(f"--inductor {faulty[0]!r}: give KEY=JSON, e.g. max_autotune=true")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU; --device cpu times the modes that run on one")


def spec_options(p: argparse.ArgumentParser) -> None:
    """What ``the_spec``, ``make_model`` and ``inductor_options`` read."""
    p.add_argument("--variant", choices=VARIANTS, required=True)
    p.add_argument("--stage", type=int, choices=sorted(set(KINDS) - {0}), default=2)
    p.add_argument("--checkpoint", help="trained weights (default: initial weights from a fixed seed)")
    p.add_argument("--data-root", help="the dataset (default: the config's)")
    p.add_argument("--info-root", help="folder of the info files (default: the config's)")
    p.add_argument("--inductor", nargs="*", default=[], metavar="KEY=JSON", help="for torch.compile, e.g. max_autotune=true")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="config values on top")


def inductor_options(args: argparse.Namespace) -> dict[str, Any] | None:
    return {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in args.inductor)} or None


def the_spec(args: argparse.Namespace) -> Spec:
    spec = load_spec(config_files(args.stage)[args.variant], args.cfg_options)
    data = spec.data
    if args.data_root:
        data = replace(data, data_root=args.data_root)
    if args.info_root:
        data = replace(data, ann_file_val=str(Path(args.info_root) / Path(data.ann_file_val).name))
    return replace(spec, data=data)


def main() -> int:
    args = parse_args()
    check(args)
    spec = the_spec(args)
    contract = contract_for(spec)
    if args.only:
        try:
            row = run_mode(spec, contract, args.only, args)
        except Exception as error:
            row = {"failed": first_line(error)}
            import traceback

            traceback.print_exc()
        (args.work / f"{args.label}.json").write_text(json.dumps(row))
        return 0

    with tempfile.TemporaryDirectory() as temporary:
        work = args.out or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        stored = Path(temporary) / "frames.pt"
        found, scenes = store_frames(spec, contract, args.frames, stored)
        if args.out:
            with suppress(FileNotFoundError):
                (work / "frames.pt").unlink()
            (work / "frames.pt").symlink_to(stored)
        where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
        weights = Path(args.checkpoint).name if args.checkpoint else "initial weights"
        again = f", run {args.frames / found:.1f} times" if args.frames > found else ""
        print(f"{spec.name}, {weights}, {where}, torch {torch.__version__}: {args.frames} frames, "
              f"{found} of {scenes} scene(s){again}", flush=True)  # fmt: skip
        try:
            rows = run_all(spec, contract, args, work, Path(temporary))
        finally:
            if args.out:
                (work / "frames.pt").unlink()
        report: dict[str, Any] = {
            "variant": args.variant, "stage": args.stage, "weights": weights, "device": where, "torch": torch.__version__,
            "frames": args.frames, "scenes": scenes, "command": sys.argv[1:], "modes": rows,
        }  # fmt: skip
        reference = rows.get(REFERENCE, {})
        if "failed" not in reference and spec.model.stage2 is not None:
            with np.load(work / f"{REFERENCE}.npz") as file:
                report["collision_optimiser"] = collision_row(spec.model.stage2, spec.model.compat, dict(file))
    print("\n" + table(rows))
    if "copy_ms" in reference:
        print(f"\na frame's inputs from pinned host memory to the device, before the step: {reference['copy_ms']:.2f} ms")
    if "collision_optimiser" in report:
        row = report["collision_optimiser"]
        if not isinstance(row, str):
            row = f"median {row['median_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms, {row['moved']} of {row['frames']} plans moved"
        print(f"\ncollision optimiser on the host, after the step: {row}")
    for label, row in rows.items():
        if row.get("kept_fp32"):
            print(f"\n{label}: layers with fp32 weights: {', '.join(row['kept_fp32'])}")
        if "captured" in row and label.startswith("ort-cuda"):
            nodes = row.get("nodes_on_cpu")
            print(f"\n{label}: " + ("one CUDA graph" if row["captured"] else f"no CUDA graph; nodes on the CPU: {nodes}"))
    text = json.dumps(report, indent=1)
    print("\nJSON " + json.dumps(report))
    if args.out:
        (args.out / "report.json").write_text(text + "\n")
    return 1 if any("failed" in row for row in rows.values()) else 0


def run_all(spec: Spec, contract: Contract, args: argparse.Namespace, work: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """Every mode's row, by label."""
    modes = [REFERENCE, *(mode for mode in dict.fromkeys(args.modes) if mode != REFERENCE)]
    graphs = list(args.onnx)
    if not graphs and any(mode in ORT_MODES for mode in modes):
        from uniad.export.to_onnx import export_onnx

        graphs = [str(scratch / f"{args.variant}.onnx")]
        begun = time.perf_counter()
        try:
            export_onnx(make_model(spec, args.checkpoint), contract, graphs[0])
            print(f"export to ONNX: {time.perf_counter() - begun:.0f} s", flush=True)
        except Exception as error:  # an exporter of another PyTorch may fail; the other modes go on
            print(f"export to ONNX failed: {first_line(error)}", flush=True)
            modes = [mode for mode in modes if mode not in ORT_MODES]
    rows: dict[str, dict[str, Any]] = {}
    for mode in modes:
        for graph in graphs if mode in ORT_MODES else [None]:
            label = f"{mode} {Path(graph).stem}" if graph and args.onnx else mode
            begun = time.perf_counter()
            row = child(sys.argv[1:], mode, graph, label, work, args.limit)
            if "failed" not in row and (work / f"{REFERENCE}.npz").exists():
                with np.load(work / f"{label}.npz") as got, np.load(work / f"{REFERENCE}.npz") as want:
                    row |= errors(dict(got), dict(want))
            rows[label] = row
            shown = row.get("failed") or f"{row['median_ms']:.2f} ms"
            print(f"{label}: {shown} ({time.perf_counter() - begun:.0f} s in all)", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(run_cli(main))
