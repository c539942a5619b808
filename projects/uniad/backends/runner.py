"""One interface to run a step anywhere: PyTorch, onnxruntime, TensorRT and TensorRT-RTX.

``with runner: runner.step(frame_feed)`` keeps the state inside and feeds it back; ``infer`` is the bare graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uniad.backends import cuda
from uniad.errors import UserError
from uniad.interface.command import check_command
from uniad.interface.contract import Contract, pack_outputs, unpack_inputs
from uniad.postprocess.map_merge import finish_lanes

if TYPE_CHECKING:  # the other runners do without
    import torch

Feeds = Mapping[str, np.ndarray]


class Runner:
    """A loaded step. Subclasses implement ``_open``, ``_infer`` and ``_close``."""

    name = "runner"

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._state = contract.initial_state()
        self._is_open = False

    def __enter__(self) -> Runner:
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

    def infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """All graph outputs for all graph inputs. Raises ValueError for a wrong input and RuntimeError when not entered."""
        self._check_open()
        self.contract.check_inputs(feeds)
        return self._infer(feeds)

    def step(self, frame: Feeds) -> dict[str, np.ndarray]:
        """Outputs of one frame, with the lanes merged to the end; the state is carried to the next call."""
        if "command" in frame:
            check_command(frame["command"])
        outputs = self.infer({**frame, **self._state})
        self._state = self.contract.carry(outputs)
        return finish_lanes(outputs, self.contract.map_merge)

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError(f"{self.name}: use it as a context manager")

    def _open(self) -> None: ...

    def _close(self) -> None: ...

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        raise NotImplementedError


class TorchRunner(Runner):
    """The native model in eager PyTorch."""

    name = "torch"

    def __init__(self, contract: Contract, model: torch.nn.Module, device: str = "cpu") -> None:
        super().__init__(contract)
        self.model, self.device = model, device

    def _open(self) -> None:
        self.model.to(self.device).eval()

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        import torch

        tensors = [torch.from_numpy(np.ascontiguousarray(feeds[n])).to(self.device) for n in self.contract.input_names]
        with torch.no_grad():
            outputs, state = self.model.step(*unpack_inputs(self.contract, tensors))
            packed = pack_outputs(self.contract, outputs, state)
        return {n: t.cpu().numpy() for n, t in zip(self.contract.output_names, packed)}


class OrtRunner(Runner):
    """onnxruntime on CPU, or on CUDA where its GPU build is installed. ``device``: auto, cpu or cuda.

    ``graph``: a file, or a graph in memory (an ``onnx.ModelProto``).
    """

    name = "onnxruntime"

    def __init__(self, contract: Contract, graph: str | Path | Any, threads: int = 0, device: str = "auto") -> None:
        super().__init__(contract)
        is_file = isinstance(graph, (str, Path))
        self.path = Path(graph) if is_file else "the graph in memory"
        self.source = str(graph) if is_file else graph.SerializeToString()
        self.threads, self.device = threads, device
        self.session: Any = None

    def _open(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
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


class TensorRtRunner(Runner):
    """An engine through the Python package ``tensorrt`` or ``tensorrt_rtx``, on the first GPU."""

    def __init__(self, contract: Contract, path: str | Path, package: str = "tensorrt") -> None:
        super().__init__(contract)
        self.path, self.package, self.name = Path(path), package, package
        self.engine: Any = None
        self.buffers: cuda.Buffers | None = None

    def _open(self) -> None:
        here = cuda.device()
        if here is None:
            raise UserError(f"{self.path}: an engine runs on a GPU and this machine has none; verify it on its device")
        import importlib

        try:
            trt = importlib.import_module(self.package)
        except ImportError:
            raise UserError(f"the Python package {self.package} is not installed; it runs {self.path}") from None
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
        for name in ports:
            self.context.set_tensor_address(name, self.buffers.address(name))

    def _close(self) -> None:
        self.context = self.engine = None
        if self.buffers is not None:
            self.buffers.close()
            self.buffers = None

    def _infer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        for name, value in feeds.items():
            self.buffers.write(name, value)
        if not self.context.execute_async_v3(self.buffers.stream):
            raise RuntimeError(f"{self.path}: execution failed")
        return self.buffers.read(self.contract.output_names)
