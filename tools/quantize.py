#!/usr/bin/env python3
"""Quantise an exported graph to int8 after training: calibrate on driven scenes, keep what a plan cannot do without in fp32."""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("onnx", type=Path, help="fp32 graph, as tools/export_onnx.py writes it, with its card and recorded sequence")
    p.add_argument("--out", type=Path, help="int8 graph to write, with card and sequence (default: NAME_int8.onnx beside it)")
    p.add_argument("--method", default="auto",
                   help="where activations are cut off: percentile, entropy or minmax; auto: what does least harm")  # fmt: skip
    p.add_argument("--percentile", type=float, default=99.99, help="share of magnitudes that percentile keeps whole, %%")
    p.add_argument("--split", default="train", choices=("train", "val"), help="split whose scenes calibrate")
    p.add_argument("--scenes", type=int, default=4, help="scenes to calibrate on, spread over the split")
    p.add_argument("--frames", type=int, default=20, help="first frames of each scene to drive along")
    p.add_argument("--keep", nargs="*", default=[], metavar="GROUP", help="layer groups to keep in fp32 whatever they measure")
    p.add_argument("--negligible", type=float, default=1.0,
                   help="the smallest groups, together at most this %% of the multiply-adds, keep fp32 unmeasured")  # fmt: skip
    p.add_argument("--rank-frames", type=int, default=4, help="recorded frames over which groups are ranked (the choice: all)")
    p.add_argument("--memory-mib", type=int, default=1024, help="memory for the activations watched at a time")
    p.add_argument("--threads", type=int, default=0, help="onnxruntime's threads (default: its own choice)")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from uniad.files import try_place
    from uniad.precision.int8.run import Options, int8_name, quantise

    options = Options(
        method=args.method, percentile=args.percentile, split=args.split, scenes=args.scenes, frames=args.frames,
        keep=tuple(args.keep),
        negligible=args.negligible, rank_frames=args.rank_frames, memory_mib=args.memory_mib, threads=args.threads,
    )  # fmt: skip
    out = args.out or int8_name(args.onnx)
    try_place(out)
    card = quantise(args.onnx, out, options, lambda line: print(line, flush=True))
    told = card["quantisation"]
    calibration = told["calibration"]
    if calibration["frames"] < args.scenes * args.frames:
        print(f"note: scenes that are shorter than --frames {args.frames} calibrate with all of their frames")
    print(
        f"{out}: {told['layers']} of {told['candidates']} layers in int8, {told['macs_share']:.1%} of their multiply-adds; "
        f"calibrated on {calibration['frames']} frames of {len(calibration['scenes'])} scenes ({told['method']})"
    )
    if not calibration["reported_tracks"]:
        print("  no track was reported while calibrating, so layers that read tracks saw none: train longer")
    small = [group for group, why in told["kept"].items() if why["why"] == "negligible"]
    if small:
        print(f"  fp32: {', '.join(small)} (negligible: at most {args.negligible:g} % of the multiply-adds together)")
    for group, why in told["kept"].items():
        if group in small:
            continue
        words = ", ".join(f"{name} {value}" for name, value in (why["without"] or {}).items())
        print(f"  fp32: {group} ({f'in int8 as well: {words}' if words else why['why']})")
    print(f"over the recorded sequence: {told['effect']}")


if __name__ == "__main__":
    run_cli(main)
