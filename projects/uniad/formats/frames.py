"""``frames.json``: a drive that somebody recorded, as a folder of images and one index. docs/inference.md shows one.

    {"lidar2ego": {"translation": [x, y, z], "rotation": [w, x, y, z]},
     "cameras": {"CAM_FRONT": {"lidar2img": [[4 x 4]]},                  or {"intrinsic": [[3 x 3]], "lidar2cam": [[4 x 4]]}
                 ...},
     "frames": [{"time_s": 0.0, "images": {"CAM_FRONT": "front/0.jpg", ...}, "ego2global": {...}, "command": 2,
                 "can_bus": [18 numbers], "token": "..."}, ...]}

``can_bus``, ``token`` and ``command`` (2) may be left out; a frame may bring ``cameras`` or ``lidar2ego`` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from uniad.errors import UserError
from uniad.formats.calibration import CameraField, PoseField
from uniad.formats.fields import Array, Choice, Maybe, Named, Record, Text, duplicates, unknown_keys
from uniad.formats.layout import CAMERAS
from uniad.formats.times import check_times
from uniad.interface.command import COMMANDS

SHOWN = "docs/inference.md shows how it looks"
NAMES = "a mapping of camera names"
# What may stand once for all frames, beside them, or in a frame.
SHARED = {
    "cameras": Named(CameraField(), NAMES, CAMERAS),
    "lidar2ego": PoseField(),
}
FRAME = Record(
    {
        "time_s": Array((), "the time of the images in seconds"),
        "images": Named(Text("an image's path", empty=False), NAMES, CAMERAS),
        "ego2global": PoseField(),
    },
    {
        "command": Choice(tuple(range(len(COMMANDS)))),
        "can_bus": Maybe(Array((18,), "18 numbers as in nuScenes")),
        "token": Text("the frame's name", empty=False),
        **SHARED,
    },
    wanted="a frame",
)
INDEX = {"frames", "scene_token", *SHARED}


def checked(index: Any, path: str, every: int = 1) -> dict[str, Any]:
    """The index with every value converted: poses are dicts of arrays, cameras lidar2img [4, 4]. UserError for what does not fit.

    Each frame has ``cameras`` and ``lidar2ego``, its own or those of all, and ``number``, its place in the file. every: take only
    each so many-th frame.
    """
    frames = index.get("frames") if isinstance(index, Mapping) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, Mapping) for frame in frames):
        raise UserError(f"{path} lists no frames; {SHOWN}")
    unknown_keys(index, sorted(INDEX), path)
    # For the frames that bring none of their own, as well as for those that never need them.
    shared = {key: kind.check(index[key], f"{path}: {key}") for key, kind in SHARED.items() if key in index}
    out = []
    for number, frame in enumerate(frames):
        where = f"{path}: frame {number}"
        needed = [*FRAME.required, *(key for key in SHARED if key not in shared)]
        order = ("images", "cameras", "ego2global", "lidar2ego", "time_s")
        missing = [name for name in order if name in needed and name not in frame]
        if missing:
            raise UserError(f"{where} lacks {', '.join(missing)}; {SHOWN}")
        out.append({**shared, **FRAME.check(frame, where), "number": number})
    tokens = [frame.get("token", number) for number, frame in enumerate(out)]
    twice = duplicates(tokens)
    if twice:
        raise UserError(
            f"{path}: frame {twice[1]} has the token of frame {twice[0]}, {tokens[twice[1]]!r}; needed is one of its own"
        )
    out = out[::every]
    times = np.array([frame["time_s"] for frame in out])
    thin = "`tools/infer.py --every {every}` takes every {every}th"
    check_times(times, np.array([0]), "seconds", "time_s", lambda n: f"{path}: frame {out[n]['number']}", thin)
    token = Text("the scene's name", empty=False)
    scene = {"scene_token": token.check(index["scene_token"], f"{path}: scene_token")} if "scene_token" in index else {}
    return {**scene, "frames": out}
