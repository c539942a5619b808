"""Info files: ``{infos: [a mapping per keyframe], metadata: {version}}``, of either stack, of forks and of other converters.

Further keys of a frame are other programs' business. What is read here becomes arrays at once; 34,000 frames take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats import calibration as cal
from uniad.formats.fields import Array, Ragged, Text, Whole, column, duplicates
from uniad.formats.layout import CAMERAS, VERSIONS
from uniad.formats.times import check_times

AGAIN = "make it again with tools/create_data.py"
# What detection calls its classes; further categories keep the name of their table (vehicle.emergency.police).
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip

FRAME = {
    "token": Text("the sample's token", empty=False),
    "scene_token": Text("the scene's token", empty=False),
    "frame_idx": Whole("the frame's place in its scene", low=0),
    "timestamp": Array((), "a time in microseconds"),
    "can_bus": Array((18,), "18 numbers: position, quaternion, acceleration, angular rate, velocity, and two of the heading"),
    "lidar2ego_translation": cal.Translation,
    "lidar2ego_rotation": cal.UprightQuaternion,
    "ego2global_translation": cal.Translation,
    "ego2global_rotation": cal.UprightQuaternion,
}
CAMERA = {
    "data_path": Text("the image's path", empty=False),
    "sensor2lidar_rotation": cal.Rotation,
    "sensor2lidar_translation": cal.Translation,
    "cam_intrinsic": cal.Intrinsic,
}


# A frame of a driven synthetic world: what an expert would do, in place of what the car did.
EXPERT = {
    "expert_plan": Array((6, 3), "x, y, heading of the rear axle, global, at 0.5 s steps"),
    "expert_command": Whole("a command", low=0),
}


def _solid(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (boxes[:, 3:6] > 0).all(1)


OBJECTS = {
    "gt_boxes": Ragged((7,), "x, y, z, three sizes (m, above 0) and yaw", rule=_solid),
    "gt_names": Ragged((), "a class name", kind="text"),
    "gt_velocity": Ragged((2,), "vx, vy in m/s, or NaN for both", unknown=True),
    "gt_inds": Ragged((), "the instance's number", kind="whole", rule=lambda n: n >= 0),
    "num_lidar_pts": Ragged((), "a number of points", kind="whole", rule=lambda n: n >= 0),
    "valid_flag": Ragged((), "true or false", kind="flag"),
}
_KEYS = (*list(FRAME)[:5], "cams", *list(FRAME)[5:])


def structure(data: Any, path: str) -> tuple[list[dict[str, Any]], str]:
    """The file's frames and data set version. UserError where it is no info file, or a frame lacks a key."""
    if isinstance(data, list) and data and isinstance(data[0], Mapping) and "sensors" in data[0]:
        raise UserError(
            f"{path} is an info file of Bench2Drive, this config reads nuScenes': take VARIANT=b2d-tiny, or infos of nuScenes"
        )
    if not (isinstance(data, dict) and isinstance(data.get("infos"), list) and isinstance(data.get("metadata"), dict)):
        raise UserError(f"{path} is not an info file ({{infos, metadata}} expected); {AGAIN}")
    version = data["metadata"].get("version")
    if version not in VERSIONS:
        raise UserError(f"{path} is for dataset version {version!r}, expected one of {', '.join(VERSIONS)}; {AGAIN}")
    if not data["infos"]:
        raise UserError(
            f"{path} lists no frames: no scene of the data set is in this split; splits.json can name some, see docs/data.md"
        )
    needed = (*_KEYS, *(() if version == "v1.0-test" else OBJECTS))
    for number, info in enumerate(data["infos"]):
        if not isinstance(info, dict):
            raise UserError(f"{path}: frame {number} is no mapping; {AGAIN}")
        missing = [key for key in needed if key not in info]
        if not missing:
            cams = info["cams"]
            if not isinstance(cams, Mapping):
                raise UserError(f"{path}: frame {number}: cams is no mapping of camera names; {AGAIN}")
            missing = [camera for camera in CAMERAS if camera not in cams]
            odd = [camera for camera in CAMERAS if camera in cams and not isinstance(cams[camera], Mapping)]
            if odd:
                raise UserError(f"{path}: frame {number}: cams: {odd[0]} is no mapping; {AGAIN}")
            missing = missing or [key for key in CAMERA for camera in CAMERAS if key not in cams[camera]][:1]
        if missing:
            raise UserError(f"{path}: frame {number} lacks {', '.join(missing)}: made for another model or version; {AGAIN}")
    return data["infos"], version


