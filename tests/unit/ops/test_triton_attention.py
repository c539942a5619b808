"""The GPU kernels, run by Triton's interpreter where there is no GPU, agree with the plain operators; and they compile."""

from __future__ import annotations

from helpers.gpu_kernels import run_python

AGREE = """
import torch
from uniad.ops.camera_attention import camera_attention
from uniad.ops.deformable_attention import deformable_attention
from uniad.ops import triton_deformable_attention as kernels

g = torch.Generator().manual_seed(0)
def check(names, got, want, tolerance):
    for name, a, b in zip(names, got, want):
        error = (a.float() - b.float()).abs().max() / b.float().abs().max()
        assert error < tolerance, (name, float(error))

def grads(fn, tensors, seed):
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    out = fn(*tensors)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    (out.float() * weight).sum().backward()
    return [out.detach(), *(t.grad for t in tensors)]

for shapes, batch, queries, heads, dim, points, dtype, tolerance in (
    (((5, 7),), 1, 17, 2, 16, 3, torch.float32, 1e-5),
    (((5, 7), (3, 4), (2, 2), (1, 1)), 1, 16, 1, 8, 2, torch.float32, 1e-5),
    (((5, 7), (5, 7)), 2, 9, 1, 8, 2, torch.bfloat16, 1e-2),
):
    rows = sum(h * w for h, w in shapes)
    value = torch.randn(batch, rows, heads, dim, generator=g).to(dtype)
    loc = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=g) * 1.8 - 0.4
    loc[0, 0, 0, 0, 0] = 1e3
    weight = torch.rand(batch, queries, heads, len(shapes), points, generator=g)
    names = ("out", "value", "loc", "weight")
    check(names, grads(lambda v, l, w: kernels.attend(v, shapes, l, w), (value, loc, weight), 1),
          grads(lambda v, l, w: deformable_attention(v, shapes, l, w), (value, loc, weight), 1), tolerance)

shapes, cams, grid, heads, dim, points, z = ((4, 5), (2, 3)), 3, (5, 3), 2, 8, 4, 2
value = torch.randn(2, cams, 26, heads, dim, generator=g)
ref = torch.rand(2, cams, 15, z, 2, generator=g) * 1.4 - 0.2
hit = torch.rand(2, cams, 15, generator=g) < 0.4
hit[:, :, 3], hit[:, 1] = False, False
offset = torch.randn(2, 15, heads, 2, points, 2, generator=g)
weight = torch.rand(2, 15, heads, 2, points, generator=g)
check(("out", "value", "offset", "weight"),
      grads(lambda v, o, w: kernels.attend_cameras(v, shapes, ref, hit, o, w), (value, offset, weight), 2),
      grads(lambda v, o, w: camera_attention(v, shapes, ref, hit, o, w, grid, 15), (value, offset, weight), 2), 1e-5)
print("kernels agree")
"""

COMPILE = """
import inspect, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from uniad.ops import triton_deformable_attention as m
for kernel, n in ((m._forward, 6), (m._backward, 6), (m._backward, 0)):
    names = list(inspect.signature(kernel.fn).parameters)
    pointers = names[: names.index("queries")]
    types = {p: "*u8" if p == "hit" and n else "*bf16" if p in ("value", "out", "grad") else "*fp32" for p in pointers}
    constants = dict(N=n, HEADS=8, D=32, L=2, P=8, Z=4 if n else 1, H0=116, W0=200, H1=58, W1=100, H2=29, W2=50, H3=15, W3=25,
                     Q=m.QUERIES)
    signature = {**types, "queries": "i32", "rows": "i32", **{c: "constexpr" for c in constants}}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=m.WARPS))
    assert compiled.asm["cubin"]
print("kernels compile")
"""


def test_the_gpu_kernels_and_their_gradients_agree_with_plain_operators() -> None:
    assert "kernels agree" in run_python(AGREE, TRITON_INTERPRET="1")


def test_the_gpu_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    assert "kernels compile" in run_python(COMPILE)
