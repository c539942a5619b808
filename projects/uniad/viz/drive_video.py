"""A drive as a video: what is there and what the model makes of it from above, the front cameras, and the score so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from uniad.deploy.sensors import Sensors
from uniad.errors import UserError
from uniad.geometry.footprints import corners
from uniad.geometry.nuscenes import EGO_SIZE
from uniad.interface.command import ALL_COMMANDS
from uniad.simulation.drive import sensors_again
from uniad.simulation.log import GREEN, LIDAR_AHEAD_M, RED, TICK_S, DriveLog, FrameLog, Route
from uniad.simulation.routes import make_setup
from uniad.simulation.run import place
from uniad.simulation.score import Pdm, Scores, check_log, progress, so_far
from uniad.viz.birdseye import BirdsEye
from uniad.viz.camera import box_corners, draw_boxes, draw_ribbon
from uniad.viz.legend import Entry, legend
from uniad.viz.page import COMMAND_WORDS, camera_tile, on_ground, title_of
from uniad.viz.palette import DRIVABLE, EGO, FAINT, GROUND, MAP_COLOURS, PLAN, TEXT, class_colour
from uniad.viz.text import Labels, extent, fit, write
from uniad.viz.video import write_video

WIDTH, HEIGHT = 1600, 900
VIEW_M = (-30.0, -17.0, 0.0, 30.0, 43.0, 0.0)  # seen from above, lidar frame
SIDE = WIDTH - HEIGHT  # width of what stands beside it
FRONT_H = SIDE * 9 // 16
PAIR_H = FRONT_H // 2
WALKWAY = (44, 46, 50)
ROUTE = (104, 112, 132)
LIGHTS = {RED: (255, 70, 60), GREEN: (60, 220, 110)}
AMBER_COLOUR = (255, 190, 50)
GOOD, BAD = (90, 215, 130), (255, 95, 80)
DIM = 0.55  # of the colours of what is there: the model's outlines stand out
SHOWN_S = 4.0  # how long an event stays on the picture
ROWS = {
    "no_at_fault_collision": "no collision at fault",
    "drivable_area": "on the road",
    "driving_direction": "right direction",
    "traffic_light": "traffic lights",
    "making_progress": "moves on",
    "time_to_collision": "time to collision",
    "comfort": "comfort",
    "ego_progress": "progress",
}


@dataclass(frozen=True)
class Driven:
    """A drive to show: its log and scores, the expert's drive of the same route, and the cameras of a frame as it saw them."""

    log: DriveLog
    scores: Scores
    expert: DriveLog
    cameras: Callable[[int], Sensors]  # by number of the frame


def pictures(driven: Driven, every: int = 1) -> Iterator[NDArray[np.uint8]]:
    """[HEIGHT, WIDTH, 3] RGB of each ``every``-th tick; cameras change with the frames, five ticks apart."""
    log = driven.log
    ways = [progress(drive) for drive in (log, driven.expert)]
    streets = _Streets(log.route)
    shown, beside = -1, np.empty((0, 0, 3), np.uint8)
    for tick in range(0, len(log.time_s), every):
        number = int(np.searchsorted(log.frame_ticks, tick, side="right")) - 1
        if number != shown:
            shown, beside = number, _cameras(log.frames[number], driven.cameras(number))
        own, theirs = (float(way[min(tick, len(way) - 1)]) for way in ways)
        now = so_far(driven.scores, tick, own, theirs)
        panel = _panel(driven, tick, now, own, theirs, HEIGHT - len(beside))
        above = _above(driven, tick, log.frames[number], streets)
        yield np.concatenate([above, np.concatenate([beside, panel], 0)], 1)


class _Streets:
    """The lines and areas of a route's map, as points."""

    def __init__(self, route: Route) -> None:
        self.drivable = _rings(route.map.drivable)
        self.walkway = _rings(route.map.walkway)
        self.crossings = route.map.crossings
        self.edges = [edge for lane in route.map.lanes if lane.kind == "lane" for edge in _edges(lane.centre, lane.width_m)]
        begin, end = np.searchsorted(route.s, (route.start_s, route.goal_s))
        self.way = route.centre[begin : end + 1]
        heading = float(route.heading[min(end, len(route.heading) - 1)])
        across = 2.2 * np.array([-np.sin(heading), np.cos(heading)])
        self.goal = np.stack([self.way[-1] - across, self.way[-1] + across])


