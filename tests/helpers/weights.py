"""Deterministic weights that the golden numbers were recorded with, derived from parameter names alone.

Every float tensor is standard normal noise seeded by the CRC-32 of its state_dict key, scaled by what kind of parameter it is,
so a test needs no checkpoint. ``kind`` selects the adjustments of a set of golden files: "tiny", "base", "b2d", "train" or
"b2d-train"; or of a stand-in with images of base's size: "full" or "b2d-full".
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Tables that are looked up or added, not multiplied: they keep unit variance.
_TABLES = (
    "query_embedding.weight", "bev_embedding.weight", "row_embed.weight", "col_embed.weight", "stuff_query.weight",
    "level_embeds", "cams_embeds", "learnable_motion_query_embedding.weight", "navi_embed.weight",
    "planning_head.pos_embed.weight",
)  # fmt: skip
_AS_BUILT = ("criterion.code_weights", "pts_bbox_head.code_weights")
_SCALARS = ("box_drawer.log_gain", "box_drawer.margin", "motion_prior.log_decay")
_CLS_BIAS = (-3.0, -2.2, -3.2, -4.3, -5.8, -5.2, -1.6, -4.0, -8.2, -4.3)

# (pattern of the key, factor, summand): lift a few scores over their thresholds and keep queries distinct
_DECODER = r"^(pts_bbox_head|seg_head)\.transformer\.decoder\.layers\.\d+\."
_ADJUST: dict[str, list[tuple[str, float, Any]]] = {}
_ADJUST["tiny"] = [
    (_DECODER + r"(attentions\.\d+\.(attn\.out_proj|output_proj)|ffns\.0\.layers\.1)\.weight$", 0.3, 0.0),
    (r"^seg_head\.things_mask_head\.blocks\.\d+\.(attn\.proj|mlp\.fc2)\.weight$", 0.3, 0.0),
    (r"^pts_bbox_head\.cls_branches\.5\.6\.weight$", 4.0, 0.0),
    (r"^pts_bbox_head\.cls_branches\.5\.6\.bias$", 0.0, _CLS_BIAS),
    (r"^seg_head\.things_mask_head\.attnen\.linear\.0\.weight$", 2.0, 0.0),
    (r"^seg_head\.things_mask_head\.attnen\.linear\.0\.bias$", 0.0, 0.1),
    (r"^occ_head\.dense_decoder\.layers\.1\.conv\.5\.bias$", 1.0, 2.0),
    (r"^occ_head\.query_to_occ_feat\.layers\.2\.weight$", 0.4, 0.0),
    (r"^occ_head\.query_to_occ_feat\.layers\.2\.bias$", 1.0, -0.0145),
]
_ADJUST["base"] = [*_ADJUST["tiny"], (r"^pts_bbox_head\.cls_branches\.5\.6\.bias$", 1.0, -1.5)]
# Nine classes, and decoder layers that change little: poses that are applied the wrong way round throw references far, where a
# decoder of noise makes much of little
_ADJUST["b2d"] = [(pattern, 0.1 if factor == 0.3 else factor, summand) for pattern, factor, summand in _ADJUST["tiny"]]
_ADJUST["b2d"] = [row for row in _ADJUST["b2d"] if row[2] is not _CLS_BIAS]
_ADJUST["b2d"].append((r"^pts_bbox_head\.cls_branches\.5\.6\.bias$", 0.0, [b - 1.5 for b in _CLS_BIAS[:9]]))
_ADJUST["b2d-train"] = [*_ADJUST["b2d"], (r"^seg_head\.things_mask_head\.attnen\.linear\.0\.bias$", 0.0, 0.8)]
_ADJUST["train"] = [*_ADJUST["tiny"], (r"^seg_head\.things_mask_head\.attnen\.linear\.0\.bias$", 0.0, 0.8)]

# Base with images of its full size. Noise would throw a deformable convolution's samples 20 pixels far and make decoder layers
# double what differs: in 23 such convolutions and six layers rounding grows to the size of features. Trained weights do neither.
_CALM = (r"\.conv_offset\.(weight|bias)$", 0.02, 0.0)
_ADJUST["full"] = [(pattern, 0.1 if factor == 0.3 else factor, summand) for pattern, factor, summand in _ADJUST["base"]] + [_CALM]
_ADJUST["b2d-full"] = [*_ADJUST["b2d"], _CALM]


def _ring(key: str, count: int) -> np.ndarray:
    """Bias of sampling offsets: head h looks along h * 45 degrees, its points one pixel further each."""
    points = 8 if "deformable_attention" in key and count >= 128 else 4  # nano has four everywhere
    angle = np.arange(8) * (np.pi / 4)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction = np.round(direction / np.abs(direction).max(axis=-1, keepdims=True), 6)
    ring = direction[:, None, None, :] * np.arange(1, points + 1)[None, None, :, None]
    return np.broadcast_to(ring, (8, count // (16 * points), points, 2)).reshape(-1).astype(np.float32)


def rule_array(key: str, shape: tuple[int, ...], kind: str = "tiny") -> np.ndarray | None:
    """The value of one float parameter or buffer; None where the model keeps what it was built with."""
    if key in _AS_BUILT or key.endswith(_SCALARS):
        return None
    count = int(np.prod(shape)) if shape else 1
    if key.endswith("sampling_offsets.bias"):
        return _ring(key, count)
    seed = zlib.crc32(key.encode()) & 0x7FFFFFFF
    value = np.random.RandomState(seed).standard_normal(count).astype(np.float32).reshape(shape)
    one = np.float32
    if key.endswith("running_mean"):
        value = one(0.02) * value
    elif key.endswith("running_var"):
        value = one(1.0) + one(0.1) * np.abs(value)
    elif key.endswith(_TABLES):
        pass
    elif len(shape) >= 2:
        value = value * one(1.0 / np.sqrt(count / shape[0]))
    elif key.endswith("weight"):
        value = one(1.0) + one(0.02) * value
    elif key.endswith("bias"):
        value = one(0.02) * value
    else:
        raise KeyError(f"no weight rule for {key}")
    for pattern, factor, summand in _ADJUST[kind]:
        if re.search(pattern, key):
            value = value * one(factor) + np.asarray(summand, np.float32)
    return np.ascontiguousarray(value.astype(np.float32))


def nano_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """State of a nano by the rule. Boxes of noise make much of little: on some processors rounding was a millimetre after six
    frames, so what a decoder layer adds to a box is half of the rule's."""
    state = model.state_dict()
    state.update(rule_state_dict(state))
    return {k: v / 2 if re.fullmatch(r"pts_bbox_head\.reg_branches\.\d+\.4\.weight", k) else v for k, v in state.items()}


def rule_state_dict(keys_shapes: Mapping[str, Any], kind: str = "tiny") -> dict[str, Tensor]:
    """Tensors for keys -> shapes (or tensors). Integer tensors and constants are left out: load with ``strict=False``."""
    out = {}
    for key, shape in keys_shapes.items():
        if isinstance(shape, Tensor):
            if not shape.is_floating_point():
                continue
            shape = shape.shape
        elif key.endswith("num_batches_tracked"):
            continue
        value = rule_array(key, tuple(shape), kind)
        if value is not None:
            out[key] = torch.from_numpy(value)
    return out


def fill(module: nn.Module, prefix: str = "", kind: str = "tiny") -> nn.Module:
    """Give a module the rule's weights, as if it stood at ``prefix`` in the whole model; returns it in eval mode.

    ``fill(neck, "img_neck.")`` needs no other part of the model.
    """
    named = {prefix + k: v for k, v in module.state_dict().items()}
    values = rule_state_dict(named, kind)
    module.load_state_dict({k.removeprefix(prefix): v for k, v in values.items()}, strict=False)
    return module.eval()
