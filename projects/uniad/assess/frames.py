"""Recorded scenes as they are judged here: what arrives at the runtime, and what was true, frame by frame.

A car that gets no result for a frame (the frame never arrived, or the runtime refused it) sees nothing new and drives on along
the plan that it has. So such a frame is scored, not left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from uniad.assess.faults import Deliver
from uniad.config.spec import Spec
from uniad.data.collate import stack
from uniad.data.dataset import SceneSample, Split, load_maps, pose_tensors
from uniad.data.targets import TargetMaker
from uniad.deploy.loop import results_along
from uniad.deploy.runtime import Runtime
from uniad.deploy.sensors import Sensors
from uniad.deploy.sources import DatasetFrames, FrameRecord, Scene
from uniad.errors import UserError
from uniad.interface.command import COMMANDS
from uniad.interface.types import Frame
from uniad.postprocess.collision import UNSOLVED
from uniad.postprocess.result import Forecasts, Objects, Plan, Result

F64 = NDArray[np.float64]
DROPPED, REFUSED = "never arrived", "refused"


class Recorded:
    """Scenes of a split with their ground truth. Maps are read here, so that forked processes share them."""

    def __init__(self, spec: Spec, scenes: Sequence[str] = (), most: int | None = None, split: Split = "val") -> None:
        """scenes: by number, name or token; none: all. most: the first so many frames of each."""
        if spec.data.vocabulary.commands != COMMANDS:
            # Faults and conditions turn nuScenes' commands, and curbs are read from its maps.
            raise UserError("audit and robust know nuScenes' maps and commands, and the model is of other data: see make eval")
        self.spec = spec
        self.frames = DatasetFrames(spec.data, split)
        self.table, self.labeller = self.frames.table, self.frames.labeller
        self._targets = TargetMaker(self.labeller, need_stage2=spec.model.stage2 is not None)
        load_maps(self.table, spec.data)
        wanted = list(scenes) or [str(number) for number in range(len(self.table.scene_token))]
        self.scenes = [self.frames.scene(name, most) for name in wanted]
        tokens = [scene.token for scene in self.scenes]
        if len(set(tokens)) < len(tokens):
            raise UserError(f"scenes {' '.join(wanted)}: one of them is asked for twice")
        if not len(self):
            raise UserError(f"{self.table.path} holds no frame; `make data` makes the infos")

    def __len__(self) -> int:
        """Frames of all scenes."""
        return sum(map(len, self.scenes))

    def truth(self, frame: int, info: dict[str, Any]) -> SceneSample:
        """Poses, ground truth and ``info`` of a frame of the split; the images are left out."""
        begins = frame == self.table.frames_of(int(self.table.scene[frame])).start
        span = range(frame, frame + 1)
        poses = Frame(
            img=torch.empty(1, 0), scene_start=torch.tensor([begins]), **pose_tensors(span, self.labeller, rounded_time=False)
        )
        return SceneSample(poses, stack([self._targets.clip(span)]), info, None)

    def global_from_lidar(self, frame: int) -> F64:
        """[4, 4]"""
        return self.table.global_from_lidar[frame]


@dataclass(frozen=True)
class Arrival:
    """A frame as it arrives at the runtime, perhaps spoilt; ``record`` is the frame as it was."""

    record: FrameRecord
    key: int  # number in the split
    sensors: Sensors | None  # None: it never arrives

    @property
    def frame(self) -> Sensors:
        assert self.sensors is not None
        return self.sensors

    @property
    def begins(self) -> bool:
        return self.record.begins

    @property
    def previous_can_bus(self) -> NDArray[np.float32] | None:
        return self.record.previous_can_bus

    @property
    def name(self) -> str:
        return self.record.name


@dataclass(frozen=True)
class Outcome:
    """What came of a frame: a result, or ``missing`` (``DROPPED``, ``REFUSED``) and why."""

    arrival: Arrival
    result: Result | None
    missing: str = ""
    why: str = ""


def outcomes(runtime: Runtime, scene: Scene, deliver: Deliver) -> Iterator[Outcome]:
    """Every frame of a scene, in order, each once."""
    without: list[Outcome] = []

    def arriving() -> Iterator[Arrival]:
        for record in scene:
            arrival = Arrival(record, scene.keys[record.number], deliver(record.sensors))
            if arrival.sensors is None:
                without.append(Outcome(arrival, None, DROPPED))
            else:
                yield arrival

    def refused(arrival: Arrival, error: UserError) -> None:
        without.append(Outcome(arrival, None, REFUSED, str(error)))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", UNSOLVED)  # a plan that stays as it was counts as it is
        for arrival, result in results_along(runtime, arriving(), refused):
            yield from without  # they came before it
            without.clear()
            yield Outcome(arrival, result)
    yield from without


class Held:
    """What a car has that gets no result: nothing seen, and its last plan, on which it goes on driving."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._last: tuple[int, F64, Plan] | None = None  # frame, pose and plan of the last result

    def keep(self, number: int, global_from_lidar: F64, result: Result) -> None:
        """The result of a scene's frame; frames in order."""
        self._last = None if result.plan is None else (number, global_from_lidar, result.plan)

    def path(self, number: int, global_from_lidar: F64, raw: bool = False) -> NDArray[np.float32]:
        """[P, 2]: what is left of the last plan, as frame ``number`` sees it; standing where there is none.

        raw: of the plan as the network gave it.
        """
        if self._last is None:
            assert self.spec.model.stage2 is not None
            return np.zeros((self.spec.model.stage2.plan.steps, 2), np.float32)
        before, pose, plan = self._last
        return moved_on(plan.raw if raw else plan.path, number - before, pose, global_from_lidar)

    def result(self, number: int, global_from_lidar: F64, sample: SceneSample, command: int) -> Result:
        """In place of the result that did not come."""
        spec, gt = self.spec, sample.targets
        canvas = tuple(gt.drivable.shape[-2:])
        common: dict[str, Any] = {key: _no_objects() for key in ("tracks", "detections", "ego")}
        common |= {"lanes": np.zeros((3, *canvas), bool), "drivable": np.zeros(canvas, bool)}
        heads = spec.model.stage2
        if heads is None or gt.stage2 is None:
            return Result(**common)
        cells = (1 + heads.occ.n_future, *gt.stage2.segmentation.shape[-2:])
        return Result(
            **common,
            forecasts=_no_forecasts(heads.motion.predict_modes, heads.motion.predict_steps),
            occupancy=np.zeros(cells, bool),
            occupancy_ids=np.full(cells, -1, np.int64),
            plan=Plan(self.path(number, global_from_lidar), self.path(number, global_from_lidar, raw=True), command),
        )


