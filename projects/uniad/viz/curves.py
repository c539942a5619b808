"""Training logs as small multiples: one panel for each part of the loss, a line for each layer, runs one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uniad.errors import UserError, tell_refusal
from uniad.files import read_outside

LOG, HELD = "train.jsonl", "held.json"
# Of a log line, what is neither a loss nor drawn
_ELSEWHERE = {"mode", "epoch", "iter", "epoch_len", "step", "memory", "data_time", "time", "eta_s"}
_GENERAL = ("loss", "lr", "grad_norm")
_TITLES = {"loss": "total loss", "lr": "learning rate", "grad_norm": "gradient norm"}
_TASKS = ("track", "map", "dense_bev", "motion", "occ", "planning")
_SET_ASIDE = re.compile(r"\.\d{8}-\d{6}$")
MOST_STEPS = 10**12  # nobody trains for longer
LARGEST = 1e100
SMOOTHED = 80  # points above which a line is drawn as its running median, the points behind it


@dataclass
class Run:
    """One training: its log lines in order, and what is known of fixed clips."""

    name: str
    log: Path
    entries: list[dict[str, Any]]
    validation: list[dict[str, Any]] = field(default_factory=list)  # step and losses
    first: int = 0  # step of the figure at which it begins

    @property
    def last(self) -> int:
        return max(int(entry["step"]) for entry in (*self.entries, *self.validation))


@dataclass(frozen=True, order=True)
class Part:
    """Where a logged value is drawn: its panel, and which line there. -1: the values have none."""

    panel: str
    layer: int = -1
    frame: int = -1


def part_of(key: str) -> Part:
    """``track.frame_1_loss_cls_2`` -> panel ``track.loss_cls``, layer 2, frame 1; ``map.d0.loss_iou`` -> layer 0 of its panel."""
    layer = frame = -1
    if found := re.search(r"frame_(\d+)_", key):
        frame, key = int(found[1]), key.replace(found[0], "")
    if found := re.search(r"\.d(\d+)\.", key):
        layer, key = int(found[1]), key.replace(found[0], ".")
    elif found := re.search(r"_(\d+)$", key):
        layer, key = int(found[1]), key[: found.start()]
    return Part(key, layer, frame)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """A work directory, a log, or a folder of work directories such as a recipe's, each; in order, laid end to end."""
    runs, start = [], 0
    for path in paths:
        for log in _logs(path):
            run = _read(log)
            run.first = start
            start += run.last
            runs.append(run)
    names = [run.name for run in runs]
    for run in runs:  # two runs of one name are told apart by the folder around it
        if names.count(run.name) > 1:
            run.name = f"{run.log.resolve().parent.parent.name}/{run.name}"
    return runs


def _logs(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / LOG).is_file():
        return [path / LOG]
    below = [log for log in path.glob(f"*/{LOG}") if not _SET_ASIDE.search(log.parent.name)]
    if not below:
        raise UserError(f"{path / LOG} not found: give the work directory of a training run")
    return sorted(below, key=lambda log: log.stat().st_mtime)


def _read(log: Path) -> Run:
    try:
        lines = [json.loads(line) for line in read_outside(log).decode().splitlines() if line.strip()]
        entries = [line for line in lines if line.get("mode") == "train" and {"step", "loss"} <= set(line)]
        validation = [line for line in lines if line.get("mode") == "val" and "step" in line]
        for line in (*entries, *validation):
            _check_step(line["step"])
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        tell_refusal(error, log)
        raise UserError(f"{log} is no log of a training ({type(error).__name__}): {str(error).splitlines()[0]}") from None
    if not entries:
        raise UserError(f"{log} holds no training step yet")
    return Run(log.resolve().parent.name, log, entries, validation + _held(log.parent / HELD))


def _check_step(step: Any) -> None:
    if type(step) is not int or not 0 <= step <= MOST_STEPS:
        raise ValueError(f"step is {step!r:.40}; needed is a whole number from 0 on")


