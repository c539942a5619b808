"""The thirteen tables of nuScenes v1.0, put together from the notes of all scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from uniad.data.synthetic.mapjson import MASK_FILES
from uniad.data.synthetic.params import LOCATIONS, SceneSpec, WorldParams, token
from uniad.data.synthetic.record import KEYFRAME_US, notes_path
from uniad.data.synthetic.sensors import CAMERAS, HEIGHT, LIDAR, WIDTH, yaw_quaternion
from uniad.formats.layout import EXPERT

TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip
CATEGORIES = (
    "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.wheelchair", "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility", "human.pedestrian.police_officer", "human.pedestrian.construction_worker", "animal",
    "vehicle.car", "vehicle.motorcycle", "vehicle.bicycle", "vehicle.bus.bendy", "vehicle.bus.rigid", "vehicle.truck",
    "vehicle.construction", "vehicle.emergency.ambulance", "vehicle.emergency.police", "vehicle.trailer",
    "movable_object.barrier", "movable_object.trafficcone", "movable_object.pushable_pullable", "movable_object.debris",
    "static_object.bicycle_rack",
)  # fmt: skip
ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
VISIBILITY = (("1", "v0-40", 0.4), ("2", "v40-60", 0.6), ("3", "v60-80", 0.8), ("4", "v80-100", 1.01))
MOVING_MPS = 0.25
SEEN_PX = 6  # of the half-size image: what a person would still find


def visibility_token(seen: int, alone: int) -> str:
    """Level of the share of an object's pixels that nothing hides, over all six cameras."""
    share = seen / alone if alone else 0.0
    return next(name for name, _, upper in VISIBILITY if share < upper)


def attribute_name(kind: str, mode: str, speed: float) -> str | None:
    """The attribute that an object of a kind has; None for cones and barriers."""
    if kind in ("traffic_cone", "barrier"):
        return None
    if kind == "pedestrian":
        return "pedestrian.moving" if speed > MOVING_MPS else "pedestrian.standing"
    if kind in ("bicycle", "motorcycle"):
        return "cycle.with_rider" if mode == "driving" else "cycle.without_rider"
    if mode == "parked":
        return "vehicle.parked"
    return "vehicle.moving" if speed > MOVING_MPS else "vehicle.stopped"


