"""Info files: what training and evaluation need to know of every keyframe, taken once from the nuScenes tables.

``nuscenes_infos_temporal_{train,val}.pkl`` hold ``{infos: [dict per keyframe], metadata: {version}}`` with the keys, frames
and conventions of upstream's converter, so that either stack reads the other's files. Boxes are in the lidar frame, z at
the middle, yaw as in ``uniad.geometry.boxes`` or as v2.0 has it (``formats.conventions``). Two additions, which upstream readers
ignore: ``map_location`` per frame, and ``metadata['made_by']``. Paths are relative to the dataset's root.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from uniad.data import unpickle
from uniad.data.check import dataset_problems
from uniad.data.splits import OWN, SPLITS, splits_of
from uniad.errors import UserError
from uniad.files import read_json
from uniad.formats.canbus import read_messages
from uniad.formats.layout import CAMERAS, EXPERT, LIDAR
from uniad.formats.nuscenes import missing_channels, visibility_levels
from uniad.formats.published import UNIAD_V1, UNIAD_V2
from uniad.formats.times import check_times
from uniad.geometry import transforms as tf
from uniad.processes import map_in_processes

FUTURE_STEPS = 16  # of `fut_traj`, half seconds
MAX_SWEEPS = 10
MADE_BY = "uniad native"


@dataclass(frozen=True)
class Result:
    """What ``create_infos`` made: path and number of frames per file, and what a person should hear of the rest."""

    files: dict[str, int]
    scenes: dict[str, int]
    absent_scenes: int  # left out because files of theirs are absent
    unlisted_scenes: tuple[str, ...] = ()  # names of the scenes that no split has
    frames_without_can_bus: int = 0  # zeros stand there


def create_infos(
    root: str | Path,
    out_dir: str | Path,
    tag: str = "nuscenes",
    version: str = "v1.0-trainval",
    can_bus_root: str | Path | None = None,
    workers: int = 4,
    max_sweeps: int = MAX_SWEEPS,
    progress: bool = True,
    every: int = 1,
    may_lack_can_bus: bool = False,
    convention: str = UNIAD_V1,
) -> Result:
    """Write the info files of one dataset version; the same input gives the same bytes for any number of workers.

    every: take each N-th keyframe of a scene, for recordings denser than 2 Hz; see ``tables.Tables``. may_lack_can_bus: scenes
    without CAN bus messages have zeros, as those have that nuScenes recorded without. convention: of the boxes, that of UniAD v1
    or v2.0, see ``formats.conventions``.
    """
    problems = dataset_problems(root, version, can_bus_root, need_can_bus=not may_lack_can_bus)
    if problems:
        raise UserError(f"{root} is not a complete nuScenes {version}: {'; '.join(problems)}. See docs/data.md")
    source = _Source(Path(root), version, Path(can_bus_root or root), max_sweeps, every, may_lack_can_bus, convention)
    scenes, absent = source.present_scenes()
    if not scenes and not absent:
        raise UserError(_no_scene(source, Path(root) / version))
    if not scenes:
        raise UserError(f"{root}: none of the {absent} scenes of {version} has all its files under samples/; download its blobs")
    source.check_frames(scenes)
    by_scene = dict(zip(scenes, _run(source, scenes, workers, progress)))
    files, counts = {}, {}
    for split, names in source.splits.items():
        members = [scene for scene in scenes if source.scene_name(scene) in names]
        infos = [info for scene in members for info in by_scene[scene]]
        path = Path(out_dir) / f"{tag}_infos_temporal_{split}.pkl"
        write_infos(path, infos, version, every)
        files[str(path)], counts[split] = len(infos), len(members)
    zeros = sum(not info["can_bus"].any() for infos in by_scene.values() for info in infos)
    return Result(files, counts, absent, source.unlisted_scenes(), zeros)


def _no_scene(source: _Source, tables: Path) -> str:
    names = [record["name"] for record in source.nusc.scene]
    first, second = SPLITS[source.version]
    wanted = f'{{"{first}": [...]}}' if second is None else '{"train": [...], "val": [...]}'
    some = ", ".join(names[:2]) + ", ..." * (len(names) > 2)
    return (
        f"{tables}: none of its {len(names)} scenes ({some}) is in a split of the devkit; {tables / OWN} can put scenes of one's "
        f"own into splits: {wanted}, see docs/data.md"
    )


def write_infos(path: str | Path, infos: list[dict[str, Any]], version: str, every: int = 1) -> None:
    """Write an info file whole or not at all."""
    metadata = {"version": version, "made_by": MADE_BY, **({"every": every} if every > 1 else {})}
    unpickle.save(path, {"infos": infos, "metadata": metadata})


def _run(source: _Source, scenes: list[str], workers: int, progress: bool) -> Iterable[list[dict[str, Any]]]:
    """The infos of every scene, in order; scenes are shared among forked processes, which inherit the tables."""
    frames = sum(source.nusc.get("scene", scene)["nbr_samples"] for scene in scenes)
    # The bar goes to stderr, so that a log that keeps stdout stays short.
    with tqdm(total=frames, unit="frame", desc=f"infos {source.version}", disable=not progress) as bar:
        for infos in _map_scenes(source.scene_infos, scenes, workers):
            bar.update(len(infos))
            yield infos


def _map_scenes(
    function: Callable[[str], list[dict[str, Any]]], scenes: list[str], workers: int
) -> Iterator[list[dict[str, Any]]]:
    if workers <= 1 or len(scenes) == 1:
        # Through a pickle as from another process: which objects are shared decides a pickle's bytes.
        yield from (pickle.loads(pickle.dumps(function(scene))) for scene in scenes)
        return
    global _forked
    _forked = function
    try:
        yield from map_in_processes(_call_forked, scenes, min(workers, len(scenes)))
    finally:
        _forked = None


_forked: Callable[[str], list[dict[str, Any]]] | None = None


def _call_forked(scene: str) -> list[dict[str, Any]]:
    assert _forked is not None
    return _forked(scene)


class _Source:
    """The nuScenes tables and what is derived from them, shared by all worker processes."""

    def __init__(
        self, root: Path, version: str, can_bus_root: Path, max_sweeps: int, every: int = 1, may_lack_can_bus: bool = False,
        convention: str = UNIAD_V1,
    ) -> None:  # fmt: skip
        from nuscenes.prediction import PredictHelper

        from uniad.data.tables import Tables

        self.root, self.version, self.can_bus_root, self.max_sweeps = root, version, can_bus_root, max_sweeps
        self.may_lack_can_bus, self.convention = may_lack_can_bus, convention
        self.nusc = Tables(root, version, every)
        self.expert: dict[str, Any] | None = None
        if (root / version / EXPERT).exists():
            try:
                self.expert = read_json(root / version / EXPERT)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{root / version / EXPERT} is damaged ({error}); make the world again") from None
        self.predict = PredictHelper(self.nusc)
        self.annotated = version != "v1.0-test"
        self.instance_number = {record["token"]: number for number, record in enumerate(self.nusc.instance)}
        self.visibility = visibility_levels(self.nusc.visibility, str(root / version))
        self.splits = splits_of(root, version, {record["name"] for record in self.nusc.scene})

    def scene_name(self, scene: str) -> str:
        return self.nusc.get("scene", scene)["name"]

    def unlisted_scenes(self) -> tuple[str, ...]:
        """Names of the scenes that no split of this version has."""
        wanted = set().union(*self.splits.values())
        return tuple(record["name"] for record in self.nusc.scene if record["name"] not in wanted)

    def present_scenes(self) -> tuple[list[str], int]:
        """Tokens of the splits' scenes whose every keyframe has its images and lidar, in table order; number of the others."""
        wanted = set().union(*self.splits.values())
        scenes = [record["token"] for record in self.nusc.scene if record["name"] in wanted]
        present = [scene for scene in scenes if self._is_present(scene)]
        return present, len(scenes) - len(present)

    def check_frames(self, scenes: list[str]) -> None:
        """UserError where keyframes of a scene do not follow each other at 2 Hz."""
        samples = [sample for scene in scenes for sample in self._samples(scene)]
        times = np.array([sample["timestamp"] for sample in samples], dtype=np.float64)
        starts = np.flatnonzero([not sample["prev"] for sample in samples])
        tables = self.root / self.version

        def where(number: int) -> str:
            return f"{tables}/sample.json: {self.scene_name(samples[number]['scene_token'])}: record {samples[number]['token']}"

        thin = "`--every {every}` (make data EVERY={every}) takes every {every}th"
        check_times(times, starts, "microseconds", "timestamp", where, thin)

    def _is_present(self, scene: str) -> bool:
        for sample in self._samples(scene):
            missing = missing_channels(sample, (LIDAR, *CAMERAS))
            if missing:
                raise UserError(
                    f"{self.root / self.version}/sample_data.json: {self.scene_name(scene)}: sample {sample['token']} has no key "
                    f"frame of {', '.join(missing)}; each needs {LIDAR} and the six cameras. Add it, take the sample out, or "
                    f"leave the scene out by a {OWN}"
                )
        # Blobs carry whole scenes: the first frame tells cheaply, and only then are all of them looked at.
        return all(
            (self.root / self.nusc.get("sample_data", sample["data"][sensor])["filename"]).is_file()
            for sample in self._samples(scene)
            for sensor in (LIDAR, *CAMERAS)
        )

    def _samples(self, scene: str) -> Iterator[dict[str, Any]]:
        token = self.nusc.get("scene", scene)["first_sample_token"]
        while token:
            sample = self.nusc.get("sample", token)
            yield sample
            token = sample["next"]

    def scene_infos(self, scene: str) -> list[dict[str, Any]]:
        """The infos of one scene, in time order."""
        record = self.nusc.get("scene", scene)
        location = self.nusc.get("log", record["log_token"])["location"]
        samples = list(self._samples(scene))
        times = np.array([sample["timestamp"] for sample in samples])
        messages = read_messages(self.can_bus_root, record["name"], times, self.may_lack_can_bus)
        return [self._info(sample, number, location, messages) for number, sample in enumerate(samples)]

    def _info(self, sample: dict[str, Any], number: int, location: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        lidar = self._sensor(sample["data"][LIDAR])
        lidar_from_global = tf.inverse(lidar.global_from_sensor)
        info = {
            "lidar_path": lidar.record["filename"],
            "token": sample["token"],
            "prev": sample["prev"],
            "next": sample["next"],
            "can_bus": can_bus_vector(messages, sample["timestamp"]),
            "frame_idx": number,
            "sweeps": self._sweeps(lidar.record, lidar_from_global),
            "cams": {camera: self._sweep(self._sensor(sample["data"][camera]), lidar_from_global, camera) for camera in CAMERAS},
            "scene_token": sample["scene_token"],
            "lidar2ego_translation": lidar.calibration["translation"],
            "lidar2ego_rotation": lidar.calibration["rotation"],
            "ego2global_translation": lidar.pose["translation"],
            "ego2global_rotation": lidar.pose["rotation"],
            "timestamp": sample["timestamp"],
            "map_location": location,
        }
        if self.annotated:
            info.update(self._annotations(sample, lidar_from_global))
        if self.expert is not None:
            info.update(self._wanted(sample["token"]))
        return info

    def _wanted(self, sample: str) -> dict[str, Any]:
        """What is to be learned in a frame of a driven world; ``synthetic.tables`` says what the file holds."""
        assert self.expert is not None
        try:
            wanted = self.expert[sample]
            return {"expert_plan": np.array(wanted["plan"], dtype=np.float64), "expert_command": int(wanted["command"])}
        except (KeyError, TypeError, ValueError) as error:
            where = self.root / self.version / EXPERT
            raise UserError(f"{where}: no plan and command of sample {sample} ({error!r}): make the world again") from None

    def _sensor(self, token: str) -> _Sensor:
        record = self.nusc.get("sample_data", token)
        calibration = self.nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        return _Sensor(record, calibration, self.nusc.get("ego_pose", record["ego_pose_token"]))

    def _sweep(self, sensor: _Sensor, lidar_from_global: NDArray[np.float64], kind: str) -> dict[str, Any]:
        lidar_from_sensor = lidar_from_global @ sensor.global_from_sensor
        sweep = {
            "data_path": sensor.record["filename"],
            "type": kind,
            "sample_data_token": sensor.record["token"],
            "sensor2ego_translation": sensor.calibration["translation"],
            "sensor2ego_rotation": sensor.calibration["rotation"],
            "ego2global_translation": sensor.pose["translation"],
            "ego2global_rotation": sensor.pose["rotation"],
            "timestamp": sensor.record["timestamp"],
            "sensor2lidar_rotation": lidar_from_sensor[:3, :3].copy(),
            "sensor2lidar_translation": lidar_from_sensor[:3, 3].copy(),
        }
        if kind != "lidar":
            sweep["cam_intrinsic"] = np.array(sensor.calibration["camera_intrinsic"])
        return sweep

    def _sweeps(self, record: dict[str, Any], lidar_from_global: NDArray[np.float64]) -> list[dict[str, Any]]:
        sweeps = []
        while len(sweeps) < self.max_sweeps and record["prev"]:
            sensor = self._sensor(record["prev"])
            sweeps.append(self._sweep(sensor, lidar_from_global, "lidar"))
            record = sensor.record
        return sweeps

    def _annotations(self, sample: dict[str, Any], lidar_from_global: NDArray[np.float64]) -> dict[str, Any]:
        from nuscenes.eval.detection.utils import category_to_detection_name

        records = [self.nusc.get("sample_annotation", token) for token in sample["anns"]]
        count = len(records)
        centres = tf.apply(lidar_from_global, np.array([r["translation"] for r in records]).reshape(-1, 3))
        sizes = np.array([r["size"] for r in records]).reshape(-1, 3)
        rotations = lidar_from_global[:3, :3] @ tf.rotation_matrix(np.array([r["rotation"] for r in records]).reshape(-1, 4))
        # The angle by which the y axis is turned; equals `heading` unless the ego car pitches or rolls.
        yaw = np.arctan2(-rotations[:, 0, 1], rotations[:, 0, 0])
        velocity = np.array([self.nusc.box_velocity(r["token"]) for r in records]).reshape(-1, 3)
        # The vertical part is dropped before turning into lidar axes, as in upstream.
        velocity = (velocity * (1.0, 1.0, 0.0)) @ lidar_from_global[:3, :3].T
        futures = [self._future(r) for r in records]
        names = [category_to_detection_name(r["category_name"]) or r["category_name"] for r in records]
        lidar_points = np.array([r["num_lidar_pts"] for r in records], dtype=np.int64)
        radar_points = np.array([r["num_radar_pts"] for r in records], dtype=np.int64)
        return {
            "gt_boxes": self._boxes(centres, sizes, yaw),
            "gt_names": np.array(names, dtype=np.str_),
            "gt_velocity": velocity[:, :2].copy(),
            "num_lidar_pts": lidar_points,
            "num_radar_pts": radar_points,
            "valid_flag": lidar_points + radar_points > 0,
            "gt_inds": np.array([self.instance_number[r["instance_token"]] for r in records], dtype=np.int64),
            "gt_ins_tokens": np.array([r["instance_token"] for r in records], dtype=np.str_),
            "fut_traj": np.array([xy for xy, _ in futures]).reshape(count, FUTURE_STEPS, 2),
            "fut_traj_valid_mask": np.array([mask for _, mask in futures]).reshape(count, FUTURE_STEPS, 2),
            # Some releases leave visibility out; 4 is "all of it".
            "visibility_tokens": np.array([self.visibility.get(r["visibility_token"], 4) for r in records], dtype=np.int64),
        }

    def _boxes(self, centres: NDArray[np.float64], sizes: NDArray[np.float64], yaw: NDArray[np.float64]) -> NDArray[np.float64]:
        """gt_boxes [n, 7] of sizes [n, 3] in nuScenes' order (w, l, h) and yaws [n], in the convention that is asked for."""
        if self.convention == UNIAD_V2:
            return np.concatenate((centres, sizes[:, (1, 0, 2)], yaw[:, None]), axis=1)
        return np.concatenate((centres, sizes, (-yaw - np.pi / 2)[:, None]), axis=1)

    def _future(self, record: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions of the next 8 s in the agent's own frame (y ahead) and where they are known, [16, 2] each."""
        xy, mask = np.zeros((FUTURE_STEPS, 2)), np.zeros((FUTURE_STEPS, 2))
        known = self.predict.get_future_for_agent(
            record["instance_token"], record["sample_token"], seconds=FUTURE_STEPS // 2, in_agent_frame=True
        )
        xy[: len(known)], mask[: len(known)] = np.reshape(known, (-1, 2)), 1.0
        return xy, mask


@dataclass(frozen=True)
class _Sensor:
    record: dict[str, Any]
    calibration: dict[str, Any]
    pose: dict[str, Any]

    @property
    def global_from_sensor(self) -> NDArray[np.float64]:
        global_from_ego = tf.pose_matrix(self.pose["rotation"], self.pose["translation"])
        return global_from_ego @ tf.pose_matrix(self.calibration["rotation"], self.calibration["translation"])


def can_bus_vector(messages: list[dict[str, Any]], timestamp: int) -> NDArray[np.float64]:
    """The 18 numbers of a frame: position, orientation, acceleration, angular rate, velocity, and two zeros for later.

    Position and orientation come from the last message not after the frame, the rest from the one that follows it: so the
    upstream converter does, and published weights were trained on it. A scene without messages has zeros.
    """
    if not messages:
        return np.zeros(18)
    after = next((i for i, message in enumerate(messages) if message["utime"] > timestamp), len(messages))
    last, following = messages[max(after - 1, 0)], messages[min(after, len(messages) - 1)]
    parts = (last["pos"], last["orientation"], following["accel"], following["rotation_rate"], following["vel"])
    return np.array([*np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]), 0.0, 0.0])
