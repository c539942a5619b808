"""Info files as arrays.

A file of the trainval split holds 28,130 dicts of dicts: a gigabyte of small Python objects, of which every loader process
would soon own a copy, for touching an object's reference count copies its page. So a file is read once into a few flat arrays
that forked workers really share, and the dicts are dropped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.data import unpickle
from uniad.data.check import CAMERAS
from uniad.errors import UserError
from uniad.geometry import transforms as tf

F64 = NDArray[np.float64]
_FRAME_KEYS = (
    "token", "scene_token", "frame_idx", "timestamp", "can_bus", "cams", "lidar2ego_translation", "lidar2ego_rotation",
    "ego2global_translation", "ego2global_rotation",
)  # fmt: skip
_CAMERA_KEYS = ("data_path", "sensor2lidar_rotation", "sensor2lidar_translation", "cam_intrinsic")
_OBJECT_KEYS = ("gt_boxes", "gt_names", "gt_velocity", "gt_inds", "num_lidar_pts", "valid_flag")
_VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")


@dataclass(frozen=True)
class InfoTable:
    """All keyframes of one info file, ordered by time; scenes are contiguous.

    N frames, O objects of all frames together; objects of frame i are ``first_object[i]:first_object[i + 1]``.
    """

    path: str
    version: str
    token: NDArray[np.str_]  # [N]
    scene: NDArray[np.int64]  # [N] index into scene_token
    scene_token: NDArray[np.str_]  # [scenes]
    scene_frames: NDArray[np.int64]  # [scenes + 1] first frame of each scene
    location: NDArray[np.str_]  # [scenes]
    frame_idx: NDArray[np.int64]  # [N] position in its scene as the file states it
    timestamp_us: NDArray[np.int64]  # [N]
    can_bus: F64  # [N, 18] as the file states it
    ego_quaternion: F64  # [N, 4] w x y z, global from ego
    lidar_quaternion: F64  # [N, 4] ego from lidar
    global_from_ego: F64  # [N, 4, 4]
    ego_from_lidar: F64  # [N, 4, 4]
    global_from_lidar: F64  # [N, 4, 4]
    img_path: NDArray[np.str_]  # [N, cameras] relative to the dataset's root
    img_from_lidar: F64  # [N, cameras, 4, 4] pixels of the original image
    first_object: NDArray[np.int64]  # [N + 1]
    boxes: F64  # [O, 7] lidar frame, z at the middle
    velocity: F64  # [O, 2] m/s, lidar axes; zero where unknown
    instance: NDArray[np.int64]  # [O] the dataset's instance number, from 0
    name: NDArray[np.str_]  # [O] class name
    num_lidar_pts: NDArray[np.int64]  # [O]
    valid_flag: NDArray[np.bool_]  # [O] seen by lidar or radar

    def __len__(self) -> int:
        return len(self.token)

    def frames_of(self, scene: int) -> range:
        """Frame numbers of a scene, in time order."""
        return range(int(self.scene_frames[scene]), int(self.scene_frames[scene + 1]))

    def objects_of(self, frame: int) -> slice:
        return slice(int(self.first_object[frame]), int(self.first_object[frame + 1]))


def load_table(path: str | Path, data_root: str | Path) -> InfoTable:
    """Read an info file of either stack; ``data_root`` is asked for map locations where the file does not name them."""
    data = unpickle.load(path)
    infos, version = _structure(data, path)
    if not infos:
        raise UserError(f"{path} lists no frames; make it again with tools/create_data.py")
    # Ordered by time as documented; scenes recorded at the same time stay apart, which a clip relies on.
    first_time: dict[str, int] = {}
    for info in infos:
        scene = info["scene_token"]
        first_time[scene] = min(first_time.get(scene, info["timestamp"]), info["timestamp"])
    infos.sort(key=lambda info: (first_time[info["scene_token"]], info["scene_token"], info["timestamp"]))
    return _arrays(infos, str(path), version, Path(data_root))


def _structure(data: Any, path: str | Path) -> tuple[list[dict[str, Any]], str]:
    """The file's frames and version, or a UserError that names what is not as it should be."""
    again = "make it again with tools/create_data.py"
    if not (isinstance(data, dict) and isinstance(data.get("infos"), list) and isinstance(data.get("metadata"), dict)):
        raise UserError(f"{path} is not an info file ({{infos, metadata}} expected); {again}")
    version = data["metadata"].get("version")
    if version not in _VERSIONS:
        raise UserError(f"{path} is for dataset version {version!r}, expected one of {', '.join(_VERSIONS)}; {again}")
    for number, info in enumerate(data["infos"]):
        missing = [key for key in _FRAME_KEYS if key not in info]
        if not missing and version != "v1.0-test":
            missing = [key for key in _OBJECT_KEYS if key not in info]
        if not missing:
            cameras = info["cams"]
            missing = [camera for camera in CAMERAS if camera not in cameras]
            missing = missing or [key for key in _CAMERA_KEYS for camera in CAMERAS if key not in cameras[camera]][:1]
        if missing:
            raise UserError(f"{path}: frame {number} lacks {', '.join(missing)}: made for another model or version; {again}")
    return data["infos"], version


