#!/usr/bin/env python3
"""Export a trained step as one static ONNX, with its card and a recorded sequence. docs/export.md explains the choices."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import resource
import time
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("config", help="config file, e.g. projects/configs/stage1_track_map/nano_track_map.py")
    p.add_argument("checkpoint", help="trained checkpoint of that config")
    p.add_argument("--out", required=True, type=Path, help="ONNX file to write; the card and the sequence go beside it")
    p.add_argument(
        "--trt",
        default="",
        help="TensorRT version that will read it (8.5, 8.6, 10.3, 10.13, 10.16, 11, rtx): sets opset and sampling",
    )
    p.add_argument("--opset", type=int, help="16 to 19 (default: from --trt, else 17)")
    p.add_argument("--sampling", help="gridsample, gather or plugin (default: from --trt, else gridsample)")
    p.add_argument("--frames", type=int, help="frames to record (default 10; end to end 20, on a large BEV 3)")
    p.add_argument("--split", default="val", choices=("train", "val"), help="split that the recorded frames come from")
    p.add_argument(
        "--refit",
        action="store_true",
        help="put the checkpoint's weights into the ONNX that is there, without tracing the model, and verify it",
    )
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="override config values")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    # Heavy imports come after the arguments were read, so that --help and typing errors answer at once.
    from uniad.artifacts import sequence as recording
    from uniad.artifacts.card import config_entries, future_entries, sequence_path, write_card
    from uniad.artifacts.derived import replacing
    from uniad.config.read import load_spec
    from uniad.data.dataset import SceneStream
    from uniad.data.rig import check_dataset_rigs
    from uniad.export.passes import HIGHEST_OPSET, LOWEST_OPSET
    from uniad.export.refit import check_export, refit_onnx
    from uniad.export.to_onnx import SAMPLINGS, TARGETS, Target, export_onnx
    from uniad.export.weights import record_entries
    from uniad.files import atomic_path, sha256, try_place
    from uniad.interface.contract import contract_for
    from uniad.processes import keep_freed_memory
    from uniad.training.carried import load_trained
    from uniad.training.checkpoint import RANDOM, is_random, read_checkpoint

    if args.trt and args.trt not in TARGETS:
        raise UserError(f"--trt {args.trt}: choose one of {', '.join(TARGETS)}")
    target = TARGETS.get(args.trt, Target(17, "gridsample", False, "no TensorRT version given"))
    opset, sampling = args.opset or target.opset, args.sampling or target.sampling
    if sampling not in SAMPLINGS:
        raise UserError(f"--sampling {sampling}: choose one of {', '.join(SAMPLINGS)}")
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise UserError(
            f"--opset {opset}: parsers on cars take {LOWEST_OPSET} to {HIGHEST_OPSET}; 20 renames GridSample's mode "
            f"and older parsers then sample nearest without a word"
        )

    if args.frames is not None and args.frames < 1:
        raise UserError(f"--frames {args.frames}: a sequence needs at least one frame")

    try_place(args.out)
    keep_freed_memory()
    spec = load_spec(args.config, args.cfg_options)
    old = None
    if args.refit:
        wanted = {"opset": opset, "sampling": sampling, "target": args.trt or None}
        if args.frames is not None:
            wanted["sequence_frames"] = args.frames
        old = check_export(args.out, spec, wanted)
    model = load_trained(spec, args.checkpoint)[0].eval()
    random = is_random(read_checkpoint(args.checkpoint))
    if random:
        print(f"{args.checkpoint}: random weights, which say nothing of a scene; the card says so too")
    contract = contract_for(spec)
    if old is not None:  # the frames that are there: a refit needs no data set
        frames = recording.recorded_frames(recording.load(sequence_path(args.out), contract, old), contract)
    else:
        stream = SceneStream(spec.data, args.split, stage=1)  # frames alone
        check_dataset_rigs(spec, stream.table)
        if args.frames is not None and args.frames > len(stream):
            raise UserError(f"--frames {args.frames}: the {args.split} split has {len(stream)} frames")
        count = args.frames or recording.default_frames(spec)
        frames = (sample.frame for sample in itertools.islice(iter(stream), count))

    started = time.monotonic()
    with replacing(args.out) if old is not None else contextlib.nullcontext(args.out) as out:
        # The sequence takes its place only after the graph passed its audit: a mistake in either leaves what was there before.
        with atomic_path(sequence_path(out)) as sequence:
            count = recording.record(model, contract, frames, spec.data.image, sequence)
            recorded = time.monotonic()
            if old is not None:
                graph = refit_onnx(args.out, old, model, out)
            else:
                graph = export_onnx(
                    model, contract, out, opset=opset, sampling=sampling, plain_layer_norm=target.plain_layer_norm
                )
            exported = time.monotonic()
        write_card(
            out,
            {
                "kind": "onnx",
                "variant": spec.variant,
                "stage": spec.stage,
                **config_entries(args.config, args.cfg_options),
                "checkpoint": args.checkpoint,
                "checkpoint_sha256": sha256(args.checkpoint),
                **({"weights": RANDOM} if random else {}),
                "opset": opset,
                "sampling": sampling,
                "target": args.trt or None,
                "image": {
                    "mean": list(spec.data.image.mean),
                    "std": list(spec.data.image.std),
                    "to_rgb": spec.data.image.to_rgb,
                    "scale": spec.data.image.scale,
                },
                "sequence": sequence_path(out).name,
                "sequence_frames": count,
                "sequence_sha256": sha256(sequence_path(out)),
                "contract": contract.to_json(),
                **record_entries(out),
                **(future_entries(spec, args.checkpoint) if contract.has_stage2 else {}),
            },
        )
        if old is not None:
            verify(args.out, out)
    print(f"{sequence_path(args.out)}: {count} recorded frames, {recorded - started:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{args.out}: opset {opset}, {len(graph.graph.node)} nodes, {args.out.stat().st_size / 2**20:.0f} MiB, "
        f"{exported - recorded:.0f} s; peak memory {peak:.1f} GiB"
    )


def verify(name: Path, graph: Path) -> None:
    """As `make verify` does by default. Raises UserError for a graph that is wrong, which then takes no place."""
    from uniad.verify.run import verify_engine

    for backend in ("torch", "onnxruntime"):
        report = verify_engine(graph, None, backend)
        if not report.ok:
            raise UserError(
                f"{name}: with these weights it is wrong in {backend} ({report.faults[0]}), so it stays as it was; "
                "run `make export` without REFIT"
            )
        print(f"verified in {backend} over {report.frames} frames: {report.worst}")


if __name__ == "__main__":
    run_cli(main)
