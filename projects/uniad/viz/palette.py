"""Colours, once. RGB, 0..255; chosen to stay apart for colour-blind readers and on both dark and light ground."""

from __future__ import annotations

CLASS_COLOURS = {
    "car": (0, 158, 115),
    "truck": (86, 180, 233),
    "construction_vehicle": (0, 114, 178),
    "bus": (0, 114, 178),
    "trailer": (100, 143, 255),
    "barrier": (150, 150, 150),
    "motorcycle": (204, 121, 167),
    "bicycle": (204, 121, 167),
    "pedestrian": (230, 159, 0),
    "traffic_cone": (213, 94, 0),
}
MAP_COLOURS = {"divider": (240, 228, 66), "crossing": (86, 180, 233), "contour": (213, 94, 0)}
DRIVABLE = (70, 74, 80)
GROUND = (28, 30, 34)
GROUND_TRUTH = (235, 235, 235)
EGO = (220, 50, 47)
PLAN = (255, 84, 112)
TEXT = (235, 235, 235)
FAINT = (150, 152, 156)
# Occupancy from now (first) to the last step: brightness falls with time, so that the order is plain without colour too
OCCUPIED = ((255, 244, 170), (253, 190, 90), (236, 112, 74), (180, 54, 122), (96, 40, 130))


def occupied(step: int, steps: int) -> tuple[int, int, int]:
    """Colour of occupancy at ``step`` of ``steps`` frames, now being step 0."""
    return OCCUPIED[round(step * (len(OCCUPIED) - 1) / max(steps - 1, 1))]
