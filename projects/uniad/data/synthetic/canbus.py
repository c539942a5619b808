"""CAN bus messages of a scene, in the files and fields of the genuine CAN bus expansion.

``pose`` (50 Hz) is exact: the same closed-form motion as the ego poses. The others are derived from it by simple models of
the car, at 100 Hz (the genuine ``zoesensors`` has about 900 Hz) and 2 Hz (``vehicle_monitor``).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from uniad.data.synthetic.motion import Moment, Motion
from uniad.data.synthetic.params import SceneSpec
from uniad.data.synthetic.scene import Scene
from uniad.data.synthetic.sensors import yaw_quaternion

MARGIN_S = 0.5
GRAVITY = 9.81
TRACK_M, WHEEL_M = 1.5, 0.30


def messages(scene: Scene) -> dict[str, list | dict]:
    """All message files of a scene by name; lists of messages, except ``meta`` (dict) and ``route`` (list of x, y)."""
    first, last = -MARGIN_S, scene.duration_s + MARGIN_S
    slow, mid, fast = (scene.motion(np.arange(first, last, 1 / hertz)) for hertz in (2, 50, 100))
    lists: dict[str, list[dict]] = {
        "pose": pose_messages(mid), "ms_imu": _imu(fast), "steeranglefeedback": _rows(fast, value=fast.steer),
        "vehicle_monitor": _monitor(slow), "zoesensors": _zoe_sensors(fast), "zoe_veh_info": _zoe_info(fast),
    }  # fmt: skip
    track = scene.ego.trajectory
    span = np.arange(max(0.0, mid.s[0] - 50.0), min(track.path.length, mid.s[-1] + 50.0), 1.0)
    return {
        **lists,
        "meta": {name: _statistics(rows) for name, rows in lists.items()},
        "route": np.round(track.path.at(span)[0], 4).tolist(),
    }


def _rows(motion: Moment, **columns: np.ndarray) -> list[dict]:
    """One dict per instant, keys in alphabetical order as in the genuine files: readers rely on it."""
    columns["utime"] = motion.utime
    names = sorted(columns, key=str.lower)
    values = [np.asarray(columns[name]).tolist() for name in names]
    return [dict(zip(names, row)) for row in zip(*values)]


def _vector(*parts: np.ndarray) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*parts), axis=1)


def pose_messages(m: Moment) -> list[dict]:
    """Messages of ``pose``: position, orientation, acceleration (gravity included), angular rate and velocity of the car."""
    zero = np.zeros_like(m.v)
    return _rows(
        m,
        accel=_vector(m.a, m.v * m.yaw_rate, zero + GRAVITY),
        orientation=np.array([yaw_quaternion(yaw) for yaw in m.yaw]),
        pos=_vector(m.xy[:, 0], m.xy[:, 1], zero),
        rotation_rate=_vector(zero, zero, m.yaw_rate),
        vel=_vector(m.v, zero, zero),
    )


def _imu(m: Motion) -> list[dict]:
    zero = np.zeros_like(m.v)
    return _rows(
        m,
        linear_accel=_vector(m.a, m.v * m.yaw_rate, zero + GRAVITY),
        q=np.array([yaw_quaternion(yaw) for yaw in m.yaw]),
        rotation_rate=_vector(zero, zero, m.yaw_rate),
    )


def _rpm(m: Motion, side: int) -> np.ndarray:
    """Wheel speed; side -1 left, +1 right."""
    return np.maximum(m.v + side * m.yaw_rate * TRACK_M / 2, 0.0) / (2 * np.pi * WHEEL_M) * 60


def _monitor(m: Motion) -> list[dict]:
    brake = np.clip(-m.a, 0, None) * 12
    turning = np.abs(m.bend) > 0.03
    return _rows(
        m,
        available_distance=np.full(len(m.v), 180, int), battery_level=np.full(len(m.v), 83, int),
        brake=np.clip(brake, 0, 126).astype(int), brake_switch=np.where(brake > 1, 2, 1), gear_position=np.full(len(m.v), 7),
        left_signal=(turning & (m.bend > 0)).astype(int), right_signal=(turning & (m.bend < 0)).astype(int),
        rear_left_rpm=np.round(_rpm(m, -1), 2), rear_right_rpm=np.round(_rpm(m, 1), 2),
        steering=np.round(np.rad2deg(m.steer), 1), steering_speed=np.round(np.rad2deg(np.gradient(m.steer) * 2), 1),
        throttle=np.clip(m.a * 120 + m.v * 8, 0, 1000).astype(int), vehicle_speed=np.round(m.v * 3.6, 2),
        yaw_rate=np.round(np.rad2deg(m.yaw_rate), 1),
    )  # fmt: skip


def _zoe_sensors(m: Motion) -> list[dict]:
    return _rows(
        m,
        brake_sensor=0.166 + np.clip(-m.a, 0, 7) / 7 * 0.4,
        steering_sensor=0.214 + np.clip(m.steer / 7, -1, 1) * 0.038,
        throttle_sensor=0.105 + np.clip(m.a, 0, 3) / 3 * 0.3,
    )


def _zoe_info(m: Motion) -> list[dict]:
    steer = np.rad2deg(m.steer)
    return _rows(
        m,
        FL_wheel_speed=_rpm(m, -1), FR_wheel_speed=_rpm(m, 1), RL_wheel_speed=_rpm(m, -1), RR_wheel_speed=_rpm(m, 1),
        left_solar=np.full(len(m.v), 10, int), right_solar=np.full(len(m.v), 10, int), longitudinal_accel=np.round(m.a, 2),
        meanEffTorque=np.round(m.a * 180, 1), odom=((m.s * 100) % 124).astype(int), odom_speed=m.v * 3.6,
        pedal_cc=np.clip(m.a * 120 + m.v * 8, 0, 1000).astype(int), regen=np.clip(-m.a * 20, 0, 100).astype(int),
        requestedTorqueAfterProc=np.round(m.a * 180, 1), steer_corrected=steer, steer_offset_can=np.full(len(m.v), -12.6),
        steer_raw=steer - 12.6, transversal_accel=np.round(m.v * m.yaw_rate / GRAVITY, 3),
    )  # fmt: skip


def _statistics(rows: list[dict]) -> dict:
    utime = np.array([row["utime"] for row in rows])
    span = float(utime[-1] - utime[0]) / 1e6
    stats = {}
    for key in rows[0]:
        if key == "utime":
            continue
        values = np.array([row[key] for row in rows], float)
        step = np.diff(values, axis=0)
        stats[key] = {
            name: np.asarray(function(part, axis=0)).tolist()
            for prefix, part in (("", values), ("diff_", step))
            for name, function in ((prefix + "max", np.max), (prefix + "mean", np.mean), (prefix + "min", np.min),
                                   (prefix + "std", np.std))
        }  # fmt: skip
    frequency = (len(rows) - 1) / span if span else 0.0
    return {"message_count": len(rows), "message_freq": frequency, "timespan": span, "var_stats": stats}


def write_can_bus(root: Path, spec: SceneSpec, scene: Scene) -> None:
    """Writes can_bus/<scene>_<message>.json for all messages."""
    folder = root / "can_bus"
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in messages(scene).items():
        (folder / f"{spec.name}_{name}.json").write_text(json.dumps(rows))