class TableWriter:
    """Adds scenes one after another, then writes all tables."""

    def __init__(self, params: WorldParams) -> None:
        self.params = params
        self.rows: dict[str, list[dict]] = {name: [] for name in TABLES}
        add = self.rows
        for name in CATEGORIES:
            add["category"].append({"token": self.token("category", name), "name": name, "description": ""})
        for name in ATTRIBUTES:
            add["attribute"].append({"token": self.token("attribute", name), "name": name, "description": ""})
        for number, level, _ in VISIBILITY:
            text = f"visibility of whole object is between {level[1:].replace('-', ' and ')}%"
            add["visibility"].append({"token": number, "level": level, "description": text})
        for channel in (*CAMERAS, LIDAR):
            modality = "lidar" if channel == LIDAR else "camera"
            add["sensor"].append({"token": self.token("sensor", channel), "channel": channel, "modality": modality})
        self.logs: dict[str, list[str]] = {location: [] for location in LOCATIONS}
        self.expert: dict[str, dict] = {}

    def token(self, *words: object) -> str:
        return token(self.params.seed, *words)

    def add_scene(self, root: Path, spec: SceneSpec) -> None:
        notes = json.loads(notes_path(root, spec, None).read_text())
        frames = [json.loads(notes_path(root, spec, i).read_text()) for i in range(self.params.frames)]
        samples = [self.token("sample", spec.name, i) for i in range(self.params.frames)]
        log = self.token("log", spec.name)
        self.logs[spec.location].append(log)
        self.rows["log"].append({"token": log, "logfile": notes["log"], "vehicle": notes["vehicle"],
                                 "date_captured": notes["log"][5:15], "location": spec.location})  # fmt: skip
        scene = self.token("scene", spec.name)
        self.rows["scene"].append(
            {"token": scene, "log_token": log, "nbr_samples": len(samples), "first_sample_token": samples[0],
             "last_sample_token": samples[-1], "name": spec.name,
             "description": f"Synthetic town, first junction: {spec.manoeuvre}"}
        )  # fmt: skip
        for i, sample in enumerate(samples):
            self.rows["sample"].append(
                {"token": sample, "timestamp": spec.start_us + i * KEYFRAME_US, "prev": samples[i - 1] if i else "",
                 "next": samples[i + 1] if i + 1 < len(samples) else "", "scene_token": scene}
            )  # fmt: skip
        self.expert.update((sample, frame["expert"]) for sample, frame in zip(samples, frames) if "expert" in frame)
        self._add_data(spec, notes, frames, samples)
        self._add_annotations(spec, notes, frames, samples)

    def _add_data(self, spec: SceneSpec, notes: dict, frames: list[dict], samples: list[str]) -> None:
        for sensor in notes["sensors"]:
            self.rows["calibrated_sensor"].append(
                {"token": self.token("calibrated_sensor", spec.name, sensor["channel"]),
                 "sensor_token": self.token("sensor", sensor["channel"]), "translation": sensor["translation"],
                 "rotation": sensor["rotation"], "camera_intrinsic": sensor["intrinsic"]}
            )  # fmt: skip
        for channel in (*CAMERAS, LIDAR):
            chain = [d for frame in frames for d in frame["data"] if d["channel"] == channel]
            chain.sort(key=lambda d: d["timestamp"])
            tokens = [self.token("sample_data", d["file"]) for d in chain]
            for i, d in enumerate(chain):
                # As in the genuine tables, a sample_data record and its ego pose share their token.
                self.rows["ego_pose"].append({"token": tokens[i], "timestamp": d["timestamp"], "rotation": d["rotation"],
                                              "translation": d["translation"]})  # fmt: skip
                picture = channel != LIDAR
                self.rows["sample_data"].append(
                    {"token": tokens[i], "sample_token": samples[d["sample"]], "ego_pose_token": tokens[i],
                     "calibrated_sensor_token": self.token("calibrated_sensor", spec.name, channel),
                     "timestamp": d["timestamp"], "fileformat": "jpg" if picture else "pcd", "is_key_frame": d["key"],
                     "height": HEIGHT if picture else 0, "width": WIDTH if picture else 0, "filename": d["file"],
                     "prev": tokens[i - 1] if i else "", "next": tokens[i + 1] if i + 1 < len(tokens) else ""}
                )  # fmt: skip

    def _add_annotations(self, spec: SceneSpec, notes: dict, frames: list[dict], samples: list[str]) -> None:
        """One instance per actor that was noticed; annotated from the first to the last keyframe that noticed it, like
        the genuine set, where an object that is hidden for a while keeps its box with no lidar point."""
        actors = {actor["id"]: actor for actor in notes["actors"]}
        seen: dict[int, list[tuple[int, dict]]] = {}
        for i, frame in enumerate(frames):
            for row in frame["observations"]:
                seen.setdefault(row["id"], []).append((i, row))
        for number, rows in sorted(seen.items()):
            noticed = [k for k, (_, row) in enumerate(rows) if row["lidar"] > 0 or row["seen"] >= SEEN_PX]
            if not noticed:
                continue
            rows = rows[noticed[0] : noticed[-1] + 1]
            actor = actors[number]
            instance = self.token("instance", spec.name, number)
            tokens = [self.token("sample_annotation", spec.name, number, i) for i, _ in rows]
            self.rows["instance"].append(
                {"token": instance, "category_token": self.token("category", actor["category"]), "nbr_annotations": len(rows),
                 "first_annotation_token": tokens[0], "last_annotation_token": tokens[-1]}
            )  # fmt: skip
            for k, (i, row) in enumerate(rows):
                name = attribute_name(actor["kind"], actor["mode"], row["speed"])
                self.rows["sample_annotation"].append(
                    {"token": tokens[k], "sample_token": samples[i], "instance_token": instance,
                     "visibility_token": visibility_token(row["seen"], row["alone"]),
                     "attribute_tokens": [self.token("attribute", name)] if name else [],
                     "translation": [row["x"], row["y"], actor["size"][2] / 2], "size": actor["size"],
                     "rotation": yaw_quaternion(float(np.arctan2(np.sin(row["yaw"]), np.cos(row["yaw"])))),
                     "prev": tokens[k - 1] if k else "", "next": tokens[k + 1] if k + 1 < len(tokens) else "",
                     "num_lidar_pts": row["lidar"], "num_radar_pts": 0}
                )  # fmt: skip

    def write(self, root: Path) -> None:
        for location in LOCATIONS:
            self.rows["map"].append({"token": self.token("map", location), "log_tokens": self.logs[location],
                                     "category": "semantic_prior", "filename": MASK_FILES[location]})  # fmt: skip
        folder = root / self.params.version
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.rows.items():
            (folder / f"{name}.json").write_text(json.dumps(rows))
        if self.expert:
            (folder / EXPERT).write_text(json.dumps(self.expert))
