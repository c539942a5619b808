"""Bench2Drive: CARLA's routes at 10 Hz, as Bench2DriveZoo's info and map files hold them.

``RouteTable`` and ``RouteLabeller`` stand where ``InfoTable`` and ``Labeller`` do for nuScenes; what is behind them is shared.
Trajectories step by ``sample_interval`` frames, half a second. Where Bench2DriveZoo errs, ``CompatSpec`` names it:
``track_pose``, ``occ_steps``, ``clip_frames``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from uniad.config.spec import BENCH2DRIVE, UPSTREAM, DataSpec
from uniad.data import unpickle
from uniad.data.labels import EGO_YAW, EgoFuture, Labeller, Objects
from uniad.data.maps import MapLabels
from uniad.data.table import InfoTable
from uniad.errors import UserError
from uniad.formats import bench2drive as schema
from uniad.formats.published import UNIAD_V1
from uniad.geometry import transforms as tf
from uniad.geometry.boxes import bottom_from_gravity, in_bev_range, limit_period, reframe_boxes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

VERSION = "bench2drive"
# What the map's lines and areas are called, by label
ELEMENTS = {"Broken": 0, "Solid": 1, "SolidSolid": 2, "Center": 3, "TrafficLight": 4, "StopSign": 5}
MAP_REACH_M = 100.0  # a line is looked at where one of its sample points is as near as this


@dataclass(frozen=True)
class RouteTable(InfoTable):
    """All frames of an info file; scenes are routes. ``global_from_ego`` follows the compass, ``actor_pose`` the car's body."""

    ego_yaw: F64  # [N] compass, radians
    ego_velocity: F64  # [N, 3] of the car's own axes
    ego_size: F64  # [N, 3] width, length, height
    command: NDArray[np.int64]  # [N] 0 to 5
    lidar_from_world: F64  # [N, 4, 4]
    actor_pose: F64  # [N, 4, 4] world from the car's body
    place: F64  # [O, 3] world metres, of the actor; its box may lie beside it

    cameras: ClassVar[tuple[str, ...]] = schema.CAMERAS


def load_routes(spec: DataSpec, path: str | Path) -> RouteTable:
    """Read an info file. One that does not fit ``uniad.formats.bench2drive`` is a UserError that names the frame and the key."""
    infos = schema.structure(unpickle.load(path, schema.AGAIN), str(path))
    columns = schema.columns(infos, str(path))
    table = _table(columns, spec, str(path))
    if not np.isin(table.name, spec.class_names).any() and len(table.name):
        some = ", ".join(sorted(set(table.name.tolist()))[:4])
        raise UserError(
            f"{path}: none of its {len(table.name)} objects has a class of this config: they are {some}; classes are "
            f"{', '.join(spec.class_names)}"
        )
    return table if spec.every == 1 else thinned(table, spec.every)


