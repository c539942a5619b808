#!/usr/bin/env python3
"""Evaluate a model in any back end on the validation split: detection and tracking by the devkit, map IoU as in upstream.

Of stage 2 also motion, occupancy and planning, each beside constant velocity.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _environment  # noqa: F401

from uniad.backends.options import add_options
from uniad.errors import UserError, run_cli

if TYPE_CHECKING:
    from uniad.backends.open import Model

BYTES_A_FRAME = 64 << 10  # of the devkit's two files, for a model that fills its 300 boxes; the demo's frames take 89 KiB


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("config")
    p.add_argument("checkpoint", metavar="model", help="checkpoint, ONNX or TensorRT engine")
    p.add_argument("--out", type=Path, help="results as JSON (default: work_dirs/<stage>/<config>/results.json)")
    p.add_argument("--launcher", default="none", choices=("none", "pytorch"))
    add_options(p, config=False)
    p.add_argument("--both-poses", action="store_true", help="of Bench2Drive: with tracks moved as published, and rightly")
    # Options of upstream's script that have one meaning only here.
    p.add_argument("--eval", nargs="*", help=argparse.SUPPRESS)
    p.add_argument("--show-dir", help=argparse.SUPPRESS)
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from uniad.training.distributed import report_once

    with report_once():
        evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    """Everything after the command line was understood, in each process."""
    from tqdm import tqdm

    from uniad.backends.open import CHECKPOINT_BACKENDS, find_model
    from uniad.data.dataset import SceneStream
    from uniad.data.rig import check_dataset_rigs
    from uniad.deploy.plausible import Limits
    from uniad.deploy.runtime import Runtime
    from uniad.evaluation.detector import collect_detections
    from uniad.evaluation.official import DETECTION_FILE, coverage
    from uniad.evaluation.published import compare, is_published_split
    from uniad.evaluation.report import table
    from uniad.evaluation.run import collect, gather, score
    from uniad.files import alone_in, atomic_path, try_place, write_results
    from uniad.processes import keep_freed_memory
    from uniad.training import distributed
    from uniad.training.carried import load_detector

    model = find_model(args.checkpoint, args.config, args.cfg_options)
    spec = model.spec
    moved_rightly = with_right_poses(model) if args.both_poses else None
    out = args.out or Path(str(Path(args.config).with_suffix("")).replace("configs", "work_dirs")) / "results.json"
    for place in (out, out.parent / "eval" / DETECTION_FILE):
        try_place(place)
    world = distributed.start(args.launcher, args.device)
    alone = contextlib.ExitStack()
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        if world.is_main:
            alone.enter_context(alone_in(out.parent / "eval"))
        if world.size > 1 and world.device.type == "cuda" and model.card and args.backend not in CHECKPOINT_BACKENDS:
            raise UserError(f"{model.path}: a graph is evaluated on one GPU: give one process (make: GPUS=1)")
        stream = SceneStream(spec.data, "val", rank=world.rank, world_size=world.size, stage=spec.stage)
        check_dataset_rigs(spec, stream.table)
        covered = None
        if world.is_main and spec.data.vocabulary.dataset != "Bench2Drive":  # which has no tables to compare with
            tokens = stream.table.token.tolist()
            covered = coverage(tokens, spec.data.data_root, stream.version)
            try_place(out.parent / "eval" / DETECTION_FILE, len(tokens) * BYTES_A_FRAME)
        if covered and covered.told():
            print(covered.told())
        say = print if world.is_main else None
        quiet = world.rank > 0 or None
        with tqdm(total=len(stream), unit="frame", desc="evaluate", disable=quiet) as bar:
            if spec.stage == 0:
                if args.backend not in ("auto", "torch"):
                    raise UserError(f"{model.path}: stage 0 is evaluated in PyTorch alone: leave --backend out (make: BACKEND)")
                detector = load_detector(spec, model.path, say).to(world.device).eval()
                backend = "torch"
                found = collect_detections(detector, spec, stream, world.device, bar.update)
            else:
                with Runtime.open(model, args.device, args.backend, limits=Limits.off(), say=say) as runtime:
                    backend = runtime.backend
                    found = collect(runtime, stream, lambda _: bar.update())
        found = gather(world, found)
        righted = None
        if moved_rightly is not None:
            again = SceneStream(moved_rightly.spec.data, "val", rank=world.rank, world_size=world.size, stage=spec.stage)
            with Runtime.open(moved_rightly, args.device, args.backend, limits=Limits.off(), say=say) as runtime:
                righted = gather(world, collect(runtime, again))
        if world.is_main:
            # What was collected may be the work of hours; scoring it writes files, and it is scored wherever those may be.
            said: list[str] = []

            def write(place: Path) -> None:
                said.clear()
                metrics = score(found, spec, stream.version, place / "eval")
                split = "test" if "submissions" in metrics else "val"
                there = covered.to_json() if covered else {}
                record: dict[str, Any] = {
                    "config": args.config,
                    **run_of(model, backend),
                    "stage": spec.stage,
                    "compat": asdict(spec.model.compat),
                    "dataset": {"root": spec.data.data_root, "version": stream.version, "split": split, **there},
                    **metrics,
                }
                said.append(table(metrics))
                entry = published_entry(model)
                if entry is not None:
                    record["published"], beside = compare(metrics, entry, is_published_split(stream.version, covered))
                    said.extend(beside)
                if righted is not None:
                    record["track_pose_fixed"] = score(righted, spec, stream.version, place / "eval_track_pose_fixed")
                    said.append("\nwith tracks moved rightly (native.compat track_pose='fixed')\n")
                    said.append(table(record["track_pose_fixed"]))
                with atomic_path(place / out.name) as temporary:
                    temporary.write_text(json.dumps(record, indent=2) + "\n")

            try:
                write_results(out.parent, write, lambda: "" if said else json.dumps([found.detections, found.tracks]))
            finally:
                print("\n".join(said))
            print(f"\n{out}")
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: no such file; `make data` prepares the dataset, `make train` the checkpoint"
        ) from None
    finally:
        alone.close()
        distributed.stop(world)
    distributed.leave(world, 0)


def published_entry(model: Model) -> dict[str, Any] | None:
    """What is published of the checkpoint, if it is one that UniAD's authors published, or has the names and shapes of one."""
    from uniad.evaluation.published import published_of
    from uniad.formats.checkpoints import model_of, recognise
    from uniad.training.generation import generation_of

    if model.card is not None:
        return None
    found, generation = recognise(model.path), generation_of(model.spec.model.compat)
    if found.own or found.generation is None or found.sizes is None:
        return None
    return published_of(generation, model_of(found.sizes, generation) or "", model.spec.stage)


def with_right_poses(model: Model) -> Model:
    """The same model, told to move tracks by the car's pose instead of by its transpose, as Bench2Drive's code does.

    Raises UserError where the model's conventions move them rightly already.
    """
    spec = model.spec
    if spec.stage == 0 or spec.data.compat.track_pose != "bench2drive":
        raise UserError("--both-poses is for a config with native.compat track_pose='bench2drive' (docs/bench2drive.md)")
    data = replace(spec.data, compat=replace(spec.data.compat, track_pose="fixed"))
    return model._replace(spec=replace(spec, data=data))


def run_of(model: Model, backend: str) -> dict[str, str | None]:
    """What was scored: a checkpoint, and where it ran otherwise than in PyTorch, the graph and the back end."""
    from uniad.files import sha256

    path, card = str(model.path), model.card
    if card is None:
        scored: dict[str, str | None] = {"checkpoint": path, "checkpoint_sha256": sha256(path)}
        return scored if backend == "torch" else scored | {"backend": backend}
    return {key: card.get(key) for key in ("checkpoint", "checkpoint_sha256")} | {"model": path, "backend": backend}


if __name__ == "__main__":
    run_cli(main)
