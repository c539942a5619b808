"""Info files as arrays.

A file of the trainval split holds 28,130 dicts of dicts: a gigabyte of small Python objects, of which every loader process
would soon own a copy, for touching an object's reference count copies its page. So a file is read once into a few flat arrays
that forked workers really share, and the dicts are dropped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from uniad.data import unpickle
from uniad.errors import UserError
from uniad.files import read_outside
from uniad.formats import infos as schema
from uniad.formats.conventions import box_convention, convert_boxes
from uniad.formats.fields import Text
from uniad.formats.layout import CAMERAS
from uniad.formats.published import UNIAD_V2
from uniad.geometry import transforms as tf

F64 = NDArray[np.float64]


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
    boxes: F64  # [O, 7] lidar frame, z at the middle; w, l, h, -yaw - pi/2 whatever the file's convention is
    velocity: F64  # [O, 2] m/s, lidar axes; zero where unknown
    instance: NDArray[np.int64]  # [O] the dataset's instance number, from 0
    name: NDArray[np.str_]  # [O] class name
    num_lidar_pts: NDArray[np.int64]  # [O]
    valid_flag: NDArray[np.bool_]  # [O] seen by lidar or radar
    convention: str | None  # of the file's boxes, see formats.conventions; None where they do not tell
    # What the planner learns of driven worlds, in place of what the car did: x, y, heading of the rear axle, global; the command
    expert_plan: F64 | None  # [N, 6, 3]
    expert_command: NDArray[np.int64] | None  # [N]

    cameras: ClassVar[tuple[str, ...]] = CAMERAS  # in the order of img_path

    def __len__(self) -> int:
        return len(self.token)

    def frames_of(self, scene: int) -> range:
        """Frame numbers of a scene, in time order."""
        return range(int(self.scene_frames[scene]), int(self.scene_frames[scene + 1]))

    def objects_of(self, frame: int) -> slice:
        return slice(int(self.first_object[frame]), int(self.first_object[frame + 1]))


def load_table(path: str | Path, data_root: str | Path) -> InfoTable:
    """Read an info file of either stack; ``data_root`` is asked for map locations where the file does not name them.

    A file that does not fit ``uniad.formats.infos`` is a UserError that names the frame and the key.
    """
    infos, version = schema.structure(unpickle.load(path, "`make data` makes info files"), str(path))
    columns = schema.columns(infos, version, str(path))
    starts, count = columns["starts"], len(infos)
    global_from_ego = tf.pose_matrix(columns["ego2global_rotation"], columns["ego2global_translation"])
    ego_from_lidar = tf.pose_matrix(columns["lidar2ego_rotation"], columns["lidar2ego_translation"])
    boxes, velocity = columns["gt_boxes"], columns["gt_velocity"]
    convention = box_convention(boxes, columns["gt_names"], velocity, str(path))
    if convention == UNIAD_V2:
        boxes, _ = convert_boxes(boxes)
    velocity[np.isnan(velocity[:, 0])] = 0.0
    return InfoTable(
        path=str(path),
        version=version,
        token=columns["token"],
        scene=np.repeat(np.arange(len(starts)), np.diff(np.append(starts, count))),
        scene_token=columns["scene_token"][starts],
        scene_frames=np.append(starts, count),
        location=_locations([columns["infos"][start] for start in starts], Path(data_root), version, str(path)),
        frame_idx=columns["frame_idx"],
        timestamp_us=columns["timestamp"],
        can_bus=columns["can_bus"],
        ego_quaternion=columns["ego2global_rotation"],
        lidar_quaternion=columns["lidar2ego_rotation"],
        global_from_ego=global_from_ego,
        ego_from_lidar=ego_from_lidar,
        global_from_lidar=global_from_ego @ ego_from_lidar,
        img_path=np.array([[relative_path(path) for path in row] for row in columns["data_path"].tolist()]),
        img_from_lidar=_projections(columns),
        first_object=np.concatenate(([0], np.cumsum(columns["counts"]))).astype(np.int64),
        boxes=boxes,
        velocity=velocity,
        instance=columns["gt_inds"],
        name=columns["gt_names"],
        num_lidar_pts=columns["num_lidar_pts"],
        valid_flag=columns["valid_flag"],
        convention=convention,
        expert_plan=columns.get("expert_plan"),
        expert_command=columns.get("expert_command"),
    )


def _projections(columns: dict[str, Any]) -> F64:
    """img_from_lidar [N, cameras, 4, 4]."""
    sensor = tf.from_rotation(columns["sensor2lidar_rotation"], columns["sensor2lidar_translation"])
    camera_from_lidar = tf.inverse(sensor)
    intrinsic = np.zeros_like(camera_from_lidar)
    intrinsic[..., :3, :3] = columns["cam_intrinsic"]
    intrinsic[..., 3, 3] = 1.0
    return intrinsic @ camera_from_lidar


def relative_path(path: str) -> str:
    """A sensor file's path from the dataset's root on, whatever folder the file's maker had put before it, on any system."""
    path = path.replace("\\", "/")
    parts = PurePosixPath(path).parts
    for folder in ("samples", "sweeps"):
        if folder in parts:
            return str(PurePosixPath(*parts[len(parts) - 1 - parts[::-1].index(folder) :]))
    return path


def _locations(firsts: list[dict[str, Any]], root: Path, version: str, path: str) -> NDArray[np.str_]:
    """The map of every scene: from the file, or for a file of upstream's converter from two small tables."""
    if all("map_location" in info for info in firsts):
        name = Text("the name of a map", empty=False)
        return np.array([name.check(info["map_location"], f"{path}: {info['token']}: map_location") for info in firsts])
    try:
        scenes = {record["token"]: record["log_token"] for record in json.loads(read_outside(root / version / "scene.json"))}
        logs = {record["token"]: record["location"] for record in json.loads(read_outside(root / version / "log.json"))}
        return np.array([str(logs[scenes[info["scene_token"]]]) for info in firsts])
    except (OSError, ValueError, TypeError) as error:
        tables = root / version
        raise UserError(f"{path} does not name its maps, so {tables} must hold scene.json and log.json: {error}") from error
    except KeyError as error:
        raise UserError(f"{path} was made from another dataset than {root / version}: it has no scene or log {error}") from error