def _arrays(infos: list[dict[str, Any]], path: str, version: str, root: Path) -> InfoTable:
    def column(key: str, *shape: int) -> F64:
        return np.array([info[key] for info in infos], dtype=np.float64).reshape(len(infos), *shape)

    tokens = np.array([info["scene_token"] for info in infos])
    starts = np.flatnonzero(np.concatenate(([True], tokens[1:] != tokens[:-1])))
    global_from_ego = tf.pose_matrix(column("ego2global_rotation", 4), column("ego2global_translation", 3))
    ego_from_lidar = tf.pose_matrix(column("lidar2ego_rotation", 4), column("lidar2ego_translation", 3))
    counts = [len(info.get("gt_boxes", ())) for info in infos]

    def objects(key: str, *shape: int) -> NDArray[Any]:
        if version == "v1.0-test":
            return np.zeros((0, *shape))
        return np.concatenate([np.asarray(info[key]).reshape(count, *shape) for info, count in zip(infos, counts)])

    velocity = np.array(objects("gt_velocity", 2), dtype=np.float64)
    velocity[np.isnan(velocity[:, 0])] = 0.0
    return InfoTable(
        path=path,
        version=version,
        token=np.array([info["token"] for info in infos]),
        scene=np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(infos)))),
        scene_token=tokens[starts],
        scene_frames=np.append(starts, len(infos)),
        location=_locations([infos[start] for start in starts], root, version, path),
        frame_idx=np.array([info["frame_idx"] for info in infos], dtype=np.int64),
        timestamp_us=np.array([info["timestamp"] for info in infos], dtype=np.int64),
        can_bus=column("can_bus", 18),
        ego_quaternion=column("ego2global_rotation", 4),
        lidar_quaternion=column("lidar2ego_rotation", 4),
        global_from_ego=global_from_ego,
        ego_from_lidar=ego_from_lidar,
        global_from_lidar=global_from_ego @ ego_from_lidar,
        img_path=np.array([[relative_path(info["cams"][camera]["data_path"]) for camera in CAMERAS] for info in infos]),
        img_from_lidar=_projections(infos),
        first_object=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes=np.asarray(objects("gt_boxes", 7), dtype=np.float64),
        velocity=velocity,
        instance=objects("gt_inds").astype(np.int64),
        name=objects("gt_names").astype(np.str_),
        num_lidar_pts=objects("num_lidar_pts").astype(np.int64),
        valid_flag=objects("valid_flag").astype(np.bool_),
    )


def _projections(infos: list[dict[str, Any]]) -> F64:
    """img_from_lidar [N, cameras, 4, 4]."""
    cams = [[info["cams"][camera] for camera in CAMERAS] for info in infos]
    rotation = np.array([[cam["sensor2lidar_rotation"] for cam in row] for row in cams], dtype=np.float64)
    translation = np.array([[cam["sensor2lidar_translation"] for cam in row] for row in cams], dtype=np.float64)
    camera_from_lidar = tf.inverse(tf.from_rotation(rotation, translation))
    intrinsic = np.zeros_like(camera_from_lidar)
    intrinsic[..., :3, :3] = np.array([[cam["cam_intrinsic"] for cam in row] for row in cams], dtype=np.float64)[..., :3, :3]
    intrinsic[..., 3, 3] = 1.0
    return intrinsic @ camera_from_lidar


def relative_path(path: str) -> str:
    """A sensor file's path from the dataset's root on, whatever folder the file's maker had put before it."""
    parts = PurePosixPath(path).parts
    for folder in ("samples", "sweeps"):
        if folder in parts:
            return str(PurePosixPath(*parts[len(parts) - 1 - parts[::-1].index(folder) :]))
    return path


def _locations(firsts: list[dict[str, Any]], root: Path, version: str, path: str) -> NDArray[np.str_]:
    """The map of every scene: from the file, or for a file of the documented converter from two small tables."""
    if all("map_location" in info for info in firsts):
        return np.array([info["map_location"] for info in firsts])
    try:
        scenes = {record["token"]: record["log_token"] for record in json.loads((root / version / "scene.json").read_bytes())}
        logs = {record["token"]: record["location"] for record in json.loads((root / version / "log.json").read_bytes())}
        return np.array([logs[scenes[info["scene_token"]]] for info in firsts])
    except (OSError, ValueError) as error:
        tables = root / version
        raise UserError(f"{path} does not name its maps, so {tables} must hold scene.json and log.json: {error}") from error
    except KeyError as error:
        raise UserError(f"{path} was made from another dataset than {root / version}: it has no scene or log {error}") from error
