"""Ground truth of a keyframe, worked out from the info table alone: objects, their past and future, and the ego car's.

Trajectories step from keyframe to keyframe (0.5 s). nuScenes links an object's annotations into a chain; where an object was
not annotated in between, the chain skips the gap, and so do these trajectories, as the devkit's ``PredictHelper`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from uniad.config.spec import UPSTREAM, DataSpec
from uniad.data.table import InfoTable
from uniad.geometry import transforms as tf
from uniad.geometry.boxes import bottom_from_gravity, in_bev_range, limit_period, reframe_boxes
from uniad.geometry.nuscenes import EGO_SIZE

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# The ego car as a box about the lidar: width, length, height (m) and yaw of something that faces +y.
EGO_YAW = -np.pi
# The devkit accepts a keyframe that comes this much late.
TIME_BUFFER_S = 0.15
RIGHT, LEFT, STRAIGHT = 0, 1, 2
COMMAND_THRESHOLD_M = 2.0
# Frames of the occupancy labels that metrics and losses read: now and six futures with two pasts for their validity.
OCC_FRAMES = 7


class Objects(NamedTuple):
    """Annotated objects of one frame that training may see."""

    boxes: F32  # [n, 9] box9
    labels: I64  # [n]
    ids: I64  # [n] from 1
    past_traj: F32  # [n, past + fut, 2]
    past_traj_mask: F32
    fut_traj: F32  # [n, predict, 2]
    fut_traj_mask: F32


class EgoFuture(NamedTuple):
    """Where the ego car went."""

    traj: F32  # [1, predict, 2] offsets in the ego frame turned so that +y is ahead
    traj_mask: F32
    planning: F32  # [1, steps, 3] x, y, yaw in the current lidar frame
    planning_mask: F32  # [1, steps, 2]
    command: int


class FutureFrames(NamedTuple):
    """All objects now and in the coming frames, seen from now. None beyond the scene's end."""

    boxes: list[F32 | None]  # [m, 9] box9 each
    labels: list[I64 | None]
    ids: list[I64 | None]
    is_valid: NDArray[np.bool_]  # [past + now + future] whether the frame exists


class _SceneTracks(NamedTuple):
    """Positions of every instance of a scene, on a dense instance-by-frame grid."""

    first: int  # frame number of the scene's first frame
    rows: dict[int, int]  # instance number -> row
    known: NDArray[np.bool_]  # [instances, T]
    xy: F64  # [instances, T, 2] global metres
    time_s: F64  # [T] since the scene's first frame


