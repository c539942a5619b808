"""Info files of Bench2Drive, ``b2d_infos_{train,val}.pkl``: a list of a mapping per frame at 10 Hz, and ``b2d_map_infos.pkl``.

As Bench2DriveZoo's prepare_B2D.py writes them. All axes are right-handed; the lidar's x points right, y ahead. What is read here
becomes arrays at once. Further keys of a frame are other programs' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats import calibration as cal
from uniad.formats.fields import Array, Ragged, Text, Whole, column
from uniad.formats.layout import LIDAR

RATE_HZ = 10
# In the order in which weights learnt them, which is not nuScenes'
CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
# CARLA's RoadOption: -1 none, 1 left, 2 right, 3 straight, 4 follow the lane, 5 and 6 change lane to the left and right
COMMANDS = (-1, 1, 2, 3, 4, 5, 6)
AGAIN = "make it again with Bench2DriveZoo's prepare_B2D.py"

_Pose = Array((4, 4), "a pose [4, 4]")
_Vector = Array((3,), "three numbers")
FRAME = {
    "folder": Text("the route's folder", empty=False),
    "town_name": Text("the town", empty=False),
    "frame_idx": Whole("the frame's place in its route", low=0),
    "command_near": Array((), f"CARLA's command, one of {', '.join(map(str, COMMANDS))}", "whole",
                          rule=lambda n: np.isin(n, COMMANDS)),
    "ego_translation": cal.Translation,
    "ego_vel": _Vector,
    "ego_accel": _Vector,
    "ego_rotation_rate": _Vector,
    "ego_size": Array((3,), "width, length and height in metres, above 0", rule=lambda size: (size > 0).all(-1)),
    "world2ego": _Pose,
}  # fmt: skip
SENSOR = {"lidar2ego": _Pose, "world2lidar": _Pose}
CAMERA = {"cam2ego": _Pose, "intrinsic": cal.Intrinsic, "data_path": Text("the image's path", empty=False)}
OBJECTS = {
    "gt_boxes": Ragged((9,), "x, y, z, w, l, h (m, above 0), yaw, vx and vy", rule=lambda boxes: (boxes[:, 3:6] > 0).all(1)),
    "gt_names": Ragged((), "a blueprint's name", kind="text"),
    "gt_ids": Ragged((), "the actor's number", kind="whole", rule=lambda n: n >= 0),
    "num_points": Ragged((), "a number of points, -1 where unknown", kind="whole"),
    "npc2world": Ragged((4, 4), "a pose"),
}
MAP_LISTS = ("lane_points", "lane_sample_points", "lane_types", "trigger_volumes_points", "trigger_volumes_types")


def is_info_file(data: Any) -> bool:
    """Whether a file's content is that of Bench2Drive's info files, good or bad."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], Mapping) and "folder" in data[0] and "sensors" in data[0]


def structure(data: Any, path: str) -> list[dict[str, Any]]:
    """The file's frames. UserError where it is no such file."""
    if isinstance(data, dict) and "infos" in data:
        raise UserError(
            f"{path} is an info file of nuScenes, this config reads Bench2Drive's (b2d_infos_train.pkl): take a variant of "
            "nuScenes, or Bench2Drive's infos"
        )
    if not is_info_file(data):
        raise UserError(f"{path} is not an info file of Bench2Drive (a list of frames with folder and sensors); {AGAIN}")
    for number, info in enumerate(data):
        missing = [key for key in (*FRAME, "ego_yaw", "sensors", *OBJECTS) if not isinstance(info, Mapping) or key not in info]
        if missing:
            raise UserError(f"{path}: frame {number} lacks {', '.join(missing)}; {AGAIN}")
    return data


