"""Where frames come from: a scene of a dataset, or a folder that somebody recorded. One after the other, read when asked for.

A folder of frames holds ``frames.json`` beside its images; docs/inference.md shows one:

    {"lidar2ego": {"translation": [x, y, z], "rotation": [w, x, y, z]},
     "cameras": {"CAM_FRONT": {"lidar2img": [[4 x 4]]},                  or {"intrinsic": [[3 x 3]], "lidar2cam": [[4 x 4]]}
                 ...},
     "frames": [{"time_s": 0.0, "images": {"CAM_FRONT": "front/0.jpg", ...}, "ego2global": {...}, "command": 2,
                 "can_bus": [18 numbers], "token": "..."}, ...]}

``can_bus``, ``token`` and ``command`` (2) may be left out; a frame may bring ``cameras`` or ``lidar2ego`` of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uniad.data.check import CAMERAS
from uniad.data.dataset import Split, can_bus, open_table
from uniad.data.labels import Labeller
from uniad.data.transforms import decode_all
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import UserError
from uniad.spec import DataSpec

INDEX = "frames.json"


@dataclass(frozen=True)
class Shot:
    """One frame, its images decoded. ``info``: token, time and poses as in an info file; cams: image paths by camera."""

    sensors: Sensors
    info: dict[str, Any]
    number: int  # in its scene, from 0


@dataclass(frozen=True)
class Scene:
    """Frames that follow each other. Iterating reads them."""

    name: str
    token: str
    source: FolderFrames | DatasetFrames
    keys: tuple[int, ...]
    previous_can_bus: np.ndarray | None = None  # [18] of the frame before the scene in the split; see Runtime.reset

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Shot]:
        for number, key in enumerate(self.keys):
            yield self.source.shot(key, number)


class DatasetFrames:
    """Scenes of a split."""

    def __init__(self, spec: DataSpec, split: Split = "val", threads: int = 1) -> None:
        self.spec, self.split, self.threads = spec, split, threads
        try:
            self.table = open_table(spec, split)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: no such file; `make data` prepares the dataset") from None
        self.labeller = Labeller(self.table, spec)
        self._names: dict[str, str] | None = None

    def scene(self, wanted: str, most: int | None = None) -> Scene:
        """A scene by its number in the split, its name (scene-0103) or its token; ``most``: frames of it."""
        tokens = [str(token) for token in self.table.scene_token]
        names = self._scene_names()
        by_name = {names[token]: number for number, token in enumerate(tokens) if token in names}
        if wanted.isdecimal() and int(wanted) < len(tokens):
            number = int(wanted)
        elif wanted in tokens:
            number = tokens.index(wanted)
        elif wanted in by_name:
            number = by_name[wanted]
        else:
            some = f", {', '.join(sorted(by_name)[:3])}, ..." if by_name else ""
            raise UserError(f"scene {wanted!r} is not in the {self.split} split: it has 0 to {len(tokens) - 1}{some}")
        frames = self.table.frames_of(number)
        before = can_bus(frames.start - 1, self.labeller) if frames.start else None
        return Scene(names.get(tokens[number], tokens[number]), tokens[number], self, tuple(frames)[:most], before)

    def shot(self, frame: int, number: int) -> Shot:
        table = self.table
        paths = [str(Path(self.spec.data_root) / path) for path in table.img_path[frame]]
        start = table.frames_of(int(table.scene[frame])).start
        ego = Pose(table.global_from_ego[frame, :3, 3], table.ego_quaternion[frame])
        lidar = Pose(table.ego_from_lidar[frame, :3, 3], table.lidar_quaternion[frame])
        sensors = Sensors(
            images=dict(zip(CAMERAS, decode_all(paths, self.threads))),
            lidar2img=dict(zip(CAMERAS, table.img_from_lidar[frame])),
            ego2global=ego,
            lidar2ego=lidar,
            time_s=(int(table.timestamp_us[frame]) - int(table.timestamp_us[start])) / 1e6,
            command=self.labeller.command(frame),
            can_bus=table.can_bus[frame],
        )
        token, scene = str(table.token[frame]), str(table.scene_token[table.scene[frame]])
        return Shot(sensors, _info(sensors, dict(zip(CAMERAS, paths)), token, scene), number)

    def _scene_names(self) -> dict[str, str]:
        """Name by token, where the dataset's table of scenes is at hand."""
        if self._names is None:
            try:
                records = json.loads((Path(self.spec.data_root) / self.table.version / "scene.json").read_bytes())
                self._names = {record["token"]: record["name"] for record in records}
            except (OSError, ValueError, KeyError):
                self._names = {}
        return self._names


