"""A TensorRT engine through the Python packages ``tensorrt`` and ``tensorrt_rtx``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from uniad.backends import cuda
from uniad.backends.base import Feeds, Runner
from uniad.errors import UserError
from uniad.interface.contract import Contract


def load_package(name: str) -> Any:
    """``tensorrt`` or ``tensorrt_rtx``; a UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"the Python package {name} is not installed: `make env` installs tensorrt_rtx, JetPack and the "
            f"deployment image ship tensorrt"
        ) from None


class TensorRtRunner(Runner):
    """An engine through the Python package ``tensorrt`` or ``tensorrt_rtx``, on the first GPU."""

    def __init__(self, contract: Contract, path: str | Path, package: str = "tensorrt") -> None:
        super().__init__(contract)
        self.path, self.package, self.name = Path(path), package, package
        self.engine: Any = None
        self.context: Any = None
        self.buffers: cuda.Buffers | None = None

    def _open(self) -> None:
        here = cuda.device()
        if here is None:
            raise UserError(f"{self.path}: an engine runs on a GPU and this machine has none; verify it on its device")
        trt = load_package(self.package)
        ports = {**self.contract.input_ports(), **self.contract.output_ports()}
        # First the buffers: they make the context that TensorRT then works in.
        self.buffers = cuda.Buffers((name, port.shape, port.dtype) for name, port in ports.items())
        self.logger = trt.Logger(trt.Logger.ERROR)
        trt.init_libnvinfer_plugins(self.logger, "")
        self.engine = trt.Runtime(self.logger).deserialize_cuda_engine(self.path.read_bytes())
        if self.engine is None:
            self._close()
            raise UserError(
                f"{self.path}: {self.package} {trt.__version__} cannot load this engine on "
                f"{here['model']}; build it again with `make engine` on this machine"
            )
        self.context = self.engine.create_execution_context()
        for name, port in ports.items():
            self.context.set_tensor_address(name, self.buffers.address(name))
            if -1 in tuple(self.engine.get_tensor_shape(name)) and name in self.contract.input_names:
                self.context.set_input_shape(name, port.shape)

    def _close(self) -> None:
        self.context = self.engine = None
        if self.buffers is not None:
            self.buffers.close()
            self.buffers = None

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        buffers = self._opened(self.buffers)
        for name, value in feeds.items():
            buffers.write(name, value)
        if not self.context.execute_async_v3(buffers.stream):
            raise RuntimeError(f"{self.path}: execution failed")
        return buffers.read(self.contract.output_names)