def columns(infos: list[dict[str, Any]], version: str, path: str) -> dict[str, Any]:
    """The frames of a file as arrays, ordered by scene and time; scenes are contiguous.

    Frame keys [N, ...]; camera keys [N, cameras, ...]; object keys of all frames after one another, ``counts`` [N] of each;
    ``order`` [N] the frames' places in the file; ``starts`` [scenes] the first frame of each.
    """

    def name(number: int) -> str:
        token = infos[number].get("token")
        return f"{path}: frame {number}" + (f" ({token})" if isinstance(token, str) else "")

    frames = {key: column(infos, (key,), kind, name) for key, kind in FRAME.items()}
    twice = duplicates(frames["token"])
    if twice:
        raise UserError(f"{name(twice[1])} has the token of frame {twice[0]}; each frame is listed once")
    # Ordered by time as upstream does; scenes recorded at the same time stay apart, which a clip relies on.
    first_time: dict[str, float] = {}
    for scene, time in zip(frames["scene_token"], frames["timestamp"].tolist()):
        first_time[scene] = min(first_time.get(scene, time), time)
    keys = list(zip(frames["scene_token"], frames["timestamp"].tolist()))
    order = np.array(sorted(range(len(infos)), key=lambda n: (first_time[keys[n][0]], *keys[n])), dtype=np.int64)
    infos = [infos[number] for number in order]
    out: dict[str, Any] = {
        key: value[order] if isinstance(value, np.ndarray) else np.array(value)[order] for key, value in frames.items()
    }

    def there(number: int) -> str:
        return f"{path}: frame {order[number]} ({out['token'][number]})"

    scene = out["scene_token"]
    starts = np.flatnonzero(np.concatenate(([True], scene[1:] != scene[:-1])))
    thin = "`tools/create_data.py --every {every}` (make data EVERY={every}) takes every {every}th"
    check_times(out["timestamp"], starts, "microseconds", "timestamp", there, thin)
    out["timestamp"] = out["timestamp"].astype(np.int64)
    for key, kind in CAMERA.items():
        parts = [column(infos, ("cams", camera, key), kind, there) for camera in CAMERAS]
        out[key] = np.stack([np.asarray(part) for part in parts], axis=1)
    wanted = EXPERT if any("expert_plan" in info for info in infos) else {}
    for key, kind in wanted.items():
        out[key] = np.asarray(column(infos, (key,), kind, there))
    out.update(_objects(infos, version, path, there))
    out["order"], out["starts"], out["infos"] = order, starts, infos
    return out


def _objects(infos: list[dict[str, Any]], version: str, path: str, there: Any) -> dict[str, Any]:
    if version == "v1.0-test":
        infos = [{} for _ in infos]
    values = {key: [info.get(key, ()) for info in infos] for key in OBJECTS}
    try:
        counts = [len(boxes) for boxes in values["gt_boxes"]]
    except TypeError:
        number = next(n for n, boxes in enumerate(values["gt_boxes"]) if not hasattr(boxes, "__len__"))
        raise UserError(f"{there(number)}: gt_boxes is {values['gt_boxes'][number]!r}; needed is an array [m, 7]") from None
    out: dict[str, Any] = {
        key: kind.join(values[key], counts, lambda n, key=key: f"{there(n)}: {key}") for key, kind in OBJECTS.items()
    }
    out["counts"] = counts
    frame = np.repeat(np.arange(len(infos)), counts)
    pairs = frame * (int(out["gt_inds"].max(initial=0)) + 1) + out["gt_inds"]
    unique, first = np.unique(pairs, return_index=True)
    if len(unique) != len(pairs):
        again = int(np.setdiff1d(np.arange(len(pairs)), first)[0])
        raise UserError(f"{there(int(frame[again]))}: gt_inds has instance {out['gt_inds'][again]} twice; needed is once")
    if len(out["gt_names"]) and not np.isin(out["gt_names"], CLASSES).any():
        some = ", ".join(sorted(set(out["gt_names"].tolist()))[:4])
        raise UserError(f"{path}: none of its {len(out['gt_names'])} objects has a known class: gt_names are {some}; "
                        f"needed are {', '.join(CLASSES)}")  # fmt: skip
    return out
