"""Makes the sensor files of one scene and notes what the tables need: the part of the work that runs in parallel.

What is noted goes to small JSON files, one per keyframe, each written when that keyframe's files are complete. An
interrupted run finds them and goes on from there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from uniad.data.synthetic.canbus import write_can_bus
from uniad.data.synthetic.params import KEYFRAME_S, SceneSpec, WorldParams
from uniad.data.synthetic.scene import MakeScene, Scene, build_scene, encode
from uniad.data.synthetic.sensors import CAMERA_DELAY_US, CAMERAS, LIDAR, yaw_quaternion

NOTES = ".notes"
LIDAR_SWEEPS, CAMERA_SWEEPS = 9, 5  # between two keyframes: 20 Hz and 12 Hz
KEYFRAME_US = int(KEYFRAME_S * 1e6)


def log_name(spec: SceneSpec, vehicle: str) -> str:
    """A log file's name in the genuine pattern; one log per scene."""
    second = spec.start_us // 1_000_000
    minute, hour = second // 60 % 60, second // 3600 % 24
    zone = "-0400" if spec.location.startswith("boston") else "+0800"
    return f"{vehicle}-2018-07-{1 + second // 86400 % 28:02d}-{hour:02d}-{minute:02d}-{second % 60:02d}{zone}"


def notes_path(root: Path, spec: SceneSpec, frame: int | None) -> Path:
    return root / NOTES / spec.name / ("scene.json" if frame is None else f"{frame:04d}.json")


def write_atomic(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def record_scene(root: Path, params: WorldParams, spec: SceneSpec, make: MakeScene = Scene) -> None:
    """CAN bus files, and the notes that hold for the whole scene."""
    target = notes_path(root, spec, None)
    if target.exists():
        return
    scene = build_scene(params, spec, make)
    write_can_bus(root, spec, scene)
    sensors = [
        {"channel": s.channel, "translation": list(s.translation), "rotation": [float(q) for q in s.rotation],
         "intrinsic": [] if s.intrinsic is None else s.intrinsic.tolist()}
        for s in scene.sensors.values()
    ]  # fmt: skip
    actors = [
        {"id": a.id, "kind": a.kind, "category": a.category, "size": list(a.size), "mode": a.mode} for a in scene.actors
    ]
    write_atomic(target, json.dumps({"vehicle": scene.vehicle, "log": log_name(spec, scene.vehicle), "sensors": sensors,
                                     "actors": actors}))  # fmt: skip


def record_frame(root: Path, params: WorldParams, spec: SceneSpec, index: int, make: MakeScene = Scene) -> None:
    """All sensor files of one keyframe, and of the sweeps between it and the next."""
    target = notes_path(root, spec, index)
    if target.exists():
        return
    scene = build_scene(params, spec, make)
    log = log_name(spec, scene.vehicle)
    frame = scene.keyframe(index)
    at_us = index * KEYFRAME_US
    data = []
    for channel in CAMERAS:
        shot_us = at_us + CAMERA_DELAY_US[channel]
        data.append(_save(root, "samples", scene, log, channel, shot_us, index, frame.jpeg(channel)))
    sweep = frame.lidar()
    data.append(_save(root, "samples", scene, log, LIDAR, at_us, index, sweep.points.tobytes()))
    if index + 1 < params.frames:
        data += _sweeps(root, scene, log, index)
    notes = {"data": data, "observations": frame.observations(sweep)}
    expert = frame.expert()
    write_atomic(target, json.dumps(notes if expert is None else {**notes, "expert": expert}))


def _sweeps(root: Path, scene: Scene, log: str, index: int) -> list[dict]:
    """What lies between a keyframe and the next; belongs, as in the genuine tables, to the sample that follows."""
    data = []
    at_us = index * KEYFRAME_US
    for i in range(1, LIDAR_SWEEPS + 1 if scene.params.sweeps != "none" else 1):
        t_us = at_us + KEYFRAME_US * i // (LIDAR_SWEEPS + 1)
        points = scene.lidar_sweep(scene.stage(t_us / 1e6), t_us / 1e6, index, i).points
        data.append(_save(root, "sweeps", scene, log, LIDAR, t_us, index + 1, points.tobytes()))
    for i in range(1, CAMERA_SWEEPS + 1 if scene.params.sweeps == "all" else 1):
        t_us = at_us + KEYFRAME_US * i // (CAMERA_SWEEPS + 1)
        stage = scene.stage(t_us / 1e6)
        for channel in CAMERAS:
            shot_us = t_us + CAMERA_DELAY_US[channel]
            image, _ = scene.render(channel, stage, shot_us / 1e6, measure=False)
            data.append(_save(root, "sweeps", scene, log, channel, shot_us, index + 1, encode(image, scene.params.jpeg_quality)))
    return data


def _save(root: Path, kind: str, scene: Scene, log: str, channel: str, t_us: int, sample: int, content: bytes) -> dict:
    """Writes one sensor file and returns its note. ``t_us`` counts from the first keyframe."""
    stamp = scene.spec.start_us + t_us
    name = f"{kind}/{channel}/{log}__{channel}__{stamp}" + (".pcd.bin" if channel == LIDAR else ".jpg")
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    xy, yaw = scene.ego_pose(t_us / 1e6)
    return {"channel": channel, "timestamp": stamp, "file": name, "key": kind == "samples", "sample": sample,
            "translation": [float(xy[0]), float(xy[1]), 0.0], "rotation": yaw_quaternion(yaw)}  # fmt: skip
