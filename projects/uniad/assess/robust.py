"""All scores of a model under each fault and severity, and how much of the clean scores is left."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uniad.assess.driving import drive_under
from uniad.assess.faults import FAULTS, IMAGES, Fault
from uniad.assess.frames import REFUSED, Held, Recorded, outcomes
from uniad.config.spec import Spec
from uniad.deploy.runtime import Runtime
from uniad.evaluation.future import MODEL, OPTIMISED, EgoMotion
from uniad.evaluation.planning import HORIZONS_S
from uniad.evaluation.run import Collected, score
from uniad.formats.report import Table
from uniad.postprocess.submission import class_ranges

CLEAN = "clean"


@dataclass(frozen=True)
class Metric:
    """A column. ``get`` reads the metrics of ``evaluation.run.score``; None: not defined."""

    key: str
    title: str
    higher_is_better: bool
    get: Callable[[Mapping[str, Any]], float | None]
    relative: bool = True  # False: a rate that is near 0 when clean, of which a share says nothing


def _of(*path: str) -> Callable[[Mapping[str, Any]], float | None]:
    def get(metrics: Mapping[str, Any]) -> float | None:
        value: Any = metrics
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else float(value)

    return get


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _lanes(metrics: Mapping[str, Any]) -> float | None:
    return _mean([metrics.get("map", {}).get(f"{layer}_iou") for layer in ("divider", "crossing", "contour")])


def _occupancy(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    def get(metrics: Mapping[str, Any]) -> float | None:
        near = metrics.get("occupancy", {}).get("areas", [None])[0]
        return _of("occupancy", MODEL, f"occ_{key}_{near}")(metrics)

    return get


def _plan(key: str, scale: float = 1.0) -> Callable[[Mapping[str, Any]], float | None]:
    def get(metrics: Mapping[str, Any]) -> float | None:
        planning = metrics.get("planning")
        if not planning:
            return None
        # The path that the car would be given
        found = planning.get(OPTIMISED) or planning[MODEL]
        # Short scenes have no truth at 3 s: then it is the mean of the others, for clean and faulty frames alike.
        known = [value for t in HORIZONS_S if (value := found.get(f"{key}_{t}s")) is not None]
        return scale * sum(known) / len(known) if known else None

    return get


METRICS: tuple[Metric, ...] = (
    Metric("NDS", "detection NDS", True, _of("detection", "NDS")),
    Metric("mAP", "detection mAP", True, _of("detection", "mAP")),
    Metric("AMOTA", "tracking AMOTA", True, _of("tracking", "amota")),
    Metric("drivable", "map: drivable IoU", True, _of("map", "drivable_iou")),
    Metric("lanes", "map: lines IoU", True, _lanes),
    Metric("minADE", "motion minADE (m)", False, _of("motion", MODEL, "car/min_ade_err")),
    Metric("EPA", "motion EPA", True, _of("motion", MODEL, "car/EPA")),
    Metric("occ_IoU", "occupancy IoU", True, _occupancy("iou")),
    Metric("occ_VPQ", "occupancy VPQ", True, _occupancy("pq")),
    Metric("L2", "plan L2 (m)", False, _plan("L2")),
    Metric("collisions", "plan collisions (%)", False, _plan("obj_box_col", 100.0), relative=False),
    Metric("driving", "driving score", True, _of("driving", "score")),
)


def condition_name(fault: str, severity: int) -> str:
    return f"{fault}.{severity}"


def judge(
    runtime: Runtime, recorded: Recorded, fault: Fault | None, severity: int, seed: int, routes: int = 0
) -> dict[str, Any]:
    """All scores of the scenes under a fault (None: clean): ``scores`` by metric key, ``frames``, ``missing`` (frames without a
    result: how many never arrived, how many were refused), ``reasons`` (of the refusals, the most frequent), and ``driving``, see
    ``driving.drive_under``, where ``routes`` of the closed loop are asked for.

    A frame without a result is scored with nothing seen, and the plan that the car has.
    """
    spec, found = runtime.spec, Collected()
    ranges = {} if spec.data.eval_range else class_ranges()  # as in evaluation.run.collect
    missing: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for scene in recorded.scenes:
        ego, held = EgoMotion(), Held(spec)
        deliver = (fault or FAULTS["FrameDrops"]).begin(severity if fault else 0, seed, scene.token)
        for outcome in outcomes(runtime, scene, deliver):
            arrival = outcome.arrival
            sample = recorded.truth(arrival.key, arrival.record.info)
            pose, number = recorded.global_from_lidar(arrival.key), arrival.record.number
            result = outcome.result
            if result is None:
                missing[outcome.missing] += 1
                if outcome.missing == REFUSED:
                    reasons[_kind(outcome.why)] += 1
                result = held.result(number, pose, sample, arrival.record.sensors.command)
            else:
                held.keep(number, pose, result)
            found.add(result, sample, ego.velocity(sample.frame), spec, ranges)
    metrics = _scored(found, spec, recorded.table.version)
    driven = {"driving": drive_under(runtime, fault, severity, seed, routes)} if routes else {}
    return {
        **driven,
        "scores": {metric.key: metric.get(metrics | driven) for metric in METRICS},
        "frames": len(recorded),
        "missing": dict(missing),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]),
    }


def _scored(found: Collected, spec: Spec, version: str) -> dict[str, Any]:
    # The devkit draws progress bars for scores that take a second.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        if any(found.detections.values()):
            return score(found, spec, version, Path(folder))
        # The devkit cannot read a submission without a box: what it would say is plain.
        blind = replace(spec, data=replace(spec.data, eval_mod=tuple(m for m in spec.data.eval_mod if m not in ("det", "track"))))
        return {
            "detection": {"NDS": 0.0, "mAP": 0.0}, "tracking": {"amota": 0.0}, **score(found, blind, version, Path(folder)),
        }  # fmt: skip


def _kind(reason: str) -> str:
    """A refusal without the numbers of its frame."""
    return reason.split(" (limits ")[0].split(";")[0]


def relative(metric: Metric, value: float | None, clean: float | None) -> float | None:
    """How much of the clean score is left, 1 all of it: value / clean, of errors clean / value. None: not defined."""
    if value is None or clean is None or not metric.relative:
        return None
    above, below = (value, clean) if metric.higher_is_better else (clean, value)
    if below <= 0:
        return None
    return max(above / below, 0.0)


def resilience(found: Mapping[str, Any], faults: Sequence[Fault], severities: Sequence[int], key: str = "NDS") -> float | None:
    """RoboBEV's mean resilience rate: of all its corruptions and severities that were run, the mean share of the clean score."""
    metric = next(m for m in METRICS if m.key == key)
    clean = found[CLEAN]["scores"][key]
    shares = [
        relative(metric, found[condition_name(f.name, s)]["scores"][key], clean)
        for f in faults if f.group == IMAGES for s in severities
    ]  # fmt: skip
    return _mean(shares) if shares else None


