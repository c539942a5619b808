"""The ONNX step in onnxruntime with its state resident on the device: the same face as ``cuda_graph.CudaGraphStep``.

Inputs and outputs are bound to fixed buffers. Where every node runs on the GPU, onnxruntime records the step as one CUDA graph.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniad.backends.cuda_graph import DeviceStep
from uniad.errors import UserError
from uniad.interface.contract import Contract

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class OnnxRuntimeStep(DeviceStep):
    """``load`` a frame, ``run``, read ``outputs``; ``reset`` begins a scene."""

    def __init__(
        self, contract: Contract, path: str | Path, provider: str = "cuda", tf32: bool = False, capture: bool = True,
        threads: int = 0,
    ) -> None:  # fmt: skip
        """capture: record a CUDA graph, which onnxruntime refuses where a node has no GPU kernel. threads: on the CPU."""
        import onnxruntime  # after torch: its libraries of CUDA and cuDNN are loaded then

        name = PROVIDERS[provider]
        if name not in onnxruntime.get_available_providers():
            raise UserError(f"this onnxruntime ({onnxruntime.__version__}) has no {name}; it has "
                            f"{', '.join(onnxruntime.get_available_providers())}")  # fmt: skip
        if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        self.contract, self.device, self.captured = contract, "cpu" if provider == "cpu" else "cuda", False
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self._rows: list[Any] = [name]
        if provider == "cuda":
            self._rows = [(name, {"use_tf32": str(int(tf32)), "enable_cuda_graph": str(int(capture))}), PROVIDERS["cpu"]]
            self.captured = capture
        elif provider == "tensorrt":
            self._rows = [name, PROVIDERS["cuda"], PROVIDERS["cpu"]]
        self.session = onnxruntime.InferenceSession(str(path), options, providers=self._rows)
        if name not in self.session.get_providers():
            raise UserError(f"{path}: onnxruntime could not start {name} (its libraries were not found?)")
        self._input = {n: self._empty(p.shape, p.dtype) for n, p in contract.input_ports().items()}
        self._output = {n: self._empty(p.shape, p.dtype) for n, p in contract.output_ports().items()}
        self._binding = self.session.io_binding()
        for bind, tensors in ((self._binding.bind_input, self._input), (self._binding.bind_output, self._output)):
            for n, t in tensors.items():
                bind(n, self.device, 0, np.dtype(str(t.dtype).removeprefix("torch.")), tuple(t.shape), t.data_ptr())
        self.frame = [self._input[p.name] for p in contract.frame]
        self.state = [self._input[f"state_{p.name}"] for p in contract.state]
        self._next = [self._output[f"next_{p.name}"] for p in contract.state]
        self.outputs: dict[str, Tensor] = {p.name: self._output[p.name] for p in contract.outputs}
        if self.captured:
            for _ in range(2):  # it records in its first runs, and only then says what cannot be recorded
                self.run()
        self.reset()

    def _empty(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=self.device)

    def run(self) -> None:
        """The step of the loaded frame; ``outputs`` holds until the next call."""
        if self.device == "cuda":
            torch.cuda.current_stream().synchronize()  # onnxruntime has a stream of its own
        self.session.run_with_iobinding(self._binding)
        torch._foreach_copy_(self.state, self._next)


def nodes_on_cpu(contract: Contract, path: str | Path, folder: Path) -> dict[str, int]:
    """How many nodes of which kind have no CUDA kernel and run on the host: one profiled frame."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "ort")
    session = onnxruntime.InferenceSession(str(path), options, providers=[PROVIDERS["cuda"], PROVIDERS["cpu"]])
    frame = {p.name: np.zeros(p.shape, p.dtype) for p in contract.frame}
    session.run(None, {**frame, **contract.initial_state()})
    events = json.loads(Path(session.end_profiling()).read_text())
    kinds = {
        event["name"]: event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider") == PROVIDERS["cpu"]
    }
    return dict(Counter(kinds.values()).most_common())
