"""Graphs of one model, scored on the same scenes by the same metrics: what a lower precision costs, task by task."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniad.artifacts.card import read_card
from uniad.data.dataset import SceneStream
from uniad.data.rig import check_dataset_rigs
from uniad.deploy.plausible import Limits
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.evaluation.run import collect, score
from uniad.postprocess.result import Result

# Task, what it is called, where it stands in the results of an evaluation. "-": a lower number is the better one.
ROWS = (
    ("detection", "NDS", "detection/NDS", "+"),
    ("detection", "mAP", "detection/mAP", "+"),
    ("tracking", "AMOTA", "tracking/amota", "+"),
    ("tracking", "AMOTP (m)", "tracking/amotp", "-"),
    ("tracking", "recall", "tracking/recall", "+"),
    ("tracking", "id switches", "tracking/ids", "-"),
    ("map", "drivable IoU", "map/drivable_iou", "+"),
    ("map", "lanes IoU", "map/lanes_iou", "+"),
    ("map", "divider IoU", "map/divider_iou", "+"),
    ("map", "crossing IoU", "map/crossing_iou", "+"),
    ("map", "contour IoU", "map/contour_iou", "+"),
    ("motion", "vehicles minADE (m)", "motion/model/car/min_ade_mean", "-"),
    ("motion", "vehicles minFDE (m)", "motion/model/car/min_fde_mean", "-"),
    ("motion", "vehicles miss rate", "motion/model/car/miss_rate_mean", "-"),
    ("motion", "vehicles EPA", "motion/model/car/EPA", "+"),
    ("motion", "pedestrians minADE (m)", "motion/model/pedestrian/min_ade_mean", "-"),
    ("motion", "pedestrians EPA", "motion/model/pedestrian/EPA", "+"),
    ("occupancy", "IoU near", "occupancy/model/occ_iou_{near}", "+"),
    ("occupancy", "IoU far", "occupancy/model/occ_iou_{far}", "+"),
    ("occupancy", "VPQ near", "occupancy/model/occ_pq_{near}", "+"),
    ("occupancy", "VPQ far", "occupancy/model/occ_pq_{far}", "+"),
    ("planning", "L2 at 1 s (m)", "planning/model/L2_1s", "-"),
    ("planning", "L2 at 2 s (m)", "planning/model/L2_2s", "-"),
    ("planning", "L2 at 3 s (m)", "planning/model/L2_3s", "-"),
    ("planning", "L2 mean up to 3 s (m)", "planning/model/L2_avg_3s", "-"),
    ("planning", "collisions at 3 s", "planning/model/obj_box_col_3s", "-"),
)


def compare_graphs(
    reference: str | Path,
    others: Sequence[str | Path],
    device: str = "auto",
    threads: int = 0,
    options: Sequence[str] = (),
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> Iterator[dict[str, Any]]:
    """Evaluate all over the validation split. A report for each of the others: metrics of both, differences, and how far apart
    their plans are (m).

    Raises UserError, before anything runs, for a graph of another model than the reference.
    """
    cards = {Path(path): read_card(path) for path in (reference, *others)}
    known = cards[Path(reference)]
    for path, card in cards.items():
        for key in ("config", "checkpoint_sha256"):
            if None not in (known.get(key), card.get(key)) and known[key] != card[key]:
                raise UserError(f"{path}: its {key} is {card[key]}, that of {reference} is {known[key]}: these are not one model")

    def scored(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
        metrics, plans = _evaluate(path, device, threads, options, progress)
        told = {"file": path.name, "sha256": cards[path]["sha256"], "precision": cards[path].get("precision", "fp32")}
        return told | {"metrics": metrics}, plans

    def reports() -> Iterator[dict[str, Any]]:
        first, plans = scored(Path(reference))
        for path in others:
            second, other_plans = scored(Path(path))
            found = differences(first["metrics"], second["metrics"])
            report = {"reference": first, "other": second, "differences": found}
            if plans:
                apart = np.linalg.norm(np.stack(plans) - np.stack(other_plans), axis=-1)
                worst = float(apart.mean(-1).max())
                report["plans_apart_m"] = {"mean": float(apart.mean()), "worst_frame": worst, "frames": len(apart)}
            yield report

    return reports()


def _evaluate(path: Path, device: str, threads: int, options: Sequence[str], progress: Callable) -> tuple[dict, list]:
    """Metrics, and the plan of every frame, so that two runs can be held against each other."""
    plans: list[np.ndarray] = []
    limits = Limits.off()
    with (
        Runtime.open(path, device, options=options, threads=threads, limits=limits) as runtime,
        tempfile.TemporaryDirectory() as folder,
    ):
        spec, done = runtime.spec, itertools.count(1)
        stream = SceneStream(spec.data, "val", stage=spec.stage)
        check_dataset_rigs(spec, stream.table)

        def watch(result: Result) -> None:
            if result.plan is not None:
                plans.append(result.plan.raw)
            progress(path.name, next(done), len(stream))

        return score(collect(runtime, stream, watch), spec, stream.version, Path(folder)), plans


def differences(reference: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each number that an evaluation of this stage has; None where a class never occurs."""
    rows = []
    areas = dict(zip(("near", "far"), reference.get("occupancy", {}).get("areas", ("near", "far"))))
    for task, title, path, better in ROWS:
        if task in reference:
            a, b = (_at(metrics, path.format(**areas)) for metrics in (reference, other))
            change = None if a is None or b is None else b - a
            rows.append({"task": task, "metric": title, "reference": a, "other": b, "difference": change, "better": better})
    return rows


def _at(metrics: Mapping[str, Any], path: str) -> float | None:
    value: Any = metrics
    for part in path.split("/", 2):  # a name of the motion scores holds a slash of its own: car/EPA
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def comparison_table(report: Mapping[str, Any]) -> str:
    """The report for people: one line a metric; a change for the worse is marked."""
    names = [report[side]["precision"] for side in ("reference", "other")]
    lines = [f"{report['reference']['metrics']['samples']} samples", f"{'':34s}{names[0]:>10s}{names[1]:>10s}{'change':>10s}"]
    task = None
    for row in report["differences"]:
        if row["task"] != task:
            task = row["task"]
            lines.append(task)
        cells = [f"{'-':>10s}" if row[key] is None else f"{row[key]:10.4f}" for key in ("reference", "other")]
        change = row["difference"]
        worse = change is not None and (change < -5e-5 if row["better"] == "+" else change > 5e-5)
        cells.append(f"{'-':>10s}" if change is None else f"{change:+10.4f}")
        lines.append(f"  {row['metric']:32s}{''.join(cells)}{'  worse' if worse else ''}")
    if "plans_apart_m" in report:
        apart = report["plans_apart_m"]
        lines.append(f"plans apart: {apart['mean']:.4f} m on average, {apart['worst_frame']:.4f} m in the worst frame")
    return "\n".join(lines)
