"""Scores of many drives as tables: policies beside each other, over all routes and by what a route is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uniad.formats.report import Table
from uniad.simulation.log import TICK_S
from uniad.simulation.score import Scores

PDM_COLUMNS = {
    "score": "driving score",
    "no_at_fault_collision": "no collision at fault",
    "drivable_area": "on the road",
    "driving_direction": "direction",
    "traffic_light": "lights",
    "making_progress": "moves on",
    "ego_progress": "progress",
    "time_to_collision": "time to collision",
    "comfort": "comfort",
}
BENCH_COLUMNS = {
    "driving_score": "driving score %",
    "route_completion": "route completion %",
    "infraction_penalty": "infraction penalty",
    "success": "success %",
    "efficiency": "efficiency %",
    "comfortness": "comfortness %",
}
PER_CENT = {name for name, title in BENCH_COLUMNS.items() if title.endswith("%")}
KINDS = {  # of routes, in the order of the table
    "left": "left", "right": "right", "straight": "straight", "crossing_pedestrian": "pedestrian", "red_light": "red light",
    "parked_cars": "parked cars", "braking_leader": "braking leader",
}  # fmt: skip
NOTE = "Mean over the routes; +- is the standard deviation between routes. Scores are shares of 1; docs/drive.md defines each."
BENCH_NOTE = "As Bench2Drive scores: any collision counts, and time does not. A dash: no stretch of a route was driven."


def tables(scores: Sequence[Scores]) -> list[Table]:
    """PDM, Bench2Drive, and the driving score by kind of route; a row for each policy, in the order of first appearance."""
    policies = list(dict.fromkeys(s.policy for s in scores))
    of = {policy: [s for s in scores if s.policy == policy] for policy in policies}
    pdm = [[policy, len(of[policy]), *_cells([s.pdm for s in of[policy]], list(PDM_COLUMNS))] for policy in policies]
    bench = [[policy, len(of[policy]), *_cells([s.bench2drive for s in of[policy]], list(BENCH_COLUMNS))] for policy in policies]
    kinds = [kind for kind in KINDS if any(kind in s.kinds for s in scores)]
    by_kind = [
        [policy, *(_spread([s.pdm.score for s in of[policy] if kind in s.kinds]) for kind in kinds)] for policy in policies
    ]
    routes = [len({s.route for s in scores if kind in s.kinds}) for kind in kinds]
    return [
        Table("PDM score", ["policy", "routes", *PDM_COLUMNS.values()], pdm, note=NOTE),
        Table("Bench2Drive", ["policy", "routes", *BENCH_COLUMNS.values()], bench, note=BENCH_NOTE),
        Table(
            "Driving score by kind of route", ["policy", *(f"{KINDS[kind]} ({n})" for kind, n in zip(kinds, routes))], by_kind,
            note="In brackets the number of routes; a route can be of several kinds.",
        ),
    ]  # fmt: skip


def routes_table(scores: Sequence[Scores]) -> Table:
    """A row for each drive: its scores, and what went wrong first."""
    rows = [
        [s.route, s.policy, ", ".join(KINDS.get(kind, kind) for kind in s.kinds), s.pdm.score, s.pdm.ego_progress,
         s.bench2drive.driving_score, s.bench2drive.success, _told(s)]
        for s in scores
    ]  # fmt: skip
    columns = ["route", "policy", "kind", "driving score", "progress", "Bench2Drive", "success", "what went wrong"]
    return Table("Every drive", columns, rows, digits=[2, 2, 2, 2, 2, 1, 2, 2])


def findings(scores: Sequence[Scores], model: str, expert: str = "expert") -> list[str]:
    """Plain sentences on how a policy drives beside the others."""
    mean = {
        policy: float(np.mean([s.pdm.score for s in scores if s.policy == policy]))
        for policy in dict.fromkeys(s.policy for s in scores)
    }
    own = [s for s in scores if s.policy == model]
    others = {policy: value for policy, value in mean.items() if policy not in (model, expert)}
    over = _counted(len(own), "route")
    lines = [f"{model} has a driving score of {mean[model]:.2f} over {over}; the expert has {mean[expert]:.2f}."]
    if others:
        best = max(others, key=lambda policy: others[policy])
        word = "above" if mean[model] > others[best] else "not above"
        lines.append(f"That is {word} every baseline: the best of them, {best}, has {others[best]:.2f}.")
    counts = {
        "collisions at fault": sum(s.pdm.no_at_fault_collision < 1 for s in own),
        "left the road": sum(s.pdm.drivable_area < 1 for s in own),
        "drove against the traffic": sum(s.pdm.driving_direction < 1 for s in own),
        "ran a red light": sum(s.pdm.traffic_light < 1 for s in own),
        "did not move on": sum(s.pdm.making_progress < 1 for s in own),
    }
    told = ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
    lines.append(f"What cost a route its score, or half of it: {told or 'nothing'} (of {over}).")
    return lines


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"


def _told(scores: Scores) -> str:
    """The first event of the worst kind."""
    worst = ("collision", "off_road", "red_light", "wrong_way", "time_to_collision", "comfort")
    for kind in worst:
        for event in scores.events:
            if event.kind == kind and (kind != "collision" or event.at_fault):
                return f"{event.told}, at {event.tick * TICK_S:.1f} s"
    return "" if scores.pdm.making_progress else "hardly moves"


def summary(scores: Sequence[Scores]) -> dict[str, Any]:
    """The numbers of the tables, for programs: policy -> pdm or bench2drive -> name -> mean, std, n."""
    out: dict[str, Any] = {}
    for policy in dict.fromkeys(s.policy for s in scores):
        own = [s for s in scores if s.policy == policy]
        out[policy] = {
            part: {name: _numbers([getattr(getattr(s, part), name) for s in own]) for name in columns}
            for part, columns in (("pdm", PDM_COLUMNS), ("bench2drive", BENCH_COLUMNS))
        }
    return out


def _numbers(values: Sequence[float | bool | None]) -> dict[str, float | int | None]:
    """Of the values that were measured."""
    known = np.array([float(value) for value in values if value is not None])
    return {"mean": float(known.mean()), "std": float(known.std()), "n": len(known)} if len(known) else {"mean": None, "n": 0}


def _cells(parts: Sequence[Any], columns: Sequence[str]) -> list[str | None]:
    return [_spread([getattr(part, name) for part in parts], name) for name in columns]


def _spread(values: Sequence[float | bool | None], name: str = "") -> str | None:
    """Mean and standard deviation; None where nothing was measured."""
    found = _numbers([100.0 * value if name == "success" and value is not None else value for value in values])
    digits = 1 if name in PER_CENT else 2
    return None if found["mean"] is None else f"{found['mean']:.{digits}f} +- {found['std']:.{digits}f}"
