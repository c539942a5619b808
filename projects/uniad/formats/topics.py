"""A file that says which topic of a bag, or of a car, is what. docs/car-logs.md shows one.

    {"cameras": {"CAM_FRONT": "/cam/front/image_raw",              or {"topic": ..., "info": ..., "frame": ..., "rectified": true}
                 ...},
     "odometry": "/odom", "imu": "/imu", "command": "/command", "reference": "/lidar_top",
     "frames": {"base": "base_link", "lidar": "lidar_top", "world": "map"}}

All may be left out: what is not said is looked for. null says that there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uniad.files import read_json_of
from uniad.formats import frames
from uniad.formats.calibration import CameraField
from uniad.formats.fields import Flag, Maybe, Named, Record, Text
from uniad.formats.layout import CAMERAS

_TOPIC = Text("a topic's name", empty=False)
_FRAME = Text("a frame's name", empty=False)
FRAMES = ("base", "lidar", "world")


class CameraTopicField:
    """A camera's topic; checked, it is a dict with ``topic``."""

    wanted = "a topic's name, or topic with info, frame and rectified"
    record = Record({"topic": _TOPIC}, {"info": _TOPIC, "frame": _FRAME, "rectified": Flag()}, wanted=wanted)

    def check(self, value: Any, where: str) -> dict[str, Any]:
        return self.record.check({"topic": value} if isinstance(value, str) else value, where)


TOPICS = Record(
    {},
    {
        "cameras": Named(CameraTopicField(), "a mapping of camera names", CAMERAS),
        "odometry": Maybe(_TOPIC),
        "imu": Maybe(_TOPIC),
        "command": Maybe(_TOPIC),
        "reference": _TOPIC,
        "frames": Named(_FRAME, "a mapping of frames", FRAMES),
    },
    wanted="a file of topics",
)


def read_topics(path: str | Path) -> dict[str, Any]:
    """The file, checked."""
    return TOPICS.check(_read(path), str(path))


CALIBRATION = Record(
    {"lidar2ego": frames.SHARED["lidar2ego"], "cameras": Named(CameraField(), frames.NAMES, CAMERAS, complete=True)},
    wanted="a calibration: lidar2ego and cameras, as in frames.json",
)


def read_calibration(path: str | Path) -> dict[str, Any]:
    """``lidar2ego`` and ``cameras`` of a car, as ``frames.json`` has them; cameras are lidar2img [4, 4]."""
    return CALIBRATION.check(_read(path), str(path))


def _read(path: str | Path) -> Any:
    absent = f"{path} does not exist; docs/car-logs.md shows one"
    return read_json_of(path, absent, lambda error: f"{path} cannot be read: {error}")
