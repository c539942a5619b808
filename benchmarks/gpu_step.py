#!/usr/bin/env python3
"""Times on one GPU: the stage-1 step of tiny and full (eager and as a CUDA graph), the attention kernel and the assignment.

Every row is measured side by side in one run, by device events after a warm-up.
`benchmarks/gpu_step.py --variants tiny full`
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import _tools  # noqa: F401

import torch

from uniad.config.read import load_spec
from uniad.config.variants import config_files
from uniad.export.to_onnx import example_tensors
from uniad.interface.contract import contract_for, unpack_inputs
from uniad.models.uniad import UniAD
from uniad.ops.assignment import linear_assignment
from uniad.ops.deformable_attention import deformable_attention, sampling_as
from uniad.ops.recording import record

CONFIG_OF = config_files(1)


def milliseconds(call: Callable[[], object], repeats: int = 20, warm_up: int = 3) -> float:
    for _ in range(warm_up):
        call()
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@torch.no_grad()
def step_rows(variant: str) -> None:
    spec = load_spec(CONFIG_OF[variant])
    torch.manual_seed(0)
    model, contract = UniAD(spec.model).cuda().eval(), contract_for(spec)
    frame, state = unpack_inputs(contract, [t.cuda() for t in example_tensors(contract)])
    for on in (False, True):
        tf32(on)
        torch.cuda.reset_peak_memory_stats()
        eager = milliseconds(lambda: model.step(frame, state), 10)
        peak = torch.cuda.max_memory_allocated() / 2**30
        replay = milliseconds(record(lambda: model.step(frame, state)).replay)
        name = "TF32" if on else "fp32"
        print(f"{variant:5s} step, {name}: eager {eager:8.2f} ms, CUDA graph {replay:8.2f} ms, peak memory {peak:.2f} GiB")


def attention_rows() -> None:
    """Spatial cross-attention of one layer of full: 6 cameras, 7,438 queries, 8 heads, 4 levels, 8 points."""
    shapes = ((116, 200), (58, 100), (29, 50), (15, 25))
    cells = sum(h * w for h, w in shapes)
    for dtype in (torch.float32, torch.bfloat16):
        value = torch.randn(6, cells, 8, 32, device="cuda", dtype=dtype, requires_grad=True)
        loc = torch.rand(6, 7438, 8, 4, 8, 2, device="cuda", requires_grad=True)
        weight = torch.rand(6, 7438, 8, 32, device="cuda").softmax(-1).unflatten(-1, (4, 8)).requires_grad_()
        grad = torch.randn_like(deformable_attention(value, shapes, loc, weight))
        inputs = (value, loc, weight)

        def both(inputs=inputs, grad=grad):
            return torch.autograd.grad(deformable_attention(inputs[0], shapes, *inputs[1:]), inputs, grad)

        with torch.no_grad():
            forward = milliseconds(lambda inputs=inputs: deformable_attention(inputs[0], shapes, *inputs[1:]))
            with sampling_as("gridsample"):
                plain = milliseconds(lambda inputs=inputs: deformable_attention(inputs[0], shapes, *inputs[1:]), 5)
        name = str(dtype).removeprefix("torch.")
        print(f"deformable attention, {name}: forward {forward:.3f} ms, with backward {milliseconds(both):.3f} ms, "
              f"grid_sample forward {plain:.3f} ms")  # fmt: skip


def assignment_row() -> None:
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(24, 48, 1157, generator=generator).cuda()
    valid = (torch.rand(24, 48, generator=generator) < 0.7).cuda()
    print(f"assignment, 24 problems of 48 x 1157: {milliseconds(lambda: linear_assignment(cost, valid)):.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", choices=sorted(CONFIG_OF), required=True)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "error: this benchmark needs a GPU and PyTorch sees none\n")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    assignment_row()
    attention_rows()
    for variant in args.variants:
        step_rows(variant)


if __name__ == "__main__":
    main()
