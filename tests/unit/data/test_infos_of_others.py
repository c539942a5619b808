"""Info files of forks and own converters: one change each, one line that names frame and key."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uniad.data.table import load_table, relative_path
from uniad.data.unpickle import load
from uniad.errors import UserError

Info = dict[str, Any]
Change = Callable[[Info], Any]


def every(key: str, change: Change) -> Callable[[dict], None]:
    def apply(data: dict) -> None:
        for info in data["infos"]:
            info[key] = change(info)

    return apply


def third(key: str, change: Change) -> Callable[[dict], None]:
    def apply(data: dict) -> None:
        data["infos"][3][key] = change(data["infos"][3])

    return apply


def camera(key: str, change: Change) -> Callable[[dict], None]:
    def apply(data: dict) -> None:
        cam = data["infos"][2]["cams"]["CAM_BACK"]
        cam[key] = change(cam)

    return apply


def spoil_first_row(key: str, value: float, column: int | None = None) -> Callable[[dict], None]:
    def change(info: Info) -> np.ndarray:
        out = info[key].copy()
        out[0, slice(None) if column is None else column] = value
        return out

    return third(key, change)


def twice(data: dict) -> None:
    data["infos"].append(copy.deepcopy(data["infos"][3]))


def one_token_for_two(data: dict) -> None:
    data["infos"][3]["token"] = data["infos"][4]["token"]


def same_time(data: dict) -> None:
    data["infos"][3]["timestamp"] = data["infos"][2]["timestamp"]


def every_nth_second(step_us: int) -> Callable[[dict], None]:
    def apply(data: dict) -> None:
        start = data["infos"][0]["timestamp"]
        for number, info in enumerate(data["infos"]):
            info["timestamp"] = start + number * step_us

    return apply


def object_twice(data: dict) -> None:
    data["infos"][3]["gt_inds"][1] = data["infos"][3]["gt_inds"][0]


CASES = {
    "13 numbers": (every("can_bus", lambda i: np.zeros(13)), r"frame 0 \(\w+\): can_bus is an array of shape \[13\]"),
    "can_bus NaN": (third("can_bus", lambda i: np.full(18, np.nan)), r"frame 3 \(\w+\): can_bus .*not finite"),
    "pose NaN": (third("ego2global_translation", lambda i: [np.nan] * 3), r"frame 3 .*ego2global_translation is \[nan"),
    "pose infinite": (third("ego2global_translation", lambda i: [np.inf, 0, 0]), r"frame 3 .*ego2global_translation is \[inf"),
    "quaternion zero": (third("ego2global_rotation", lambda i: [0, 0, 0, 0]), r"frame 3 .*ego2global_rotation .*of length 1"),
    "quaternion a matrix": (every("ego2global_rotation", lambda i: np.eye(3)), r"frame 0 .*ego2global_rotation .*\[3, 3\]"),
    "a car on its side": (third("ego2global_rotation", lambda i: [0.7071, 0.7071, 0, 0]), "w first.*keeps z up"),
    "boxes joined": (
        every("gt_boxes", lambda i: np.hstack([i["gt_boxes"], i["gt_velocity"]])),
        r"frame 0 .*gt_boxes is an array of shape \[\d+, 9\].*; needed is .*\[\d+, 7\]",
    ),
    "a name short": (third("gt_names", lambda i: i["gt_names"][:-1]), r"frame 3 .*gt_names .*for \d+ boxes"),
    "velocity infinite": (spoil_first_row("gt_velocity", np.inf), r"frame 3 .*gt_velocity of object 0 is \[inf, inf\]"),
    "velocity half known": (spoil_first_row("gt_velocity", np.nan, 1), r"frame 3 .*gt_velocity of object 0 .*NaN for both"),
    "box NaN": (spoil_first_row("gt_boxes", np.nan), r"frame 3 .*gt_boxes of object 0"),
    "box flat": (spoil_first_row("gt_boxes", 0.0, 5), r"frame 3 .*gt_boxes of object 0 .*above 0"),
    "boxes a number": (third("gt_boxes", lambda i: 7), r"frame 3 .*gt_boxes is 7; needed is"),
    "object twice": (object_twice, r"frame 3 .*gt_inds has instance \d+ twice"),
    "intrinsic zero": (camera("cam_intrinsic", lambda c: np.zeros((3, 3))), "frame 2 .*CAM_BACK: cam_intrinsic .*focal"),
    "rotation a quaternion": (camera("sensor2lidar_rotation", lambda c: [1.0, 0, 0, 0]), "CAM_BACK: sensor2lidar_rotation is"),
    "rotation scaled": (camera("sensor2lidar_rotation", lambda c: 2 * c["sensor2lidar_rotation"]), "sensor2lidar_rotation"),
    "rotation mirrored": (camera("sensor2lidar_rotation", lambda c: np.diag([1.0, 1, -1])), "sensor2lidar_rotation"),
    "path a number": (camera("data_path", lambda c: 3), "CAM_BACK: data_path is 3; needed is the image's path"),
    "cams a list": (third("cams", lambda i: list(i["cams"])), "frame 3: cams is no mapping"),
    "a frame a list": (lambda d: d["infos"].insert(2, [1]), "frame 2 is no mapping"),
    "seconds": (
        every("timestamp", lambda i: i["timestamp"] / 1e6),
        "timestamp steps by 0.5, so it is in seconds; needed are micro",
    ),
    "milliseconds": (every("timestamp", lambda i: i["timestamp"] / 1e3), "so it is in milliseconds; needed are microseconds"),
    "nanoseconds": (every("timestamp", lambda i: i["timestamp"] * 1000), "so it is in nanoseconds; needed are microseconds"),
    "time a text": (every("timestamp", lambda i: str(i["timestamp"])), "timestamp is '1.*needed is a time in microseconds"),
    "10 Hz": (every_nth_second(100_000), r"by 0\.1 s \(10 Hz\); needed is 2 Hz .*--every 5.*make data EVERY=5"),
    "20 Hz": (every_nth_second(50_000), r"\(20 Hz\); needed is 2 Hz .*--every 10"),
    "1 Hz": (every_nth_second(1_000_000), r"\(1 Hz\); needed is 2 Hz .*interpolate"),
    "every 500 s": (every_nth_second(500_000_000_000), "needed are microseconds, with steps of about 0.5 s"),
    "same time": (same_time, "frame 3 .*is the same as that of the frame before it"),
    "one token for two": (one_token_for_two, "frame 4 .* has the token of frame 3"),
    "a frame twice": (twice, "frame 6 .* has the token of frame 3"),
    "no name of a map": (every("map_location", lambda i: [None, []]), "map_location is .*needed is the name of a map"),
    "frames recorded twice": (
        third("timestamp", lambda i: i["timestamp"] + 490_000), r"frame 4 .*timestamp is 0\.0\d+ s after the frame before it"
    ),
    "raw categories": (every("gt_names", lambda i: np.array(["vehicle.car"] * len(i["gt_names"]))), "gt_names are vehicle.car"),
}


@pytest.fixture(scope="module")
def good(synthetic_infos: Path) -> dict:
    return load(synthetic_infos / "nuscenes_infos_temporal_train.pkl")


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_one_line_with_frame_and_key(good: dict, synthetic_root: Path, tmp_path: Path, name: str) -> None:
    change, says = CASES[name]
    data = copy.deepcopy(good)
    change(data)
    path = tmp_path / "theirs.pkl"
    path.write_bytes(pickle.dumps(data))
    with pytest.raises(UserError) as error:
        load_table(path, synthetic_root)
    message = str(error.value)
    assert re.search(says, message), message
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 330


def test_lists_and_whole_floats_are_as_good_as_arrays(good: dict, synthetic_root: Path, tmp_path: Path) -> None:
    """What a converter without numpy writes, and a camera matrix with a fourth column."""
    data = copy.deepcopy(good)
    for info in data["infos"]:
        for key, value in info.items():
            if isinstance(value, np.ndarray):
                info[key] = value.tolist()
        info["timestamp"] = float(info["timestamp"])
        for cam in info["cams"].values():
            cam["cam_intrinsic"] = np.pad(cam["cam_intrinsic"], ((0, 1), (0, 1))).tolist()
    tables = []
    for number, content in enumerate((good, data)):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(content))
        tables.append(load_table(path, synthetic_root))
    for key, value in vars(tables[0]).items():
        if isinstance(value, np.ndarray):
            other = getattr(tables[1], key)
            assert np.array_equal(value, other) and value.dtype == other.dtype, key


def test_a_velocity_that_is_unknown_counts_as_standing(good: dict, synthetic_root: Path, tmp_path: Path) -> None:
    data = copy.deepcopy(good)
    spoil_first_row("gt_velocity", np.nan)(data)
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(data))
    table = load_table(path, synthetic_root)
    assert table.velocity[table.first_object[3]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("path", [r"C:\data\nuscenes\samples\CAM_FRONT\a.jpg", r"samples\CAM_FRONT\a.jpg"])
def test_paths_of_windows_are_translated(path: str) -> None:
    assert relative_path(path) == "samples/CAM_FRONT/a.jpg"