def columns(infos: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The frames as arrays, in the file's order; routes are contiguous in it, or it is refused.

    Frame keys [N, ...]; camera keys [N, cameras, ...]; object keys of all frames after one another, ``counts`` [N] of each;
    ``starts`` [routes] the first frame of each. ``ego_yaw`` [N] is pi/2 where CARLA's compass gave no number.
    """

    def there(number: int) -> str:
        info = infos[number]
        return f"{path}: frame {number} ({info['folder']} {info['frame_idx']})"

    out: dict[str, Any] = {key: column(infos, (key,), kind, there) for key, kind in FRAME.items()}
    try:
        yaw = np.array([float(info["ego_yaw"]) for info in infos])
    except (TypeError, ValueError):
        raise UserError(f"{path}: an ego_yaw is no number; {AGAIN}") from None
    out["ego_yaw"] = np.nan_to_num(yaw, nan=np.pi / 2)
    for key, kind in SENSOR.items():
        out[key] = column(infos, ("sensors", LIDAR, key), kind, there)
    for key, kind in CAMERA.items():
        parts = [column(infos, ("sensors", camera, key), kind, there) for camera in CAMERAS]
        out[key] = np.stack([np.asarray(part) for part in parts], axis=1)
    out["starts"] = _routes(out["folder"], out["frame_idx"], there)
    out.update(_objects(infos, there))
    return out


def _routes(folder: list[str], index: NDArray[np.int64], there: Any) -> NDArray[np.int64]:
    """The first frame of each route [routes]."""
    starts = [0]
    seen = {folder[0]}
    for number in range(1, len(folder)):
        if folder[number] != folder[number - 1]:
            if folder[number] in seen:
                raise UserError(f"{there(number)} comes back after another route; frames of a route follow each other; {AGAIN}")
            seen.add(folder[number])
            starts.append(number)
        elif index[number] <= index[number - 1]:
            raise UserError(f"{there(number)} follows frame {index[number - 1]} of its route; needed is rising order; {AGAIN}")
    return np.array(starts, dtype=np.int64)


def _objects(infos: list[dict[str, Any]], there: Any) -> dict[str, Any]:
    try:
        counts = [len(info["gt_boxes"]) for info in infos]
    except TypeError:
        raise UserError(f"{there(0)}: gt_boxes is no array [m, 9]; {AGAIN}") from None
    out: dict[str, Any] = {
        key: kind.join([info[key] for info in infos], counts, lambda n, key=key: f"{there(n)}: {key}")
        for key, kind in OBJECTS.items()
    }
    frame = np.repeat(np.arange(len(infos)), counts)
    pairs = np.stack((frame, out["gt_ids"]), axis=1)
    unique, first = np.unique(pairs, axis=0, return_index=True)
    if len(unique) != len(pairs):
        again = int(np.setdiff1d(np.arange(len(pairs)), first)[0])
        raise UserError(f"{there(int(frame[again]))}: gt_ids has actor {out['gt_ids'][again]} twice; needed is once")
    out["counts"] = counts
    return out


def check_maps(data: Any, path: str, towns: list[str]) -> dict[str, dict[str, Any]]:
    """The maps of ``towns`` from a map file's content; UserError where one is absent or spoilt."""
    if not isinstance(data, Mapping):
        raise UserError(f"{path} is not Bench2Drive's map file (a mapping of towns); {AGAIN}")
    absent = [town for town in towns if town not in data]
    if absent:
        raise UserError(f"{path} has no map of {', '.join(absent)}; it has {', '.join(map(str, data))}; {AGAIN}")
    for town in towns:
        lacks = [key for key in MAP_LISTS if not isinstance(data[town], Mapping) or key not in data[town]]
        if lacks:
            raise UserError(f"{path}: {town} lacks {', '.join(lacks)}; {AGAIN}")
        for points, types in (("lane_points", "lane_types"), ("trigger_volumes_points", "trigger_volumes_types")):
            if len(data[town][points]) != len(data[town][types]):
                raise UserError(f"{path}: {town}: {points} and {types} are of different lengths; {AGAIN}")
            for number, line in enumerate(data[town][points]):
                if np.ndim(line) != 2 or np.shape(line)[1] != 3 or not np.isfinite(line).all():
                    raise UserError(f"{path}: {town}: {points}[{number}] is no array of points [n, 3]; {AGAIN}")
    return {town: dict(data[town]) for town in towns}
