"""Canaries as a table of colours: a row for each, a column for each back end that was asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from uniad.canary.judge import BROKEN, BUILT, CRASHED, ELSEWHERE, REFUSED, RIGHT, SLOW, STATES, Outcome
from uniad.files import atomic_path

COLOURS = {
    RIGHT: "#4d9f6b", BROKEN: "#c8322b", CRASHED: "#7a1f3d", REFUSED: "#e0a13a", SLOW: "#d9d04a", BUILT: "#9db7cf",
    ELSEWHERE: "#eeeeee",
}  # fmt: skip


def draw_table(columns: Mapping[str, Mapping[str, Outcome]], path: str | Path) -> None:
    """columns: a back end's name to its outcomes by canary. Writes a picture to ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    rows = list(dict.fromkeys(name for outcomes in columns.values() for name in outcomes))
    states = list(STATES)
    cells = np.array([
        [states.index(outcomes[name].state if name in outcomes else ELSEWHERE) for outcomes in columns.values()] for name in rows
    ])  # fmt: skip
    size = (3.2 + 0.34 * len(columns) + 1.4, 1.9 + 0.24 * len(rows))
    figure, axis = plt.subplots(figsize=size, dpi=110, layout="constrained")
    palette = ListedColormap([COLOURS[state] for state in states])
    axis.pcolormesh(cells, cmap=palette, vmin=-0.5, vmax=len(states) - 0.5, edgecolors="white", linewidth=1.5)
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=8)
    axis.set_xticks(np.arange(len(columns)) + 0.5, list(columns), rotation=60, ha="left", rotation_mode="anchor", fontsize=8)
    axis.xaxis.tick_top()
    axis.invert_yaxis()
    axis.tick_params(length=0)
    axis.set_frame_on(False)
    shown = [state for i, state in enumerate(states) if (cells == i).any()]
    figure.legend(
        handles=[Patch(color=COLOURS[state], label=f"{state}: {STATES[state]}") for state in shown],
        loc="outside lower left", ncols=2, fontsize=8, frameon=False,
    )  # fmt: skip
    with atomic_path(path) as part:
        figure.savefig(part, format="png")
    plt.close(figure)
