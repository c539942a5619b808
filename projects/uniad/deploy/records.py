"""Results on disk: a folder for each scene with one JSON and one file of masks a frame, nuScenes submissions, a summary.

    OUT/summary.json              what ran, over what, how fast; whether it was interrupted
    OUT/detection.json, tracking.json      nuScenes submissions of all frames
    OUT/<scene>/0000.json         tracks, best detections, forecasts, plan, poses, times
    OUT/<scene>/0000.npz          lanes, drivable, occupancy, occupancy_ids
    OUT/<scene>/0000.CAM_*.jpg    images, of a run along a bag

Every file is written whole or not at all, the masks before the JSON that names them: a JSON stands for a finished frame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniad.errors import UserError, tell_refusal
from uniad.files import atomic_path, read_json, read_json_of, write_npz
from uniad.formats import results as schema
from uniad.interface.command import ALL_COMMANDS
from uniad.postprocess.result import Forecasts, Objects, Plan, Result

SUMMARY = "summary.json"
MOST_DETECTIONS = 50  # in a frame's JSON; the submission holds all of them
PERCENTILES = (50, 90, 99)


def claim(out: Path) -> None:
    """Make ``out`` an empty folder of results. Earlier results go; anything else there is a UserError, and stays.

    A folder in it that is a link would lead removals and results to where somebody keeps something else: it is refused.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; results need a folder")
    inside = list(out.iterdir()) if out.is_dir() else []
    if inside and not _is_ours(out / SUMMARY):
        raise UserError(f"{out} holds something that is no results; choose another folder")
    for path in inside:
        if path.is_symlink() and path.is_dir():
            raise UserError(f"{path} is a link to a folder, and results would follow it: remove it, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    for path in (*out.glob("*/*.json"), *out.glob("*/*.npz"), *out.glob("*/*.CAM_*.jpg"), *out.glob("*/*.CAM_*.png")):
        if re.fullmatch(r"\d+(\.CAM_[A-Z_]+)?", path.stem):
            path.unlink()
    for name in ("detection.json", "tracking.json"):
        (out / name).unlink(missing_ok=True)
    write_json(out / SUMMARY, {"finished": False})


def _is_ours(summary: Path) -> bool:
    try:
        found = read_json(summary)
    except (OSError, ValueError, RecursionError, UserError):
        return False
    return isinstance(found, dict) and "finished" in found


def write_json(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value) + "\n")


