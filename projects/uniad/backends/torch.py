"""The step in eager PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from uniad.backends.base import Feeds, Runner
from uniad.interface.contract import Contract, pack_outputs, unpack_inputs


class TorchRunner(Runner):
    """The native model in eager PyTorch."""

    name = "torch"

    def __init__(self, contract: Contract, model: torch.nn.Module, device: str = "cpu") -> None:
        super().__init__(contract)
        self.model, self.device = model, device

    def _open(self) -> None:
        self.model.to(self.device).eval()

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(np.ascontiguousarray(feeds[n])).to(self.device) for n in self.contract.input_names]
        with torch.no_grad():
            outputs, state = self.model.step(*unpack_inputs(self.contract, tensors))
            packed = pack_outputs(self.contract, outputs, state)
        return {n: t.cpu().numpy() for n, t in zip(self.contract.output_names, packed)}
