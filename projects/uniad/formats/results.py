"""A folder of results as inference writes it (``uniad.deploy.records``), which somebody may hand over, or a full disk may cut."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.files import open_outside
from uniad.formats.calibration import Projection, Translation
from uniad.formats.fields import Array, Choice, Each, Maybe, Named, Number, Record, Text, Whole, refuse
from uniad.formats.layout import CAMERAS
from uniad.interface.command import ALL_COMMANDS

AGAIN = "run `make infer` again"
FARTHEST_M = 1e6  # of a path from the car; what draws it counts pixels in 32 bits
MOST_BYTES = 1 << 30  # of a frame's masks once unpacked
MASKS = {"lanes": 3, "drivable": 2, "occupancy": 3, "occupancy_ids": 3}  # how many axes each has; the last two go with a plan


class Component:
    """A name of one folder or file, beside or below what names it."""

    wanted = "a name without slashes"

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[\w-][\w.-]*", value):
            raise refuse(value, where, self.wanted)
        return value


class PathField:
    """Points [steps, 2] in metres, as many as there are; checked, it is float32."""

    wanted = f"points x, y within {FARTHEST_M:g} m, [steps, 2]"

    def check(self, value: Any, where: str) -> NDArray[np.float32]:
        if not isinstance(value, list) or not value:
            raise refuse(value, where, self.wanted)
        points = Array((len(value), 2), self.wanted, rule=lambda a: (np.abs(a) <= FARTHEST_M).all((-1, -2))).check(value, where)
        return points.astype(np.float32)


SUMMARY = Record(
    {
        "backend": Text(),
        "scenes": Each(
            Record({"name": Text(empty=False), "folder": Component(), "frames": Whole(low=0), "token": Text()}, wanted="a scene")
        ),
    },
    {
        "config": Text(empty=False),  # a program that drives a runtime need not name one
        "config_options": Each(Text()),
        "model": Text(),
        "model_sha256": Text(),
        "split": Maybe(Choice(("train", "val"))),
    },
    wanted="the summary of a run",
    others=True,
)


def checked_summary(summary: Any, path: Path) -> dict[str, Any]:
    """The summary of a folder of results; UserError for what does not fit."""
    if not isinstance(summary, dict) or "scenes" not in summary:
        raise UserError(f"{path} is not complete; {AGAIN}")
    return SUMMARY.check(summary, str(path))


def checked_frame(frame: Any, path: Path, class_names: Sequence[str]) -> dict[str, Any]:
    """A frame's JSON with every value converted; UserError for what does not fit. ``class_names``: of the run's config."""
    one = {"id": Whole(), "class": Choice(tuple(class_names))}
    thing = Record({**one, "score": Number(), "box": Array((9,), "9 numbers of a box")}, wanted="an object")
    mode = Record({"prob": Number(), "path": PathField()}, wanted="a mode")
    forecast = Record({**one, "start": Translation, "modes": Each(mode, "a list of modes", least=1)}, wanted="a forecast")
    schema = Record(
        {
            "frame": Whole(low=0),
            "token": Text(empty=False),
            "lidar2ego_translation": Translation,
            "cams": Named(Text(empty=False), "a mapping of camera names", CAMERAS),
            "lidar2img": Named(Projection, "a mapping of camera names", CAMERAS),
            "tracks": Each(thing),
            "detections": Each(thing),
            "tracks_dropped": Whole(low=0),
            "masks": Component(),
            "timings_ms": Named(Number()),
        },
        {
            "plan": Record({"command": Choice(ALL_COMMANDS), "path": PathField(), "raw": PathField()}, wanted="a plan"),
            "forecasts": Each(forecast),
        },
        wanted="a frame's results",
        others=True,
    )
    frame = schema.check(frame, str(path))
    if ("plan" in frame) != ("forecasts" in frame):
        raise UserError(f"{path} has a plan or forecasts, not both; {AGAIN}")
    if set(frame["cams"]) != set(frame["lidar2img"]):
        raise UserError(f"{path}: cams and lidar2img are not of the same cameras; {AGAIN}")
    shapes = {(len(f["modes"]), *m["path"].shape) for f in frame.get("forecasts", ()) for m in f["modes"]}
    if len(shapes) > 1:
        raise UserError(f"{path}: forecasts differ in their numbers of modes or steps; {AGAIN}")
    return frame


def read_masks(path: Path, frame: str, ahead: bool) -> Mapping[str, NDArray[Any]]:
    """A frame's masks by name. frame: its JSON, for messages; ahead: with occupancy, as a run of stage 2 has it.

    UserError for what does not fit.
    """
    try:
        with open_outside(path) as handle:
            with zipfile.ZipFile(handle) as archive:
                if sum(part.file_size for part in archive.infolist()) > MOST_BYTES:
                    raise UserError(f"{frame}: {path.name} unpacks to gigabytes, which masks do not; {AGAIN}")
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as file:
                masks = {name: file[name] for name in file.files}
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything; all of it means the same to its owner
        raise UserError(f"{frame}: cannot be read ({path.name}: {error}); {AGAIN}") from None
    names = list(MASKS)[: 4 if ahead else 2]
    good = all(name in masks and masks[name].ndim == MASKS[name] and masks[name].dtype.kind in "bui" for name in names)
    good = good and masks["lanes"].shape[1:] == masks["drivable"].shape and all(masks[name].size for name in names)
    if not good or (ahead and masks["occupancy"].shape != masks["occupancy_ids"].shape):
        raise UserError(f"{frame}: {path.name} holds other masks than {', '.join(names)} of one grid; {AGAIN}")
    return masks
