"""The words around the views: a legend of what the picture holds, and lines on what was drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from uniad.viz.palette import GROUND, TEXT
from uniad.viz.text import fit, write

Colour = tuple[int, int, int]
ROW, SWATCH = 29, 40  # pixels
SIZE = 0.62
CAPTION_ROW, CAPTION_SIZE = 36, 0.78


@dataclass(frozen=True)
class Entry:
    """A line of the legend; no name: a gap."""

    name: str = ""
    colours: tuple[Colour, ...] = ()
    kind: str = "fill"  # fill, outline or line


GAP = Entry()


def legend(width: int, height: int, entries: Iterable[Entry]) -> np.ndarray:
    """[height, width, 3]: entries from top to bottom, in as many columns as that takes."""
    panel = np.empty((height, width, 3), np.uint8)
    panel[:] = GROUND
    x, y = 20, 32
    for entry in entries:
        if not entry.name:
            y += ROW // 2
            continue
        if y > height - 8:
            x, y = x + 340, 32
        _swatch(panel, entry, x, y)
        left = x + SWATCH + 14
        write(panel, fit(entry.name, width - left - 4, SIZE), (left, y), SIZE)
        y += ROW
    return panel


def _swatch(panel: np.ndarray, entry: Entry, x: int, y: int) -> None:
    top, bottom = y - 15, y + 2
    if entry.kind == "outline":
        cv2.rectangle(panel, (x, top), (x + SWATCH, bottom), entry.colours[0], 2)
    elif entry.kind == "line":
        middle = (top + bottom) // 2
        cv2.line(panel, (x, middle), (x + SWATCH, middle), entry.colours[0], 3, cv2.LINE_AA)
        cv2.circle(panel, (x + SWATCH, middle), 5, entry.colours[0], -1, cv2.LINE_AA)
    elif entry.kind == "fill":
        edges = np.linspace(x, x + SWATCH, len(entry.colours) + 1).round().astype(int)
        for left, right, colour in zip(edges, edges[1:], entry.colours):
            cv2.rectangle(panel, (int(left), top), (int(right), bottom), colour, -1)


def caption_height(lines: int) -> int:
    return 18 + CAPTION_ROW * lines


def caption(width: int, lines: Sequence[str], colours: Sequence[Colour] = ()) -> np.ndarray:
    """A strip with a line for each; what does not fit is cut off."""
    panel = np.empty((caption_height(len(lines)), width, 3), np.uint8)
    panel[:] = GROUND
    for number, line in enumerate(lines):
        colour, weight = colours[number] if number < len(colours) else TEXT, 2 - (number > 0)
        write(panel, fit(line, width - 40, CAPTION_SIZE, 2), (20, 36 + CAPTION_ROW * number), CAPTION_SIZE, colour, weight)
    return panel
