#!/usr/bin/env python3
"""The last words of `make demo`: what was made, where it lies, how good it is, and what to type next."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TASKS = {"track": "tracks", "motion": "forecasts", "occ": "occupancy", "planning": "plan"}


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
    motion, occupancy = ((results.get(key) or {}).get("model") or {} for key in ("motion", "occupancy"))
    far = ((results.get("occupancy") or {}).get("areas") or [""])[-1]
    named = {
        "NDS": detection.get("NDS"),
        "mAP": detection.get("mAP"),
        "AMOTA": tracking.get("amota"),
        "drivable IoU": road.get("drivable_iou"),
        "vehicles' minADE": motion.get("car/min_ade_mean"),
        "occupancy IoU": occupancy.get(f"occ_iou_{far}"),
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in named.items() if isinstance(value, (int, float)))


def three_figures(results: dict[str, Any]) -> list[str]:
    """What a model must do, in one line each: find cars, foresee them, drive. The last two beside constant velocity."""

    def of(key: str, who: str, name: str) -> str:
        value = ((results.get(key) or {}).get(who) or {}).get(name)
        return f"{value:.2f} m" if isinstance(value, (int, float)) else "-"

    found = (((results.get("detection") or {}).get("AP") or {}).get("car") or {}).get("2.0")
    rows = [f"cars found within 2 m (AP)            {found:.2f}" if isinstance(found, (int, float)) else ""]
    ahead = ("vehicles' paths for 6 s (minADE)", "motion", "car/min_ade_mean"), ("plan after 3 s (L2)", "planning", "L2_3s")
    for what, key, name in ahead:
        rows.append(f"{what:37s} {of(key, 'model', name)}   constant velocity {of(key, 'constant_velocity', name)}")
    return [row for row in rows if row]


HARDLY = 0.05  # AP of cars below which nothing on a picture is where it says


def verdict(results: dict[str, Any], continued: str | None) -> str:
    """What to make of the scores: a model that has hardly learnt is not shown as one that works."""
    if continued:
        return f"The model is {continued}, trained on here for a moment; FROM_SCRATCH=1 starts from nothing."
    found = (((results.get("detection") or {}).get("AP") or {}).get("car") or {}).get("2.0")
    if isinstance(found, (int, float)) and found < HARDLY:
        return (
            "This training was a glimpse: the model has hardly learnt, and its boxes and its plan are guesses. Each step was\n"
            "shown to work; a model that works takes `make train`, and `make demo` without FROM_SCRATCH=1 goes on from one."
        )
    return "This training was a glimpse, and so are its scores."


def learnt(held: Any) -> str:
    """What training changed on clips of its scenes: the loss of the tasks that it trains, the same clips before and after."""
    try:
        before, after = held["checkpoints"][0]["each"], held["checkpoints"][-1]["each"]
        lower = sum(late < early for early, late in zip(before, after))
        tasks = ", ".join(TASKS.get(task, task) for task in held["learnt"])
        first, last = sum(before) / len(before), sum(after) / len(after)
    except (KeyError, IndexError, TypeError, ZeroDivisionError):
        return ""
    return f"loss {first:.2f} -> {last:.2f} on the same {len(before)} clips, lower on {lower} of them ({tasks})"


def checks(report: Any) -> str:
    rows = report if isinstance(report, list) else report.get("reports", [])
    return "; ".join(
        f"{row['backend']} {'agrees' if row['ok'] else 'DIFFERS'} over {row['frames']} frames, "
        + (f"{row['tracks']} tracks, " if "tracks" in row else "")
        + f"boxes within {row['worst']['boxes_m']:.0e} m"
        + (f", plan {row['worst']['plan_m']:.0e} m" if "plan_m" in row["worst"] else "")
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", required=True)
    parser.add_argument("--other", help="the variant to go on with, if it is another one")
    parser.add_argument("--held", type=Path, help="losses on held clips, of tools/held_loss.py", default=Path("absent"))
    parser.add_argument("--continued", help="the repository's own weights that the training went on from")
    for name in ("data", "infos", "checkpoint", "results", "onnx", "report", "engine", "picture", "video"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    results = read(args.results)
    rows = [
        ("synthetic nuScenes", args.data, ""),
        ("sample infos", args.infos, ""),
        ("checkpoint", args.checkpoint, learnt(read(args.held))),
        ("evaluation", args.results, scores(results)),
        ("ONNX", args.onnx, "with its card and a recorded sequence"),
        ("verification", args.report, checks(read(args.report))),
        ("engine", args.engine, ""),
        ("picture", args.picture, "boxes, map, forecasts, occupancy, plan"),
        ("video", args.video, "the same along a scene"),
    ]
    print(f"\nUniAD-{args.variant}, from nothing to an engine:\n")
    for what, path, note in rows:
        print(f"  {what:20s} {path}  ({size(path)}){'  ' + note if note else ''}")
    print()
    for row in three_figures(results):
        print(f"  {row}")
    other = f"  make demo VARIANT={args.other}             the same with the model for Jetson Orin\n" if args.other else ""
    message = f"\n{verdict(results, args.continued)} Next:\n"
    print(
        f"{message}"
        f"  look at {args.picture}\n"
        f"  make view DATASET=demo VARIANT={args.variant}   the same drive in three dimensions, as a Rerun recording\n"
        f"  make train VARIANT={args.variant}            a whole schedule on a larger synthetic world\n"
        f"  make eval VARIANT={args.variant}             and its scores\n"
        f"{other}"
        f"  ln -s /your/nuscenes data/nuscenes; make configure; make train VARIANT={args.other or args.variant}\n"
        "  make help                          everything else; make doctor says what this machine can do"
    )


if __name__ == "__main__":
    main()