def shown_metrics(found: Mapping[str, Any]) -> list[Metric]:
    """The columns: what a stage-1 model has not, or was not driven for, is left out."""
    return [m for m in METRICS if any(row["scores"].get(m.key) is not None for row in found.values())]


def rows_of(
    found: Mapping[str, Any], faults: Sequence[Fault], severities: Sequence[int]
) -> list[tuple[str, int, Mapping[str, Any]]]:
    """Fault, severity and what was found, in the table's order; clean first."""
    rows = [(CLEAN, 0, found[CLEAN])]
    return rows + [(f.name, s, found[condition_name(f.name, s)]) for f in faults for s in severities]


def tables(found: Mapping[str, Any], faults: Sequence[Fault], severities: Sequence[int]) -> list[Table]:
    """Shares of the clean scores, the scores themselves, frames without a result, and what the faults are."""
    metrics = shown_metrics(found)
    clean = found[CLEAN]["scores"]
    rows = rows_of(found, faults, severities)
    shares: list[list[Any]] = []
    plain: list[list[Any]] = []
    for name, severity, row in rows:
        scores = row["scores"]
        left = [relative(m, scores[m.key], clean[m.key]) for m in metrics]
        extra = [
            None if m.relative or scores[m.key] is None or clean[m.key] is None else scores[m.key] - clean[m.key] for m in metrics
        ]
        shares.append([name, severity, *(e if not m.relative else None if s is None else 100 * s
                                         for m, s, e in zip(metrics, left, extra)), without(row)])  # fmt: skip
        plain.append([name, severity, *(scores[m.key] for m in metrics), without(row)])
    head = ["fault", "severity"]
    out = [
        Table(
            "What is left of the clean scores (%)",
            [*head, *(m.title if m.relative else f"{m.title}, added" for m in metrics), "frames without a result (%)"],
            shares[1:], digits=[0, 0, *(0 if m.relative else 1 for m in metrics), 0],
            note="100: as clean; above: better. Of errors (minADE, L2) it is clean / faulty. Collisions: percentage points more.",
        ),
        Table("Scores", [*head, *(m.title for m in metrics), "frames without a result (%)"], plain, digits=3),
    ]  # fmt: skip
    refusals = [
        [name, severity, row["missing"].get("never arrived", 0), row["missing"].get(REFUSED, 0), row["frames"],
         "; ".join(row["reasons"])]
        for name, severity, row in rows if row["missing"]
    ]  # fmt: skip
    if refusals:
        out.append(Table(
            "Frames without a result", ["fault", "severity", "never arrived", "refused", "of frames", "why refused"], refusals,
            note="Such a frame counts as one in which nothing was seen, and the car goes on along the plan that it has.",
        ))  # fmt: skip
    meaning = [[fault.name, fault.group, fault.told] for fault in faults]
    out.append(Table("What the faults are", ["fault", "group", "severity 1, 2, 3"], meaning))
    return out


