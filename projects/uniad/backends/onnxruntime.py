"""The exported graph in onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from uniad.backends.base import Feeds, Runner
from uniad.errors import UserError
from uniad.interface.contract import Contract


def threads_asked() -> int:
    """OMP_NUM_THREADS, by which PyTorch goes; 0, onnxruntime's own choice, where it says nothing."""
    words = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(words) if words.isdecimal() else 0


class OrtRunner(Runner):
    """onnxruntime on CPU, or on CUDA where its GPU build is installed. ``device``: auto, cpu or cuda.

    ``threads``: on the CPU; 0 leaves it to OMP_NUM_THREADS, else to onnxruntime.
    ``graph``: a file, or a graph in memory (an ``onnx.ModelProto``).
    """

    name = "onnxruntime"

    def __init__(self, contract: Contract, graph: str | Path | Any, threads: int = 0, device: str = "auto") -> None:
        super().__init__(contract)
        # Thousands of threads that wait for each other end in a step that never does.
        most = max(4 * (os.cpu_count() or 1), 16)
        if not 0 <= threads <= most:
            raise UserError(f"{threads} threads of onnxruntime: give 0 (its own choice) to {most}")
        is_file = isinstance(graph, (str, Path))
        self.path = Path(graph) if is_file else "the graph in memory"
        self.source = str(graph) if is_file else graph.SerializeToString()
        self.threads, self.device = threads, device
        self.session: Any = None

    def _open(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or threads_asked()
        options.log_severity_level = 3
        # Of a graph with Q/DQ nodes: the numbers that a device gives, in float. The integer kernels saturate on some processors,
        # and one of them (QGemm) refuses scales that it fused itself.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        available = onnxruntime.get_available_providers()
        if self.device == "cuda" and "CUDAExecutionProvider" not in available:
            raise UserError(f"{self.path}: this onnxruntime has no CUDA; install onnxruntime-gpu, or use device cpu")
        wanted = ("CPUExecutionProvider",) if self.device == "cpu" else ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [p for p in wanted if p in available]
        try:
            self.session = onnxruntime.InferenceSession(self.source, options, providers=providers)
        except Exception as error:  # the package raises several private classes
            raise UserError(
                f"{self.path}: onnxruntime cannot load it ({str(error).splitlines()[0]}); run `make export`"
            ) from error
        found = {i.name for i in self.session.get_inputs()}
        if found != set(self.contract.input_names):
            odd = sorted(found ^ set(self.contract.input_names))
            raise UserError(f"{self.path}: its inputs differ from this config's ({', '.join(odd[:4])}); run `make export`")

    def _close(self) -> None:
        self.session = None

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return dict(zip(self.contract.output_names, self.session.run(self.contract.output_names, dict(feeds))))
