"""One picture of one frame: six cameras, the model's view from above beside the annotated one, occupancy, and a legend."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from uniad.command import COMMANDS
from uniad.viz.birdseye import EGO_WIDTH_M, FONT, BirdsEye
from uniad.viz.camera import draw_boxes, draw_path, draw_ribbon
from uniad.viz.palette import CLASS_COLOURS, FAINT, GROUND, GROUND_TRUTH, MAP_COLOURS, PLAN, TEXT, occupied

# Position of each camera of the documented order on the 2 x 3 wall, as one would look around.
WALL = {"CAM_FRONT_LEFT": (0, 0), "CAM_FRONT": (0, 1), "CAM_FRONT_RIGHT": (0, 2),
        "CAM_BACK_LEFT": (1, 0), "CAM_BACK": (1, 1), "CAM_BACK_RIGHT": (1, 2)}  # fmt: skip
CAMERA_W, CAMERA_H = 720, 405
VIEW = 720
LEGEND = 176  # height of the strip below a picture of all tasks
STEP_S = 0.5
MODES = 3  # drawn for each agent, the likeliest
LEAST_M = 1.0  # a forecast that goes less far is a parked car's: a dot under its box


@dataclass
class Future:
    """What stage 2 adds. Metres in the lidar frame, steps of 0.5 s; grids have row 0 behind the car."""

    starts: np.ndarray  # [a, 3] where each agent stands, on the ground
    traj: np.ndarray  # [a, K, F, 2] positions
    prob: np.ndarray  # [a, K]
    labels: np.ndarray  # [a] class
    plan: np.ndarray  # [P, 2]
    command: int
    occupancy: np.ndarray  # [F', h, w], now first
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]]  # of the occupancy grid
    ground_z: float
    gt_starts: np.ndarray  # [g, 2]
    gt_traj: list[np.ndarray]  # g of [known steps, 2]
    gt_plan: np.ndarray  # [known steps, 2]
    gt_occupancy: np.ndarray  # [F', h, w]


@dataclass
class Content:
    """What a picture shows. Boxes are box9 in the lidar frame; masks have row 0 behind the car."""

    images: dict[str, np.ndarray]  # camera -> [900, 1600, 3] RGB
    lidar2img: dict[str, np.ndarray]  # camera -> [4, 4], pixels of those images
    boxes: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    drivable: np.ndarray
    lanes: np.ndarray  # [3, h, w]
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    gt_drivable: np.ndarray
    gt_lanes: np.ndarray
    caption: str
    future: Future | None = None  # stage 2


def render(content: Content, class_names: tuple[str, ...], pc_range: tuple[float, ...]) -> np.ndarray:
    """[H, W, 3] RGB."""
    wall = np.empty((2 * CAMERA_H, 3 * CAMERA_W, 3), np.uint8)
    for name, (row, column) in WALL.items():
        wall[row * CAMERA_H : (row + 1) * CAMERA_H, column * CAMERA_W : (column + 1) * CAMERA_W] = _camera(
            content, name, class_names
        )
    future = content.future
    predicted, annotated = BirdsEye(VIEW, pc_range), BirdsEye(VIEW, pc_range)
    predicted.draw_map(content.drivable, content.lanes)
    annotated.draw_map(content.gt_drivable, content.gt_lanes)
    if future:
        _true_future(predicted, future, FAINT)
    predicted.draw_ground_truth(content.gt_boxes)
    predicted.draw_boxes(content.boxes, content.labels, class_names, content.ids)
    annotated.draw_boxes(content.gt_boxes, content.gt_labels, class_names)
    for view in (predicted, annotated):
        view.draw_ego()
    if future:
        _forecasts(predicted, future, class_names)
        _true_future(annotated, future, GROUND_TRUTH)
        predicted.draw_plan(future.plan)
        predicted.draw_command(future.command, COMMANDS[future.command])
    predicted.title("predicted (outlines: annotated)" if len(content.gt_boxes) else "predicted")
    annotated.title("annotated")
    legend = _entries(future)
    if not future:
        panel = _legend(wall.shape[1] - 2 * VIEW, VIEW, content.caption, legend)
        return np.concatenate([wall, np.concatenate([predicted.image, annotated.image, panel], 1)], 0)
    below = np.concatenate([predicted.image, annotated.image, _occupancy(future).image], 1)
    return np.concatenate([wall, below, _legend(wall.shape[1], LEGEND, content.caption, legend)], 0)


def _camera(content: Content, name: str, class_names: tuple[str, ...]) -> np.ndarray:
    full = content.images[name]
    tile = cv2.resize(full, (CAMERA_W, CAMERA_H), interpolation=cv2.INTER_AREA)
    projection = np.diag([CAMERA_W / full.shape[1], CAMERA_H / full.shape[0], 1.0, 1.0]) @ content.lidar2img[name]
    future = content.future
    if future:
        draw_ribbon(tile, _on_ground(future.plan, future.ground_z), EGO_WIDTH_M / 2, projection, PLAN)
        for start, path, opacity, label in _modes(future):
            line = np.concatenate([start[None, :2], path])
            line = np.concatenate([line, np.full((len(line), 1), start[2])], 1)
            draw_path(tile, line, projection, CLASS_COLOURS[class_names[label]], 2, opacity)
    draw_boxes(tile, content.boxes, content.labels, content.ids, projection, class_names)
    cv2.putText(tile, name.removeprefix("CAM_").replace("_", " ").lower(), (10, 24), FONT, 0.6, TEXT, 2, cv2.LINE_AA)
    return tile


def _on_ground(plan: np.ndarray, ground_z: float) -> np.ndarray:
    """The plan from the ego car on, as points [n, 3] close enough that a strip between them starts before the camera."""
    whole = np.concatenate([np.zeros((1, 2)), plan])
    at = np.linspace(0, len(whole) - 1, 8 * (len(whole) - 1) + 1)
    xy = np.stack([np.interp(at, np.arange(len(whole)), whole[:, axis]) for axis in (0, 1)], 1)
    return np.concatenate([xy, np.full((len(xy), 1), ground_z)], 1)


def _modes(future: Future):
    """(start [3], path [F, 2], opacity, class) of each line to draw: unlikely modes first and faint."""
    for start, paths, prob, label in zip(future.starts, future.traj, future.prob, future.labels):
        for mode in np.argsort(prob)[-MODES:]:
            if np.linalg.norm(paths[mode][-1] - start[:2]) >= LEAST_M:
                yield start, paths[mode], float(np.clip(prob[mode] / prob.max(), 0.15, 1.0)), int(label)


def _forecasts(view: BirdsEye, future: Future, class_names: tuple[str, ...]) -> None:
    for start, path, opacity, label in _modes(future):
        view.draw_path(np.concatenate([start[None, :2], path]), CLASS_COLOURS[class_names[label]], 2, opacity)


def _true_future(view: BirdsEye, future: Future, colour: tuple[int, int, int]) -> None:
    for start, path in zip(future.gt_starts, future.gt_traj):
        if len(path) and np.linalg.norm(path[-1] - start) >= LEAST_M:
            view.draw_path(np.concatenate([start[None], path]), colour)
    if len(future.gt_plan):
        view.draw_plan(future.gt_plan, colour)


def _occupancy(future: Future) -> BirdsEye:
    (x0, x1, _), (y0, y1, _) = future.bounds
    view = BirdsEye(VIEW, (x0, y0, 0.0, x1, y1, 0.0))
    view.draw_occupancy(future.occupancy)
    view.outline_occupancy(future.gt_occupancy)
    view.draw_ego()
    last = (len(future.occupancy) - 1) * STEP_S
    view.title(f"occupied by vehicles, now to {last:g} s on; {x1 - x0:g} m x {y1 - y0:g} m")
    return view


def _entries(future: Future | None) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the legend."""
    entries = [(n.replace("_", " "), c) for n, c in CLASS_COLOURS.items()]
    entries += [(f"map: {n}", c) for n, c in MAP_COLOURS.items()] + [("annotated box", GROUND_TRUTH)]
    if future:
        steps = len(future.occupancy)
        times = ["occupied now", *(f"occupied in {step * STEP_S:g} s" for step in range(1, steps))]
        entries += [(name, occupied(step, steps)) for step, name in enumerate(times)]
        entries += [("planned path, command", PLAN), ("annotated path", FAINT)]
    return entries


def _legend(width: int, height: int, caption: str, entries: list[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    """The caption, then the entries: below it where the panel is tall, in columns beside it where it is flat."""
    panel = np.empty((height, width, 3), np.uint8)
    panel[:] = GROUND
    lines, tall = caption.splitlines(), height > width / 2
    for i, line in enumerate(lines):
        cv2.putText(panel, line, (24, 34 + 26 * i), FONT, 0.55, TEXT, 1, cv2.LINE_AA)
    top, left = (54 + 26 * len(lines), 24) if tall else (34, 420)
    x, y = left, top
    for name, colour in entries:
        if y > height - 12:
            x, y = x + 290, top
        cv2.rectangle(panel, (x, y - 12), (x + 28, y + 2), colour, -1)
        cv2.putText(panel, name, (x + 40, y), FONT, 0.5, TEXT, 1, cv2.LINE_AA)
        y += 28
    return panel
