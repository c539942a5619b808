"""The GPU kernel of deformable convolution, run by Triton's interpreter, agrees with the plain operators; and it compiles."""

from __future__ import annotations

from helpers.gpu_kernels import run_python

AGREE = """
import torch
from uniad.ops import triton_deformable_conv as kernels
from uniad.ops.deformable_conv import DeformConv2d

torch.manual_seed(0)
cases = ((16, 1, torch.float32, 5e-5), (128, 2, torch.float32, 5e-5), (64, 1, torch.bfloat16, 2e-2))
for channels, stride, dtype, tolerance in cases:
    layer = DeformConv2d(channels, 24, 3, stride, 1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    torch.nn.init.normal_(layer.conv_offset.bias, std=2.0)
    layer.conv_offset.bias.data[0] = 1e9  # far outside: reads zero
    layer = layer.to(dtype)
    x = torch.randn(2, channels, 9, 11, dtype=dtype)
    with torch.no_grad():
        want = layer(x)
        layer._kernels = lambda x, field, weight: kernels
        got = layer(x.to(memory_format=torch.channels_last))
    assert got.shape == want.shape and got.dtype == want.dtype
    error = (got.float() - want.float()).abs().max() / want.float().abs().max()
    assert error < tolerance, (channels, stride, dtype, float(error))
assert kernels.supports(256) and kernels.supports(16) and not kernels.supports(48) and not kernels.supports(96)
print("kernel agrees")
"""

COMPILE = """
import inspect, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from uniad.ops import triton_deformable_conv as m

names = list(inspect.signature(m._columns.fn).parameters)
for dtype in ("*fp16", "*fp32"):
    constants = dict(TAPS=9, KW=3, P=m.PIXELS, D=m.MAX_CHANNELS)
    signature = {n: "constexpr" if n in constants else dtype if n in ("x", "field", "out") else "i32" for n in names}
    source = ASTSource(fn=m._columns, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=m.WARPS)).asm["cubin"]
print("kernel compiles")
"""


def test_the_gpu_kernel_agrees_with_plain_operators() -> None:
    assert "kernel agrees" in run_python(AGREE, TRITON_INTERPRET="1")


def test_the_gpu_kernel_compiles_for_a_gpu_that_is_not_here() -> None:
    assert "kernel compiles" in run_python(COMPILE)