def _held(path: Path) -> list[dict[str, Any]]:
    """Losses on fixed clips, as tools/held_loss.py writes them; none where it was not run."""
    if not path.is_file():
        return []
    try:
        rows = json.loads(read_outside(path))["checkpoints"]
        for row in rows:
            _check_step(row["step"])
        return [{**row["losses"], "step": row["step"], "loss": row["loss"]} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is not what tools/held_loss.py writes: make it anew, or move it away") from None


def panels(runs: Iterable[Run]) -> list[str]:
    """All that is drawn, in order: total, learning rate, gradient norm, then task by task."""
    keys = {key for run in runs for entry in (*run.entries, *run.validation) for key, value in entry.items() if _number(value)}
    found = {part_of(key).panel for key in keys - _ELSEWHERE}
    general = [name for name in _GENERAL if name in found]

    def place(panel: str) -> tuple:
        task = panel.partition(".")[0]
        return (_TASKS.index(task) if task in _TASKS else len(_TASKS), "loss" not in panel, panel.endswith("_f"), panel)

    return general + sorted(found - set(general), key=place)


def series(run: Run, panel: str) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """By layer: steps, the mean over the frames of a clip, and the least and largest of them."""
    found: dict[int, dict[int, list[float]]] = {}
    for entry in run.entries:
        for key, value in entry.items():
            if key not in _ELSEWHERE and _number(value) and (part := part_of(key)).panel == panel:
                found.setdefault(part.layer, {}).setdefault(int(entry["step"]), []).append(float(value))
    out = {}
    for layer, steps in sorted(found.items()):
        mean, least, most = (np.array([fold(values) for values in steps.values()]) for fold in (np.mean, min, max))
        out[layer] = np.array(list(steps)), mean, least, most
    return out


def held_series(run: Run, panel: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the mean over layers and frames of what fixed clips give; empty where nobody asked."""
    points = {}
    for entry in run.validation:
        values = [float(v) for k, v in entry.items() if k not in _ELSEWHERE and _number(v) and part_of(k).panel == panel]
        if values:
            points[int(entry["step"])] = float(np.mean(values))
    return np.array(sorted(points)), np.array([points[step] for step in sorted(points)])


def _number(value: Any) -> bool:
    """Finite, and no larger than a picture's axes can be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def smooth(values: np.ndarray) -> np.ndarray:
    """Running median over a twentieth of the points."""
    half = max(len(values) // 40, 1)
    return np.array([np.median(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))])


def limits(values: np.ndarray) -> tuple[float, float]:
    """What a panel shows: all but the few largest values, which belong to the first steps and would flatten the rest."""
    low, high, top = float(values.min()), float(np.quantile(values, 0.98)), float(values.max())
    if top <= 1.5 * high:
        high = top
    margin = 0.06 * (high - low) or 0.05 * max(abs(high), 1e-6)
    return low - margin, high + margin


def draw(runs: Sequence[Run], overlay: bool = False):
    """A matplotlib figure. overlay: all runs from step 0, a colour each, for comparing them; else one after the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, still = _moving(runs)
    if not names:
        logs = ", ".join(str(run.log) for run in runs)
        raise UserError(f"{logs}: every value is 0, not finite or no number, so there is nothing to draw")
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    size = (4.2 * columns, 2.6 * rows + 0.7)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=100, squeeze=False, layout="constrained")
    colours = plt.get_cmap("viridis")
    for axis, name in zip(axes.flat, names):
        shown: list[np.ndarray] = []
        several = {layer for run in runs for layer in series(run, name)} - {-1}
        for number, run in enumerate(runs):
            start = 0 if overlay else run.first
            for layer, (steps, mean, least, most) in series(run, name).items():
                share = 0.0 if len(several) < 2 or layer < 0 else layer / max(several)
                colour = f"C{number}" if overlay else "black" if layer < 0 and several else colours(0.85 * share)
                x = start + steps
                if len(mean) > SMOOTHED:
                    axis.plot(x, mean, color=colour, linewidth=0.6, alpha=0.25)
                label = _label(name, layer, several) if number == 0 and not overlay else None
                width = 1.5 if not overlay or layer < 0 or layer == max(several) else 0.7  # of a comparison the last layer counts
                axis.plot(x, smooth(mean) if len(mean) > SMOOTHED else mean, color=colour, linewidth=width, label=label)
                if (most > least).any():
                    axis.fill_between(x, least, most, color=colour, alpha=0.10, linewidth=0)
                shown.append(mean)
            steps, values = held_series(run, name)
            if len(steps):
                label = "fixed clips" if number == 0 and name == names[0] else None
                axis.plot(start + steps, values, "o--", color="crimson", markersize=5, linewidth=1, label=label)
                shown.append(values)
            if not overlay and number:
                axis.axvline(run.first, color="0.7", linewidth=0.8)
        _finish(axis, name, shown, several)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_axis_off()
    figure.suptitle(_heading(runs, overlay, still), fontsize=12)
    if overlay and len(runs) > 1:
        for number, run in enumerate(runs):
            axes.flat[0].plot([], [], color=f"C{number}", label=run.name)
        axes.flat[0].legend(fontsize=8, frameon=False)
    return figure


def _moving(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Panels with something to see, and the others: parts that are 0 throughout, such as those of queries without an object."""
    names = panels(runs)
    still = [
        name for name in names
        if all(np.abs(mean).max() < 1e-6 for run in runs for _, mean, _, _ in series(run, name).values())
        and all(np.abs(held_series(run, name)[1]).max(initial=0.0) < 1e-6 for run in runs)
    ]  # fmt: skip
    return [name for name in names if name not in still], still


def _label(panel: str, layer: int, several: set[int]) -> str | None:
    if len(several) + (layer < 0) < 2 and layer >= 0 or not several:
        return None
    if layer < 0:
        return "last layer"
    return f"{'distance' if 'collision' in panel else 'layer'} {layer}"


def _finish(axis, name: str, shown: list[np.ndarray], several: set[int]) -> None:
    values = np.concatenate(shown) if shown else np.zeros(1)
    positive = values[values > 0]
    if name in ("grad_norm",) and len(positive) == len(values):
        axis.set_yscale("log")
    else:
        axis.set_ylim(*limits(values))
    axis.set_title(_TITLES.get(name, name.replace(".loss_", ": ").replace(".", ": ")), fontsize=11)
    axis.tick_params(labelsize=8)
    axis.ticklabel_format(axis="x", style="plain")
    if name == "lr":
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, frameon=False, ncols=2 if len(several) > 3 else 1, loc="best")


def _heading(runs: Sequence[Run], overlay: bool, still: Sequence[str]) -> str:
    text = (" beside " if overlay else ", then ").join(f"{run.name} ({run.last:,} steps)" for run in runs)
    text += "; shaded: between the frames of a clip"
    return text + (f"\nzero throughout: {', '.join(still)}" if still else "")
