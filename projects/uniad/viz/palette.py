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
TEXT = (235, 235, 235)
