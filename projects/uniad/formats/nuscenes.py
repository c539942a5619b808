"""The tables of a nuScenes version: what each record holds, and how tables refer to each other.

Only what is read here is stated; tables may hold more. Real tables have millions of records, so keys are checked as columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats import calibration as cal
from uniad.formats.fields import Array, Flag, Text, Whole, column, duplicates, refuse
from uniad.formats.times import JUMP_M, MOST_MPS

if TYPE_CHECKING:
    from typing import TypeAlias

_TOKEN = Text("a token", empty=False)
_LINK = Text("a token, or nothing")


def _positive(sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (sizes > 0).all(1)


class _Intrinsics:
    """Of a camera a matrix; of other sensors nothing. Which is which, ``check_cameras`` knows."""

    wanted = "a camera matrix, or an empty list"

    def check(self, value: Any, where: str) -> Any:
        return [] if isinstance(value, list) and not value else cal.Intrinsic.check(value, where)

    def stack(self, values: Sequence[Any]) -> Any:
        return None


class _Attributes:
    """Tokens of an annotation's attributes; the devkit's evaluation takes one at most."""

    wanted = "a list of one attribute's token, or an empty list"

    def check(self, value: Any, where: str) -> list[str]:
        if not self._good(value):
            raise refuse(value, where, self.wanted)
        return value

    def stack(self, values: Sequence[Any]) -> Sequence[Any] | None:
        return values if all(map(self._good, values)) else None

    @staticmethod
    def _good(value: Any) -> bool:
        return isinstance(value, list) and (not value or (len(value) == 1 and isinstance(value[0], str)))


TABLES: dict[str, dict[str, Any]] = {
    "category": {"token": _TOKEN, "name": _TOKEN},
    "attribute": {"token": _TOKEN, "name": _TOKEN},
    "visibility": {"token": _TOKEN},
    "instance": {"token": _TOKEN, "category_token": _TOKEN},
    "sensor": {"token": _TOKEN, "channel": _TOKEN, "modality": _TOKEN},
    "calibrated_sensor": {
        "token": _TOKEN, "sensor_token": _TOKEN, "translation": cal.Translation, "rotation": cal.Quaternion,
        "camera_intrinsic": _Intrinsics(),
    },
    "ego_pose": {"token": _TOKEN, "translation": cal.Translation, "rotation": cal.UprightQuaternion},
    "log": {"token": _TOKEN, "location": _TOKEN},
    "scene": {"token": _TOKEN, "name": _TOKEN, "log_token": _TOKEN, "first_sample_token": _TOKEN},
    "sample": {
        "token": _TOKEN, "scene_token": _TOKEN, "prev": _LINK, "next": _LINK, "timestamp": Array((), "a time in microseconds"),
    },
    "sample_data": {
        "token": _TOKEN, "sample_token": _TOKEN, "ego_pose_token": _TOKEN, "calibrated_sensor_token": _TOKEN, "prev": _LINK,
        "next": _LINK, "filename": Text("a file's path from the data set's root on", empty=False), "is_key_frame": Flag(),
        "timestamp": Array((), "a time in microseconds"),
    },
    "sample_annotation": {
        "token": _TOKEN, "sample_token": _TOKEN, "instance_token": _TOKEN, "prev": _LINK, "next": _LINK,
        "translation": cal.Translation, "size": Array((3,), "width, length, height in metres, above 0", rule=_positive),
        "rotation": cal.Quaternion, "visibility_token": _LINK, "attribute_tokens": _Attributes(),
        "num_lidar_pts": Whole("a number of points", low=0),
        "num_radar_pts": Whole("a number of points", low=0),
    },
    "map": {"token": _TOKEN, "filename": Text("a file's path from the data set's root on", empty=False)},
}  # fmt: skip

# (table, key) -> table that has the token. An empty one is nobody's where ``_MAY_BE_EMPTY`` says so. A sample's scene may be
# absent: who takes scenes out of their table leaves the samples, which nobody finds then.
REFERENCES = {
    ("instance", "category_token"): "category",
    ("calibrated_sensor", "sensor_token"): "sensor",
    ("scene", "log_token"): "log",
    ("scene", "first_sample_token"): "sample",
    ("sample", "prev"): "sample",
    ("sample", "next"): "sample",
    ("sample_data", "sample_token"): "sample",
    ("sample_data", "ego_pose_token"): "ego_pose",
    ("sample_data", "calibrated_sensor_token"): "calibrated_sensor",
    ("sample_data", "prev"): "sample_data",
    ("sample_data", "next"): "sample_data",
    ("sample_annotation", "sample_token"): "sample",
    ("sample_annotation", "instance_token"): "instance",
    ("sample_annotation", "prev"): "sample_annotation",
    ("sample_annotation", "next"): "sample_annotation",
    ("sample_annotation", "visibility_token"): "visibility",
}
_MAY_BE_EMPTY = {"prev", "next", "visibility_token"}
# Share of the object that cameras see, by the level that the devkit's table spells out.
VISIBILITY_LEVELS = {"v0-40": 1, "v40-60": 2, "v60-80": 3, "v80-100": 4}

Record: TypeAlias = "dict[str, Any]"  # in quotes: Python 3.8 prepares data for the upstream stack


def check_table(name: str, records: Any, path: str) -> list[Record]:
    """The records of a table, checked one by one; paths of another system are translated in place."""
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} is no list of records; unpack the metadata again")

    def where(number: int) -> str:
        token = records[number].get("token")
        return f"{path}: record {token if isinstance(token, str) and token else number}"

    for key, kind in TABLES[name].items():
        column(records, (key,), kind, where)
    twice = duplicates([record["token"] for record in records])
    if twice:
        raise UserError(f"{where(twice[1])} is there twice (records {twice[0]} and {twice[1]}); needed is once")
    if "filename" in TABLES[name]:
        for record in records:
            if "\\" in record["filename"]:
                record["filename"] = record["filename"].replace("\\", "/")
    return records


def check_references(tables: dict[str, list[Record]], folder: str) -> None:
    """UserError where a record names one that its table lacks."""
    tokens = {name: {record["token"] for record in records} for name, records in tables.items()}
    for record in tables["sample_annotation"]:
        if not tokens["attribute"].issuperset(record["attribute_tokens"]):
            where = f"{folder}/sample_annotation.json: record {record['token']}"
            raise UserError(f"{where}: attribute_tokens refers to {record['attribute_tokens'][0]!r}, which no table has")
    for (name, key), target in REFERENCES.items():
        known = tokens[target]
        for record in tables[name]:
            token = record[key]
            if token not in known and (token or key not in _MAY_BE_EMPTY):
                of = _scene_name(record, tables)
                raise UserError(
                    f"{folder}/{name}.json: record {record['token']}{of}: {key} refers to {token!r}, which no table has; "
                    "the tables do not fit each other, unpack the metadata again"
                )


def _scene_name(record: Record, tables: dict[str, list[Record]]) -> str:
    """For a message: the scene that a record belongs to, where that can be told."""
    samples = {sample["token"]: sample for sample in tables["sample"]}
    sample = samples.get(record.get("sample_token", ""), record)
    names = [scene["name"] for scene in tables["scene"] if scene["token"] == sample.get("scene_token")]
    return f" of {names[0]}" if names else ""


def check_chains(tables: dict[str, list[Record]], folder: str) -> None:
    """Samples of a scene and annotations of an instance follow each other in time, so that no chain is a loop."""
    samples = {record["token"]: record for record in tables["sample"]}
    for record in tables["sample"]:
        following = samples.get(record["next"])
        if following is None:
            continue
        what = f"{folder}/sample.json: record {record['token']}: next is {following['token']}"
        if following["scene_token"] != record["scene_token"]:
            raise UserError(f"{what}, of another scene; needed is one of the same")
        if not following["timestamp"] > record["timestamp"]:
            times = f"{following['timestamp']} after {record['timestamp']}"
            raise UserError(f"{what}, whose time is no later ({times}): a loop, or one time twice; times of a scene must grow")
    for record in tables["scene"]:
        first = samples[record["first_sample_token"]]
        if first["scene_token"] != record["token"]:
            raise UserError(f"{folder}/scene.json: record {record['token']}: first_sample_token is of another scene")
    annotations = {record["token"]: record for record in tables["sample_annotation"]}
    for record in tables["sample_annotation"]:
        for key, sign in (("next", 1), ("prev", -1)):
            other = annotations.get(record[key])
            if other is None:
                continue
            what = f"{folder}/sample_annotation.json: record {record['token']}: {key} is {other['token']}"
            if other["instance_token"] != record["instance_token"]:
                raise UserError(f"{what}, of another instance; needed is one of the same")
            step = samples[other["sample_token"]]["timestamp"] - samples[record["sample_token"]]["timestamp"]
            if not sign * step > 0:
                raise UserError(f"{what}, whose time is no {'later' if sign > 0 else 'earlier'}: a loop, or one time twice")


def check_keyframes(
    tables: dict[str, list[Record]], folder: str, channels: Sequence[str]
) -> dict[tuple[str, str], Record]:
    """Each of ``channels`` has at most one key frame in a sample, and cameras a matrix. ``missing_channels`` tells of none.

    Returns the key frames by sample and channel.
    """
    sensor = {record["token"]: record for record in tables["sensor"]}
    calibrated = {record["token"]: record for record in tables["calibrated_sensor"]}
    for record in tables["calibrated_sensor"]:
        mounted = sensor[record["sensor_token"]]
        if mounted["modality"] == "camera" and not len(record["camera_intrinsic"]):
            where = f"{folder}/calibrated_sensor.json: record {record['token']}"
            raise UserError(f"{where} of {mounted['channel']}: camera_intrinsic is empty; needed is a camera matrix, [3, 3]")
    seen: dict[tuple[str, str], Record] = {}
    for record in tables["sample_data"]:
        if not record["is_key_frame"]:
            continue
        channel = sensor[calibrated[record["calibrated_sensor_token"]]["sensor_token"]]["channel"]
        if channel not in channels:
            continue
        other = seen.setdefault((record["sample_token"], channel), record)
        if other is not record:
            what = f"sample {record['sample_token']} has two key frames of {channel}, {other['token']} and {record['token']}"
            raise UserError(f"{folder}/sample_data.json: {what}; needed is one")
        width, matrix = record.get("width"), calibrated[record["calibrated_sensor_token"]]["camera_intrinsic"]
        if len(matrix) and isinstance(width, int) and width > 0:
            for focal in (matrix[0][0], matrix[1][1]):
                if not cal.LEAST_FOCAL * width <= focal <= cal.MOST_FOCAL * width:
                    where = f"{folder}/calibrated_sensor.json: record {record['calibrated_sensor_token']} of {channel}"
                    raise UserError(
                        f"{where}: a focal length of {focal:.4g} on images {width} wide; needed are pixels, "
                        f"{cal.LEAST_FOCAL * width:g} to {cal.MOST_FOCAL * width:g} of them"
                    )
    return seen


def check_motion(
    tables: dict[str, list[Record]], folder: str, keyframes: dict[tuple[str, str], Record], channel: str
) -> None:
    """The car gets from one key frame of ``channel`` to the next no faster than any road vehicle: poses are in metres.

    keyframes: of ``check_keyframes``.
    """
    poses = {record["token"]: record for record in tables["ego_pose"]}
    seen = {sample: poses[record["ego_pose_token"]] for (sample, which), record in keyframes.items() if which == channel}
    times = {record["token"]: record["timestamp"] for record in tables["sample"]}
    for record in tables["sample"]:
        now, after = seen.get(record["token"]), seen.get(record["next"])
        if now is None or after is None:
            continue
        step_s = 1e-6 * (times[record["next"]] - record["timestamp"])
        moved = math.dist(now["translation"], after["translation"])
        if 0.01 <= step_s <= 10 and moved > MOST_MPS * step_s + JUMP_M:  # other steps are refused as times in another unit
            raise UserError(
                f"{folder}/ego_pose.json: record {after['token']}: the car is {moved:.4g} m from where it was {step_s:.2g} s "
                f"before, at most {MOST_MPS * step_s + JUMP_M:.4g} m is plausible; needed are metres, and frames in a row"
            )


def missing_channels(sample: Record, channels: Sequence[str]) -> list[str]:
    """Which sensors have no key frame in a sample of the devkit's."""
    return [channel for channel in channels if channel not in sample["data"]]


def visibility_levels(table: list[Record], folder: str) -> dict[str, int]:
    """Level 1 to 4 by token. The devkit's tokens are these numbers; others say their level in words."""
    levels = {}
    for record in table:
        token, level = record["token"], record.get("level")
        if token in ("1", "2", "3", "4"):
            levels[token] = int(token)
        elif level in VISIBILITY_LEVELS:
            levels[token] = VISIBILITY_LEVELS[level]
        else:
            wanted = ", ".join(VISIBILITY_LEVELS)
            raise UserError(f"{folder}/visibility.json: record {token}: level is {level!r}; needed is one of {wanted}")
    return levels