def without(row: Mapping[str, Any]) -> float:
    """Percent of the frames that gave no result."""
    return 100.0 * sum(row["missing"].values()) / max(row["frames"], 1)


def findings(found: Mapping[str, Any], faults: Sequence[Fault], severities: Sequence[int]) -> list[str]:
    """Plain sentences, the most important first."""
    out: list[str] = []
    clean = found[CLEAN]["scores"]
    for key, what in (("L2", "the plan"), ("NDS", "detection"), ("driving", "driving")):
        metric = next(m for m in METRICS if m.key == key)
        left = {
            (f, s): share for f, s, row in rows_of(found, faults, severities)[1:]
            if (share := relative(metric, row["scores"].get(key), clean.get(key))) is not None
        }  # fmt: skip
        if not left:
            continue
        (worst, severity), share = min(left.items(), key=lambda item: item[1])
        value, before = found[condition_name(worst, severity)]["scores"][key], clean[key]
        out.append(f"Worst for {what}: {worst} at severity {severity}, {metric.title} {value:.2f} instead of {before:.2f} "
                   f"({100 * share:.0f} % left).")  # fmt: skip
    collisions = {
        (f, s): row["scores"]["collisions"] - clean["collisions"] for f, s, row in rows_of(found, faults, severities)[1:]
        if row["scores"].get("collisions") is not None and clean.get("collisions") is not None
    }  # fmt: skip
    if collisions:
        (worst, severity), more = max(collisions.items(), key=lambda item: item[1])
        out.append(
            f"Most collisions of the plan are added by {worst} at severity {severity}: {more:+.1f} percentage points."
            if more > 0 else "No fault adds a collision of the plan."
        )  # fmt: skip
    images = [f for f in faults if f.group == IMAGES]
    share = resilience(found, faults, severities)
    if images and share is not None:
        complete = len(images) == 8 and len(severities) == 3
        name = "Mean resilience rate (RoboBEV's mRR, of NDS)" if complete else "Mean share of NDS left, over the corruptions run"
        out.append(f"{name}: {100 * share:.1f} %.")
    refused = {
        (f, s): row["missing"][REFUSED] for f, s, row in rows_of(found, faults, severities) if row["missing"].get(REFUSED)
    }  # fmt: skip
    if refused:
        names = ", ".join(dict.fromkeys(f for f, _ in refused))
        out.append(f"The runtime refused {sum(refused.values())} frames, under {names}: they count as frames without a result.")
    else:
        out.append("The runtime refused no frame.")
    return out
