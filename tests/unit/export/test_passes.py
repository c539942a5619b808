"""Going down from the exporter's opset must not change a number, and a graph that cannot go down must say why."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from uniad.export.audit import audit
from uniad.export.passes import UnsupportedGraph, decompose_layer_norm, downgrade_opset, fix_casts, keep_int32_indices, opset_of


class Block(torch.nn.Module):
    """The operators whose form changed between opsets 16 and 18, in one block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(6)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.norm(x)
        a, b = y.split(3, dim=-1)
        return y.mean(dim=(0, 2), keepdim=True), a.amax(dim=-1), b.amin(dim=1)


@pytest.fixture(scope="module")
def exported() -> tuple[onnx.ModelProto, np.ndarray, list[np.ndarray]]:
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    block = Block().eval()
    program = torch.onnx.export(block, (x,), input_names=["x"], opset_version=18, dynamo=True, verbose=False)
    return program.model_proto, x.numpy(), [t.detach().numpy() for t in block(x)]


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})


@pytest.mark.parametrize("version", [16, 17])
def test_a_downgraded_graph_computes_the_same_numbers(exported, version):
    graph, x, expected = exported
    downgraded = downgrade_opset(onnx.ModelProto.FromString(graph.SerializeToString()), version)
    assert opset_of(downgraded) == version
    assert ("LayerNormalization" in {n.op_type for n in downgraded.graph.node}) == (version >= 17)
    for got, want in zip(run(downgraded, x), expected):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_layer_norm_can_be_spelled_out_without_changing_the_opset(exported):
    graph, x, expected = exported
    plain = decompose_layer_norm(onnx.ModelProto.FromString(graph.SerializeToString()))
    assert "LayerNormalization" not in {n.op_type for n in plain.graph.node}
    for got, want in zip(run(plain, x), expected):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_cast_to_the_type_of_another_tensor_names_that_type():
    graph = helper.make_graph(
        [helper.make_node("CastLike", ["x", "like"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [2])],
        initializer=[numpy_helper.from_array(np.zeros(1, np.int32), "like")],
    )
    model = fix_casts(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [n.op_type for n in model.graph.node] == ["Cast"]
    np.testing.assert_array_equal(run(model, np.float32([1.5, -2.5]))[0], [1, -2])


@pytest.mark.parametrize("axis, rows, parts", [(1, 7, 3), (1, 8, 3), (0, 5, 2), (None, 6, 4), (1, 6, 3)])
def test_a_split_in_equal_parts_says_the_same_sizes_in_an_older_opset(axis, rows, parts):
    """What does not divide evenly is short in its last part."""
    shape = [rows, 2] if not axis else [2, rows]
    where = {} if axis is None else {"axis": axis}
    names = [f"y{i}" for i in range(parts)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    node = helper.make_node("Split", ["x"], names, num_outputs=parts, **where)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], ports)
    newer = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    newer = onnx.shape_inference.infer_shapes(newer)
    older = downgrade_opset(onnx.ModelProto.FromString(newer.SerializeToString()), 17)
    x = np.arange(2 * rows, dtype=np.float32).reshape(shape)
    (split,) = older.graph.node
    sizes = {i.name: numpy_helper.to_array(i) for i in older.graph.initializer}[split.input[1]]
    assert sizes.sum() == rows and len(set(sizes[:-1])) == 1 and sizes[-1] <= sizes[0]
    if sizes[-1]:  # ONNX wants none that is empty, and onnxruntime refuses it
        for got, want in zip(run(older, x), run(newer, x), strict=True):
            np.testing.assert_array_equal(got, want)


class Lookup(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        index = (x[:, 0, 0].abs() * 2).clamp(max=4.0).to(torch.int32)
        return x[0].index_select(0, index)


def test_an_int32_index_is_not_widened():
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    graph = torch.onnx.export(Lookup().eval(), (x,), input_names=["x"], opset_version=18, dynamo=True, verbose=False).model_proto

    def casts(model: onnx.ModelProto) -> int:
        return sum(n.op_type == "Cast" and n.attribute[0].i == TensorProto.INT64 for n in model.graph.node)

    assert casts(graph) > 0, "the exporter has stopped widening: drop the pass"
    narrow = keep_int32_indices(onnx.ModelProto.FromString(graph.SerializeToString()))
    assert casts(narrow) == 0
    np.testing.assert_array_equal(run(narrow, x.numpy())[0], Lookup()(x).numpy())


class Enlarge(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.unsqueeze(0)
        return torch.nn.functional.interpolate(image, size=(9, 12), mode="nearest") + torch.nn.functional.interpolate(
            image, size=(9, 12), mode="bilinear", align_corners=False
        )


@pytest.mark.parametrize("version", [16, 17])
def test_an_enlarged_map_survives_an_older_opset(version):
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    graph = torch.onnx.export(Enlarge().eval(), (x,), input_names=["x"], opset_version=18, dynamo=True, verbose=False).model_proto
    assert sum(n.op_type == "Resize" for n in graph.graph.node) == 2
    downgraded = downgrade_opset(onnx.ModelProto.FromString(graph.SerializeToString()), version)
    np.testing.assert_allclose(run(downgraded, x.numpy())[0], Enlarge()(x).numpy(), rtol=1e-5, atol=1e-6)
    next(n for n in graph.graph.node if n.op_type == "Resize").attribute.append(helper.make_attribute("antialias", 1))
    with pytest.raises(UnsupportedGraph, match="antialias = 1"):
        downgrade_opset(graph, version)


def test_opset_20_is_refused(exported):
    with pytest.raises(UnsupportedGraph, match="16..19"):
        downgrade_opset(exported[0], 20)


def test_axes_computed_at_run_time_cannot_be_downgraded():
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean")
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("axes", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    with pytest.raises(UnsupportedGraph, match="ReduceMean 'mean'"):
        downgrade_opset(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), 17)


def _graph(nodes: list, opset: int = 17, domain: str = "") -> onnx.ModelProto:
    k = numpy_helper.from_array(np.asarray([5000], np.int64), "k")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5000])],
        initializer=[k],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)])


@pytest.mark.parametrize(
    ("nodes", "opset", "fault"),
    [
        ([helper.make_node("TopK", ["x", "k"], ["y", "i"])], 17, "less than 3840"),
        ([helper.make_node("NonZero", ["x"], ["y"])], 17, "depends on the data"),
        ([helper.make_node("CumSum", ["x", "k"], ["y"])], 17, "as a loop"),
        ([helper.make_node("GatherND", ["x", "k"], ["y"])], 17, "index_select"),
        ([helper.make_node("Einsum", ["x"], ["y"], equation="ij->ij")], 17, "multiply matrices"),
        ([helper.make_node("Magic", ["x"], ["y"], domain="mine")], 17, "needs a plugin"),
        ([helper.make_node("GridSample", ["x", "x"], ["y"], mode="linear")], 19, "opset-20 spelling"),
        ([helper.make_node("Identity", ["x"], ["y"])], 20, "outside 16..19"),
    ],
)
def test_the_audit_names_what_a_parser_would_not_take(nodes, opset, fault):
    assert any(fault in f for f in audit(_graph(nodes, opset)))


def test_the_audit_passes_a_plain_graph():
    assert audit(_graph([helper.make_node("Identity", ["x"], ["y"])])) == []