def write_frame(folder: Path, number: int, result: Result, info: Mapping[str, Any], class_names: Sequence[str]) -> None:
    """One frame's two files. ``info``: as ``sources.FrameRecord`` has it."""
    masks = {"lanes": result.lanes, "drivable": result.drivable}
    stage2 = result.stage2
    if stage2 is not None:
        masks |= {"occupancy": stage2.occupancy, "occupancy_ids": stage2.occupancy_ids.astype(np.int32)}
    name = f"{number:04d}"
    with atomic_path(folder / f"{name}.npz") as temporary:
        write_npz(temporary, masks)
    frame = {
        "frame": number,
        **info,
        "tracks": _objects(result.tracks, class_names),
        "detections": _objects(result.detections, class_names)[:MOST_DETECTIONS],
        "tracks_dropped": result.dropped,
        "masks": f"{name}.npz",
        "timings_ms": {key: round(value, 3) for key, value in result.timings_ms.items()},
    }
    if stage2 is not None:
        agents, plan = stage2.forecasts, stage2.plan
        frame["forecasts"] = [
            {
                "id": int(which),
                "class": class_names[label],
                "start": _list(start),
                "modes": [{"prob": _list(p), "path": _list(path)} for p, path in zip(prob, paths)],
            }
            for which, start, label, paths, prob in zip(agents.ids, agents.starts, agents.labels, agents.traj, agents.prob)
        ]
        frame["plan"] = {"command": ALL_COMMANDS[plan.command], "path": _list(plan.path), "raw": _list(plan.raw)}
    write_json(folder / f"{name}.json", frame)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a folder of results."""
    absent = f"{folder} holds no results ({SUMMARY} is missing); `make infer` writes them"
    summary = read_json_of(folder / SUMMARY, absent, lambda error: f"{folder / SUMMARY} is not complete; {schema.AGAIN}")
    return schema.checked_summary(summary, folder / SUMMARY)


def read_frame(path: Path, class_names: Sequence[str]) -> tuple[Result, dict[str, Any]]:
    """Result and info of a frame's JSON; detections are those that it keeps."""
    try:
        frame = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        tell_refusal(error, path)
        raise UserError(f"{path}: cannot be read ({error}); {schema.AGAIN}") from None
    frame = schema.checked_frame(frame, path, class_names)
    masks = schema.read_masks(path.parent / frame["masks"], str(path), "plan" in frame)
    number = {name: index for index, name in enumerate(class_names)}
    forecasts = plan = None
    if "plan" in frame:
        entries = frame["forecasts"]
        forecasts = Forecasts(
            ids=np.array([f["id"] for f in entries], np.int64),
            starts=np.array([f["start"] for f in entries], np.float32).reshape(-1, 3),
            labels=np.array([number[f["class"]] for f in entries], np.int64),
            traj=np.array([[m["path"] for m in f["modes"]] for f in entries], np.float32),
            prob=np.array([[m["prob"] for m in f["modes"]] for f in entries], np.float32),
        ) if entries else _no_forecasts()  # fmt: skip
        plan = Plan(frame["plan"]["path"], frame["plan"]["raw"], ALL_COMMANDS.index(frame["plan"]["command"]))
    result = Result(
        tracks=_arrays(frame["tracks"], number),
        detections=_arrays(frame["detections"], number),
        ego=_arrays([], number),
        lanes=masks["lanes"],
        drivable=masks["drivable"],
        forecasts=forecasts,
        occupancy=masks.get("occupancy"),
        occupancy_ids=masks.get("occupancy_ids"),
        plan=plan,
        dropped=frame["tracks_dropped"],
        timings_ms=frame["timings_ms"],
    )
    return result, frame


def percentiles(timings: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """By stage: mean, p50, p90, p99 and the largest, milliseconds; ``total`` adds the stages of each frame up."""
    columns = {name: np.asarray(values, np.float64) for name, values in timings.items() if len(values)}
    if columns:
        columns["total"] = np.sum(list(columns.values()), axis=0)
    return {
        name: {
            "mean": round(float(values.mean()), 3),
            **{f"p{p}": round(float(np.percentile(values, p)), 3) for p in PERCENTILES},
            "max": round(float(values.max()), 3),
        }
        for name, values in columns.items()
    }


def _list(value: np.ndarray) -> Any:
    """Numbers for people and files: a tenth of a millimetre is more than any model knows."""
    return np.round(np.asarray(value, np.float64), 4).tolist()


def _objects(objects: Objects, class_names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"id": int(which), "class": class_names[label], "score": _list(score), "box": _list(box)}
        for which, label, score, box in zip(objects.ids, objects.labels, objects.scores, objects.boxes)
    ]


def _arrays(entries: list[dict[str, Any]], number: Mapping[str, int]) -> Objects:
    return Objects(
        boxes=np.array([o["box"] for o in entries], np.float32).reshape(-1, 9),
        labels=np.array([number[o["class"]] for o in entries], np.int64),
        scores=np.array([o["score"] for o in entries], np.float32),
        ids=np.array([o["id"] for o in entries], np.int64),
    )


def _no_forecasts() -> Forecasts:
    empty = np.zeros(0, np.int64)
    return Forecasts(empty, np.zeros((0, 3), np.float32), empty, np.zeros((0, 1, 1, 2), np.float32), np.zeros((0, 1), np.float32))
