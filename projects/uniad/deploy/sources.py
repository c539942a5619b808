"""Where frames come from: a scene of a dataset, or a folder that somebody recorded. One after the other, read when asked for.

A folder of frames holds ``frames.json`` beside its images; ``uniad.formats.frames`` states the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from uniad.config.spec import DataSpec
from uniad.data.dataset import Split, can_bus_before, labeller_of, open_table
from uniad.data.transforms import decode_all
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import UserError
from uniad.files import read_json_of, read_outside
from uniad.formats import frames as schema

INDEX = "frames.json"


@dataclass(frozen=True)
class FrameRecord:
    """One frame, its images decoded. ``info``: token, time and poses as in an info file; cams: image paths by camera."""

    sensors: Sensors
    info: dict[str, Any]
    number: int  # in its scene, from 0
    scene: str  # its name
    previous_can_bus: np.ndarray | None = None  # of the frames before the scene in the split; see Runtime.reset

    @property
    def frame(self) -> Sensors:
        return self.sensors

    @property
    def begins(self) -> bool:
        return self.number == 0

    @property
    def name(self) -> str:
        return f"{self.scene}, frame {self.number}"


class Source(Protocol):
    """What a scene's frames are read from."""

    def read(self, key: int, /) -> tuple[Sensors, dict[str, Any]]: ...


@dataclass(frozen=True)
class Scene:
    """Frames that follow each other. Iterating reads them."""

    name: str
    token: str
    source: Source
    keys: tuple[int, ...]
    previous_can_bus: np.ndarray | None = None  # of the frames before the scene in the split; see Runtime.reset

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[FrameRecord]:
        for number, key in enumerate(self.keys):
            yield FrameRecord(*self.source.read(key), number, self.name, self.previous_can_bus)


class DatasetFrames:
    """Scenes of a split."""

    def __init__(self, spec: DataSpec, split: Split = "val", threads: int = 1) -> None:
        self.spec, self.split, self.threads = spec, split, threads
        self.table = open_table(spec, split)
        self.labeller = labeller_of(self.table, spec)
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
        before = can_bus_before(self.labeller, frames.start)
        return Scene(names.get(tokens[number], tokens[number]), tokens[number], self, tuple(frames)[:most], before)

    def read(self, frame: int) -> tuple[Sensors, dict[str, Any]]:
        table = self.table
        paths = [str(Path(self.spec.data_root) / path) for path in table.img_path[frame]]
        start = table.frames_of(int(table.scene[frame])).start
        ego = Pose(table.global_from_ego[frame, :3, 3], table.ego_quaternion[frame])
        lidar = Pose(table.ego_from_lidar[frame, :3, 3], table.lidar_quaternion[frame])
        sensors = Sensors(
            images=dict(zip(table.cameras, decode_all(paths, self.threads))),
            lidar2img=dict(zip(table.cameras, table.img_from_lidar[frame])),
            ego2global=ego,
            lidar2ego=lidar,
            time_s=(int(table.timestamp_us[frame]) - int(table.timestamp_us[start])) / 1e6,
            command=self.labeller.command(frame),
            can_bus=table.can_bus[frame],
        )
        token, scene = str(table.token[frame]), str(table.scene_token[table.scene[frame]])
        return sensors, info_of(sensors, dict(zip(table.cameras, paths)), token, scene)

    def _scene_names(self) -> dict[str, str]:
        """Name by token, where the dataset's table of scenes is at hand."""
        if self._names is None:
            try:
                records = json.loads(read_outside(Path(self.spec.data_root) / self.table.version / "scene.json"))
                self._names = {record["token"]: record["name"] for record in records}
            except (OSError, ValueError, KeyError):
                self._names = {}
        return self._names


class FolderFrames:
    """A recorded folder: one scene. Its index is checked as a whole when it is opened. ``every``: only each so many-th frame."""

    def __init__(self, folder: str | Path, threads: int = 1, every: int = 1) -> None:
        self.folder, self.threads = Path(folder), threads
        path = self.folder / INDEX
        absent = f"{path} does not exist; a folder of frames holds one, see docs/inference.md"
        index = read_json_of(path, absent, lambda error: f"{path} cannot be read: {error}")
        self.index = schema.checked(index, str(path), every)

    def scene(self, most: int | None = None) -> Scene:
        """All of it, or its first ``most`` frames."""
        return Scene(self.folder.resolve().name, self._scene_token(), self, tuple(range(len(self.index["frames"])))[:most])

    def _scene_token(self) -> str:
        return self.index.get("scene_token", self.folder.resolve().name)

    def read(self, key: int) -> tuple[Sensors, dict[str, Any]]:
        frame = self.index["frames"][key]
        paths = {name: str(self.folder / path.replace("\\", "/")) for name, path in frame["images"].items()}
        sensors = Sensors(
            images=dict(zip(paths, decode_all(list(paths.values()), self.threads))),
            lidar2img=frame["cameras"],
            ego2global=Pose(**frame["ego2global"]),
            lidar2ego=Pose(**frame["lidar2ego"]),
            time_s=float(frame["time_s"]),
            command=frame.get("command", 2),
            can_bus=frame.get("can_bus"),
        )
        token = frame.get("token", f"{self.folder.resolve().name}-{frame['number']:06d}")
        return sensors, info_of(sensors, paths, token, self._scene_token())


def info_of(sensors: Sensors, paths: dict[str, str], token: str, scene_token: str) -> dict[str, Any]:
    """A frame's info as ``FrameRecord`` has it."""
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
