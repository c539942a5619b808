"""The pure step behind the graph's inputs and outputs: named tensors in, named tensors out."""

from __future__ import annotations

from torch import Tensor, nn

from uniad.interface.contract import Contract, pack_outputs, unpack_inputs
from uniad.models.uniad import UniAD


class ExportStep(nn.Module):
    """``model.step`` with the contract's tensors as positional arguments and results. Holds no state."""

    def __init__(self, model: UniAD, contract: Contract) -> None:
        super().__init__()
        self.model = model
        self.contract = contract

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        frame, state = unpack_inputs(self.contract, tensors)
        outputs, state = self.model.step(frame, state)
        # A pose goes straight through to the next state; a graph needs a node between an input and an output.
        return tuple(t.clone() for t in pack_outputs(self.contract, outputs, state))
