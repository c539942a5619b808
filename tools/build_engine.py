#!/usr/bin/env python3
"""Build a TensorRT engine from an exported ONNX and write its card. Verified on this machine's GPU when it has one."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("onnx", type=Path)
    p.add_argument("--out", required=True, type=Path, help="engine file to write")
    p.add_argument("--backend", default="tensorrt_rtx", help="tensorrt_rtx (builds without a GPU), tensorrt or trtexec")
    p.add_argument("--precision", default="fp32", help="fp32, fp16, or int8 (a graph with Q/DQ nodes)")
    p.add_argument("--timing-cache", default="", help="file that later builds read and add to (tensorrt, trtexec)")
    p.add_argument("--compute-capabilities", default="", help="comma list such as 8.6,8.9 (default: the builder's own choice)")
    p.add_argument("--workspace-gib", type=float, default=4.0)
    p.add_argument("--refittable", action="store_true", help="build so that other weights can be put in later (--refit)")
    p.add_argument(
        "--refit", action="store_true", help="put the ONNX's weights into the engine that is there, on its GPU, and verify it"
    )
    p.add_argument("--no-canary", action="store_true", help="build without trying the canaries first, docs/canary.md")
    p.add_argument("--canary-cache", type=Path, help="folder of what they gave before (default: canary beside the engine)")
    p.add_argument("--verbose", action="store_true", help="print the builder's own log")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if args.workspace_gib <= 0:
        raise UserError(f"--workspace-gib {args.workspace_gib}: should be above 0")
    if args.refit:
        return refit(args)
    import torch

    if args.refittable and args.backend == "tensorrt_rtx" and not torch.cuda.is_available():
        raise UserError(
            f"{args.out}: tensorrt_rtx builds an engine that takes other weights on a GPU alone, and this machine has none: "
            "ENGINE_REFITTABLE=0, or build it there"
        )
    from uniad.artifacts.card import read_card, write_card
    from uniad.artifacts.graph import check_graph
    from uniad.artifacts.precision import check_precision
    from uniad.bisect.recorded import locate_command
    from uniad.canary.gate import check_target
    from uniad.engines.build import BuildOptions, backend, build_engine
    from uniad.files import try_place
    from uniad.verify.run import verify_engine

    options = BuildOptions(
        backend=args.backend,
        compute_capabilities=tuple(c.strip() for c in args.compute_capabilities.split(",") if c.strip()),
        workspace_gib=args.workspace_gib,
        verbose=args.verbose,
        precision=args.precision,
        timing_cache=args.timing_cache,
        refittable=args.refittable,
        progress=lambda phase: print(f"  {phase}", flush=True),
        killable=True,
    )
    try_place(args.out)
    canaries, was_there = None, args.out.parent.exists()
    try:
        if not args.no_canary:
            check_precision(args.precision)
            backend(args.backend)
            read_card(args.onnx)
            check_graph(args.onnx, args.precision)
            canaries = check_target(args.onnx, args.backend, args.canary_cache or args.out.parent / "canary")
        card = build_engine(args.onnx, args.out, options)
    except BaseException:
        if not was_there:
            shutil.rmtree(args.out.parent, ignore_errors=True)  # a mistake leaves nothing
        raise
    if canaries:
        card["canaries"] = canaries
        write_card(args.out, card)
    print(
        f"{args.out}: {args.out.stat().st_size / 2**20:.0f} MiB, {card['builder']} {card['builder_version']}, "
        f"{card['build_seconds']} s"
    )
    for note in card["notes"]:
        print(f"note: {note}")
    # trtexec runs on what it built for; the packages may build for other machines.
    if not torch.cuda.is_available() and args.backend != "trtexec":
        print(
            "not verified: this machine has no GPU. On the device: "
            f"tools/verify.py {args.onnx} --backend {args.backend} --engine {args.out}"
        )
        return
    report = verify_engine(args.onnx, args.out, args.backend, args.precision)
    if not report.ok:
        args.out.unlink()
        Path(f"{args.out}.json").unlink(missing_ok=True)
        raise UserError(
            f"{args.out}: built, but wrong on this GPU and therefore removed: {report.faults[0]}; to find the first tensor that "
            f"departs: {locate_command(args.onnx, args.backend, args.precision)}"
        )
    latency = None
    if args.backend == "trtexec":
        from uniad.backends.trtexec_runner import measure

        latency = measure(args.onnx, args.out)
    write_card(args.out, {**card, "verified": report.to_json(), "latency": latency})
    print(f"verified over {report.frames} frames: {report.worst}")


def refit(args: argparse.Namespace) -> None:
    """The engine is replaced when it has been verified, not before."""
    from uniad.artifacts.card import write_card
    from uniad.artifacts.derived import replacing
    from uniad.engines.refit import check_refit, of_weights, refit_engine
    from uniad.verify.run import verify_engine

    card, source = check_refit(args.out, args.onnx, args.backend, args.precision)
    with replacing(args.out) as out:
        refit_engine(args.out, args.onnx, args.backend, out)
        kept = {key: value for key, value in card.items() if key not in ("weights", "soaked", "latency")}
        card = {**kept, **of_weights(source), "onnx_sha256": source["sha256"], "verified": None, "latency": None}
        write_card(out, card)
        report = verify_engine(args.onnx, out, args.backend, args.precision)
        if not report.ok:
            raise UserError(
                f"{args.out}: wrong with the weights of {args.onnx}, so it stays as it was: {report.faults[0]}; "
                "`make engine` without REFIT builds it again"
            )
        write_card(out, {**card, "verified": report.to_json()})
    print(f"{args.out}: holds the weights of {source['checkpoint']}")
    print(f"verified over {report.frames} frames: {report.worst}")


if __name__ == "__main__":
    run_cli(main)
