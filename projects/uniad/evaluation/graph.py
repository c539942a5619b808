"""An exported graph or an engine in the model's place, so that the evaluation scores it as it scores the model.

What is not on the graph's border (embeddings, layers before the last, logits of the occupancy) is missing: no metric reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniad.backends.base import Runner
from uniad.config.spec import Spec
from uniad.interface.contract import Contract, as_feeds, pack_frame, pack_state, unpack_inputs
from uniad.interface.types import Agents, Frame, MapOutput, MotionOutput, OccOutput, PlanOutput, State, StepOutputs, TrackOutput

_PARTS = {"track": TrackOutput, "map": MapOutput, "agents": Agents, "motion": MotionOutput, "occ": OccOutput, "plan": PlanOutput}


class GraphModel:
    """A runner that answers as ``UniAD`` does where ``evaluation.run.collect`` asks. The runner must be entered; batch of one."""

    def __init__(self, runner: Runner, spec: Spec) -> None:
        self.runner, self.spec = runner, spec

    def eval(self) -> GraphModel:
        return self

    def init_state(self, batch: int = 1, device: object = None) -> State:
        """The state before a scene."""
        if batch != 1:
            raise ValueError(f"a graph has a batch of 1, not {batch}")
        contract = self.runner.contract
        frame = [torch.zeros(p.shape, dtype=getattr(torch, p.dtype)) for p in contract.frame]
        return unpack_inputs(contract, [*frame, *(torch.from_numpy(v) for v in contract.initial_state().values())])[1]

    def step(self, frame: Frame, state: State) -> tuple[StepOutputs, State]:
        """One frame, and the state that the next one needs."""
        contract = self.runner.contract
        said = self.runner.infer(as_feeds(contract, (*pack_frame(contract, frame), *pack_state(contract, state))))
        carried = [torch.from_numpy(said[f"next_{p.name}"]) for p in contract.state]
        state = unpack_inputs(contract, [*pack_frame(contract, frame), *carried])[1]
        return self._outputs(contract, said, state), state

    def _outputs(self, contract: Contract, said: dict[str, np.ndarray], state: State) -> StepOutputs:
        fields: dict[str, dict[str, Tensor]] = {}
        for port in contract.outputs:
            part, name, *layer = port.path.split(".")
            value = torch.from_numpy(np.ascontiguousarray(said[port.name]))
            value = value != 0 if port.is_mask else value
            fields.setdefault(part, {})[name] = value[None] if layer else value
        fields["track"]["embedding"] = torch.empty(1, 0)
        if contract.looks_ahead:
            self._complete(fields)
        parts = {part: _filled(_PARTS[part], found) for part, found in fields.items()}
        return StepOutputs(bev=state.prev_bev, **parts)

    def _complete(self, fields: dict[str, dict[str, Tensor]]) -> None:
        """Agents carry the boxes of the rows they came from, and the occupancy head considers the vehicles among them."""
        track, agents = fields["track"], fields["agents"]
        agents["row"] = agents["row"].long()
        rows = agents["row"].clamp(0, track["score"].shape[1] - 1)
        for name in ("boxes", "label", "score"):
            agents[name] = track[name][0][rows[0]][None]
        vehicle = torch.isin(agents["label"], torch.tensor(self.spec.model.motion.vehicle_ids, dtype=agents["label"].dtype))
        fields["occ"]["valid"] = agents["valid"] & vehicle & (agents["obj_id"] >= 0)


def _filled(kind: Any, found: dict[str, Tensor]) -> Any:
    return kind(**{name: found.get(name) for name in kind._fields})
