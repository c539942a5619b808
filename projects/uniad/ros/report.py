"""What a bag held and what was missing or late, beside the results of a run along it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from uniad.formats.layout import CAMERAS
from uniad.formats.report import Report, Table
from uniad.ros.bag import BagFrames

MOST_ROWS = 50


def bag_report(frames: BagFrames, summary: Mapping[str, Any]) -> Report:
    """Of a run that came to its end. summary: of the run."""
    facts = frames.report()
    used = len(frames.frames)
    cameras = []
    for name in CAMERAS:
        offsets = np.array([instant.offsets_ms()[name] for instant in frames.frames])
        counts = facts["messages"][name]
        lacking = sum(name in instant.missing for instant in frames.left_out)
        cameras.append(
            [name, facts["topics"][name], counts["messages"], used, lacking, counts["reordered"], counts["repeated"],
             float(offsets.mean()), float(np.abs(offsets).max())]
        )  # fmt: skip
    columns = ["camera", "topic", "messages", "used", "missing", "out of order", "repeated", "mean offset (ms)", "largest (ms)"]
    out = [
        [row["seconds"], ", ".join(row["missing"]), next(iter(row["missing"].values()))] for row in facts["left_out"][:MOST_ROWS]
    ]
    more = len(facts["left_out"]) - len(out)
    tables = [Table("Cameras", columns, cameras, 1, "Offsets are of an image's time from that of its frame.")]
    if out:
        tables.append(
            Table("Frames left out", ["at (s)", "lacks", "why"], out, 3, f"{more} more are in report.json." if more else "")
        )
    findings = [f"{used} frames were run, {len(facts['left_out'])} left out."]
    if facts["replaced"]:
        findings.append(f"{facts['replaced']} frames stand for a neighbour that lacked a camera.")
    return Report(
        "bag",
        f"Run along {frames.name}",
        {key: summary[key] for key in ("model", "model_sha256", "config", "backend", "device") if key in summary},
        {
            "bag": facts["path"], "seconds": facts["seconds"], "every": frames.sync.every,
            "tolerance (ms)": facts["tolerance_ms"],
            **{role: facts["topics"][role] for role in ("reference", "odometry", "imu", "command")},
        },
        tables,
        findings + facts["notes"],
        details={"left_out": facts["left_out"], "messages": facts["messages"]},
    )  # fmt: skip
