"""The audit as one picture: what the plan rests on, for somebody who has a minute."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniad.assess.audit import AS_IS, BASELINES, CONDITIONS, Verdict
from uniad.assess.plans import ALL, MANOEUVRES, SPEEDS
from uniad.files import atomic_path

COLOURS = {"bad": "#b3261e", "mixed": "#c77700", "good": "#2e7d32"}
MARKS = {"bad": "FAIL", "mixed": "LOOK", "good": "ok"}
MODEL, BASELINE, SECOND = "#24527a", "#8a8f98", "#9cc3e6"
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]


def draw(scores: Scores, said: Sequence[Verdict], about: Mapping[str, Any], path: Path) -> None:
    """Writes a PNG, whole or not at all. scores: by condition and group; about: what was judged, and on what."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11.7, 12.6))
    grid = figure.add_gridspec(
        4, 2, height_ratios=[0.3 + 0.33 * len(said), 2.9, 2.7, 2.7], hspace=0.4, wspace=0.1, left=0.175, right=0.975,
        top=0.925, bottom=0.075,
    )  # fmt: skip
    accused = [verdict for verdict in said if verdict.state == "bad"]
    figure.text(0.03, 0.966, "What the plan rests on", fontsize=19, weight="bold")
    figure.text(
        0.975, 0.968, "NOT PASSED" if accused else "PASSED", fontsize=15, weight="bold", ha="right",
        color=COLOURS["bad" if accused else "good"],
    )  # fmt: skip
    figure.text(
        0.03, 0.946, f"{Path(str(about['model'])).name}, {about['backend']}, sha256 {str(about['sha256'])[:12]}; "
        f"{about['frames']} frames of {len(about['scenes'])} scene(s) in {about['data']}", fontsize=9.5, color="#505050",
    )  # fmt: skip
    _lines(figure.add_subplot(grid[0, :]), said)
    _errors(figure.add_subplot(grid[1, 0]), scores)
    _hits(figure.add_subplot(grid[1, 1]), scores)
    _grid(figure.add_subplot(grid[2, :]), scores, MANOEUVRES, "Error by manoeuvre of the driver: mean L2 up to 1, 2, 3 s (m)")
    _grid(figure.add_subplot(grid[3, :]), scores, [n for n, _ in SPEEDS], "Error by speed: mean L2 up to 1, 2, 3 s (m)")
    figure.text(
        0.03, 0.018, "Above the line: the model, with something taken away or exchanged. Below it: planners that see nothing. "
        "Road users: the car's footprint meets an annotated box.\nRoad's edge: the footprint lies beyond the drivable area. "
        "Both: mean of 1, 2 and 3 s, not counted where the driver's own path does the same.", fontsize=8.5, color="#505050",
    )  # fmt: skip
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        figure.savefig(handle, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)


def _lines(axes: Any, said: Sequence[Verdict]) -> None:
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(said), 0)
    for row, verdict in enumerate(said):
        colour = COLOURS[verdict.state]
        axes.text(
            -0.175, row + 0.5, MARKS[verdict.state], fontsize=9.5, weight="bold", color="white", va="center",
            bbox={"boxstyle": "round,pad=0.28", "facecolor": colour, "edgecolor": colour},
        )  # fmt: skip
        axes.text(
            -0.105, row + 0.5, "\n".join(textwrap.wrap(verdict.text, 132)), fontsize=10.2, va="center",
            color=colour if verdict.state == "bad" else "#202020", weight="bold" if verdict.state == "bad" else "normal",
        )  # fmt: skip


