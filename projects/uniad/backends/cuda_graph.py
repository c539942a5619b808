"""The step with its state resident on the device: a frame goes in, its outputs stay there, nothing is fed back by the host.

A frame of UniAD is thousands of small kernels, and queueing them takes the host longer than the GPU needs to run them. So the
step works on fixed buffers, which a CUDA graph can record: a frame is then one launch, with the feedback of the state in it.
``torch.compile`` fuses kernels before that, and half precision makes the remaining ones cheaper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_structure, tree_unflatten

from uniad.interface.contract import Contract, pack_outputs, unpack_inputs
from uniad.models.attention import MultiheadAttention
from uniad.models.branches import on_streams
from uniad.models.precision import to_channels_last
from uniad.models.repeated import allow_recompiling, repeated_layers
from uniad.models.uniad import UniAD
from uniad.ops.deformable_conv import DeformConv2d
from uniad.ops.half_products import HalfProducts
from uniad.ops.recording import record

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# queued kernel by kernel; recorded once; fused as a whole, part by part or layer by layer, then recorded. What is recorded in
# parts has branches that run concurrently, see ``models.branches``.
MODES = ("eager", "graph", "compile", "parts", "layers")
_PLAIN, _OWN = (nn.Linear, nn.Conv2d), (MultiheadAttention, DeformConv2d)  # subclasses of the first may switch autocast off
# What ``UniAD.step`` calls one after the other or concurrently: submodule, method; and what stage 2 adds
_PARTS = (("", "look_back"), ("", "extract_features"), ("", "encode_bev"), ("seg_head", "queries"), ("", "detect_and_associate"),
          ("", "carry_tracks"), ("seg_head", "select"))  # fmt: skip
_PARTS_AHEAD = (("", "forecast"), ("planning_head", "forward"), ("occ_head", "forward"))


def set_tf32(on: bool) -> None:
    """Whether fp32 products may round their factors to TF32, in this process."""
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def convert_weights(model: nn.Module, dtype: torch.dtype, device: str, run: Callable[[], object]) -> list[str]:
    """Store the weights that only autocast reads in ``dtype``, in place; returns the names of the layers that keep theirs.

    Autocast turns fp32 weights to half anew in every step. ``run`` is called once and runs the model under autocast; layers that
    it reaches with autocast switched off, or never, keep their weights.
    """
    under: dict[nn.Module, bool] = {}

    def note(module: nn.Module, _: Any) -> None:
        under[module] = under.get(module, True) and torch.is_autocast_enabled(device)

    layers = {n: m for n, m in model.named_modules() if type(m) in _PLAIN or isinstance(m, _OWN)}
    handles = [module.register_forward_pre_hook(note) for module in layers.values()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for module in layers.values():
        if under.get(module):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return [name for name, module in layers.items() if under.get(module) is False]


def compile_layers(model: nn.Module, options: dict[str, Any] | None = None) -> int:
    """Compile the repeated layers, and what is costly between them, each on its own: layers alike share one compilation, so it is
    done several times sooner than the step as a whole. Returns how many there are."""
    allow_recompiling()
    layers = list(repeated_layers(model))
    for layer in layers:
        layer.compile(fullgraph=True, dynamic=False, options=options)
    return len(layers)


def parts(model: UniAD) -> list[tuple[nn.Module, str]]:
    """The parts of the step of this model: (module, name of its method)."""
    ahead = () if model.spec.stage2 is None else _PARTS_AHEAD
    return [(model.get_submodule(owner), name) for owner, name in _PARTS + ahead]


def compile_parts(model: UniAD, options: dict[str, Any] | None = None) -> int:
    """Compile each part of the step as one graph. Returns how many there are."""
    found = parts(model)
    for owner, name in found:
        setattr(owner, name, compile_flat(getattr(owner, name), options))
    return len(found)


def compile_flat(call: Callable[..., Any], options: dict[str, Any] | None = None) -> Callable[..., Any]:
    """``call`` compiled as one graph from tensors to tensors. It must be called with arguments of one structure.

    Named tuples are taken apart outside: PyTorch 2.11 breaks some that enter or leave a compiled region. The first call runs as
    it is, and shows what the result is made of.
    """
    allow_recompiling()
    structure: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        return tree_leaves(call(*tree_unflatten(leaves, structure[0])))

    compiled = torch.compile(flat, fullgraph=True, dynamic=False, options=options)

    def run(*args: Any) -> Any:
        leaves, spec = tree_flatten(args)
        if not structure:
            result = call(*args)
            structure[:] = spec, tree_structure(result)
            return result
        return tree_unflatten(compiled(*leaves), structure[1])

    return run


class DeviceStep:
    """The buffers that a step lives in, filled in place."""

    contract: Contract
    frame: list[Tensor]
    state: list[Tensor]

    def reset(self) -> None:
        """Forget the scene."""
        for buffer, port in zip(self.state, self.contract.state):
            buffer.fill_(port.initial)

    def load(self, frame: Sequence[Tensor]) -> None:
        """Graph inputs of the next frame, in the contract's order."""
        torch._foreach_copy_(self.frame, list(frame), non_blocking=True)


