"""What publishers report of their checkpoints beside what an evaluation found; ``configs/published_figures.json`` has it.

Upstream evaluates with eight processes, each of which begins somewhere within a scene, without the tracks and the BEV before it,
and says that another number of GPUs gives slightly different results. Here scenes stay whole. The tolerances allow for that,
seven of 150 scenes, and for the last printed digit; they are judged, not measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from uniad.evaluation.official import Coverage

TABLE = Path(__file__).resolve().parents[2] / "configs/published_figures.json"
VERSION = "v1.0-trainval"  # of nuScenes, whose validation split all these figures are of
SAMPLES = 6019  # of that split: a made-up world, or tables cut short, has the names of its scenes and fewer samples


class Figure(NamedTuple):
    tolerance: float
    unit: str
    digits: int


FIGURES = {
    "AMOTA": Figure(0.005, "", 3),
    "AMOTP": Figure(0.015, " m", 3),
    "recall": Figure(0.005, "", 3),
    "lane IoU": Figure(0.005, "", 3),
    "minADE": Figure(0.02, " m", 3),
    "occupancy IoU near": Figure(0.5, " %", 1),
    "collisions": Figure(0.05, " %", 2),
}


def published_of(generation: str, model: str, stage: int) -> dict[str, Any] | None:
    """The entry of a model; None where its publisher reports nothing."""
    wanted = (generation, model, stage)
    entries = json.loads(TABLE.read_text())
    return next((e for e in entries if (e["generation"], e["model"], e["stage"]) == wanted), None)


def is_published_split(version: str, covered: Coverage | None) -> bool:
    """Whether an evaluation saw what the published figures are of."""
    return version == VERSION and covered is not None and covered.whole and covered.samples == SAMPLES


def found_in(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """An evaluation's values by the names of ``FIGURES``; None for what it did not measure."""

    def at(*keys: str) -> float | None:
        value: Any = metrics
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, (int, float)) else None

    near = at("occupancy", "model", f"occ_iou_{((metrics.get('occupancy') or {}).get('areas') or [''])[0]}")
    who = "model_with_collision_optimiser"  # upstream reports the path after it
    who = who if who in (metrics.get("planning") or {}) else "model"
    collisions = [at("planning", who, f"obj_box_col_{t}s") for t in (1, 2, 3)]
    known = [value for value in collisions if value is not None]
    return {
        "AMOTA": at("tracking", "amota"),
        "AMOTP": at("tracking", "amotp"),
        "recall": at("tracking", "recall"),
        "lane IoU": at("map", "lanes_iou"),
        "minADE": at("motion", "model", "car/min_ade_err"),
        "occupancy IoU near": None if near is None else 100 * near,
        "collisions": 100 * sum(known) / 3 if len(known) == 3 else None,
    }


def compare(metrics: Mapping[str, Any], entry: Mapping[str, Any], whole: bool) -> tuple[dict[str, Any], list[str]]:
    """A record for the results file, and lines for a person. whole: the evaluation saw nuScenes' whole validation split."""
    found = found_in(metrics)
    rows: dict[str, Any] = {}
    lines = ["", f"published ({entry['source']})"]
    if not whole:
        lines.append("  these figures are of nuScenes' whole validation split, which this evaluation is not: no comparison")
        return {"source": entry["source"], "comparable": False}, lines
    lines.append(f"  {'':22s}{'published':>12s}{'here':>12s}{'difference':>12s}{'tolerance':>12s}")
    for name, value in entry["figures"].items():
        figure, here = FIGURES[name], found[name]
        rows[name] = {"published": value, "here": here, "tolerance": figure.tolerance}
        cells = [f"{value:.{figure.digits}f}{figure.unit}"]
        if here is None:
            lines.append(f"  {name:22s}{cells[0]:>12s}{'not measured':>14s}")
            continue
        off = here - value
        # A tolerance is met up to the digits that are printed
        rows[name]["within"] = within = abs(off) <= figure.tolerance + 1e-9
        cells += [f"{here:.{figure.digits}f}{figure.unit}", f"{off:+.{figure.digits}f}", f"{figure.tolerance:.3g}"]
        lines.append(f"  {name:22s}" + "".join(f"{cell:>12s}" for cell in cells) + ("" if within else "   outside"))
    return {"source": entry["source"], "comparable": True, "figures": rows}, lines
