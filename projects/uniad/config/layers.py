"""Pieces that several modules of the schema share: attention, losses, grids."""

from __future__ import annotations

from typing import NamedTuple

from uniad.config.node import Node

# The orders of a transformer layer that native has
BEV_ORDER = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
SELF_ORDER = ("self_attn", "norm", "ffn", "norm")
CROSS_ORDER = ("cross_attn", "norm", "ffn", "norm")


class Attention(NamedTuple):
    heads: int
    dropout: float


class DeformableAttention(NamedTuple):
    heads: int
    points: int  # a head and level
    levels: int
    dropout: float


class FocalLoss(NamedTuple):
    gamma: float
    alpha: float
    weight: float


def plain_attention(n: Node, dims: int) -> Attention:
    with n:
        n.type("MultiheadAttention")
        n.must_equal("embed_dims", dims, "model.embed_dims")
        return Attention(n.integer("num_heads", 8), n.number("dropout", 0.1))


def deformable_attention(n: Node, name: str, dims: int, levels: int | None) -> DeformableAttention:
    with n:
        n.type(name)
        n.must_equal("embed_dims", dims, "model.embed_dims")
        if levels is not None:
            n.must_equal("num_levels", levels, "the number of levels that it is fed")
        points = n.integer("num_points", 8 if name == "MSDeformableAttention3D" else 4)
        heads, num_levels = n.integer("num_heads", 8), n.integer("num_levels", levels or 4)
        return DeformableAttention(heads, points, num_levels, n.number("dropout", 0.1))


def focal_loss(n: Node) -> FocalLoss:
    with n:
        n.type("FocalLoss")
        n.only(use_sigmoid=True)
        return FocalLoss(n.number("gamma", 2.0), n.number("alpha", 0.25), n.number("loss_weight", 1.0))


def weight(n: Node, *types: str, key: str = "loss_weight") -> float:
    with n:
        n.type(*types)
        n.skip("reduction", "box_format", "iou_mode")
        return n.number(key, 1.0)


def bounds(n: Node) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    with n:
        n.skip("zbound")
        bounds = n.numbers("xbound", 3), n.numbers("ybound", 3)
        for key, (low, high, step) in zip(("xbound", "ybound"), bounds):
            if step <= 0 or high <= low:
                raise n.fail(key, "it must be [from, to, step], rising, in metres")
        return bounds
