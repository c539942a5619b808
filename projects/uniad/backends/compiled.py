"""The native model as fast as PyTorch runs it: fp16, compiled part by part, recorded as one CUDA graph, state on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniad.backends.base import Feeds, Runner
from uniad.backends.cuda_graph import CudaGraphStep
from uniad.backends.torch import copy_weights
from uniad.interface.contract import Contract
from uniad.models.uniad import UniAD
from uniad.postprocess.map_merge import finish_lanes


class CompiledRunner(Runner):
    """Opening it compiles: minutes the first time, less where PyTorch finds its own cache. Takes the model over."""

    name = "compiled"

    def __init__(
        self, contract: Contract, model: UniAD, precision: str = "fp16", mode: str = "parts", device: str = "cuda"
    ) -> None:
        super().__init__(contract)
        self.model, self.precision, self.mode, self.device = model, precision, mode, device
        self.image_device = "" if device == "cpu" else device
        self._resident: CudaGraphStep | None = None
        self._on_device = False  # whether the state that counts is the device's, not the one that ``reset`` left here

    @property
    def state(self) -> dict[str, np.ndarray]:
        if self._on_device:
            self._state = self._read_state("state_")
            self._on_device = False  # what the caller writes into it is what the next step begins with
        return self._state

    def reset(self) -> None:
        super().reset()
        self._on_device = False

    def load_weights(self, model: UniAD) -> None:
        """As ``Runner.load_weights``; nothing is compiled or recorded again. Of its CUDA graph not run on a GPU yet."""
        copy_weights(self.model, model)
        self.reset()

    def keep(self) -> Any:
        return [buffer.clone() for buffer in self._opened(self._resident).state] if self._on_device else super().keep()

    def restore(self, kept: Any) -> None:
        self._on_device = isinstance(kept, list)
        if self._on_device:
            torch._foreach_copy_(self._opened(self._resident).state, kept)
        else:
            super().restore(kept)

    def is_finite(self) -> bool:
        if not self._on_device:
            return super().is_finite()
        sums = torch._foreach_norm([buffer for buffer in self._opened(self._resident).state if buffer.is_floating_point()], 1)
        return bool(torch.stack(sums).isfinite().all())

    def step(self, frame: Feeds) -> dict[str, np.ndarray]:
        """As ``Runner.step``; the state stays where it is."""
        self._check_command(frame)
        self._check_open()
        self.contract.check_frame(frame)
        outputs = self._run(frame, None if self._on_device else self._state)
        return finish_lanes(outputs, self.contract.map_merge)

    def _open(self) -> None:
        self._resident = CudaGraphStep(self.model, self.contract, self.precision, self.mode, self.device)

    def _close(self) -> None:
        self._resident = None

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        outputs = self._run(feeds, feeds)
        self._on_device = False  # what was fed belongs to the caller
        return outputs | self._read_state("next_")

    def _read_state(self, prefix: str) -> dict[str, np.ndarray]:
        state = self._opened(self._resident).state
        return {f"{prefix}{p.name}": _to_host(buffer) for p, buffer in zip(self.contract.state, state)}

    def _run(self, frame: Feeds, state: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        step = self._opened(self._resident)
        for port, buffer in zip(self.contract.frame, step.frame):
            given = frame[port.name]
            buffer.copy_(given if isinstance(given, Tensor) else torch.from_numpy(np.ascontiguousarray(given)))
        if state is not None:
            for port, buffer in zip(self.contract.state, step.state):
                buffer.copy_(torch.from_numpy(np.ascontiguousarray(state[f"state_{port.name}"])))
        step.run()
        self._on_device = True
        return {name: _to_host(value) for name, value in step.outputs.items()}


def _to_host(tensor: Tensor) -> np.ndarray:
    """A copy: on a CPU the next step would write over what it shares."""
    return tensor.detach().to("cpu", copy=True).numpy()
