"""Colours, once. RGB, 0..255. tests/unit/viz/test_palette.py says how far apart they must be, also from what they lie on."""

from __future__ import annotations

CLASS_COLOURS = {
    "car": (46, 200, 110),
    "truck": (70, 150, 255),
    "construction_vehicle": (165, 125, 20),
    "bus": (150, 95, 245),
    "trailer": (20, 205, 225),
    "barrier": (165, 165, 165),
    "motorcycle": (255, 140, 200),
    "bicycle": (205, 50, 150),
    "pedestrian": (255, 170, 30),
    "traffic_cone": (245, 75, 40),
    # Bench2Drive's besides
    "van": (170, 185, 245),
    "traffic_sign": (230, 65, 245),
    "traffic_light": (140, 230, 20),
    "others": (20, 140, 125),
}
OTHER_CLASS = (215, 230, 200)  # of a vocabulary of one's own
# The road lies below everything: dull colours, so that what moves stands out
MAP_COLOURS = {"divider": (150, 150, 70), "crossing": (92, 120, 140), "contour": (118, 96, 88)}
# Of Bench2Drive's map, which no picture shows beside the one of nuScenes
TOWN_COLOURS = {
    "broken line": (150, 150, 70), "solid line": (185, 155, 110), "double solid line": (155, 80, 65),
    "lane centre": (95, 110, 140), "traffic light": (65, 140, 80), "stop sign": (140, 65, 95),
}  # fmt: skip
DRIVABLE = (60, 64, 70)
GROUND = (24, 26, 30)
GROUND_TRUTH = (240, 240, 240)
EGO = (255, 255, 255)
PLAN = (255, 240, 70)
TEXT = (240, 240, 240)
FAINT = (165, 168, 172)
# Occupancy from now (first) to the last step: brightness falls with time, so that the order is plain without colour too
OCCUPIED = ((255, 244, 170), (253, 190, 90), (236, 112, 74), (180, 54, 122), (120, 60, 175))
# Two runs in one picture: what the first alone has, what the second alone has
FIRST, SECOND = (90, 170, 255), (255, 130, 40)


def class_colour(name: str) -> tuple[int, int, int]:
    return CLASS_COLOURS.get(name, OTHER_CLASS)


def map_colour(name: str) -> tuple[int, int, int]:
    """Of a thing of a vocabulary's map."""
    return {**MAP_COLOURS, **TOWN_COLOURS}[name]


def occupied(step: int, steps: int) -> tuple[int, int, int]:
    """Colour of occupancy at ``step`` of ``steps`` frames, now being step 0."""
    return OCCUPIED[round(step * (len(OCCUPIED) - 1) / max(steps - 1, 1))]
