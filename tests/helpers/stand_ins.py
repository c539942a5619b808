"""Models that are none: they say what a test wants of a frame, through the runtime's own interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from uniad.assess.frames import Held, Recorded
from uniad.config.spec import Spec
from uniad.deploy.sensors import Sensors
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.postprocess.result import Plan, Result

Planner = Callable[[Sensors], np.ndarray]  # the frame as it arrives -> path [P, 2]


class StandIn:
    """A runtime whose plan is a function of what arrives. It sees nothing, and refuses a missing camera as the real one does."""

    backend = "stand-in"

    def __init__(self, spec: Spec, planner: Planner, blank: Result) -> None:
        self.spec, self.planner, self.blank = spec, planner, blank

    def step(self, sensors: Sensors) -> Result:
        absent = [name for name in CAMERAS if name not in sensors.images]
        if absent:
            raise UserError(f"images has {6 - len(absent)} of 6 cameras: it lacks {', '.join(absent)}")
        path = np.asarray(self.planner(sensors), np.float32)
        return replace(self.blank, plan=Plan(path, path, sensors.command), timings_ms={})

    def reset(self, can_bus: Any = None) -> None: ...

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None: ...


def blank_result(recorded: Recorded) -> Result:
    """Nothing seen, as these scenes' model would say it."""
    scene = recorded.scenes[0]
    sample = recorded.truth(scene.keys[0], next(iter(scene)).info)
    return Held(recorded.spec).result(0, np.eye(4), sample, 2)


class Ready:
    """In place of an ``Opening``: a stand-in, in whatever process."""

    model, config, options, backend, device, limits = "toy.onnx", None, (), "auto", "cpu", ()

    def __init__(self, stand_in: StandIn) -> None:
        self.open = lambda: stand_in

    def identity(self) -> dict:
        return {"model": "0"}
