"""One interface to run a step anywhere: PyTorch, onnxruntime, TensorRT and TensorRT-RTX. ``backends.open`` chooses.

``with runner: runner.step(frame_feed)`` keeps the state inside and feeds it back; ``infer`` is the bare graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from uniad.errors import UserError
from uniad.interface.command import check_command
from uniad.interface.contract import Contract
from uniad.postprocess.map_merge import finish_lanes

Feeds = Mapping[str, np.ndarray]
T = TypeVar("T")
R = TypeVar("R", bound="Runner")


class Runner:
    """A loaded step. Subclasses implement ``_open``, ``_infer`` and ``_close``."""

    name = "runner"
    image_device = ""  # where a step takes its images as a tensor that lies there already; empty: on the host, as an array

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._state: dict[str, Any] = contract.initial_state()  # arrays; where a back end keeps it on a device, tensors
        self._is_open = False

    def __enter__(self: R) -> R:
        self._open()
        self._is_open = True
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        self._close()

    def reset(self) -> None:
        """Forget the scene: the next step starts from the initial state."""
        self._state = self.contract.initial_state()

    @property
    def state(self) -> dict[str, np.ndarray]:
        """State that the next step will be fed, by input name."""
        return self._state

    def keep(self) -> Any:
        """What ``restore`` takes to undo the steps after this call."""
        return dict(self.state)

    def restore(self, kept: Any) -> None:
        self._state = kept

    def is_finite(self) -> bool:
        """Whether the state that the next step will be fed is."""
        return all(np.isfinite(value).all() for value in self.state.values() if value.dtype.kind == "f")

    def load_weights(self, model: Any) -> None:
        """Take the weights of ``model``, a UniAD of the same spec, in place; the scene is forgotten.

        Raises UserError, and changes nothing, for another model, and in a back end that holds no PyTorch model.
        """
        raise UserError(f"back end {self.name} takes no weights while it runs: refit its file (docs/export.md), and open that")

    def infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """All graph outputs for all graph inputs. Raises ValueError for a wrong input and RuntimeError when not entered."""
        self._check_open()
        self.contract.check_inputs(feeds)
        return self._infer(feeds)

    def step(self, frame: Feeds) -> dict[str, np.ndarray]:
        """Outputs of one frame, with the lanes merged to the end; the state is carried to the next call."""
        self._check_command(frame)
        outputs = self.infer({**frame, **self._state})
        self._state = self.contract.carry(outputs)
        return finish_lanes(outputs, self.contract.map_merge)

    def _check_command(self, frame: Feeds) -> None:
        if "command" in frame:
            check_command(frame["command"], names=self.contract.commands)

    def _check_open(self) -> None:
        if not self._is_open:
            raise self._not_open()

    def _opened(self, part: T | None) -> T:
        """What ``_open`` made and ``_close`` took away."""
        if part is None:
            raise self._not_open()
        return part

    def _not_open(self) -> RuntimeError:
        return RuntimeError(f"{self.name}: use it as a context manager")

    def _open(self) -> None: ...

    def _close(self) -> None: ...

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        raise NotImplementedError
