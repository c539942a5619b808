"""Keeps half-precision callers away from kernels that add up many numbers."""

import torch


def in_full_precision(function, device, *tensors):
    """Call `function` with half-precision tensors widened to float32, and narrow its result to the first one's type.

    Autocast is off inside; the casts are part of the graph, so gradients arrive in the callers' types.
    """
    dtype = tensors[0].dtype
    widest = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    with torch.autocast(device, enabled=False):
        result = function(*(tensor.to(widest).contiguous() for tensor in tensors))
    return result.to(dtype)