class Labeller:
    """Answers for one info table. Cheap enough to be asked in a loader's worker: about a millisecond a frame."""

    def __init__(self, table: InfoTable, spec: DataSpec) -> None:
        self.table, self.spec = table, spec
        number = {name: index for index, name in enumerate(spec.class_names)}
        self.label = np.array([number.get(name, -1) for name in table.name], dtype=np.int64)
        self.ego_velocity = _ego_velocity(table)
        self._scene_tracks = lru_cache(maxsize=64)(self._make_scene_tracks)
        # of frames that were asked about
        self.step = 1  # frames of the table in half a second
        self._commands: dict[int, int] = {}
        self._ego: dict[int, EgoFuture] = {}

    def __getstate__(self):  # a cache cannot be pickled, and need not be
        return {key: value for key, value in self.__dict__.items() if key != "_scene_tracks"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._scene_tracks = lru_cache(maxsize=64)(self._make_scene_tracks)

    def boxes(self, objects: slice) -> torch.Tensor:
        """box9 [m, 9] float32 of annotated objects in their frame's lidar axes."""
        joined = np.concatenate((self.table.boxes[objects], self.table.velocity[objects]), axis=1)
        return bottom_from_gravity(torch.from_numpy(joined.astype(np.float32)))

    def objects(self, frame: int) -> Objects:
        """Objects of known class, in range and seen by a sensor, with their trajectories."""
        span = self.table.objects_of(frame)
        boxes = self.boxes(span)
        keep = self._kept(span, boxes)
        chosen = np.flatnonzero(keep) + span.start
        boxes = boxes[torch.from_numpy(keep)]
        boxes[:, 6] = limit_period(boxes[:, 6], 0.5, 2 * np.pi)
        trajectories = self._trajectories(frame, chosen)
        return Objects(boxes.numpy(), self.label[chosen], self.table.instance[chosen] + 1, *trajectories)

    def has_objects(self, frame: int) -> bool:
        """Whether ``objects`` would find any."""
        span = self.table.objects_of(frame)
        return bool(self._kept(span, self.boxes(span)).any())

    def _kept(self, span: slice, boxes: torch.Tensor) -> NDArray[np.bool_]:
        seen = self.table.valid_flag[span] if self.spec.use_valid_flag else self.table.num_lidar_pts[span] > 0
        return seen & in_bev_range(boxes, self.spec.pc_range).numpy() & (self.label[span] >= 0)

    def _trajectories(self, frame: int, objects: I64) -> tuple[F32, F32, F32, F32]:
        spec = self.spec
        tracks = self._scene_tracks(int(self.table.scene[frame]))
        now = frame - tracks.first
        rows = np.array([tracks.rows[number] for number in self.table.instance[objects]], dtype=np.int64)
        future, future_mask = _steps(tracks, rows, now, spec.predict_steps, spec.predict_steps / 2, forward=True)
        past, past_mask = _steps(tracks, rows, now, spec.past_steps, spec.past_steps / 2, forward=False)
        turn = self._lidar_yaw_from_global(frame, objects)
        future, past = tf.rotate_2d(turn, future), tf.rotate_2d(turn, past)
        if spec.use_nonlinear_optimizer:
            # The smoother of stage 2 wants positions, not offsets.
            future_target = (future + self.table.boxes[objects, None, :2]) * future_mask
        else:
            future_target = future * future_mask
        joined, joined_mask = _past_and_future(
            past * past_mask,
            past_mask,
            future_target if spec.compat.past_traj_future == UPSTREAM else future * future_mask,
            future_mask,
            spec.fut_steps,
        )
        return (
            joined.astype(np.float32),
            joined_mask.astype(np.float32),
            future_target.astype(np.float32),
            future_mask.astype(np.float32),
        )

    def _lidar_yaw_from_global(self, frame: int, objects: I64) -> F64:
        """Angle [n] that turns an object's global displacement into lidar axes.

        The devkit turns a displacement into the object's own frame by its global heading and then out of it by its heading
        in the lidar frame; on a slope the two do not cancel to one angle for all objects.
        """
        rotation = tf.inverse(self.table.global_from_lidar[frame])[:3, :3]
        # Info files keep the angle atan2(-R01, R00) of lidar_from_object; a nuScenes box turns about the vertical only, so
        # its global heading can be had back exactly.
        stored = -self.table.boxes[objects, 6] - np.pi / 2
        in_global = stored + np.arctan2(rotation[0, 1], rotation[0, 0])
        cos, sin = np.cos(in_global), np.sin(in_global)
        in_lidar = np.arctan2(rotation[1, 0] * cos + rotation[1, 1] * sin, rotation[0, 0] * cos + rotation[0, 1] * sin)
        return in_lidar - in_global

    def _make_scene_tracks(self, scene: int) -> _SceneTracks:
        table = self.table
        frames = table.frames_of(scene)
        span = slice(int(table.first_object[frames.start]), int(table.first_object[frames.stop]))
        numbers, rows = np.unique(table.instance[span], return_inverse=True)
        counts = np.diff(table.first_object[frames.start : frames.stop + 1])
        steps = np.repeat(np.arange(len(frames)), counts)
        pose = table.global_from_lidar[frames.start + steps]
        centres = (pose[:, :3, :3] @ table.boxes[span, :3, None])[..., 0] + pose[:, :3, 3]
        known = np.zeros((len(numbers), len(frames)), dtype=bool)
        xy = np.zeros((len(numbers), len(frames), 2))
        known[rows, steps], xy[rows, steps] = True, centres[:, :2]
        time_us = table.timestamp_us[frames.start : frames.stop]
        return _SceneTracks(frames.start, {int(n): row for row, n in enumerate(numbers)}, known, xy, (time_us - time_us[0]) / 1e6)

    def ego_box(self, frame: int) -> F32:
        """The ego car as box9 [9], lidar frame."""
        box = np.array([[0.0, 0.0, 0.0, *EGO_SIZE, EGO_YAW, *self.ego_velocity[frame]]], dtype=np.float32)
        return bottom_from_gravity(torch.from_numpy(box))[0].numpy()

    @property
    def ego_label(self) -> int:
        """The ego car counts as a car."""
        return self.spec.class_names.index("car") if "car" in self.spec.class_names else -1

    def ego_future(self, frame: int) -> EgoFuture:
        """The ego car's path from ``frame`` on, the plan that a planner should have made, and its command. Worked out once."""
        if frame not in self._ego:
            self._ego[frame] = self._make_ego_future(frame)
        return self._ego[frame]

    def _make_ego_future(self, frame: int) -> EgoFuture:
        spec, table = self.spec, self.table
        last = table.frames_of(int(table.scene[frame])).stop
        traj, traj_mask = np.zeros((1, spec.predict_steps, 2)), np.zeros((1, spec.predict_steps, 2))
        future = np.arange(frame + 1, min(frame + 1 + spec.predict_steps, last))
        here = table.global_from_ego[frame]
        offsets = table.global_from_ego[future, :2, 3] - here[:2, 3]
        traj[0, : len(future)] = tf.rotate_2d(np.pi / 2 - tf.heading(here), offsets)
        traj_mask[0, : len(future)] = 1.0

        planning = np.zeros((1, spec.planning_steps, 3), dtype=np.float32)
        planning_mask = np.zeros((1, spec.planning_steps, 2), dtype=np.float32)
        for step, other in enumerate(future[: spec.planning_steps]):
            box = self._reframe(torch.from_numpy(self.ego_box(other)[None]), other, frame)[0]
            planning[0, step] = box[[0, 1, 6]].numpy()
            planning_mask[0, step] = 1.0
        if table.expert_plan is not None:
            self._learn_expert(frame, traj, traj_mask, planning, planning_mask)
        steps = min(len(future), spec.planning_steps)
        command = _command(float(planning[0, steps - 1, 0])) if steps else STRAIGHT
        if table.expert_command is not None:
            command = int(table.expert_command[frame])
        return EgoFuture(traj.astype(np.float32), traj_mask.astype(np.float32), planning, planning_mask, command)

    def _learn_expert(self, frame: int, traj: F64, traj_mask: F64, planning: F32, planning_mask: F32) -> None:
        """Puts the expert's plan where the car's own future stood; ``traj`` ends with it."""
        table = self.table
        assert table.expert_plan is not None
        plan, here = table.expert_plan[frame], table.global_from_ego[frame]
        offsets = tf.rotate_2d(np.pi / 2 - tf.heading(here), plan[:, :2] - here[:2, 3])
        reach = min(len(plan), traj.shape[1])
        traj[:], traj_mask[:] = 0.0, 0.0
        traj[0, :reach], traj_mask[0, :reach] = offsets[:reach], 1.0
        lidar_from_global = tf.inverse(table.global_from_lidar[frame])
        for step, (x, y, heading) in enumerate(plan[: planning.shape[1]]):
            there = np.eye(4)
            c, s = np.cos(heading), np.sin(heading)
            there[:2, :2], there[:3, 3] = [[c, -s], [s, c]], [x, y, here[2, 3]]
            at = lidar_from_global @ there @ table.ego_from_lidar[frame]
            planning[0, step] = at[0, 3], at[1, 3], EGO_YAW + tf.heading(at)
            planning_mask[0, step] = 1.0

    def command(self, frame: int) -> int:
        """The command alone: 0 right, 1 left, 2 straight. Asked of every frame of every clip, so it is worked out once."""
        if self.table.expert_command is not None:
            return int(self.table.expert_command[frame])
        if frame not in self._commands:
            end = self.table.frames_of(int(self.table.scene[frame])).stop
            last = min(frame + min(self.spec.planning_steps, self.spec.predict_steps), end - 1)
            box = self._reframe(torch.from_numpy(self.ego_box(last)[None]), last, frame)[0]
            self._commands[frame] = _command(float(box[0])) if last > frame else STRAIGHT
        return self._commands[frame]

    def can_bus(self, frame: int) -> F32:
        """The 18 numbers [18] that the encoder gets: the ego pose in place of the CAN bus's own, the rest as recorded."""
        table = self.table
        vector = table.can_bus[frame].copy()
        vector[:3] = table.global_from_ego[frame, :3, 3]
        # A quaternion assigned to four numbers of an array is read as one number, its first.
        faulty = self.spec.compat.can_bus_quaternion == UPSTREAM
        vector[3:7] = table.ego_quaternion[frame, 0] if faulty else table.ego_quaternion[frame]
        angle_deg = float(np.degrees(tf.heading(table.global_from_ego[frame]))) % 360.0
        vector[16], vector[17] = np.radians(angle_deg), angle_deg
        return vector.astype(np.float32)

    @property
    def clips_cross_scenes(self) -> bool:
        """Whether a clip may reach back into the scene before."""
        return False

    def clip_candidates(self, last: int) -> Sequence[int]:
        """Every frame that a clip which ends at ``last`` may have, the first one first."""
        return range(last - (self.spec.queue_length - 1) * self.step, last + 1, self.step)

    def clip_frames(self, last: int, rng: np.random.Generator) -> Sequence[int]:
        """The frames of a clip that ends at ``last``; rng: for a data set that draws them."""
        return self.clip_candidates(last)

    def _reframe(self, boxes: torch.Tensor, frame: int, dst: int) -> torch.Tensor:
        table = self.table
        poses = (table.global_from_ego[frame], table.ego_from_lidar[frame])
        poses_dst = (table.global_from_ego[dst], table.ego_from_lidar[dst])
        return reframe_boxes(boxes, *(torch.from_numpy(pose) for pose in (*poses, *poses_dst)))

    @property
    def future_stride(self) -> int:
        """Frames of the table from one of ``future_frames`` to the next."""
        return 1

    def future_frames(self, frame: int) -> FutureFrames:
        """Every annotated object, of any class and range, seen or not, in this frame and the coming ones."""
        spec, table = self.spec, self.table
        frames, stride = table.frames_of(int(table.scene[frame])), self.future_stride
        first, last = frame - (spec.occ_receptive_field - 1) * stride, frame + spec.occ_n_future * stride
        boxes, labels, ids = [], [], []
        for other in range(frame, last + 1, stride):
            if other not in frames:
                boxes.append(None), labels.append(None), ids.append(None)
                continue
            span = table.objects_of(other)
            boxes.append(self._reframe(self.boxes(span), other, frame).numpy())
            labels.append(self.label[span])
            ids.append(table.instance[span] + 1)
        return FutureFrames(boxes, labels, ids, np.array([other in frames for other in range(first, last + 1, stride)]))


def _command(x: float) -> int:
    """The command of a path that ends ``x`` metres to the right."""
    if x >= COMMAND_THRESHOLD_M:
        return RIGHT
    return LEFT if x <= -COMMAND_THRESHOLD_M else STRAIGHT


def _steps(tracks: _SceneTracks, rows: I64, now: int, count: int, horizon_s: float, forward: bool) -> tuple[F64, F64]:
    """Global offsets [n, count, 2] from the position now to the next ``count`` known positions, and their mask."""
    known = tracks.known[rows, now + 1 :] if forward else tracks.known[rows, :now][:, ::-1]
    elapsed = np.abs((tracks.time_s[now + 1 :] if forward else tracks.time_s[:now][::-1]) - tracks.time_s[now])
    known = known & (elapsed < horizon_s + TIME_BUFFER_S)
    offset, mask = np.zeros((len(rows), count, 2)), np.zeros((len(rows), count, 2))
    # A stable sort moves the known steps to the front and keeps their order.
    order = np.argsort(~known, axis=1, kind="stable")[:, :count]
    found = np.take_along_axis(known, order, axis=1)
    frames = now + 1 + order if forward else now - 1 - order
    here = tracks.xy[rows, now][:, None]
    width = order.shape[1]
    offset[:, :width] = np.where(found[..., None], tracks.xy[rows[:, None], frames] - here, 0.0)
    mask[:, :width] = found[..., None]
    return offset, mask


def _past_and_future(past: F64, past_mask: F64, future: F64, future_mask: F64, steps: int) -> tuple[F64, F64]:
    """Past then the first ``steps`` futures [n, past + steps, 2]; no future for an object without a past, as in upstream."""
    has_past = past_mask[:, :1, :1]
    joined = np.concatenate((past, future[:, :steps] * has_past), axis=1)
    return joined, np.concatenate((past_mask, future_mask[:, :steps] * has_past), axis=1)


def _ego_velocity(table: InfoTable) -> F64:
    """Ego velocity [N, 2] in lidar axes (m/s): forward difference; the last frame of a scene repeats the one before it."""
    velocity = np.zeros((len(table), 2))
    position = table.global_from_ego[:, :3, 3]
    lidar_from_global = tf.inverse(table.global_from_lidar)[:, :3, :3]
    for scene in range(len(table.scene_token)):
        frames = table.frames_of(scene)
        if len(frames) < 2:
            continue
        start, stop = frames.start, frames.stop
        change = np.diff(position[start:stop], axis=0) / np.diff(table.timestamp_us[start:stop])[:, None] * 1e6
        velocity[start : stop - 1] = (lidar_from_global[start : stop - 1] @ change[..., None])[:, :2, 0]
        velocity[stop - 1] = velocity[stop - 2]
    return velocity
