"""What a bag held and what was missing or late, beside the results of a run along it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uniad.files import atomic_path
from uniad.formats.layout import CAMERAS
from uniad.formats.report import Report, Table, write_report
from uniad.ros.bag import BagFrames

MOST_ROWS = 50
PICTURE = "frames.png"
CELL, LEFT, TOP = 22, 190, 48  # pixels
MOST_COLUMNS = 80  # of the picture; a longer drive is drawn in steps, the worst of each


def write_bag_report(frames: BagFrames, summary: Mapping[str, Any], folder: Path) -> Path:
    """report.json, report.md and the picture of which image belongs to which frame; the page's path."""
    content = cv2.imencode(".png", draw_frames(frames))[1].tobytes()
    with atomic_path(folder / PICTURE) as temporary:
        temporary.write_bytes(content)
    return write_report(bag_report(frames, summary), folder)


def draw_frames(frames: BagFrames) -> NDArray[np.uint8]:
    """A column a frame, a row a camera: green where its image is near, yellow at the tolerance, red where it is missing."""
    instants = sorted([*frames.frames, *frames.left_out], key=lambda instant: instant.stamp_ns)
    rows = (*CAMERAS, "pose")
    late = np.full((len(rows), len(instants)), 0.0)  # share of the tolerance; 2 where something is missing
    for column, instant in enumerate(instants):
        for row, name in enumerate(rows):
            stamp = instant.picked[name][0] if name in instant.picked else instant.stamp_ns
            away = abs(stamp - instant.stamp_ns) / max(frames.sync.tolerance_ns, 1)
            late[row, column] = 2.0 if name in instant.missing else away
    steps = -(-len(instants) // MOST_COLUMNS)
    starts = range(0, len(instants), steps)
    cells = np.stack([late[:, start : start + steps].max(1) for start in starts], 1)
    height, width = TOP + CELL * len(rows) + 56, max(LEFT + CELL * cells.shape[1] + 20, 760)
    image = np.full((height, width, 3), 255, np.uint8)

    def write(text: str, x: int, y: int, size: float = 0.45) -> None:
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1, cv2.LINE_AA)

    each = f", a column {steps} frames" if steps > 1 else ""
    write(f"{frames.name}: {len(frames.frames)} frames, {len(frames.left_out)} left out{each}", 10, 20, 0.5)
    for row, name in enumerate(rows):
        write(name, 10, TOP + CELL * row + 15)
        for column in range(cells.shape[1]):
            corner = (LEFT + CELL * column, TOP + CELL * row)
            cv2.rectangle(image, corner, (corner[0] + CELL - 3, corner[1] + CELL - 3), _colour(cells[row, column]), -1)
    for column in range(0, cells.shape[1], 5):
        seconds = (instants[column * steps].stamp_ns - frames.begins_ns) / 1e9
        write(f"{seconds:.1f} s", LEFT + CELL * column, TOP + CELL * len(rows) + 14, 0.4)
    x, y = 10, height - 14
    for value, words in ((0.0, "at the frame's time"), (1.0, f"{frames.sync.tolerance_ns / 1e6:.0f} ms away"), (2.0, "missing")):
        cv2.rectangle(image, (x, y - 11), (x + 14, y + 3), _colour(value), -1)
        write(words, x + 20, y + 1)
        x += 210
    return image


def _colour(share: float) -> tuple[int, int, int]:
    """BGR of a share of the tolerance, of 2 for what is missing."""
    if share > 1.5:
        return (60, 60, 220)
    near, far = np.array([110, 180, 70]), np.array([60, 205, 240])
    b, g, r = (near + (far - near) * min(share, 1.0)).round().astype(int).tolist()
    return b, g, r


def bag_report(frames: BagFrames, summary: Mapping[str, Any]) -> Report:
    """summary: of the run."""
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
    run = f"{used}" if summary["frames"] == used else f"{summary['frames']} of {used}"
    findings = [f"{run} frames were run, {len(facts['left_out'])} left out."]
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
        pictures={PICTURE: "Which frames have which images: green near in time, yellow at the tolerance, red missing"},
        details={"left_out": facts["left_out"], "messages": facts["messages"]},
    )  # fmt: skip
