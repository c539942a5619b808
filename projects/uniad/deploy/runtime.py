"""The step for a car: open a model once, hand it frame after frame, get what it sees and where it would drive.

    runtime = Runtime.open("onnx/uniad_tiny_imgx0.25_cp.onnx")
    result = runtime.step(Sensors(images, lidar2img, ego2global, lidar2ego, time_s, command))
    runtime.reset()                                   # another drive begins

What one frame hands to the next stays inside, and a step is a transaction: a frame that is refused, for its input or for what the
model makes of it, changes nothing. An instance is one car's world: its methods may be called from any thread, one call at a time
(a lock makes the others wait; it does not order them, so frames should come from one queue). Two instances share nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uniad.backends.base import Runner
from uniad.backends.open import Model, find_model, load_weights, open_model
from uniad.config.spec import Spec
from uniad.deploy.plausible import Limits, Moment, check_plausible
from uniad.deploy.sensors import Sensors, check_can_bus, check_time, prepare_arrays
from uniad.errors import UserError
from uniad.interface.command import check_command
from uniad.interface.contract import Contract, as_array, frame_feeds
from uniad.interface.pillars import check_rig
from uniad.interface.types import Frame, FrameArrays
from uniad.postprocess.result import Result, prepare_result, result_of
from uniad.processes import cores_here

if TYPE_CHECKING:
    from uniad.deploy.device_images import DeviceImages

SAME_VIEW = 0.05  # of the largest entry of a projection


class Runtime:
    """A loaded model with its state. Make one with ``Runtime.open``; a context manager, or ``close`` it."""

    def __init__(
        self,
        runner: Runner,
        spec: Spec,
        source: str = "",
        options: Sequence[str] = (),
        limits: Limits | None = None,
        threads: int = 0,
    ) -> None:
        self.spec, self.source, self.options = spec, source, list(options)
        self.limits = limits or Limits()  # may be replaced between two frames
        self._runner = runner
        # One camera each at most: of a frame's time on a GPU, scaling images in one thread would be three quarters.
        self._threads = min(threads or cores_here(), len(spec.data.vocabulary.cameras))
        self._images = _device_images(runner, spec)
        self._lock = threading.RLock()
        self._open = True
        self._start_s: float | None = None  # of the scene; None: the next frame begins one
        self._last: Moment | None = None  # the frame before
        self._rig: np.ndarray | None = None  # projections that were held against the graph's room for them
        prepare_result(spec)
        runner.__enter__()

    @classmethod
    def open(
        cls,
        path: str | Path | Model,
        device: str = "auto",
        backend: str = "auto",
        *,
        config: str | Path | None = None,
        options: Sequence[str] = (),
        threads: int = 0,
        limits: Limits | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Runtime:
        """Load an ONNX, an engine, the card of either, or a checkpoint, which needs its ``config``.

        Arguments and errors are those of ``backends.open.find_model`` and ``open_model``. limits: what a frame may hold, see
        ``plausible``.
        """
        model = path if isinstance(path, Model) else find_model(path, config, options)
        runner = open_model(model, device, backend, threads, say)
        return cls(runner, model.spec, str(model.path), model.options, limits, threads)

    @property
    def backend(self) -> str:
        return self._runner.name

    @property
    def contract(self) -> Contract:
        """Names, shapes and meanings of what flows in and out of the graph."""
        return self._runner.contract

    @property
    def runner(self) -> Runner:
        """The back end that the step runs in."""
        return self._runner

    def step(self, frame: Sensors | Frame) -> Result:
        """What the model says of the next frame. The first one after ``open`` or ``reset`` begins a scene.

        frame: raw sensor data, or a prepared Frame with a batch of 1, whose own ``scene_start`` begins scenes, too. A frame that
        is refused (UserError), or whose step fails in any other way, leaves everything as it was.
        """
        with self._lock:
            self._check_open()
            begun = time.perf_counter()
            ready, now = self._prepared(frame)
            feed = self._feed(ready)
            starts = bool(ready.scene_start[0])
            image = self.spec.data.image
            moment = check_plausible(feed, now, image.width, image.height, self.limits, None if starts else self._last)
            rig = self._checked_rig(ready, starts)
            prepared = time.perf_counter()
            kept = self._runner.keep()
            try:
                outputs = self._runner.step(feed)
                stepped = time.perf_counter()
                result = result_of(outputs, feed, self.spec)
                if not self._runner.is_finite():
                    raise UserError("this frame would leave the model a state that is not finite; verify it with `make verify`")
            except BaseException:
                self._runner.restore(kept)
                raise
            self._last, self._rig = moment, rig
            if starts:
                self._start_s = now
            done = time.perf_counter()
            result.timings_ms.update(
                preprocess=1e3 * (prepared - begun), step=1e3 * (stepped - prepared), postprocess=1e3 * (done - stepped)
            )
            return result

    def reset(self, can_bus: np.ndarray | None = None) -> None:
        """Forget the scene. ``can_bus`` [18] or [P, 18]: of the frame before, or of several, oldest first, where the next scene
        follows another one in a recorded split; upstream's evaluation carries poses over that border, and this repeats it to the
        digit. A model that looks ``prev_frame_num`` frames back takes so many of them; those that are not there were at the
        origin, as before the first frame ever.
        """
        with self._lock:
            self._check_open()
            poses = None if can_bus is None else self._poses_before(can_bus)
            self._runner.reset()
            self._start_s = self._last = None
            if poses is not None:
                self._runner.state.update(poses)

    def _poses_before(self, can_bus: np.ndarray) -> dict[str, np.ndarray]:
        """The part of the state that ``reset`` carries over."""
        several = getattr(can_bus, "ndim", 1) == 2 and len(can_bus) > 0  # a loader process hands tensors over
        given = np.stack([check_can_bus(row) for row in (can_bus if several else [can_bus])]).astype(np.float32)
        count = max(1, self.spec.model.prev_frame_num)
        rows = np.zeros((count, 18), np.float32)
        rows[-len(given) :] = given[-count:]
        pos, angle = rows[:, :3], rows[:, 17]
        state = {"state_pos": pos[:1], "state_angle": angle[:1]}
        return state | {"state_past_pos": pos[None, 1:], "state_past_angle": angle[None, 1:]} if count > 1 else state

    def load_weights(self, checkpoint: str | Path) -> None:
        """Another checkpoint's weights in place of those that run, in ``torch`` and ``compiled``: nothing is compiled or recorded
        again. The next frame begins a scene. Raises UserError, and leaves everything as it was, where they do not fit."""
        with self._lock:
            self._check_open()
            load_weights(self._runner, self.spec, checkpoint)
            self.source = str(checkpoint)
            self.reset()

    def close(self) -> None:
        """Release the model. Closing twice does nothing."""
        with self._lock:
            if self._open:
                self._open = False
                self._runner.__exit__(None, None, None)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._open:
            raise UserError(f"{self.source or 'this runtime'} is closed; open it again")

    def _prepared(self, frame: Sensors | Frame) -> tuple[FrameArrays, float]:
        """The step's input, and the time by the caller's clock (s)."""
        start = self._start_s
        if isinstance(frame, Frame):
            if frame.time_s.shape != (1,) or frame.scene_start.shape != (1,):
                raise UserError(f"this frame has a batch of {list(frame.time_s.shape)}; the runtime is one car's, it takes [1]")
            starts = start is None or bool(frame.scene_start[0])
            ready = FrameArrays._make(map(as_array, frame))._replace(scene_start=np.array([starts]))
            now = float(frame.time_s[0])
        elif isinstance(frame, Sensors):
            now = check_time(frame.time_s)
            begun = now if start is None else start
            ready = prepare_arrays(frame, self.spec.data, begun, start is None, self._threads, self._images)
        else:
            raise UserError(f"step takes Sensors or a Frame, not {type(frame).__name__}")
        return ready, now

    def _checked_rig(self, frame: FrameArrays, starts: bool) -> np.ndarray:
        """The projections last held against the graph's room for them: of a scene's first frame, or of a later one whose cameras
        look elsewhere. That they turn a little with the car from frame to frame, as in nuScenes, changes nothing.
        """
        views = as_array(frame.lidar2img)[0, :, :3, :3]
        if not starts and self._rig is not None:
            if np.abs(views - self._rig).max() <= SAME_VIEW * np.abs(self._rig).max():
                return self._rig
        image = self.spec.data.image
        check_rig(self.spec.model.bev, frame.lidar2img, (image.height, image.width))
        return views

    def _feed(self, frame: FrameArrays) -> dict[str, np.ndarray]:
        check_command(as_array(frame.command), names=self.contract.commands)
        feed = frame_feeds(self.contract, frame, () if isinstance(frame.img, np.ndarray) else ("img",))
        try:
            self.contract.check_frame(feed)
        except ValueError as error:
            raise UserError(f"this frame does not fit the model: {error}") from None
        return feed


def _device_images(runner: Runner, spec: Spec) -> DeviceImages | None:
    """What makes network images where the step computes; None where that is the host."""
    if not runner.image_device:
        return None
    from uniad.deploy.device_images import DeviceImages  # a car without PyTorch has no such back end

    return DeviceImages(spec.data.image, runner.image_device)