def _bars(axes: Any, scores: Scores, keys: Sequence[tuple[str, str, str, str]], title: str, digits: int) -> None:
    """Horizontal bars, one row a condition. keys: score, label, colour of the model's rows, of the others'."""
    rows = [name for name in (*CONDITIONS, *BASELINES) if name in scores]
    high = 0.8 / len(keys)
    # One bar that leaves the page tells no more by its length; the others could not be told apart.
    values = np.array([[scores[name][ALL][key] for name in rows] for key, *_ in keys])
    usual = float(np.nanmax([scores[n][ALL][k] for n in rows if n != "standing still" for k, *_ in keys], initial=0))
    most = max(1.18 * usual, 1e-3)
    for number, (_, label, model, other) in enumerate(keys):
        places = np.arange(len(rows)) + (number - (len(keys) - 1) / 2) * high
        colours = [model if name in CONDITIONS else other for name in rows]
        axes.barh(places, np.minimum(np.nan_to_num(values[number]), most), high * 0.92, color=colours, label=label)
        for place, value in zip(places, values[number]):
            text = "-" if np.isnan(value) else f"{value:.{digits}f}"
            inside = np.nan_to_num(value) > 0.88 * most
            axes.text(
                most * 0.985 if inside else np.nan_to_num(value) + 0.012 * most, place, text, va="center", fontsize=8,
                ha="right" if inside else "left", color="white" if inside else "#202020", weight="bold" if inside else "normal",
            )  # fmt: skip
    axes.grid(False)
    axes.set_xlim(0, most)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.axhline(len(CONDITIONS) - 0.5, color="#404040", linewidth=0.8)
    for tick, name in zip(axes.get_yticklabels(), rows):
        tick.set_weight("bold" if name == AS_IS else "normal")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, fontsize=10.5, loc="left", pad=18)
    legend = [(label, model) for _, label, model, _ in keys]
    for number, (label, colour) in enumerate(legend):
        axes.text(0.02 + 0.49 * number, 1.02, f"■ {label}", color=colour, fontsize=8.5, transform=axes.transAxes)


def _errors(axes: Any, scores: Scores) -> None:
    keys = (("L2", "at 1, 2, 3 s (upstream)", MODEL, BASELINE), ("L2_avg", "up to them (ST-P3, VAD)", SECOND, "#c9ccd1"))
    _bars(axes, scores, keys, "Distance from the driver's path, mean L2 (m)", 2)


def _hits(axes: Any, scores: Scores) -> None:
    keys = (("collisions", "with road users", "#a4373a", "#8a8f98"), ("curbs", "with the road's edge", "#e3a587", "#c9ccd1"))
    _bars(axes, scores, keys, "What the plan hits (% of the moments checked)", 1)
    axes.set_yticklabels([])


def _grid(axes: Any, scores: Scores, groups: Sequence[str], title: str) -> None:
    """Numbers on shades: a row a condition, a column a group."""
    import matplotlib.pyplot as plt

    rows = [name for name in (*CONDITIONS, *BASELINES) if name in scores]
    columns = [ALL, *(group for group in groups if group in scores[AS_IS])]
    values = np.array([[scores[row].get(column, {}).get("L2_avg", np.nan) for column in columns] for row in rows])
    top = max(4 * scores[AS_IS][ALL]["L2_avg"], 0.1)  # four times the model's own error is as dark as it gets
    shades = plt.get_cmap("YlOrRd")
    for r, row in enumerate(rows):
        for c in range(len(columns)):
            value = values[r, c]
            share = 0.0 if np.isnan(value) else min(value / top, 1.0) * 0.85
            axes.add_patch(plt.Rectangle((c, r), 1, 1, facecolor=shades(share), edgecolor="white", linewidth=1.2))
            axes.text(
                c + 0.5, r + 0.53, "-" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", fontsize=9,
                color="white" if share > 0.6 else "#202020", weight="bold" if row == AS_IS else "normal",
            )  # fmt: skip
    axes.axhline(len(CONDITIONS), color="#404040", linewidth=1)
    axes.axvline(1, color="#404040", linewidth=1)
    axes.grid(False)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    heads = [f"{name}\n{scores[AS_IS][name]['frames']:.0f} frames" for name in columns]
    axes.set_xticks(np.arange(len(columns)) + 0.5, heads, fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=9)
    for tick, name in zip(axes.get_yticklabels(), rows):
        tick.set_weight("bold" if name == AS_IS else "normal")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, fontsize=10.5, loc="left", pad=8)
