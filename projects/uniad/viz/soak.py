"""A soak over time: latency, memory, and what the machine says of heat and clocks."""

from __future__ import annotations

from pathlib import Path

from uniad.deploy.soak import MOST_P99, Soak
from uniad.files import atomic_path

LATENCY = (("most", "largest", "0.75"), ("p99", "p99", "#c8322b"), ("p90", "p90", "#e0a13a"), ("p50", "median", "#2d6a8f"))


def draw_soak(result: Soak, title: str, path: str | Path) -> None:
    """Writes a picture to ``path``: what could not be read has no panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    minutes = [row.from_s / 60 for row in result.rows]
    panels = ["latency", "memory"]
    panels += ["heat"] * any(row.hottest_c is not None or row.clock_mhz is not None for row in result.rows)
    heights = [3.0, *[1.4] * (len(panels) - 1)]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, 1.0 + sum(heights)), dpi=100, sharex=True, height_ratios=heights, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    axis = axes[0, 0]
    for field, label, colour in LATENCY:
        values = [getattr(row, field) for row in result.rows]
        axis.plot(minutes, values, "o-", color=colour, label=label, markersize=3, linewidth=1.4)
    axis.axhline(MOST_P99 * result.median_ms, color="#c8322b", linestyle=":", linewidth=1.2, label="twice the median")
    axis.set_ylabel("ms a step")
    top = max(row.p99 for row in result.rows)
    axis.set_ylim(0, 1.15 * max(top, MOST_P99 * result.median_ms, min(max(row.most for row in result.rows), 3 * top)))
    axis.legend(ncols=5, fontsize=8, frameon=False, loc="upper left")
    verdict = "; ".join(result.faults) or ("ready" if result.ready else f"no fault in {result.minutes:.1f} minutes")
    axis.set_title(f"{title}\n{verdict}", fontsize=10, wrap=True)
    axis = axes[1, 0]
    for field, label, colour in (("process_mib", "process", "#4d9f6b"), ("gpu_mib", "GPU", "#7a5195")):
        values = [getattr(row, field) for row in result.rows]
        if any(value is not None for value in values):
            axis.plot(minutes, [float("nan") if v is None else v for v in values], "o-", color=colour, label=label, markersize=3)
    axis.set_ylabel("MiB")
    axis.margins(y=0.3)
    axis.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    if "heat" in panels:
        axis = axes[-1, 0]
        axis.plot(minutes, [_or_nan(row.hottest_c) for row in result.rows], "o-", color="#c8322b", markersize=3)
        axis.set_ylabel("hottest, C", color="#c8322b")
        other = axis.twinx()
        other.plot(minutes, [_or_nan(row.clock_mhz) for row in result.rows], "s-", color="#2d6a8f", markersize=3)
        other.set_ylabel("clock, MHz", color="#2d6a8f")
    axes[-1, 0].set_xlabel("minutes")
    for axis in axes[:, 0]:
        axis.grid(alpha=0.25)
    with atomic_path(path) as part:
        figure.savefig(part, format="png")
    plt.close(figure)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
