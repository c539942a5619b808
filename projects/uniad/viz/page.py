"""One picture of one frame: six cameras, the model's view from above beside the annotated one, occupancy, legend and caption."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np

from uniad.config.spec import NUSCENES_WORDS
from uniad.geometry.nuscenes import EGO_SIZE, STEP_S
from uniad.interface.command import ALL_COMMANDS
from uniad.viz.birdseye import BirdsEye, Range
from uniad.viz.camera import draw_boxes, draw_path, draw_ribbon
from uniad.viz.legend import GAP, Entry, caption, legend
from uniad.viz.palette import DRIVABLE, EGO, FAINT, GROUND, GROUND_TRUTH, PLAN, TEXT, class_colour, map_colour, occupied
from uniad.viz.text import Labels

# Position of each camera of upstream's order on the 2 x 3 wall, as one would look around.
WALL = {"CAM_FRONT_LEFT": (0, 0), "CAM_FRONT": (0, 1), "CAM_FRONT_RIGHT": (0, 2),
        "CAM_BACK_LEFT": (1, 0), "CAM_BACK": (1, 1), "CAM_BACK_RIGHT": (1, 2)}  # fmt: skip
CAMERA_W, CAMERA_H = 720, 405
VIEW = 720
HALF = VIEW // 2
COMMAND_WORDS = {"right": "turn right", "left": "turn left", "straight": "straight"}
MAP_WORDS = {"divider": "lane divider", "contour": "road edge"}
MODES = 3  # drawn from above for each agent, the likeliest; in cameras, where lines cross everything, the first alone
LEAST_M = 1.0  # a forecast that goes less far is a parked car's: a dot under its box


@dataclass
class Future:
    """What stage 2 adds. Metres in the lidar frame, steps of 0.5 s; grids have row 0 behind the car."""

    starts: np.ndarray  # [a, 3] where each agent stands, on the ground
    traj: np.ndarray  # [a, K, F, 2] positions
    prob: np.ndarray  # [a, K]
    labels: np.ndarray  # [a] class
    plan: np.ndarray  # [P, 2]
    command: int  # of ``ALL_COMMANDS``
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
    lanes: np.ndarray  # [C, h, w], of ``map_things``
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    gt_drivable: np.ndarray
    gt_lanes: np.ndarray
    caption: str  # lines
    future: Future | None = None  # stage 2
    annotated: bool = True  # whether the fields gt_* say anything
    token: str = ""  # of the frame
    map_things: tuple[str, ...] = NUSCENES_WORDS.map_things
    paints_area: bool = True  # whether the map has a drivable area


def render(
    content: Content, class_names: tuple[str, ...], pc_range: Range, classes: Collection[int] = ()
) -> np.ndarray:
    """[H, W, 3] RGB. classes: of the legend, besides those of this frame, so that the legend of a video does not flicker."""
    wall = np.empty((2 * CAMERA_H, 3 * CAMERA_W, 3), np.uint8)
    for name, (row, column) in WALL.items():
        wall[row * CAMERA_H : (row + 1) * CAMERA_H, column * CAMERA_W : (column + 1) * CAMERA_W] = _camera(
            content, name, class_names
        )
    future, panels = content.future, [predicted(content, class_names, pc_range, "model").image]
    if content.annotated:
        panels.append(_annotated(content, class_names, pc_range).image)
    if future:
        size = HALF if content.annotated else VIEW
        halves = [_occupancy(content, future, pc_range, size, True).image]
        if content.annotated:
            halves.append(_occupancy(content, future, pc_range, size, False).image)
        panels.append(np.concatenate(halves, 0))
    entries = entries_of(content, class_names, classes)
    panels.append(legend(wall.shape[1] - sum(panel.shape[1] for panel in panels), VIEW, entries))
    lines = content.caption.splitlines()
    return np.concatenate([wall, np.concatenate(panels, 1), caption(wall.shape[1], lines)], 0)


def predicted(content: Content, class_names: tuple[str, ...], pc_range: Range, title: str) -> BirdsEye:
    """What the model says, from above, with the annotated boxes as outlines."""
    view, future = BirdsEye(VIEW, pc_range), content.future
    view.title(title)
    if future:
        view.draw_command(future.command, command_words(future))
    view.draw_scale()
    view.draw_map(content.drivable, content.lanes, things=content.map_things)
    view.outline_boxes(content.gt_boxes)
    if future:
        _true_future(view, future, FAINT)
        _forecasts(view, future, class_names)
    view.draw_boxes(content.boxes, content.labels, class_names, content.ids)
    view.draw_ego()
    if future:
        view.draw_plan(future.plan)
    view.words.draw()
    return view


def _annotated(content: Content, class_names: tuple[str, ...], pc_range: Range) -> BirdsEye:
    view = BirdsEye(VIEW, pc_range)
    view.title("annotated")
    view.draw_map(content.gt_drivable, content.gt_lanes, things=content.map_things)
    if content.future:
        _true_future(view, content.future, GROUND_TRUTH)
    view.draw_boxes(content.gt_boxes, content.gt_labels, class_names)
    view.draw_ego()
    view.words.draw()
    return view


def command_words(future: Future) -> str:
    return COMMAND_WORDS.get(name := ALL_COMMANDS[future.command], name)


def _camera(content: Content, name: str, class_names: tuple[str, ...]) -> np.ndarray:
    tile, projection = camera_tile(content.images[name], content.lidar2img[name], CAMERA_W, CAMERA_H)
    words = Labels(tile)
    words.put(title_of(name), [(12, 12)], 0.75, TEXT, 2)
    future = content.future
    if future:
        draw_ribbon(tile, on_ground(future.plan, future.ground_z), EGO_SIZE[0] / 2, projection, PLAN)
        for start, path, opacity, label in _modes(future, 1):
            line = np.concatenate([start[None, :2], path])
            line = np.concatenate([line, np.full((len(line), 1), start[2])], 1)
            draw_path(tile, line, projection, class_colour(class_names[label]), 2, opacity)
    draw_boxes(tile, content.boxes, content.labels, content.ids, projection, class_names, words)
    words.draw()
    return tile


def camera_tile(image: np.ndarray, lidar2img: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A camera's image scaled to a tile, and the projection [4, 4] to its pixels."""
    tile = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return tile, np.diag([width / image.shape[1], height / image.shape[0], 1.0, 1.0]) @ lidar2img


