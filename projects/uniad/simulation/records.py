"""Drives on disk: one JSON a route, whole or not there. ``formats.drive`` has the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from uniad.files import atomic_path, read_json_of
from uniad.formats import drive as schema
from uniad.simulation.log import (
    TICK_S,
    ActorStates,
    Detections,
    DriveLog,
    EgoStates,
    Forecasts,
    FrameLog,
    Lane,
    RoadMap,
    Route,
    StopLine,
)

EGO = ("xy", "heading", "speed", "acceleration", "yaw_rate", "steering")
ROUTE = ("id", "seed", "index", "location", "manoeuvre", "start_s", "goal_s", "start_speed_mps", "limit_s")
ROUTE_ARRAYS = ("centre", "heading", "s", "speed_mps")


def write_log(log: DriveLog, path: Path) -> None:
    """Writes a drive. The same drive gives the same bytes: how long its steps took is left out."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_record(log), allow_nan=False) + "\n")


def read_log(path: Path) -> DriveLog:
    """A drive from its file; UserError for a file that is none. ``step_ms`` is NaN: a file does not hold it."""
    absent = f"{path} does not exist; `make drive` writes it"
    value = read_json_of(path, absent, lambda error: f"{path} cannot be read ({error}); {schema.AGAIN}")
    return _log(schema.checked(value, path))


def _record(log: DriveLog) -> dict[str, Any]:
    route = log.route
    return {
        "format": schema.FORMAT,
        "policy": log.policy,
        "traffic": log.traffic,
        "end": log.end,
        "crash_tick": log.crash_tick,
        "about": dict(log.about),
        "route": {
            **{name: getattr(route, name) for name in ROUTE},
            "features": list(route.features),
            **{name: _list(getattr(route, name)) for name in ROUTE_ARRAYS},
            "stop_lines": [
                {
                    "line": _list(line.line), "direction": _list(line.direction), "junction": line.junction,
                    "route_s": _known(line.route_s), "clear_s": _known(line.clear_s),
                }
                for line in route.stop_lines
            ],
            "map": {
                "drivable": _rings(route.map.drivable), "walkway": _rings(route.map.walkway),
                "crossings": [_list(c) for c in route.map.crossings],
                "lanes": [{"centre": _list(lane.centre), "width_m": lane.width_m, "kind": lane.kind} for lane in route.map.lanes],
                "side": route.map.side,
            },
        },
        "ego": {name: _list(getattr(log.ego, name)) for name in EGO},
        "actors": [_actor(log.actors, k) for k in range(len(log.actors.ids))],
        "signals": log.signals.tolist(),
        "frames": [_frame(frame) for frame in log.frames],
    }  # fmt: skip


def _actor(actors: ActorStates, k: int) -> dict[str, Any]:
    pose, speed = actors.pose[:, k], actors.speed[:, k]
    if (pose == pose[0]).all() and (speed == speed[0]).all():
        pose, speed = pose[:1], speed[:1]
    return {"id": int(actors.ids[k]), "kind": actors.kinds[k], "mode": actors.modes[k], "size": _list(actors.size[k]),
            "pose": _list(pose), "speed": _list(speed)}  # fmt: skip


def _frame(frame: FrameLog) -> dict[str, Any]:
    seen, ways = frame.detections, frame.forecasts
    return {
        "tick": frame.tick,
        "command": frame.command,
        "global_from_lidar": np.asarray(frame.global_from_lidar).tolist(),
        "plan": _list(frame.plan),
        "plan_global": _list(frame.plan_global),
        "detections": {"boxes": _list(seen.boxes), "labels": list(seen.labels), "scores": _list(seen.scores),
                       "ids": np.asarray(seen.ids).tolist()},
        "forecasts": ways and {"starts": _list(ways.starts), "paths": _list(ways.paths), "labels": list(ways.labels)},
    }  # fmt: skip


def _log(value: dict[str, Any]) -> DriveLog:
    ticks = len(value["ego"]["xy"])
    route, where = value["route"], value["route"]["map"]
    lines = [
        StopLine(line["line"], line["direction"], int(line["junction"]), _unknown(line["route_s"]), _unknown(line["clear_s"]))
        for line in route["stop_lines"]
    ]
    lanes = tuple(Lane(lane["centre"], float(lane["width_m"]), lane["kind"]) for lane in where["lanes"])
    roads = RoadMap(_area(where["drivable"]), _area(where["walkway"]), tuple(where["crossings"]), lanes, where["side"])
    actors = value["actors"]
    spread = lambda rows: np.broadcast_to(rows, (ticks, *rows.shape[1:]))  # noqa: E731  one row stands for all ticks
    column = lambda name, empty: np.stack([spread(a[name]) for a in actors], 1) if actors else np.zeros(empty)  # noqa: E731
    return DriveLog(
        route=Route(
            **{name: _plain(route[name]) for name in ROUTE}, features=tuple(route["features"]),
            **{name: route[name] for name in ROUTE_ARRAYS}, stop_lines=tuple(lines), map=roads,
        ),
        policy=value["policy"], traffic=value["traffic"], end=value["end"], crash_tick=_plain(value["crash_tick"]),
        time_s=np.arange(ticks) * TICK_S, ego=EgoStates(**value["ego"]),
        actors=ActorStates(
            np.array([a["id"] for a in actors], np.int64), tuple(a["kind"] for a in actors), tuple(a["mode"] for a in actors),
            np.array([a["size"] for a in actors]).reshape(-1, 3), column("pose", (ticks, 0, 3)), column("speed", (ticks, 0)),
        ),
        signals=np.array(value["signals"], np.int8).reshape(ticks, len(lines)),
        frames=tuple(_frame_log(frame) for frame in value["frames"]), about=value["about"],
    )  # fmt: skip


def _paths(ways: list) -> np.ndarray:
    """[a, n, 2]; of a frame without forecasts [0, 1, 2], as policies make it."""
    return np.array(ways, np.float32).reshape(len(ways), -1, 2) if ways else np.zeros((0, 1, 2), np.float32)


def _frame_log(frame: dict[str, Any]) -> FrameLog:
    seen, ways = frame["detections"], frame["forecasts"]
    f32 = np.float32
    return FrameLog(
        int(frame["tick"]), frame["command"], frame["global_from_lidar"], frame["plan"], frame["plan_global"],
        Detections(seen["boxes"].astype(f32), tuple(seen["labels"]), seen["scores"].astype(f32), seen["ids"]), float("nan"),
        ways and Forecasts(ways["starts"].astype(f32), _paths(ways["paths"]), tuple(ways["labels"])),
    )  # fmt: skip


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _list(value: ArrayLike) -> Any:
    return np.round(np.asarray(value, np.float64), 6).tolist()


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _unknown(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _rings(area: BaseGeometry) -> list[list[Any]]:
    polygons = [part for part in getattr(area, "geoms", [area]) if part.geom_type == "Polygon" and not part.is_empty]
    return [[_list(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)] for part in polygons]


def _area(polygons: list[list[Any]]) -> BaseGeometry:
    return MultiPolygon([Polygon(rings[0], rings[1:]) for rings in polygons])
