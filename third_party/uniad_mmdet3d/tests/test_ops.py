"""The compiled operators against plain PyTorch: values, gradients, precisions, and what they refuse."""

import pytest
import reference
import torch
from torch.autograd import gradcheck

ops = pytest.importorskip("mmdet3d.ops", reason="compile first: python3 setup.py build develop")

SHAPES = torch.tensor([[5, 4], [3, 2]])
NEEDS_GPU = pytest.mark.skipif(not (ops.with_cuda and torch.cuda.is_available()), reason="no GPU, or no CUDA in the build")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
GEOMETRIES = [
    dict(stride=1, padding=1, dilation=1, groups=1, deform_groups=1),
    dict(stride=2, padding=1, dilation=1, groups=2, deform_groups=2),
    dict(stride=1, padding=2, dilation=2, groups=1, deform_groups=4),
]


def attention_inputs(dtype=torch.float64, device="cpu", batch=2, queries=3, heads=2, channels=3, points=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = int(SHAPES.prod(1).sum())
    value = torch.randn(batch, keys, heads, channels, generator=generator, dtype=torch.float64)
    # Some points outside the levels, none on a pixel's centre, where the slope jumps
    locations = torch.rand(batch, queries, heads, len(SHAPES), points, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, len(SHAPES), points, generator=generator, dtype=torch.float64)
    return [each.to(device=device, dtype=dtype).requires_grad_() for each in (value, locations, weights)]


def convolution_inputs(geometry, dtype=torch.float64, device="cpu", batch=2, channels=4, outs=4, size=(5, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    out = [(n + 2 * geometry["padding"] - 2 * geometry["dilation"] - 1) // geometry["stride"] + 1 for n in size]
    taps = 9 * geometry["deform_groups"]
    inputs = [
        random(batch, channels, *size),
        random(batch, 2 * taps, *out) * 1.5,
        torch.rand(batch, taps, *out, generator=generator, dtype=torch.float64),
        random(outs, channels // geometry["groups"], 3, 3) * 0.3,
        random(outs),
    ]
    return [each.to(device=device, dtype=dtype).requires_grad_() for each in inputs]


def grads_of(out, inputs):
    pull = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float64).reshape(out.shape).to(out.dtype)
    return torch.autograd.grad((out * pull).sum(), inputs)


def assert_near(actual, expected, tolerance):
    """Error below `tolerance` of the largest expected number."""
    scale = expected.abs().max().clamp(min=1e-12)
    assert ((actual.double() - expected).abs().max() / scale).item() <= tolerance


@pytest.mark.parametrize("device", DEVICES)
def test_attention_equals_plain_pytorch_in_values_and_gradients(device):
    inputs = attention_inputs(device=device)
    shapes = SHAPES.to(device)
    ours = ops.deformable_attention(inputs[0], shapes, *inputs[1:])
    plain = reference.deformable_attention(inputs[0], shapes, *inputs[1:])
    assert_near(ours, plain, 1e-12)
    for one, other in zip(grads_of(ours, inputs), grads_of(plain, inputs)):
        assert_near(one, other, 1e-11)


@pytest.mark.parametrize("device", DEVICES)
def test_attention_gradients_are_the_derivatives(device):
    shapes = SHAPES.to(device)
    inputs = attention_inputs(device=device, batch=1)
    # Atomic additions on a GPU come in any order
    slack = 1e-9 if device == "cuda" else 0.0
    assert gradcheck(lambda v, p, w: ops.deformable_attention(v, shapes, p, w), inputs, nondet_tol=slack)


def test_attention_on_many_channels_and_queries_equals_plain_pytorch():
    inputs = attention_inputs(torch.float32, batch=1, queries=70, heads=8, channels=32, points=4)
    ours = ops.deformable_attention(inputs[0], SHAPES, *inputs[1:])
    plain = reference.deformable_attention(inputs[0].double(), SHAPES, *(each.double() for each in inputs[1:]))
    assert_near(ours, plain, 1e-6)


def test_surplus_levels_are_read_from_the_flat_buffer():
    value, locations, weights = attention_inputs(queries=4)
    one_level, area = SHAPES[:1], int(SHAPES[0].prod())
    ours = ops.deformable_attention(value[:, :area], one_level, locations, weights)
    batch, queries, heads, levels, points = weights.shape
    count = batch * queries * heads * points
    flat = locations.reshape(-1, 2)[:count].reshape(batch, queries, heads, 1, points, 2)
    plain = reference.deformable_attention(value[:, :area], one_level, flat, weights.flatten()[:count].reshape(flat.shape[:-1]))
    assert_near(ours, plain, 1e-12)
    assert levels == 2


def test_too_few_levels_are_refused():
    value, locations, weights = attention_inputs()
    with pytest.raises(ValueError, match="2 feature levels, but locations for 1"):
        ops.deformable_attention(value, SHAPES, locations[:, :, :, :1], weights[:, :, :, :1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_equals_plain_pytorch_in_values_and_gradients(geometry, device):
    inputs = convolution_inputs(geometry, device=device)
    ours = ops.modulated_deformable_convolution(*inputs, **geometry)
    plain = reference.modulated_deformable_convolution(*inputs, **geometry)
    assert ours.shape == plain.shape
    assert_near(ours, plain, 1e-12)
    for one, other in zip(grads_of(ours, inputs), grads_of(plain, inputs)):
        assert_near(one, other, 1e-11)


@pytest.mark.parametrize("device", DEVICES)
def test_convolution_gradients_are_the_derivatives(device):
    geometry = GEOMETRIES[1]
    inputs = convolution_inputs(geometry, device=device, batch=1, size=(3, 4))
    slack = 1e-9 if device == "cuda" else 0.0
    assert gradcheck(lambda *tensors: ops.modulated_deformable_convolution(*tensors, **geometry), inputs, nondet_tol=slack)


def test_without_offsets_it_is_a_convolution():
    image, offset, mask, weight, bias = convolution_inputs(GEOMETRIES[0])
    ours = ops.modulated_deformable_convolution(image, offset * 0, mask * 0 + 1, weight, bias, padding=1)
    assert_near(ours, torch.nn.functional.conv2d(image, weight, bias, padding=1), 1e-12)


def test_a_frozen_weight_still_passes_gradients_to_the_image():
    image, offset, mask, weight, bias = convolution_inputs(GEOMETRIES[0])
    ours = ops.modulated_deformable_convolution(image, offset, mask, weight.detach(), None, padding=1)
    plain = reference.modulated_deformable_convolution(image, offset, mask, weight.detach(), None, padding=1)
    assert_near(grads_of(ours, [image])[0], grads_of(plain, [image])[0], 1e-11)


# Float32 sums in another order; half types: their inputs and the result are rounded, the sum is not
PRECISIONS = [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_lower_precisions_come_near_the_exact_result(dtype, tolerance, device):
    shapes = SHAPES.to(device)
    inputs = attention_inputs(dtype, device)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    ours = ops.deformable_attention(inputs[0], shapes, *inputs[1:])
    plain = reference.deformable_attention(exact[0], shapes, *exact[1:])
    assert ours.dtype == dtype
    assert_near(ours, plain, tolerance)
    for one, other in zip(grads_of(ours, inputs), grads_of(plain, exact)):
        assert one.dtype == dtype
        assert_near(one, other, 4 * tolerance)

    inputs = convolution_inputs(GEOMETRIES[0], dtype, device)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    ours = ops.modulated_deformable_convolution(*inputs, **GEOMETRIES[0])
    plain = reference.modulated_deformable_convolution(*exact, **GEOMETRIES[0])
    assert ours.dtype == dtype
    assert_near(ours, plain, 2 * tolerance)
    for one, other in zip(grads_of(ours, inputs), grads_of(plain, exact)):
        assert_near(one, other, 8 * tolerance)


def test_autocast_does_not_reach_into_the_operators():
    inputs = convolution_inputs(GEOMETRIES[0], torch.float32)
    plain = ops.modulated_deformable_convolution(*inputs, **GEOMETRIES[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ops.modulated_deformable_convolution(*inputs, **GEOMETRIES[0])
    assert torch.equal(cast, plain)


def test_no_query_gives_an_empty_result_with_a_gradient():
    value, locations, weights = attention_inputs()
    out = ops.deformable_attention(value, SHAPES, locations[:, :0], weights[:, :0])
    assert out.shape == (2, 0, 6)
    out.sum().backward()
    assert value.grad.abs().sum() == 0


def test_wrong_shapes_are_refused():
    image, offset, mask, weight, bias = convolution_inputs(GEOMETRIES[0])
    with pytest.raises(RuntimeError, match="offset has the shape"):
        ops.modulated_deformable_convolution(image, offset[:, :-2], mask, weight, bias, padding=1)
    with pytest.raises(RuntimeError, match="do not divide"):
        ops.modulated_deformable_convolution(image, offset, mask, weight, bias, padding=1, deform_groups=3)
