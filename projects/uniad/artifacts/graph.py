"""Which precision a graph is in, by its nodes and its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from uniad.artifacts.precision import check_precision
from uniad.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto


def check_graph(onnx_path: str | Path, precision: str) -> None:
    """Raises UserError for a precision that there is not, or that this graph cannot have."""
    check_precision(precision)
    if precision == "int8" and not is_quantised(onnx_path):
        raise UserError(
            f"{onnx_path}: precision int8 needs a graph with QuantizeLinear and DequantizeLinear nodes, this one has none; "
            f"quantise it first, or choose fp32 or fp16"
        )
    if precision != "int8" and is_lowered(onnx_path) != (precision == "fp16"):
        raise UserError(
            f"{onnx_path}: precision {precision}: this graph is in fp16; give the one that `make export` wrote"
            if precision == "fp32"
            else f"{onnx_path}: precision fp16 needs the fp16 graph, this one has no halves; `make engine PRECISION=fp16` "
            f"makes it first, by tools/convert_precision.py"
        )


def is_quantised(onnx_path: str | Path) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in _nodes(onnx_path))


def is_lowered(onnx_path: str | Path) -> bool:
    """Whether some of it computes in half: then it has casts that say so."""
    half = 10  # onnx.TensorProto.FLOAT16
    return any(a.name == "to" and a.i == half for node in _nodes(onnx_path) if node.op_type == "Cast" for a in node.attribute)


def _nodes(onnx_path: str | Path) -> Iterable:
    return load_graph(onnx_path, weights=False).graph.node


def load_graph(onnx_path: str | Path, weights: bool = True) -> ModelProto:
    """The graph of a file; a UserError for what is none. weights: read also what lies in files beside it."""
    import onnx  # here, for a Jetson that only builds may lack it

    try:
        return onnx.load(str(onnx_path), load_external_data=weights)
    except OSError:
        raise
    except Exception as error:  # protobuf's and onnx's own kinds; to its owner they all mean the same
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{onnx_path}: not a readable ONNX graph ({why[0]}); run `make export` again") from None


def fp32_nodes(card: dict) -> list[str]:
    """Nodes that a builder with types of its own must be told to leave in fp32."""
    return (card.get("lowering") or {}).get("fp32_nodes", [])
