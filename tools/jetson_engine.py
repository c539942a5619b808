#!/usr/bin/env python3
"""A TensorRT engine for a Jetson: built, verified and timed on the device, here or over ssh; or a bundle to carry there."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("onnx", type=Path)
    p.add_argument("--out", required=True, type=Path, help="engine to write; with --where bundle the .tar")
    p.add_argument("--where", required=True, help="user@host[:port], local, or bundle")
    p.add_argument("--precision", default="fp32", help="fp32, fp16, or int8 (a graph with Q/DQ nodes)")
    p.add_argument("--workspace-mib", type=int, default=4096)
    p.add_argument("--no-timing-cache", action="store_true")
    p.add_argument("--no-canary", action="store_true", help="build without trying the canaries first, docs/canary.md")
    p.add_argument("--folder", default="uniad-engines", help="folder on the device, from the login's home or absolute")
    p.add_argument("--spare-mib", type=int, default=512, help="disk that must stay free on the device")
    p.add_argument("--iterations", type=int, default=200, help="steps to time, at least")
    p.add_argument("--seconds", type=int, default=10, help="time them for so long, at least")
    p.add_argument("--ssh-flags", default="", help="further words for ssh, such as '-i key'")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if args.workspace_mib < 1 or args.spare_mib < 0 or args.iterations < 1 or args.seconds < 0:
        raise UserError("--workspace-mib, --spare-mib, --iterations and --seconds: numbers above 0")
    from uniad.artifacts.card import read_card
    from uniad.artifacts.graph import check_graph
    from uniad.jetson.build import build_here, build_there, device_folder, make_bundle
    from uniad.jetson.bundle import DeviceOptions
    from uniad.jetson.ssh import Remote

    folder = device_folder(args.folder)
    remote = None if args.where in ("local", "bundle") else Remote(args.where, tuple(shlex.split(args.ssh_flags)))
    read_card(args.onnx)
    check_graph(args.onnx, args.precision)
    options = DeviceOptions(
        precision=args.precision,
        workspace_mib=args.workspace_mib,
        timing_cache=not args.no_timing_cache,
        canary=not args.no_canary,
        spare_mib=args.spare_mib,
        iterations=args.iterations,
        seconds=args.seconds,
    )
    if remote:
        with remote:
            build_there(args.onnx, args.out, options, remote, folder)
    elif args.where == "local":
        build_here(args.onnx, args.out, options)
    else:
        make_bundle(args.onnx, args.out, options)


if __name__ == "__main__":
    run_cli(main)
