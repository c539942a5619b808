#!/usr/bin/env python3
"""The last words of `make demo`: what was made, where it lies, how good it is, and what to type next."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def size(path: Path) -> str:
    if not path.exists():
        return "absent"
    total = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return f"{total / 2**20:.0f} MiB" if total >= 2**20 else f"{total / 2**10:.0f} KiB"


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def scores(results: dict[str, Any]) -> str:
    detection, tracking, road = (results.get(key) or {} for key in ("detection", "tracking", "map"))
    motion, occupancy, planning = ((results.get(key) or {}).get("model") or {} for key in ("motion", "occupancy", "planning"))
    far = ((results.get("occupancy") or {}).get("areas") or [""])[-1]
    named = {
        "NDS": detection.get("NDS"),
        "mAP": detection.get("mAP"),
        "car AP": (detection.get("mean_AP") or {}).get("car"),
        "AMOTA": tracking.get("amota"),
        "drivable IoU": road.get("drivable_iou"),
        "vehicles' minADE": motion.get("car/min_ade_mean"),
        "occupancy IoU": occupancy.get(f"occ_iou_{far}"),
        "planning L2 at 3 s": planning.get("L2_3s"),
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in named.items() if isinstance(value, (int, float)))


def checks(report: Any) -> str:
    rows = report if isinstance(report, list) else report.get("reports", [])
    return "; ".join(
        f"{row['backend']} {'agrees' if row['ok'] else 'DIFFERS'} over {row['frames']} frames, "
        f"boxes within {row['worst']['boxes_m']:.0e} m"
        + (f", plan {row['worst']['plan_m']:.0e} m" if "plan_m" in row["worst"] else "")
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", required=True)
    parser.add_argument("--other", help="the variant to go on with, if it is another one")
    for name in ("data", "infos", "checkpoint", "results", "onnx", "report", "engine", "picture"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    rows = [
        ("synthetic nuScenes", args.data, ""),
        ("sample infos", args.infos, ""),
        ("checkpoint", args.checkpoint, ""),
        ("evaluation", args.results, scores(read(args.results))),
        ("ONNX", args.onnx, "with its card and a recorded sequence"),
        ("verification", args.report, checks(read(args.report))),
        ("engine", args.engine, ""),
        ("picture", args.picture, "boxes, map, forecasts, occupancy, plan"),
    ]
    print(f"\nUniAD-{args.variant}, from nothing to an engine:\n")
    for what, path, note in rows:
        print(f"  {what:20s} {path}  ({size(path)}){'  ' + note if note else ''}")
    other = f"  make demo VARIANT={args.other}             the same with the model for Jetson Orin\n" if args.other else ""
    print(
        "\nThis training was a glimpse, and so are its scores. Next:\n"
        f"  look at {args.picture}\n"
        f"  make train VARIANT={args.variant}            a whole schedule on a larger synthetic world\n"
        f"  make eval VARIANT={args.variant}             and its scores\n"
        f"{other}"
        f"  ln -s /your/nuscenes data/nuscenes; make configure; make train VARIANT={args.other or args.variant}\n"
        "  make help                          everything else; make doctor says what this machine can do"
    )


if __name__ == "__main__":
    main()
