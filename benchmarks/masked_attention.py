#!/usr/bin/env python3
"""Whether attention over padded sets is right in every fused kernel that PyTorch may choose, sets without any key among them.

    python benchmarks/masked_attention.py

For each kernel, number type and head size: how many numbers of the output and of the gradients of query, key and value are not
finite, and how far they are from float64, once with the mask of ``MultiheadAttention`` and once with one that hides every key of
a set (what it gave before; results of such sets are left out of the comparison, as the model leaves them out). Ends with status 1
if the model's own mask gives anything that is not finite or wrong.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from contextlib import nullcontext

import _tools  # noqa: F401

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from uniad.errors import UserError, run_cli
from uniad.models.attention import PADDED_LOGIT, padding_bias

KERNELS = {
    "default": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}  # of the largest number, TF32 allowed
HEADS = 8


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda")
    p.add_argument("--head-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    return p.parse_args()


def attend(tensors: list[Tensor], mask: Tensor, used: Tensor, kernel: SDPBackend | None) -> list[Tensor]:
    """Output of the used sets and gradients of query, key and value, as the model makes them."""
    query, key, value = leaves = [x.detach().clone().requires_grad_() for x in tensors]
    with nullcontext() if kernel is None else sdpa_kernel(kernel):
        out = F.scaled_dot_product_attention(query, key, value, mask)
    out = torch.where(used, out, 0.0)
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves)]


def compare(got: list[Tensor], want: list[Tensor]) -> tuple[int, float]:
    """Numbers that are not finite, and the largest difference as a share of the largest number."""
    bad = sum(int((~x.isfinite()).sum()) for x in got)
    errors = [(x.double() - y).abs().nan_to_num(nan=torch.inf).max() / y.abs().max().clamp(min=1e-6) for x, y in zip(got, want)]
    return bad, float(max(errors))


def main() -> int:
    args = parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device: this compares its kernels (--device cpu tries the one of the CPU)")
    device = torch.device(args.device)
    kernels = KERNELS if device.type == "cuda" else {"default": None}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {name}")
    print(f"{'kernel':10} {'dtype':9} {'head':>4}  {'ours: not finite, off':>24}  {'all hidden: not finite, off':>28}")
    wrong = 0
    shapes = [(512, 1, 4), (2048, 1, 4), (32, 64, 64), (8, 300, 364)]
    for (kernel, backend), dtype, size in itertools.product(kernels.items(), TOLERANCE, args.head_sizes):
        rows: dict[str, list[tuple[int, float]]] = {"ours": [], "hidden": []}
        for (sets, queries, keys), share in itertools.product(shapes, (0.0, 0.5, 1.0)):
            g = torch.Generator().manual_seed(len(rows["ours"]))
            q, k, v = (torch.randn(sets, HEADS, n, size, generator=g).to(device, dtype) for n in (queries, keys, keys))
            padding = torch.rand(sets, 1, 1, keys, generator=g).to(device) < 0.5
            padding[: round(share * sets)] = True
            used = ~padding.all(-1, keepdim=True)
            masks = {"ours": padding_bias(padding, dtype), "hidden": padding.to(dtype) * PADDED_LOGIT}
            exact = attend([x.double() for x in (q, k, v)], padding_bias(padding, torch.float64), used, SDPBackend.MATH)
            for label, mask in masks.items():
                try:
                    rows[label].append(compare(attend([q, k, v], mask, used, backend), exact))
                except RuntimeError:  # a kernel that does not take this type, size or mask
                    continue
        cells = []
        for label in rows:
            bad, off = (sum(b for b, _ in rows[label]), max(o for _, o in rows[label])) if rows[label] else (0, 0.0)
            cells.append(f"{bad}, {off:.1e} ({len(rows[label])} of {3 * len(shapes)})" if rows[label] else "not supported")
            if label == "ours" and (bad or off > TOLERANCE[dtype]):
                wrong += 1
        print(f"{kernel:10} {str(dtype).removeprefix('torch.'):9} {size:4}  {cells[0]:>24}  {cells[1]:>28}", flush=True)
    print("every set's numbers are finite and right" if not wrong else f"{wrong} rows are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run_cli(main))
