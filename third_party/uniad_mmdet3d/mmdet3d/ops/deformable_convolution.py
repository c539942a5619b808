"""Modulated deformable convolution (DCNv2): a convolution whose taps are moved and weighted per pixel."""

import torch
from torch.autograd.function import Function, once_differentiable
from torch.nn.modules.utils import _pair

from . import _C
from .precision import in_full_precision


class _ModulatedDeformableConvolution(Function):
    """Samples one image after the other into columns, which a matrix product with the weight turns into the output. The
    columns are made again for the gradient: they are a kernel's area times larger than the image."""

    @staticmethod
    def forward(ctx, image, offset, mask, weight, geometry, groups):
        ctx.save_for_backward(image, offset, mask, weight)
        ctx.geometry, ctx.groups = geometry, groups
        rows = weight.reshape(groups, weight.shape[0] // groups, -1)
        outs = []
        for index in range(image.shape[0]):
            one = slice(index, index + 1)
            columns = _C.sample_forward(image[one], offset[one], mask[one], *geometry)
            outs.append(torch.bmm(rows, columns.reshape(groups, rows.shape[2], -1)).reshape(weight.shape[0], -1))
        return torch.stack(outs).reshape(image.shape[0], weight.shape[0], *offset.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        image, offset, mask, weight = ctx.saved_tensors
        groups = ctx.groups
        rows = weight.reshape(groups, weight.shape[0] // groups, -1)
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[3] else None
        samples = []
        for index in range(image.shape[0]):
            one = slice(index, index + 1)
            sampled = image[one], offset[one], mask[one]
            grad = grad_out[index].reshape(groups, rows.shape[1], -1)
            if grad_rows is not None:
                columns = _C.sample_forward(*sampled, *ctx.geometry).reshape(groups, rows.shape[2], -1)
                grad_rows += torch.bmm(grad, columns.transpose(1, 2))
            if any(ctx.needs_input_grad[:3]):
                grad_columns = torch.bmm(rows.transpose(1, 2), grad).reshape(1, groups * rows.shape[2], -1)
                samples.append(_C.sample_backward(*sampled, grad_columns, *ctx.geometry))
        grads = [torch.cat(parts) for parts in zip(*samples)] if samples else [None, None, None]
        return (*grads, None if grad_rows is None else grad_rows.reshape(weight.shape), None, None)


def modulated_deformable_convolution(
    image, offset, mask, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, deform_groups=1
):
    """Convolution that samples tap k of an output pixel at its place plus an offset, times a factor.

    Args:
        image (Tensor): [B, C, H, W].
        offset (Tensor): [B, deform_groups * K * 2, A, E] pixels, y before x for each of the K taps.
        mask (Tensor): [B, deform_groups * K, A, E] factors.
        weight (Tensor): [O, C / groups, kernel height, kernel width].
        bias (Tensor): [O].
        stride, padding, dilation (int | tuple): As of an ordinary convolution, y before x.
        groups (int): Groups of channels that the weight keeps apart.
        deform_groups (int): Groups of channels that have their own offsets and factors.

    Returns:
        Tensor: [B, O, A, E], of the type of `image`.
    """
    geometry = (list(weight.shape[2:]), *(list(_pair(each)) for each in (stride, padding, dilation)), deform_groups)
    _refuse_wrong_shapes(image, offset, mask, *geometry)

    def run(image, offset, mask, weight):
        return _ModulatedDeformableConvolution.apply(image, offset, mask, weight, geometry, groups)

    out = in_full_precision(run, image.device.type, image, offset, mask, weight)
    return out if bias is None else out + bias.to(out.dtype).reshape(1, -1, 1, 1)


def _refuse_wrong_shapes(image, offset, mask, kernel, stride, padding, dilation, deform_groups):
    """Raises a RuntimeError that names what does not fit. The kernels check too, but an exception that leaves compiled code
    needs a C++ runtime shared with Python's, and not every installation has one."""
    batch, channels, *size = image.shape
    if deform_groups < 1 or channels % deform_groups:
        raise RuntimeError(f"{channels} channels do not divide into {deform_groups} groups")
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, stride, padding, dilation)]
    taps = deform_groups * kernel[0] * kernel[1]
    for name, tensor, wanted in (("offset", offset, (batch, 2 * taps, *out)), ("mask", mask, (batch, taps, *out))):
        if tuple(tensor.shape) != wanted:
            raise RuntimeError(f"{name} has the shape {list(tensor.shape)}, not {list(wanted)}")
