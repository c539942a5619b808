"""The synthetic world as a Bench2Drive data set: routes at 10 Hz, info and map files as Bench2DriveZoo's prepare_B2D.py has them.

Streets, traffic and cameras are those of the nuScenes stand-in. What a file of Bench2Drive says and this world has not is left
out or plain: no lidar points are counted, nothing is hidden, the expert's pedals are zero.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from uniad.data import unpickle
from uniad.data.synthetic.generate import STAMP, stamp_of
from uniad.data.synthetic.markings import dividers, stop_lines
from uniad.data.synthetic.params import KEYFRAME_S, LOCATIONS, SceneSpec, WorldParams, scene_specs
from uniad.data.synthetic.roads import Town, build_town
from uniad.data.synthetic.scene import ANNOTATE_M, Scene, encode
from uniad.data.synthetic.sensors import LIDAR, global_from_ego, inverse
from uniad.errors import UserError
from uniad.formats.bench2drive import CAMERAS, RATE_HZ
from uniad.processes import map_in_processes

FOLDERS = {
    "CAM_FRONT": "rgb_front", "CAM_FRONT_LEFT": "rgb_front_left", "CAM_FRONT_RIGHT": "rgb_front_right", "CAM_BACK": "rgb_back",
    "CAM_BACK_LEFT": "rgb_back_left", "CAM_BACK_RIGHT": "rgb_back_right",
}  # fmt: skip
BLUEPRINTS = {
    "car": "vehicle.tesla.model3", "bus": "vehicle.ford.ambulance", "truck": "vehicle.carlamotors.firetruck",
    "trailer": "vehicle.carlamotors.firetruck", "construction_vehicle": "vehicle.carlamotors.firetruck",
    "motorcycle": "vehicle.diamondback.century", "bicycle": "vehicle.bh.crossbike", "pedestrian": "walker.pedestrian.0001",
    "traffic_cone": "static.prop.constructioncone", "barrier": "static.prop.warningconstruction",
}  # fmt: skip
EGO_SIZE = (1.85, 4.9, 1.5)  # width, length, height
LEFT, RIGHT, FOLLOW = 1, 2, 4  # of CARLA's commands
LOOK_AHEAD_S, ASIDE_M = 4.0, 3.0
POINT_M = 2.0  # between points of a line
SAMPLED = 50  # every so many points of a line are sample points


def town_of(location: str) -> str:
    return f"Town{LOCATIONS.index(location) + 1:02d}"


def folder_of(spec: SceneSpec) -> str:
    return f"v1/Synthetic_{town_of(spec.location)}_Route{int(spec.name[-4:])}_Weather0"


def generate_routes(
    params: WorldParams, out: Path, infos: Path, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> bool:
    """Makes the data set at ``out`` and its info and map files in ``infos``. False where exactly this one is there already.

    params: ``frames`` counts frames at 10 Hz. A folder that this generator did not fill is never touched.
    """
    wanted = {"what": "Bench2Drive", **params.as_dict()}
    if stamp_of(out) == wanted and (infos / "b2d_map_infos.pkl").is_file():
        return False
    if out.exists() and stamp_of(out) is None and any(out.iterdir()):
        raise UserError(f"{out} exists and was not made by this generator; choose another with --out, or move it away first")
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    specs = scene_specs(params)
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    tasks = [(str(partial), params, spec) for spec in specs]
    for number, (spec, made) in enumerate(zip(specs, map_in_processes(_route, tasks, max(1, min(workers, len(tasks)))))):
        frames[spec.split] += made
        if progress:
            progress((number + 1) * params.frames, len(specs) * params.frames)
    (partial / STAMP).write_text(json.dumps({"what": "synthetic Bench2Drive", "params": wanted}, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    os.rename(partial, out)
    infos.mkdir(parents=True, exist_ok=True)
    for split, rows in frames.items():
        unpickle.save(infos / f"b2d_infos_{split}.pkl", rows)
    towns = sorted({spec.location for spec in specs})
    unpickle.save(infos / "b2d_map_infos.pkl", {town_of(name): town_map(build_town(params.seed, name)) for name in towns})
    return True


def _route(task: tuple[str, WorldParams, SceneSpec]) -> list[dict[str, Any]]:
    """Images and frames of one route."""
    import cv2

    root, params, spec = task
    cv2.setNumThreads(1)
    # The world is simulated from keyframe to keyframe; one more, so that the last frames have a future.
    scene = Scene(replace(params, frames=max(2, int(np.ceil(params.frames / RATE_HZ / KEYFRAME_S)) + 2)), spec)
    frames = []
    for index in range(params.frames):
        time_s = index / RATE_HZ
        stage = scene.stage(time_s)
        for camera in CAMERAS:
            path = Path(root) / folder_of(spec) / "camera" / FOLDERS[camera] / f"{index:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(scene.render(camera, stage, time_s, measure=False)[0], params.jpeg_quality))
        frames.append(route_frame(scene, spec, index))
    return frames


def route_frame(scene: Scene, spec: SceneSpec, index: int) -> dict[str, Any]:
    """A frame as an info file has it."""
    time_s = index / RATE_HZ
    xy, yaw = scene.ego_pose(time_s)
    world_from_ego = global_from_ego(xy, yaw)
    ego_from_lidar = scene.sensors[LIDAR].ego_from_sensor
    lidar_from_world = inverse(world_from_ego @ ego_from_lidar)
    folder = folder_of(spec)
    sensors: dict[str, Any] = {}
    for camera in CAMERAS:
        sensor = scene.sensors[camera]
        cam_from_world = inverse(world_from_ego @ sensor.ego_from_sensor)
        path = f"{folder}/camera/{FOLDERS[camera]}/{index:05d}.jpg"
        intrinsic = np.array(sensor.intrinsic)
        sensors[camera] = {
            "cam2ego": sensor.ego_from_sensor, "intrinsic": intrinsic, "world2cam": cam_from_world, "data_path": path
        }  # fmt: skip
    sensors[LIDAR] = {"lidar2ego": ego_from_lidar, "world2lidar": lidar_from_world}
    speed, acceleration, yaw_rate = _motion(scene, time_s)
    return {
        "folder": folder, "town_name": town_of(spec.location), "frame_idx": index,
        "command_near": _command(scene, time_s), "command_far": FOLLOW,
        "command_near_xy": xy + 20 * np.array([np.cos(yaw), np.sin(yaw)]), "command_far_xy": np.array(xy, dtype=np.float64),
        "ego_yaw": float(yaw), "ego_translation": np.array([xy[0], xy[1], 0.0]), "ego_vel": np.array([speed, 0.0, 0.0]),
        "ego_accel": np.array([acceleration, speed * yaw_rate, 9.81]), "ego_rotation_rate": np.array([0.0, 0.0, yaw_rate]),
        "ego_size": np.array(EGO_SIZE), "world2ego": inverse(world_from_ego), "brake": 0, "throttle": 0.0, "steer": 0.0,
        "sensors": sensors, **_objects(scene, time_s, xy, lidar_from_world),
    }  # fmt: skip


def _motion(scene: Scene, time_s: float) -> tuple[float, float, float]:
    """Speed, acceleration along the way and yaw rate of the ego car, by differences over 0.1 s on either side."""
    step = 1 / RATE_HZ
    before, now, after = (scene.ego_pose(max(0.0, time_s + step * k)) for k in (-1, 0, 1))
    ahead, behind = np.linalg.norm(after[0] - now[0]) / step, np.linalg.norm(now[0] - before[0]) / step
    turned = (after[1] - now[1] + np.pi) % (2 * np.pi) - np.pi
    return float(ahead), float((ahead - behind) / step if time_s > 0 else 0.0), float(turned / step)


def _command(scene: Scene, time_s: float) -> int:
    """CARLA's command of a car that will have gone aside within a few seconds."""
    here, yaw = scene.ego_pose(time_s)
    there, _ = scene.ego_pose(min(time_s + LOOK_AHEAD_S, scene.duration_s))
    left = float((there - here) @ np.array([-np.sin(yaw), np.cos(yaw)]))
    return LEFT if left > ASIDE_M else RIGHT if left < -ASIDE_M else FOLLOW


