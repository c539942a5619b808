"""What stands in a picture of the tests: cameras, boxes, a future, and where a colour was painted."""

from __future__ import annotations

import math

import numpy as np

from helpers.specs import nano_spec
from uniad.viz.page import WALL, Content, Future, render

DATA = nano_spec().data
NAMES, RANGE = DATA.class_names, DATA.pc_range
BEARING_DEG = {"CAM_FRONT": 0, "CAM_FRONT_RIGHT": -56, "CAM_FRONT_LEFT": 56, "CAM_BACK": 180, "CAM_BACK_LEFT": 110,
               "CAM_BACK_RIGHT": -110}  # fmt: skip
NORTH = -math.pi  # the stored yaw of a box that faces forward


def camera(bearing_deg: float, focal: float = 1266.0) -> np.ndarray:
    """[4, 4] lidar to pixels of a 1600 x 900 camera that looks ``bearing_deg`` to the left of ahead."""
    turn = math.radians(bearing_deg)
    forward, right = (-math.sin(turn), math.cos(turn), 0.0), (math.cos(turn), math.sin(turn), 0.0)
    out = np.eye(4)
    out[:3, :3] = np.array([[focal, 0, 800], [0, focal, 450], [0, 0, 1]]) @ np.array([right, (0, 0, -1), forward])
    return out


def car(x: float, y: float, yaw: float = NORTH) -> np.ndarray:
    return np.array([[x, y, -0.8, 1.9, 4.5, 1.6, yaw, 0.0, 0.0]])


def page(boxes: np.ndarray, **changes) -> np.ndarray:
    cells = np.zeros((25, 25))
    content = Content(
        images={name: np.zeros((900, 1600, 3), np.uint8) for name in WALL},
        lidar2img={name: camera(bearing) for name, bearing in BEARING_DEG.items()},
        boxes=boxes, labels=np.zeros(len(boxes), int), ids=np.arange(len(boxes)), drivable=cells, lanes=np.zeros((3, 25, 25)),
        gt_boxes=np.zeros((0, 9)), gt_labels=np.zeros(0, int), gt_drivable=cells, gt_lanes=np.zeros((3, 25, 25)), caption="nano",
    )  # fmt: skip
    for name, value in changes.items():
        setattr(content, name, value)
    return render(content, NAMES, RANGE)


def painted(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """[n, 2] row and column of pixels of about this colour; smoothed lines are nowhere exactly of it."""
    return np.argwhere((np.abs(image.astype(int) - colour) < 50).all(-1))
STEPS = np.arange(1, 7)[:, None] * 0.5  # seconds
AHEAD, LEFT = np.array([0.0, 8.0]), np.array([-8.0, 0.0])  # m/s


BOUNDS = ((-50.0, 50.0, 4.0), (-50.0, 50.0, 4.0))


def future(**changes) -> Future:
    """A plan straight ahead, one agent 20 m to the right that drives ahead or, less likely, to the left."""
    content = {
        "starts": np.array([[20.0, 0.0, -1.8]]),
        "traj": np.stack([np.array([20.0, 0.0]) + STEPS * v for v in (AHEAD, LEFT)])[None],
        "prob": np.array([[0.8, 0.2]]),
        "labels": np.zeros(1, int),
        "plan": STEPS * AHEAD,
        "command": 2,
        "occupancy": np.zeros((5, 25, 25), bool),
        "bounds": BOUNDS,
        "ground_z": -1.8,
        "gt_starts": np.zeros((0, 2)),
        "gt_traj": [],
        "gt_plan": np.zeros((0, 2)),
        "gt_occupancy": np.zeros((5, 25, 25), bool),
    }
    return Future(**{**content, **changes})
NOBODY = {"starts": np.zeros((0, 3)), "traj": np.zeros((0, 2, 6, 2)), "prob": np.zeros((0, 2)), "labels": np.zeros(0, int)}
EMPTY = np.zeros((0, 9))