def _table(columns: dict[str, Any], spec: DataSpec, path: str) -> RouteTable:
    starts, count = columns["starts"], len(columns["folder"])
    quaternion = np.zeros((count, 4))
    quaternion[:, 0], quaternion[:, 3] = np.cos(columns["ego_yaw"] / 2), np.sin(columns["ego_yaw"] / 2)
    global_from_ego = tf.pose_matrix(quaternion, columns["ego_translation"])
    ego_from_lidar = columns["lidar2ego"]
    intrinsic = np.zeros((*columns["cam2ego"].shape[:2], 4, 4))
    intrinsic[..., :3, :3], intrinsic[..., 3, 3] = columns["intrinsic"], 1.0
    mapping = dict(spec.name_mapping)
    folder = np.array(columns["folder"])
    command = columns["command_near"]
    return RouteTable(
        path=path,
        version=VERSION,
        token=np.array([f"{name}_{index}" for name, index in zip(columns["folder"], columns["frame_idx"])]),
        scene=np.repeat(np.arange(len(starts)), np.diff(np.append(starts, count))),
        scene_token=folder[starts],
        scene_frames=np.append(starts, count),
        location=np.array(columns["town_name"])[starts],
        frame_idx=columns["frame_idx"],
        timestamp_us=columns["frame_idx"] * (1_000_000 // schema.RATE_HZ),
        can_bus=_can_bus(columns),
        ego_quaternion=quaternion,
        lidar_quaternion=np.roll(Rotation.from_matrix(ego_from_lidar[:, :3, :3]).as_quat(), 1, axis=1),  # w first
        global_from_ego=global_from_ego,
        ego_from_lidar=ego_from_lidar,
        global_from_lidar=global_from_ego @ ego_from_lidar,
        img_path=columns["data_path"],
        img_from_lidar=intrinsic @ tf.inverse(columns["cam2ego"]) @ ego_from_lidar[:, None],
        first_object=np.concatenate(([0], np.cumsum(columns["counts"]))).astype(np.int64),
        boxes=columns["gt_boxes"][:, :7],
        velocity=columns["gt_boxes"][:, 7:],
        instance=columns["gt_ids"],
        name=np.array([mapping.get(name, name) for name in columns["gt_names"].tolist()], dtype=np.str_),
        num_lidar_pts=columns["num_points"],
        valid_flag=np.ones(len(columns["gt_ids"]), dtype=bool),
        convention=UNIAD_V1,
        expert_plan=None,
        expert_command=None,
        ego_yaw=columns["ego_yaw"],
        ego_velocity=columns["ego_vel"],
        ego_size=columns["ego_size"],
        command=np.where(command < 0, spec.vocabulary.straight, command - 1),
        lidar_from_world=columns["world2lidar"],
        actor_pose=np.linalg.inv(columns["world2ego"]),
        place=columns["npc2world"][:, :3, 3],
    )


def _can_bus(columns: dict[str, Any]) -> F64:
    """[N, 18] in nuScenes' order: acceleration, angular rates, velocity; without the pose."""
    parts = [columns[key] for key in ("ego_accel", "ego_rotation_rate", "ego_vel")]
    nothing = np.zeros((len(parts[0]), 1))
    return np.concatenate((np.repeat(nothing, 7, axis=1), *parts, np.repeat(nothing, 2, axis=1)), axis=1)


def thinned(table: RouteTable, every: int) -> RouteTable:
    """The table with each ``every``-th frame of a route, from its first on."""
    kept = np.concatenate([np.arange(*table.scene_frames[scene : scene + 2])[::every] for scene in range(len(table.scene_token))])
    objects = np.concatenate([np.arange(*table.first_object[frame : frame + 2]) for frame in kept])
    counts = np.diff(table.first_object)[kept]
    scene = table.scene[kept]
    changes: dict[str, Any] = {}
    for field in fields(table):
        value = getattr(table, field.name)
        if isinstance(value, np.ndarray) and len(value) == len(table) and field.name not in ("scene_frames", "first_object"):
            changes[field.name] = value[kept]
    for name in ("boxes", "velocity", "instance", "name", "num_lidar_pts", "valid_flag", "place"):
        changes[name] = getattr(table, name)[objects]
    changes["first_object"] = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    changes["scene_frames"] = np.searchsorted(scene, np.arange(len(table.scene_token) + 1))
    for name in ("scene_token", "location"):
        changes[name] = getattr(table, name)
    return replace(table, **changes)


class RouteLabeller(Labeller):
    """Ground truth of a frame as Bench2DriveZoo works it out."""

    table: RouteTable  # pyrefly: ignore[bad-override-mutable-attribute]  set once, by the constructor

    def __init__(self, table: RouteTable, spec: DataSpec) -> None:
        super().__init__(table, spec)
        self.step = spec.sample_interval // spec.every  # frames of the table in half a second

    def _kept(self, span: slice, boxes: torch.Tensor) -> NDArray[np.bool_]:
        seen = self.table.num_lidar_pts[span] >= -1  # as published: what no lidar point hit counts, too
        return seen & in_bev_range(boxes, self.spec.pc_range).numpy() & (self.label[span] >= 0)

    def objects(self, frame: int) -> Objects:
        """Objects of known class, in range, with their trajectories. An object that is not seen at a step has none there."""
        spec, table = self.spec, self.table
        span = table.objects_of(frame)
        boxes = self.boxes(span)
        keep = self._kept(span, boxes)
        chosen = np.flatnonzero(keep) + span.start
        boxes = boxes[torch.from_numpy(keep)]
        boxes[:, 6] = limit_period(boxes[:, 6], 0.5, 2 * np.pi)
        past, past_mask = self._steps(frame, chosen, -spec.past_steps)
        future, future_mask = self._steps(frame, chosen, spec.predict_steps)
        here = self._in_lidar(frame, table.place[chosen])
        past = (past - here[:, None]) * past_mask
        # As in upstream's code for nuScenes the future half is in metres from the lidar, unless compat says otherwise.
        later = future if spec.compat.past_traj_future != "fixed" else (future - here[:, None]) * future_mask
        has_past = (past_mask.sum((1, 2)) > 0)[:, None, None]
        joined = np.concatenate((past, later[:, : spec.fut_steps] * has_past), axis=1)
        joined_mask = np.concatenate((past_mask, future_mask[:, : spec.fut_steps] * has_past), axis=1)
        return Objects(
            boxes.numpy(),
            self.label[chosen],
            table.instance[chosen] + 1,
            joined.astype(np.float32),
            joined_mask.astype(np.float32),
            future.astype(np.float32),
            future_mask.astype(np.float32),
        )

    def _in_lidar(self, frame: int, points: F64) -> F64:
        """World points [n, 3] in a frame's lidar axes, [n, 2]."""
        return tf.apply(self.table.lidar_from_world[frame], points)[:, :2]

    def _steps(self, frame: int, objects: NDArray[np.int64], count: int) -> tuple[F64, F64]:
        """Where objects are at the next ``count`` steps (the last ones where it is negative), in the lidar axes of now."""
        table, steps = self.table, abs(count)
        route = table.frames_of(int(table.scene[frame]))
        xy, mask = np.zeros((len(objects), steps, 2)), np.zeros((len(objects), steps, 2))
        wanted = table.instance[objects]
        for step in range(steps):
            other = frame + (step + 1) * self.step * (1 if count > 0 else -1)
            if other not in route:
                break
            span = table.objects_of(other)
            there = table.instance[span]
            order = np.argsort(there, kind="stable")
            place = np.searchsorted(there[order], wanted)
            seen = place < len(there)
            row = order[np.minimum(place, max(len(there) - 1, 0))] if len(there) else np.zeros(len(wanted), dtype=np.int64)
            seen &= there[row] == wanted if len(there) else False
            if seen.any():
                xy[seen, step] = self._in_lidar(frame, table.place[span][row[seen]])
                mask[seen, step] = 1.0
        return xy, mask

    def ego_box(self, frame: int) -> F32:
        """The ego car as box9 [9], lidar frame."""
        size, speed = self.table.ego_size[frame], self.table.ego_velocity[frame]
        box = np.array([[0.0, 0.0, 0.0, *size, EGO_YAW, speed[1], speed[0]]], dtype=np.float32)
        return bottom_from_gravity(torch.from_numpy(box))[0].numpy()

    def _make_ego_future(self, frame: int) -> EgoFuture:
        spec, table = self.spec, self.table
        route = table.frames_of(int(table.scene[frame]))
        traj, traj_mask = np.zeros((1, spec.predict_steps, 2)), np.zeros((1, spec.predict_steps, 2))
        planning, planning_mask = np.zeros((1, spec.planning_steps, 3)), np.zeros((1, spec.planning_steps, 2))
        for step in range(max(spec.predict_steps, spec.planning_steps)):
            other = frame + (step + 1) * self.step
            if other not in route:
                break
            now_from_then = table.lidar_from_world[frame] @ np.linalg.inv(table.lidar_from_world[other])
            x, y = now_from_then[:2, 3]
            if step < spec.predict_steps:
                traj[0, step], traj_mask[0, step] = (x, y), 1.0
            if step < spec.planning_steps:
                yaw = EGO_YAW - np.arctan2(now_from_then[1, 0], now_from_then[0, 0])
                yaw = yaw + 2 * np.pi if yaw < -np.pi else yaw
                planning[0, step], planning_mask[0, step] = (x, y, yaw), 1.0
        traj, traj_mask, planning, planning_mask = (x.astype(np.float32) for x in (traj, traj_mask, planning, planning_mask))
        return EgoFuture(traj, traj_mask, planning, planning_mask, int(table.command[frame]))

    def command(self, frame: int) -> int:
        """The navigation's command, which the file states."""
        return int(self.table.command[frame])

    @property
    def future_stride(self) -> int:
        """As published the next frames at 10 Hz, though the plan's steps are half a second apart; ``occ_steps=fixed``: those."""
        return 1 if self.spec.compat.occ_steps == BENCH2DRIVE else self.step

    def _reframe(self, boxes: torch.Tensor, frame: int, dst: int) -> torch.Tensor:
        table = self.table
        poses = (table.actor_pose[frame], table.ego_from_lidar[frame], table.actor_pose[dst], table.ego_from_lidar[dst])
        return reframe_boxes(boxes, *(torch.from_numpy(np.ascontiguousarray(pose)) for pose in poses))

    def can_bus(self, frame: int) -> F32:
        """The 18 numbers [18] that the encoder gets."""
        table = self.table
        yaw = float(table.ego_yaw[frame])
        vector = np.zeros(18)
        vector[:3] = table.global_from_ego[frame, :3, 3]
        faulty = self.spec.compat.can_bus_quaternion == UPSTREAM
        vector[3:7] = table.ego_quaternion[frame, 0] if faulty else table.ego_quaternion[frame]
        motion = table.can_bus[frame, 7:16]
        vector[7:16] = np.roll(motion, 3) if self.spec.compat.can_bus_order == BENCH2DRIVE else motion  # velocity first
        heading = yaw + 2 * np.pi if yaw < 0 else yaw
        vector[16], vector[17] = heading, heading / np.pi * 180
        return vector.astype(np.float32)

    def map_labels(self, frame: int) -> MapLabels:
        """Lines, signs and lights about the lidar."""
        town = str(self.table.location[self.table.scene[frame]])
        return town_maps(self.spec.map_file, towns_of(self.table))[town].labels(self.table.lidar_from_world[frame], self.spec)

    @property
    def clips_cross_scenes(self) -> bool:
        return self.spec.compat.clip_frames == BENCH2DRIVE

    def clip_candidates(self, last: int) -> Sequence[int]:
        """As published, one step further back, and into the route before; before the first frame there is the first again."""
        if not self.clips_cross_scenes:
            return super().clip_candidates(last)
        return [max(0, frame) for frame in range(last - self.spec.queue_length * self.step, last + 1, self.step)]

    def clip_frames(self, last: int, rng: np.random.Generator) -> Sequence[int]:
        """As published one of the earlier frames is left out, at random."""
        candidates = self.clip_candidates(last)
        if not self.clips_cross_scenes:
            return candidates
        out = int(rng.integers(len(candidates) - 1))
        return [frame for number, frame in enumerate(candidates) if number != out]


class TownMap:
    """The lines and areas of one town."""

    def __init__(self, data: dict[str, Any]) -> None:
        chosen = [n for n, kind in enumerate(data["lane_types"]) if str(kind) in ELEMENTS]
        self.lines = [np.asarray(data["lane_points"][n], dtype=np.float64) for n in chosen]
        self.line_labels = [ELEMENTS[str(data["lane_types"][n])] for n in chosen]
        samples = [np.asarray(data["lane_sample_points"][n], dtype=np.float64)[:, :2] for n in chosen]
        self.samples = np.concatenate(samples) if samples else np.zeros((0, 2))
        self.sample_starts = np.cumsum([0, *(len(s) for s in samples)])[:-1]
        kinds = [str(kind) for kind in data["trigger_volumes_types"]]
        areas = zip(data["trigger_volumes_points"], kinds)
        self.areas = [np.asarray(points, dtype=np.float64) for points, kind in areas if kind in ELEMENTS]
        self.area_labels = [ELEMENTS[kind] for kind in kinds if kind in ELEMENTS]

    def labels(self, lidar_from_world: F64, spec: DataSpec) -> MapLabels:
        """Masks of each element in range. Rows go ahead, columns to the right. An empty map has no element; upstream makes one
        that is nowhere, which a query would be taught."""
        here = np.linalg.inv(lidar_from_world)[:2, 3]
        near: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        if len(self.lines):
            distance = np.linalg.norm(self.samples - here, axis=-1)
            near = np.flatnonzero(np.minimum.reduceat(distance, self.sample_starts) < MAP_REACH_M)
        labels, masks = [], []
        for n in near:
            points = self._in_range(self.lines[n], lidar_from_world, spec)[0]
            if len(points) > 1:
                mask = np.zeros(spec.canvas_hw, dtype=np.uint8)
                cv2.polylines(mask, [self._cells(points, spec)], False, color=1, thickness=spec.lane_thickness)
                labels.append(self.line_labels[n]), masks.append(mask)
        for area, label in zip(self.areas, self.area_labels):
            points, inside = self._in_range(area, lidar_from_world, spec)
            if inside.all():
                mask = np.zeros(spec.canvas_hw, dtype=np.uint8)
                cv2.fillConvexPoly(mask, self._cells(points, spec), color=1)
                labels.append(label), masks.append(mask)
        boxes = []
        for mask in masks:
            rows, columns = np.nonzero(mask)
            boxes.append((columns.min(), rows.min(), columns.max(), rows.max()))
        return MapLabels(
            np.array(labels, dtype=np.int64),
            np.array(boxes, dtype=np.int64).reshape(-1, 4),
            np.stack(masks) if masks else np.zeros((0, *spec.canvas_hw), dtype=np.uint8),
            np.zeros(spec.canvas_hw, dtype=np.uint8),
        )

    @staticmethod
    def _in_range(points: F64, lidar_from_world: F64, spec: DataSpec) -> tuple[F64, NDArray[np.bool_]]:
        xy = tf.apply(lidar_from_world, points)[:, :2]
        x0, y0, _, x1, y1, _ = spec.pc_range
        inside = (xy[:, 0] > x0) & (xy[:, 0] < x1) & (xy[:, 1] > y0) & (xy[:, 1] < y1)
        return xy[inside], inside

    @staticmethod
    def _cells(points: F64, spec: DataSpec) -> NDArray[np.int32]:
        size, (rows, columns) = np.array(spec.patch_size), spec.canvas_hw
        return ((points + size / 2) * (np.array((columns, rows)) / size)).astype(np.int32)


def towns_of(table: RouteTable) -> tuple[str, ...]:
    return tuple(sorted(set(table.location.tolist())))


@lru_cache(maxsize=4)
def town_maps(path: str, towns: tuple[str, ...]) -> dict[str, TownMap]:
    """The maps of towns, read once per process (load them before forking workers and they share them)."""
    if not path:
        raise UserError("this config names no map_file: Bench2Drive's maps are b2d_map_infos.pkl, see docs/bench2drive.md")
    content = schema.check_maps(unpickle.load(path, schema.AGAIN), path, list(towns))
    return {town: TownMap(data) for town, data in content.items()}