class FolderFrames:
    """A recorded folder: one scene."""

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        self.folder, self.threads = Path(folder), threads
        path = self.folder / INDEX
        try:
            self.index = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; a folder of frames holds one, see docs/inference.md") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        frames = self.index.get("frames") if isinstance(self.index, dict) else None
        if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
            raise UserError(f"{path} lists no frames; docs/inference.md shows how it looks")

    def scene(self, most: int | None = None) -> Scene:
        """All of it, or its first ``most`` frames."""
        return Scene(self.folder.resolve().name, str(self.index.get("scene_token", self.folder.resolve().name)), self,
                     tuple(range(len(self.index["frames"])))[:most])  # fmt: skip

    def shot(self, key: int, number: int) -> Shot:
        frame, where = self.index["frames"][key], f"{self.folder / INDEX}: frame {key}"
        given = {**self.index, **frame}
        missing = [name for name in ("images", "cameras", "ego2global", "lidar2ego", "time_s") if name not in given]
        if missing:
            raise UserError(f"{where} lacks {', '.join(missing)}; docs/inference.md shows how it looks")
        paths = {name: str(self.folder / path) for name, path in _mapping(given["images"], f"{where}: images").items()}
        cameras = _mapping(given["cameras"], f"{where}: cameras")
        sensors = Sensors(
            images=dict(zip(paths, decode_all(list(paths.values()), self.threads))),
            lidar2img={name: _projection(camera, f"{where}: camera {name}") for name, camera in cameras.items()},
            ego2global=_pose(given["ego2global"], f"{where}: ego2global"),
            lidar2ego=_pose(given["lidar2ego"], f"{where}: lidar2ego"),
            time_s=given["time_s"],
            command=given.get("command", 2),
            can_bus=given.get("can_bus"),
        )
        token = str(frame.get("token", f"{self.folder.resolve().name}-{key:06d}"))
        return Shot(sensors, _info(sensors, paths, token, self.scene().token), number)


def _info(sensors: Sensors, paths: dict[str, str], token: str, scene_token: str) -> dict[str, Any]:
    ego, lidar = sensors.ego2global, sensors.lidar2ego
    return {
        "token": token,
        "scene_token": scene_token,
        "time_s": sensors.time_s,
        "lidar2ego_translation": np.asarray(lidar.translation).tolist(),
        "lidar2ego_rotation": np.asarray(lidar.rotation).tolist(),
        "ego2global_translation": np.asarray(ego.translation).tolist(),
        "ego2global_rotation": np.asarray(ego.rotation).tolist(),
        "cams": paths,
        "lidar2img": {name: np.asarray(matrix).tolist() for name, matrix in sensors.lidar2img.items()},
    }


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is no object of camera names; docs/inference.md shows how it looks")
    return value


def _pose(value: Any, where: str) -> Pose:
    try:
        return Pose(value["translation"], value["rotation"]).checked(where)
    except (KeyError, TypeError):
        raise UserError(f"{where} is no pose: needed are translation [x, y, z] and rotation [w, x, y, z]") from None


def _projection(camera: Any, where: str) -> np.ndarray:
    """lidar2img [4, 4] of a camera's entry."""
    try:
        if "lidar2img" in camera:
            return np.asarray(camera["lidar2img"], np.float64)
        whole = np.eye(4)
        whole[:3, :3] = np.asarray(camera["intrinsic"], np.float64)[:3, :3]
        return whole @ np.asarray(camera["lidar2cam"], np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError, IndexError):
        need = "lidar2img [4, 4], or intrinsic [3, 3] and lidar2cam [4, 4]"
        raise UserError(f"{where} has no projection: needed is {need}") from None
