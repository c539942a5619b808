"""Words in pictures: readable on whatever lies below, and never one over another."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from uniad.viz.palette import GROUND, TEXT

FONT = cv2.FONT_HERSHEY_SIMPLEX
MARGIN = 3  # pixels of ground around a word
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


def plain(text: str) -> str:
    """What OpenCV's letters can write: ASCII."""
    return text.encode("ascii", "replace").decode()


def extent(text: str, size: float, weight: int = 1) -> tuple[int, int]:
    """Width and height of a word, the part below its base line included."""
    (width, height), below = cv2.getTextSize(plain(text), FONT, size, weight)
    return width, height + below


def write(image: np.ndarray, text: str, place: tuple[int, int], size: float, colour=TEXT, weight: int = 1) -> None:
    """place: left end of the base line, pixels. A rim of the ground's colour keeps it readable."""
    cv2.putText(image, plain(text), place, FONT, size, GROUND, weight + 3, cv2.LINE_AA)
    cv2.putText(image, plain(text), place, FONT, size, colour, weight, cv2.LINE_AA)


def fit(text: str, width: int, size: float, weight: int = 1) -> str:
    """The text, its end left out where it is wider than ``width``."""
    if extent(text, size, weight)[0] <= width:
        return text
    while text and extent(text + "...", size, weight)[0] > width:
        text = text[:-1]
    return text.rstrip() + "..."


class Labels:
    """Words that find a place of their own in an image: what is put first is there first, and a word without room is left out."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.taken: list[Rectangle] = []
        self._words: list[tuple[str, tuple[int, int], float, tuple[int, int, int], int]] = []

    def put(
        self, text: str, corners: Sequence[tuple[float, float]], size: float, colour: tuple[int, int, int] = TEXT, weight: int = 1
    ) -> bool:
        """At the first of the places (left upper corners, pixels) where it fits; whether there was one."""
        (width, height), below = cv2.getTextSize(plain(text), FONT, size, weight)
        rows, columns = self.image.shape[:2]
        for left, top in corners:
            left, top = int(left), int(top)
            box = (left - MARGIN, top - MARGIN, left + width + MARGIN, top + height + below + MARGIN)
            if box[0] < 0 or box[1] < 0 or box[2] > columns or box[3] > rows or any(_meet(box, other) for other in self.taken):
                continue
            self.taken.append(box)
            self._words.append((text, (left, top + height), size, colour, weight))
            return True
        return False

    def put_beside(self, text: str, around: Rectangle, size: float, colour: tuple[int, int, int] = TEXT) -> bool:
        """Beside a thing: right of it, left, above or below, else not at all."""
        width, height = extent(text, size)
        left, top, right, bottom = around
        middle, centre = (top + bottom - height) / 2, (left + right - width) / 2
        gap = MARGIN + 1
        places = [
            (right + gap, top - gap), (left - width - gap, top - gap), (centre, top - height - gap), (centre, bottom + gap),
            (right + gap, middle), (left - width - gap, middle), (right + gap, bottom), (left - width - gap, bottom),
        ]  # fmt: skip
        return self.put(text, places, size, colour)

    def draw(self) -> None:
        """Write all of them, over everything; bold ones, the titles, on a darkened plate."""
        for text, place, size, colour, weight in self._words:
            if weight > 1:
                (width, height), below = cv2.getTextSize(plain(text), FONT, size, weight)
                plate = self.image[max(place[1] - height - MARGIN, 0) : place[1] + below + MARGIN, max(place[0] - MARGIN, 0) :]
                plate = plate[:, : width + 2 * MARGIN]
                plate[:] = plate // 3
            write(self.image, text, place, size, colour, weight)
        self._words.clear()


def _meet(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
