"""The step in eager PyTorch, its state on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniad.backends.base import Feeds, Runner
from uniad.errors import UserError
from uniad.interface.contract import Contract, as_array, pack_outputs, unpack_inputs
from uniad.models.uniad import UniAD
from uniad.postprocess.map_merge import finish_lanes


def copy_weights(model: nn.Module, source: nn.Module) -> None:
    """Copy all parameters and buffers of ``source`` into ``model``: where each lies, its type and its layout stay, so what was
    compiled or recorded reads the new ones. Raises UserError, and copies nothing, where a name or a shape differs."""
    own, new = _weights(model), _weights(source)
    for name in sorted(own.keys() | new.keys()):
        shapes = [list(held[name].shape) if name in held else "absent" for held in (own, new)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{name} is {shapes[0]} in the model that runs and {shapes[1]} in the other: open that by itself")
    for name, value in own.items():
        value.data.copy_(new[name].data)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class TorchRunner(Runner):
    """The native model in eager PyTorch. What a step carries stays where it is: a full model's BEV is 40 MB."""

    name = "torch"

    def __init__(self, contract: Contract, model: UniAD, device: str = "cpu") -> None:
        super().__init__(contract)
        self.model, self.device = model, device
        self.image_device = "" if device == "cpu" else device

    @property
    def state(self) -> dict[str, np.ndarray]:
        self._state = {name: as_array(value) for name, value in self._state.items()}
        return self._state

    def load_weights(self, model: UniAD) -> None:
        copy_weights(self.model, model)
        self.reset()

    def keep(self) -> Any:
        return dict(self._state)

    def is_finite(self) -> bool:
        values = [torch.as_tensor(value) for value in self._state.values()]
        values = [value for value in values if value.is_floating_point()]
        # One answer for all: to ask a GPU about each would be to wait for it as often. Sums of finite values may overflow, too
        sums = torch.stack([total.to(self.device, torch.float32) for total in torch._foreach_norm(values, 1)])
        return bool(sums.isfinite().all()) or all(bool(value.isfinite().all()) for value in values)

    def step(self, frame: Feeds) -> dict[str, np.ndarray]:
        """As ``Runner.step``."""
        self._check_open()
        self._check_command(frame)
        self.contract.check_frame(frame)
        outputs = self._run({**frame, **self._state})
        self._state = self.contract.carry(outputs)
        return finish_lanes({p.name: as_array(outputs[p.name]) for p in self.contract.outputs}, self.contract.map_merge)

    def _open(self) -> None:
        self.model.to(self.device).eval()

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return {name: as_array(value) for name, value in self._run(feeds).items()}

    @torch.no_grad()
    def _run(self, feeds: Mapping[str, np.ndarray | Tensor]) -> dict[str, Tensor]:
        given = (feeds[name] for name in self.contract.input_names)
        tensors = [torch.as_tensor(value, device=self.device) for value in given]
        outputs, state = self.model.step(*unpack_inputs(self.contract, tensors))
        return dict(zip(self.contract.output_names, pack_outputs(self.contract, outputs, state)))