def _objects(scene: Scene, time_s: float, ego_xy: np.ndarray, lidar_from_world: np.ndarray) -> dict[str, Any]:
    boxes, names, ids, places = [], [], [], []
    for actor in scene.actors:
        x, y, yaw, speed = actor.at(time_s)
        if np.hypot(x - ego_xy[0], y - ego_xy[1]) > ANNOTATE_M:
            continue
        pose = global_from_ego(np.array([x, y]), yaw)
        in_lidar = lidar_from_world @ pose
        local = np.arctan2(in_lidar[1, 0], in_lidar[0, 0])
        centre = (lidar_from_world @ np.array([x, y, actor.size[2] / 2, 1.0]))[:3]
        boxes.append([*centre, *actor.size, -local - np.pi / 2, speed * np.cos(local), speed * np.sin(local)])
        names.append(BLUEPRINTS[actor.kind])
        ids.append(actor.id)
        places.append(pose)
    return {
        "gt_ids": np.array(ids, dtype=np.int64),
        "gt_boxes": np.array(boxes, dtype=np.float64).reshape(-1, 9),
        "gt_names": np.array(names, dtype=np.str_),
        "num_points": np.full(len(ids), -1),
        "npc2world": np.array(places, dtype=np.float64).reshape(-1, 4, 4),
    }


def town_map(town: Town) -> dict[str, Any]:
    """A town as the map file has it: lines by type with their sample points, and areas of signs and lights."""
    lines = [(_dense(d.line), "Broken" if d.dashed else "SolidSolid" if d.kind == "road" else "Solid") for d in dividers(town)]
    lines += [(_dense(lane.path.at(np.linspace(0.0, lane.path.length, 8))[0]), "Center") for lane in town.lanes]
    areas = [(_ground(line.polygon), "TrafficLight") for line in stop_lines(town)]
    areas += [(_ground(crossing.polygon), "StopSign") for crossing in town.crossings[::4]]
    samples = [points[np.append(np.arange(0, len(points) - 1, SAMPLED), len(points) - 1)] for points, _ in lines]
    return {
        "lane_points": [points for points, _ in lines],
        "lane_sample_points": samples,
        "lane_types": [kind for _, kind in lines],
        "trigger_volumes_points": [points for points, _ in areas],
        "trigger_volumes_sample_points": [points.mean(axis=0) for points, _ in areas],
        "trigger_volumes_types": [kind for _, kind in areas],
    }


def _ground(points: np.ndarray) -> np.ndarray:
    """[n, 2] -> [n, 3] on the ground."""
    return np.concatenate((np.asarray(points, dtype=np.float64), np.zeros((len(points), 1))), axis=1)


def _dense(points: np.ndarray) -> np.ndarray:
    """A line's points [n, 2], ``POINT_M`` apart at most, on the ground [m, 3]."""
    points = np.asarray(points, dtype=np.float64)
    along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    at = np.linspace(0.0, along[-1], max(2, int(np.ceil(along[-1] / POINT_M)) + 1))
    return _ground(np.stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)], axis=1))
