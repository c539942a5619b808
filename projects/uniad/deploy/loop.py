"""The loop that carries a model's state along a stream of frames: inference, evaluation, pictures and videos are made by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from uniad.deploy.runtime import Runtime
from uniad.deploy.sensors import Sensors
from uniad.errors import UserError
from uniad.interface.types import Frame
from uniad.postprocess.result import Result


class Streamed(Protocol):
    """A frame of a stream: ``deploy.sources`` has them as a car's sensors deliver them, ``data.dataset.SceneStream`` prepared and
    with their annotations.
    """

    @property
    def frame(self) -> Sensors | Frame: ...

    @property
    def begins(self) -> bool:
        """Whether it is the first of its scene."""

    @property
    def previous_can_bus(self) -> NDArray[np.float32] | None:
        """[P, 18] of the frames before it in a recorded split; read where a scene begins, see ``Runtime.reset``."""

    @property
    def name(self) -> str:
        """For a message."""


S = TypeVar("S", bound=Streamed)


def results_along(
    runtime: Runtime, stream: Iterable[S], refused: Callable[[S, UserError], None] | None = None
) -> Iterator[tuple[S, Result]]:
    """Every frame with its result, scene after scene. ``timings_ms`` also says how long the frame took to ``load``.

    A frame that the runtime refuses is a UserError that names it; it has changed nothing, and whoever catches it may go on with
    another stream of the same scene. refused: told of such a frame instead, and the loop goes on with the next one.
    """
    frames = iter(stream)
    while True:
        begun = time.perf_counter()
        item = next(frames, None)
        if item is None:
            return
        load = time.perf_counter() - begun
        if item.begins:
            runtime.reset(item.previous_can_bus)
        try:
            result = runtime.step(item.frame)
        except UserError as error:
            if refused is not None:
                refused(item, error)
                continue
            raise UserError(f"{item.name}: {error}") from None
        result.timings_ms["load"] = 1e3 * load
        yield item, result