def moved_on(path: NDArray[Any], steps: int, global_from_then: F64, global_from_now: F64) -> NDArray[np.float32]:
    """A plan [P, 2] of the lidar frame of ``steps`` frames ago, as the lidar of now sees it: what is left of it, and then on at
    the speed of its end.
    """
    whole = np.concatenate([np.zeros((1, 2)), np.asarray(path, np.float64)])
    count = len(path)
    further = whole[-1] + np.arange(1, steps + 1)[:, None] * (whole[-1] - whole[-2])
    left = np.concatenate([whole, further])[steps + 1 : steps + 1 + count]
    points = np.concatenate([left, np.zeros((count, 1)), np.ones((count, 1))], axis=1)
    return ((np.linalg.inv(global_from_now) @ global_from_then @ points.T).T[:, :2]).astype(np.float32)


def _no_objects() -> Objects:
    none = np.zeros(0, np.int64)
    return Objects(np.zeros((0, 9), np.float32), none, np.zeros(0, np.float32), none)


def _no_forecasts(modes: int, steps: int) -> Forecasts:
    none = np.zeros(0, np.int64)
    empty = np.zeros((0, modes, steps, 5), np.float32)
    return Forecasts(
        none, np.zeros((0, 3), np.float32), none, empty[..., :2], np.zeros((0, modes), np.float32),
        np.zeros((0, 9), np.float32), np.zeros(0, np.float32), empty,
    )  # fmt: skip
