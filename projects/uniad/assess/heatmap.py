"""The table of faults as one picture: a row a fault, a cell a metric and severity, the darker the less is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uniad.assess.faults import Fault
from uniad.assess.robust import CLEAN, condition_name, relative, shown_metrics, without
from uniad.files import atomic_path

WORST_POINTS = 20.0  # percentage points of collisions or of frames without a result that are as dark as nothing left of a score


def draw(found: Mapping[str, Any], faults: Sequence[Fault], severities: Sequence[int], title: str, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    metrics, clean = shown_metrics(found), found[CLEAN]["scores"]
    columns = len(metrics) + 1
    wide, high = 0.46 if len(severities) > 1 else 0.9, 0.30
    left = 1.75
    figure, axes = plt.subplots(figsize=(left + columns * len(severities) * wide + 0.4, 1.75 + len(faults) * high + 0.55))
    shades = plt.get_cmap("YlOrRd")
    for row, fault in enumerate(faults):
        for column in range(columns):
            for place, severity in enumerate(severities):
                cell = found[condition_name(fault.name, severity)]
                text, lost = _cell(metrics[column], cell, clean) if column < len(metrics) else _missing(cell)
                x = column * len(severities) + place
                colour = (0.9, 0.9, 0.9, 1) if lost is None else "#cfe3f2" if lost < -0.05 else shades(min(max(lost, 0), 1) * 0.9)
                axes.add_patch(Rectangle((x, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.6))
                dark = lost is not None and lost > 0.62
                axes.text(x + 0.5, row + 0.52, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "#202020")
    total = columns * len(severities)
    groups = [fault.group for fault in faults]
    for row in range(1, len(faults)):
        if groups[row] != groups[row - 1]:
            axes.axhline(row, color="#202020", linewidth=1.2)
    for column in range(1, columns):
        axes.axvline(column * len(severities), color="#606060", linewidth=0.8)
    axes.grid(False)
    axes.set_xlim(0, total)
    axes.set_ylim(len(faults), 0)
    axes.set_yticks([row + 0.5 for row in range(len(faults))], [fault.name for fault in faults], fontsize=9)
    axes.set_xticks([x + 0.5 for x in range(total)], [str(s) for _ in range(columns) for s in severities], fontsize=7)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    titles = [*((_wrapped(m.title if m.relative else f"{m.title}, added")) for m in metrics), "no result\n(% frames)"]
    for column, name in enumerate(titles):
        best = _clean_text(metrics[column], clean) if column < len(metrics) else ""
        axes.text((column + 0.5) * len(severities), -0.75, f"{name}\n{best}".rstrip(), ha="center", va="bottom", fontsize=8.5)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel(
        "Numbers: % of the clean score that is left at severity "
        + ", ".join(map(str, severities))
        + " (errors: clean / faulty); collisions: percentage points added. Darker: more is lost; blue: better than clean.",
        fontsize=8.5, labelpad=8,
    )  # fmt: skip
    figure.suptitle(title, fontsize=12, y=1 - 0.1 / figure.get_figheight(), va="top")
    figure.subplots_adjust(
        left=left / figure.get_figwidth(), right=1 - 0.15 / figure.get_figwidth(), top=1 - 1.45 / figure.get_figheight(),
        bottom=0.5 / figure.get_figheight(),
    )  # fmt: skip
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        figure.savefig(handle, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def _cell(metric: Any, cell: Mapping[str, Any], clean: Mapping[str, Any]) -> tuple[str, float | None]:
    """The number, and how much is lost: 0 nothing, 1 all; None: not defined."""
    value, before = cell["scores"].get(metric.key), clean.get(metric.key)
    if not metric.relative:
        if value is None or before is None:
            return "-", None
        return f"{value - before:+.1f}", (value - before) / WORST_POINTS
    share = relative(metric, value, before)
    return ("-", None) if share is None else (f"{100 * share:.0f}", 1 - share)


def _missing(cell: Mapping[str, Any]) -> tuple[str, float | None]:
    share = without(cell)
    return f"{share:.0f}", share / WORST_POINTS


def _clean_text(metric: Any, clean: Mapping[str, Any]) -> str:
    value = clean.get(metric.key)
    return "" if value is None else f"clean {value:.2f}"


def _wrapped(title: str) -> str:
    head, _, rest = title.partition(" ")
    return f"{head}\n{rest}" if rest else head