class CudaGraphStep(DeviceStep):
    """``load`` a frame, ``run``, read ``outputs``; ``reset`` begins a scene. Takes the model over: do not use it elsewhere."""

    def __init__(
        self,
        model: UniAD,
        contract: Contract,
        precision: str = "fp32",
        mode: str = "eager",
        device: str = "cuda",
        compile_options: dict[str, Any] | None = None,
    ) -> None:
        """compile_options: of torch.compile's inductor. On a CPU nothing is recorded: ``graph`` runs as ``eager`` does."""
        if precision not in PRECISIONS or mode not in MODES:
            raise ValueError(f"{mode}-{precision}: choose {', '.join(MODES)} and {', '.join(PRECISIONS)}")
        self.contract, self.device, self.dtype = contract, device, PRECISIONS[precision]
        self.model = model.to(device).eval()
        self.outputs: dict[str, Tensor] = {}
        self.kept_fp32: list[str] = []
        buffers = [torch.zeros(p.shape, dtype=getattr(torch, p.dtype), device=device) for p in contract.input_ports().values()]
        self.frame, self.state = buffers[: len(contract.frame)], buffers[len(contract.frame) :]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._forward, self._pack = self._step, partial(pack_outputs, contract)
        # What is compiled for a CPU makes its own code; elsewhere a CPU's own halves would take minutes a frame.
        self._slow_halves = device == "cpu" and mode in ("eager", "graph") and self.dtype is not None
        # Only parts have branches of their own.
        self._streams: list[torch.cuda.Stream] | None = [] if mode == "parts" and device == "cuda" else None
        self.reset()
        if device == "cuda":
            set_tf32(precision == "tf32")
            torch.backends.cudnn.benchmark = mode != "eager"  # shapes are fixed: convolutions are timed once
        if precision != "fp32":  # where tensor cores are used, they want channels last
            to_channels_last(model.img_backbone, model.img_neck)
        if self.dtype is not None:
            self.kept_fp32 = convert_weights(model, self.dtype, device, self.advance)
        if mode == "compile":
            # One graph: a break would be an error. Inductor's own CUDA graphs would copy what these buffers hold already.
            self._forward = torch.compile(self._step, fullgraph=True, dynamic=False, options=compile_options)
        elif mode == "layers":
            compile_layers(model, compile_options)
        elif mode == "parts":
            compile_parts(model, compile_options)
            self._pack = compile_flat(self._pack, compile_options)
        if mode != "eager" and device == "cuda":
            self._graph = record(self.advance)
        elif mode != "eager":
            self.advance()  # compiles
        self.reset()

    def run(self) -> None:
        """The step of the loaded frame. ``outputs`` holds until the next call; on a GPU, once the stream is synchronised."""
        if self._graph is None:
            self.advance()
        else:
            self._graph.replay()

    def _autocast(self) -> AbstractContextManager:
        # Its cache would hold the weights of the recording; weights are converted already.
        return torch.autocast(self.device, self.dtype, cache_enabled=False) if self.dtype is not None else nullcontext()

    def _step(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs, state = self.model.step(*unpack_inputs(self.contract, tensors))
        return self._pack(outputs, state)

    @torch.no_grad()
    def advance(self) -> None:
        """One step of the loaded frame, queued kernel by kernel: what is recorded."""
        branches = nullcontext() if self._streams is None else on_streams(self._streams)
        with self._autocast(), branches, HalfProducts() if self._slow_halves else nullcontext():
            packed = self._forward(*self.frame, *self.state)
        count = len(self.contract.outputs)
        self.outputs = {port.name: value for port, value in zip(self.contract.outputs, packed[:count])}
        for dtype in (torch.float32, torch.int32):  # one launch each
            pairs = [(old, new) for old, new in zip(self.state, packed[count:]) if old.dtype == dtype]
            torch._foreach_copy_([old for old, _ in pairs], [new for _, new in pairs])
