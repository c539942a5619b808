"""An engine through trtexec as a runner: a process a frame, for verification where no Python package is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from uniad.artifacts.card import contract_of, sequence_path
from uniad.artifacts.sequence import load
from uniad.backends import trtexec
from uniad.backends.base import Feeds, Runner
from uniad.backends.trtexec import passed_on, undo_rounding
from uniad.interface.contract import Contract


class TrtexecRunner(Runner):
    name = "trtexec"

    def __init__(self, contract: Contract, path: str | Path, tool: trtexec.Trtexec | None = None) -> None:
        super().__init__(contract)
        graph_io = contract.to_json()
        outputs = {o["name"]: {"shape": o["shape"], "dtype": o["dtype"]} for o in graph_io["outputs"]}
        self.engine = trtexec.TrtexecEngine(tool or trtexec.probe(), Path(path), outputs)
        self._passed_on = passed_on(graph_io)

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        outputs = self.engine.infer({name: feeds[name] for name in self.contract.input_names})
        return outputs if self.engine.exact else undo_rounding(outputs, feeds, self._passed_on)


def measure(onnx_path: str | Path, engine: str | Path, iterations: int = 200, seconds: int = 10) -> dict[str, float]:
    """GPU milliseconds of a step on the first recorded frame."""
    card, contract = contract_of(onnx_path)
    feeds = {**load(sequence_path(onnx_path), contract, card).feeds[0], **contract.initial_state()}
    return TrtexecRunner(contract, engine).engine.latency({n: feeds[n] for n in contract.input_names}, iterations, seconds)