def title_of(camera: str) -> str:
    return camera.removeprefix("CAM_").replace("_", " ").lower()


def on_ground(plan: np.ndarray, ground_z: float) -> np.ndarray:
    """The plan from the ego car on, as points [n, 3] close enough that a strip between them starts before the camera."""
    whole = np.concatenate([np.zeros((1, 2)), plan])
    at = np.linspace(0, len(whole) - 1, 8 * (len(whole) - 1) + 1)
    xy = np.stack([np.interp(at, np.arange(len(whole)), whole[:, axis]) for axis in (0, 1)], 1)
    return np.concatenate([xy, np.full((len(xy), 1), ground_z)], 1)


def _modes(future: Future, most: int):
    """(start [3], path [F, 2], opacity, class) of each line to draw: unlikely modes first and faint."""
    for start, paths, prob, label in zip(future.starts, future.traj, future.prob, future.labels):
        for mode in np.argsort(prob)[-most:]:
            if np.linalg.norm(paths[mode][-1] - start[:2]) >= LEAST_M:
                yield start, paths[mode], float(np.clip(prob[mode] / prob.max(), 0.15, 1.0)), int(label)


def _forecasts(view: BirdsEye, future: Future, class_names: tuple[str, ...]) -> None:
    for start, path, opacity, label in _modes(future, MODES):
        view.draw_path(np.concatenate([start[None, :2], path]), class_colour(class_names[label]), 2, opacity)


def _true_future(view: BirdsEye, future: Future, colour: tuple[int, int, int]) -> None:
    for start, path in zip(future.gt_starts, future.gt_traj):
        if len(path) and np.linalg.norm(path[-1] - start) >= LEAST_M:
            view.draw_path(np.concatenate([start[None], path]), colour)
    if len(future.gt_plan):
        view.draw_plan(future.gt_plan, colour)


def occupancy_range(future: Future) -> Range:
    (x0, x1, _), (y0, y1, _) = future.bounds
    return (x0, y0, 0.0, x1, y1, 0.0)


def _occupancy(content: Content, future: Future, pc_range: Range, size: int, of_model: bool) -> BirdsEye:
    """Cells that vehicles take, on the drivable area."""
    covers = occupancy_range(future)
    view = BirdsEye(size, covers)
    last = (len(future.occupancy) - 1) * STEP_S
    if of_model:
        view.title(f"occupied, now to {last:g} s", 0.6)
    else:
        view.title("occupied: annotated", 0.6)
    view.paint_cells(content.drivable if of_model else content.gt_drivable, DRIVABLE, pc_range)
    view.draw_occupancy(future.occupancy if of_model else future.gt_occupancy)
    view.draw_ego()
    view.draw_scale()
    cv2.rectangle(view.image, (0, 0), (size - 1, size - 1), GROUND, 2)
    view.words.draw()
    return view


def entries_of(
    content: Content, class_names: tuple[str, ...], classes: Collection[int], other: Content | None = None
) -> list[Entry]:
    """The legend: only what is to be seen, in one content or in two."""
    shown, future = [content, *([other] if other else [])], content.future
    seen = {int(label) for c in shown for label in (*c.labels, *c.gt_labels)} | set(classes)
    entries = [Entry(class_names[n].replace("_", " "), (class_colour(class_names[n]),)) for n in sorted(seen)]
    if content.annotated:
        entries.append(Entry("annotated box", (GROUND_TRUTH,), "outline"))
    entries += [Entry("this car", (EGO,)), GAP, *([Entry("drivable area", (DRIVABLE,))] if content.paints_area else [])]
    for number, name in enumerate(content.map_things):
        if any((lanes[number] > 0.5).any() for c in shown for lanes in (c.lanes, c.gt_lanes)):
            entries.append(Entry(MAP_WORDS.get(name, name), (map_colour(name),)))
    if future:
        steps = len(future.occupancy)
        entries += [GAP, Entry(f"plan: {command_words(future)}", (PLAN,), "line")]
        if next(_modes(future, 1), None):
            entries.append(Entry("forecast, in class's colour", (TEXT,), "line"))
        if content.annotated:
            entries.append(Entry("annotated path", (FAINT,), "line"))
        last = (steps - 1) * STEP_S
        entries += [GAP, Entry(f"occupied now ... in {last:g} s", tuple(occupied(step, steps) for step in range(steps)))]
    return entries
