"""The endurance run: a short one of a real model, and what it says of a runtime that forgets nothing, or grows."""

from __future__ import annotations

import runpy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import REPO
from uniad.deploy.sources import DatasetFrames
from uniad.postprocess.result import Objects, Plan, Result

endurance = SimpleNamespace(**runpy.run_path(str(REPO / "benchmarks" / "endurance.py")))


class Simple:
    """A runtime whose plan is what it is fed, plus what it keeps from scene to scene."""

    def __init__(self, kept: float = 0.0, creeping: float = 0.0) -> None:
        self.kept, self.creeping, self.frames, self.scenes = kept, creeping, 0, 0

    def reset(self) -> None:
        self.scenes, self.frames = self.scenes + 1, 0

    def step(self, sensors: SimpleNamespace) -> Result:
        self.frames += 1
        path = np.full((6, 2), sensors.x + self.kept * self.scenes + self.creeping * self.frames, np.float32)
        objects = Objects(np.zeros((1, 9), np.float32), np.zeros(1, np.int64), np.ones(1, np.float32), np.ones(1, np.int64))
        grid = np.zeros((1, 1), bool)
        return Result(objects, objects, objects, grid[None], grid, plan=Plan(path, path, 2))



def scene(start: float) -> list:
    from uniad.deploy.sensors import Pose, Sensors

    class Numbered(Sensors):
        x = start

    pose = Pose([0, 0, 0], [1, 0, 0, 0])
    return [Numbered({}, {}, pose, pose, 0.5 * i) for i in range(3)]


def test_a_runtime_that_forgets_passes_and_one_that_does_not_is_told() -> None:
    good = endurance.endure(Simple(), scene(1.0), scene(2.0), 60)
    assert good["faults"] == [] and good["frames"] == 60 and good["turns_of_a_and_b"] == 4 and good["a_after_b_m"] == 0
    assert good["parked_s"] > 10 and good["p99_over_median"] >= 1
    kept = endurance.endure(Simple(kept=0.01), scene(1.0), scene(2.0), 60)
    assert "scene A after others differs from A alone by" in kept["faults"][0]
    creeping = endurance.endure(Simple(creeping=0.1), scene(1.0), scene(2.0), 60)
    assert creeping["faults"] and all("wandered" in fault for fault in creeping["faults"])
    grown = {**good, "gpu_memory_mib": {"growth": 100.0, "end": 200.0}}
    assert endurance.faults(grown) == ["gpu_memory_mib grew by 100.0 (at most 64.0)"]


@pytest.mark.slow
def test_a_short_run_of_a_real_model(nano) -> None:
    with nano.open() as runtime:
        spec = runtime.spec.data
        a = [record.sensors for record in DatasetFrames(spec, "val").scene("0", 2)]
        b = [replace(record.sensors) for record in DatasetFrames(spec, "train").scene("0", 1)]
        report = endurance.endure(runtime, a, b, 1)
    assert report["frames"] == 9 and report["a_after_b_m"] == 0 and report["parked_plan_wanders_m"] < 0.5
