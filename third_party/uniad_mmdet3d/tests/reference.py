"""The operators in plain PyTorch, for comparison: slow, but differentiable by autograd."""

import torch
import torch.nn.functional as F


def sample_plane(plane, x, y):
    """[C, N] bilinear samples of a [C, H, W] plane at pixel coordinates [N], zeros outside."""
    height, width = plane.shape[1:]
    left, top = torch.floor(x).detach(), torch.floor(y).detach()
    total = plane.new_zeros(plane.shape[0], x.numel())
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        weight = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
        total = total + weight * plane[:, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()]
    return total


def deformable_attention(value, spatial_shapes, locations, weights):
    """[B, Q, M * D]: see mmdet3d.ops; as many levels in `locations` as there are features."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    out = []
    for b in range(batch):
        for m in range(heads):
            start, seen = 0, 0
            for level, (height, width) in enumerate(spatial_shapes.tolist()):
                plane = value[b, start : start + height * width, m].T.reshape(channels, height, width)
                start += height * width
                points = locations[b, :, m, level]
                samples = sample_plane(plane, points[..., 0].flatten() * width - 0.5, points[..., 1].flatten() * height - 0.5)
                seen = seen + (samples.reshape(channels, queries, -1) * weights[b, :, m, level]).sum(-1)
            out.append(seen.T)
    return torch.stack(out).reshape(batch, heads, queries, channels).transpose(1, 2).reshape(batch, queries, -1)


def modulated_deformable_convolution(
    image, offset, mask, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, deform_groups=1
):
    """[B, O, A, E]: see mmdet3d.ops; stride, padding and dilation are numbers."""
    batch, channels = image.shape[:2]
    kernel_h, kernel_w = weight.shape[2:]
    out_h, out_w = offset.shape[2:]
    members = channels // deform_groups
    row, column = torch.meshgrid(torch.arange(out_h, device=image.device), torch.arange(out_w, device=image.device))
    samples = []
    for b in range(batch):
        for g in range(deform_groups):
            plane = image[b, g * members : (g + 1) * members]
            for tap in range(kernel_h * kernel_w):
                k = g * kernel_h * kernel_w + tap
                y = row * stride - padding + tap // kernel_w * dilation + offset[b, 2 * k]
                x = column * stride - padding + tap % kernel_w * dilation + offset[b, 2 * k + 1]
                samples.append(sample_plane(plane, x.flatten(), y.flatten()) * mask[b, k].flatten())
    columns = torch.stack(samples).reshape(batch, deform_groups, kernel_h * kernel_w, members, out_h * out_w)
    columns = columns.transpose(2, 3).reshape(batch, channels * kernel_h * kernel_w, 1, out_h * out_w)
    # Taps stand beside their channel: a 1 x 1 convolution with the flattened weight ends the sum
    out = F.conv2d(columns, weight.reshape(weight.shape[0], -1, 1, 1), bias, groups=groups)
    return out.reshape(batch, -1, out_h, out_w)