def _rings(area: shapely.Geometry) -> list[tuple[NDArray[np.float64], bool]]:
    """(points, whether it is a hole) of every ring, holes after what they lie in."""
    rings = []
    for part in shapely.get_parts(area):
        if part.geom_type == "Polygon":
            rings.append((np.array(part.exterior.coords)[:, :2], False))
            rings += [(np.array(hole.coords)[:, :2], True) for hole in part.interiors]
    return rings


def _edges(centre: NDArray[np.float64], width_m: float) -> list[NDArray[np.float64]]:
    step = np.gradient(centre, axis=0)
    left = np.stack([-step[:, 1], step[:, 0]], -1) / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
    return [centre + sign * width_m / 2 * left for sign in (-1, 1)]


def _view_from(log: DriveLog, tick: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Global [..., 2] to the lidar frame of a tick."""
    heading = log.ego.heading[tick]
    ahead = np.array([np.cos(heading), np.sin(heading)])
    origin = log.ego.xy[tick] + LIDAR_AHEAD_M * ahead
    right = np.array([ahead[1], -ahead[0]])
    return lambda xy: (np.asarray(xy, np.float64) - origin) @ np.stack([right, ahead], -1)


def _above(driven: Driven, tick: int, frame: FrameLog, streets: _Streets) -> NDArray[np.uint8]:
    log = driven.log
    here = _view_from(log, tick)
    view = BirdsEye(HEIGHT, VIEW_M)
    place = lambda xy: view.pixels(here(xy))  # noqa: E731
    for rings, colour in ((streets.walkway, WALKWAY), (streets.drivable, DRIVABLE)):
        for points, hole in rings:
            cv2.fillPoly(view.image, [place(points)], GROUND if hole else colour, cv2.LINE_AA)
    view.draw_line(here(streets.way), ROUTE, 22)
    for crossing in streets.crossings:
        cv2.fillPoly(view.image, [place(crossing)], MAP_COLOURS["crossing"], cv2.LINE_AA)
    for edge in streets.edges:
        view.draw_line(here(edge), MAP_COLOURS["divider"], 1)
    cv2.line(view.image, *map(tuple, place(streets.goal).tolist()), TEXT, 5, cv2.LINE_AA)
    for number, stop in enumerate(log.route.stop_lines):
        colour = LIGHTS.get(int(log.signals[tick, number]), AMBER_COLOUR)
        cv2.line(view.image, *map(tuple, place(stop.line).tolist()), colour, 6, cv2.LINE_AA)
    _actors(view, log, tick, here)
    _expert(view, driven, tick, here)
    _seen(view, frame, here)
    _ego(view)
    ways = np.concatenate([log.ego.xy[None, tick] + LIDAR_AHEAD_M * _ahead(log, tick), frame.plan_global])
    later = (tick - frame.tick) // 5 + 1  # points of the plan that are still to come
    view.draw_plan(here(np.concatenate([ways[:1], ways[later:]]))[1:] if later < len(ways) else np.zeros((0, 2)))
    _banner(view, driven, tick)
    view.draw_command(frame.command, COMMAND_WORDS[ALL_COMMANDS[frame.command]])
    view.title("from above")
    view.draw_scale()
    view.words.draw()
    return view.image


def _ahead(log: DriveLog, tick: int) -> NDArray[np.float64]:
    return np.array([np.cos(log.ego.heading[tick]), np.sin(log.ego.heading[tick])])


def _actors(view: BirdsEye, log: DriveLog, tick: int, here) -> None:
    actors = log.actors
    pose = actors.pose[tick]
    boxes = here(corners(pose[:, :2], pose[:, 2], actors.size[:, 0], actors.size[:, 1]))
    for number in np.flatnonzero((np.abs(boxes[:, 0]) < 60).all(-1)):
        polygon = view.pixels(boxes[number])
        colour = tuple(int(DIM * c) for c in class_colour(actors.kinds[number]))
        cv2.fillPoly(view.image, [polygon], colour, cv2.LINE_AA)
        if actors.modes[number] in ("driving", "walking"):
            front, middle = polygon[[0, 3]].mean(0).astype(int), polygon.mean(0).astype(int)
            cv2.line(view.image, tuple(middle.tolist()), tuple(front.tolist()), GROUND, 1, cv2.LINE_AA)


def _expert(view: BirdsEye, driven: Driven, tick: int, here) -> None:
    """Where the expert is at that time, as an outline."""
    if driven.expert is driven.log:
        return
    middle = driven.expert.ego.middle()[min(tick, len(driven.expert.time_s) - 1)]
    box = here(corners(middle[:2], middle[2], *EGO_SIZE[:2]))
    cv2.polylines(view.image, [view.pixels(box)], True, FAINT, 1, cv2.LINE_AA)


def _seen(view: BirdsEye, frame: FrameLog, here) -> None:
    """What the model saw and expects, in the frame that it was shown last."""
    back = frame.global_from_lidar
    move = lambda xy: here(np.asarray(xy, np.float64) @ back[:2, :2].T + back[:2, 2])  # noqa: E731
    if frame.forecasts is not None:
        for start, path, label in zip(*frame.forecasts):
            if len(path) and np.linalg.norm(path[-1] - start) > 1.0:
                view.draw_path(move(np.concatenate([start[None], path])), class_colour(label), 2, 0.8)
    found = frame.detections
    for box, label in zip(box_corners(found.boxes)[:, :4, :2] if len(found.boxes) else (), found.labels):
        cv2.polylines(view.image, [view.pixels(move(box))], True, class_colour(label), 2, cv2.LINE_AA)


def _ego(view: BirdsEye) -> None:
    """The car round its lidar."""
    middle = np.array([0.0, EGO_SIZE[1] / 2 - 0.7 - LIDAR_AHEAD_M])
    half = np.array(EGO_SIZE[:2]) / 2
    shape = middle + np.array([[-1, -1], [-1, 0.6], [-0.6, 1], [0.6, 1], [1, 0.6], [1, -1]]) * half
    cv2.fillPoly(view.image, [view.pixels(shape)], EGO, cv2.LINE_AA)
    cv2.polylines(view.image, [view.pixels(shape)], True, GROUND, 1, cv2.LINE_AA)


def _banner(view: BirdsEye, driven: Driven, tick: int) -> None:
    """What has just gone wrong, large, at the foot of the view."""
    fresh = [e for e in driven.scores.events if 0 <= tick - e.tick <= SHOWN_S / TICK_S and e.kind != "comfort"]
    for row, event in enumerate(reversed(fresh[-2:])):
        text = fit(event.told, HEIGHT - 40, 0.8, 2)
        width, height = extent(text, 0.8, 2)
        colour = FAINT if event.kind == "collision" and not event.at_fault else BAD
        left, top = (HEIGHT - width) // 2, HEIGHT - 60 - 44 * row
        cv2.rectangle(view.image, (left - 10, top - height - 6), (left + width + 10, top + 12), GROUND, -1)
        write(view.image, text, (left, top), 0.8, colour, 2)


def _cameras(frame: FrameLog, sensors: Sensors) -> NDArray[np.uint8]:
    """The front camera above the two beside it, with the plan on the ground and what the model saw."""
    tiles = [_camera(name, frame, sensors, width, height) for name, width, height in (
        ("CAM_FRONT", SIDE, FRONT_H), ("CAM_FRONT_LEFT", SIDE // 2, PAIR_H), ("CAM_FRONT_RIGHT", SIDE // 2, PAIR_H))]  # fmt: skip
    return np.concatenate([tiles[0], np.concatenate(tiles[1:], 1)], 0)


def _camera(name: str, frame: FrameLog, sensors: Sensors, width: int, height: int) -> NDArray[np.uint8]:
    tile, projection = camera_tile(sensors.images[name], np.asarray(sensors.lidar2img[name], np.float64), width, height)
    tile = tile[..., ::-1].copy()
    path = on_ground(frame.plan, -float(np.asarray(sensors.lidar2ego.translation)[2]))
    if np.linalg.norm(path[-1, :2]) > 0.5:
        draw_ribbon(tile, path, EGO_SIZE[0] / 2, projection, PLAN, 0.45)
    found = frame.detections
    if len(found.boxes):
        classes = tuple(dict.fromkeys(found.labels))
        labels = np.array([classes.index(label) for label in found.labels])
        draw_boxes(tile, found.boxes, labels, found.ids, projection, classes)
    words = Labels(tile)
    words.put(title_of(name), [(10, 10)], 0.6, TEXT, 2)
    words.draw()
    return tile


def _panel(driven: Driven, tick: int, now: Pdm, own: float, theirs: float, height: int) -> NDArray[np.uint8]:
    log, route = driven.log, driven.log.route
    panel = np.empty((height, SIDE, 3), np.uint8)
    panel[:] = GROUND
    frame = log.frames[max(int(np.searchsorted(log.frame_ticks, tick, side="right")) - 1, 0)]
    about = ", ".join(word.replace("_", " ") for word in (route.manoeuvre, *route.features))
    write(
        panel,
        fit(f"{log.policy}   {log.time_s[tick]:.1f} s   {3.6 * log.ego.speed[tick]:.0f} km/h", SIDE - 190, 0.7, 2),
        (16, 34),
        0.7,
        TEXT,
        2,
    )
    write(panel, fit(f"{route.id}, {log.traffic} traffic", SIDE - 190, 0.55), (16, 62), 0.55, FAINT)
    write(panel, fit(about, SIDE - 190, 0.55), (16, 86), 0.55, FAINT)
    _score(panel, now)
    for row, (name, word) in enumerate(ROWS.items()):
        value = getattr(now, name)
        y = 122 + 23 * row
        colour = GOOD if value >= 1.0 - 1e-9 else BAD if value < 0.5 else AMBER_COLOUR
        cv2.circle(panel, (26, y - 5), 7, colour, -1, cv2.LINE_AA)
        text = word if name != "ego_progress" else f"{word}: {own:.0f} m, expert {theirs:.0f} m"
        write(panel, text, (44, y), 0.52, TEXT if value >= 1.0 - 1e-9 else colour)
    red, green, blue = class_colour("car")
    entries = [
        Entry("what is there", ((int(DIM * red), int(DIM * green), int(DIM * blue)),)),
        Entry("its route, goal", (ROUTE,)),
        Entry("plan", (PLAN,), "line"),
    ]
    if len(frame.detections.boxes) or frame.forecasts is not None:
        entries += [
            Entry("model sees", (class_colour("car"),), "outline"),
            Entry("model expects", (class_colour("car"),), "line"),
        ]
    if driven.expert is not log:
        entries.append(Entry("the expert", (FAINT,), "outline"))
    panel[height - 190 :, SIDE - 240 :] = legend(240, 190, entries)
    return panel


def _score(panel: NDArray[np.uint8], now: Pdm) -> None:
    """The driving score so far, large."""
    text = f"{now.score:.2f}"
    colour = GOOD if now.score >= 0.8 else BAD if now.score < 0.4 else AMBER_COLOUR
    width, _ = extent(text, 1.7, 3)
    write(panel, text, (SIDE - 24 - width, 78), 1.7, colour, 3)
    label = "driving score"
    write(panel, label, (SIDE - 24 - extent(label, 0.5)[0], 100), 0.5, FAINT)


def write_drive_video(path: Path, driven: Driven, every: int = 1) -> int:
    """An MP4 that plays as fast as it was driven; returns the number of its pictures. The file is whole or absent."""
    check_log(driven.log)
    if driven.scores.route != driven.log.route.id or driven.scores.policy != driven.log.policy:
        raise UserError(f"{path}: the scores are of {driven.scores.route} by {driven.scores.policy}, the drive is another")
    return write_video(path, pictures(driven, every), fps=1 / (TICK_S * every))


def write_videos(policy: str, logs: Sequence[DriveLog], scores: Sequence[Scores], most: int, out: Path) -> list[Path]:
    """An MP4 beside the JSON of each of the first ``most`` drives of a policy; logs and scores are those of ``score_all``.

    The cameras look again from where the car was: a log holds no images.
    """
    experts = {log.route.id: log for log in logs if log.policy == "expert"}
    paths = []
    for log, found in [pair for pair in zip(logs, scores) if pair[0].policy == policy][:most]:
        setup = make_setup(log.route.seed, log.route.index)
        path = place(out, policy, log.route.seed, log.route.index).with_suffix(".mp4")
        write_drive_video(path, Driven(log, found, experts[log.route.id], partial(sensors_again, setup, log)))
        paths.append(path)
    return paths
