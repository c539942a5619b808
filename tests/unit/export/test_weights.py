"""The record of an export says which weights every initialiser comes from, and other weights take their place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from uniad.errors import UserError
from uniad.export.to_onnx import _quiet_exporter, _simplify
from uniad.export.weights import make_record, named_weights, replace_weights, trace, untraced_of


class Model(nn.Module):
    """Weights as they are, transposed, cut and as a table made of constants."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.line, self.conv = nn.Linear(4, 4), nn.Conv2d(1, 2, 1)
        self.both = nn.Parameter(torch.randn(6, 4))
        self.register_buffer("origin", torch.randn(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.both[:3], self.both[3:]
        steps = torch.arange(4, dtype=torch.float32) * 2.0
        seen = self.conv(x[None, None])[0].sum(0)
        return self.line(seen) @ query.t() @ key + self.origin + steps


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def export(model: nn.Module) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Graph and record."""
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(Wrapper(model).eval(), (torch.ones(3, 4),), opset_version=18, dynamo=True, optimize=False)
        traced = trace(program.model)
        _simplify(program.model)
    graph = program.model_proto
    return graph, make_record(traced, {i.name: i for i in graph.graph.initializer}, named_weights(model))


@pytest.fixture(scope="module")
def exported() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return export(Model(0))


def test_the_record_is_a_graph_from_weights_to_initialisers_with_a_formula_for_each(exported) -> None:
    graph, record = exported
    onnx.checker.check_model(record, full_check=True)
    assert not record.graph.initializer and untraced_of(record) == []
    formulas = {output.name: output.doc_string for output in record.graph.output}
    assert formulas["model.line.bias"] == "line.bias"
    assert {"Slice(both)", "Transpose(Slice(both))", "origin"} <= set(formulas.values())
    assert {port.name for port in record.graph.input} == {
        "line.weight", "line.bias", "conv.weight", "conv.bias", "both", "origin",
    }  # fmt: skip
    others = {i.name for i in graph.graph.initializer} - formulas.keys()
    assert "steps" not in formulas and others, "what no weight is part of is not in it"


def test_a_refitted_graph_is_that_of_a_fresh_export(exported) -> None:
    graph, record = onnx.ModelProto(), exported[1]
    graph.CopyFrom(exported[0])
    other = Model(1)
    fresh, again = export(other)
    before = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
    changed = replace_weights(graph, record, named_weights(other))
    after = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
    assert changed == len(record.graph.output) == sum(not np.array_equal(before[name], after[name]) for name in before)
    wanted = {i.name: i.SerializeToString() for i in fresh.graph.initializer}
    assert {i.name: i.SerializeToString() for i in graph.graph.initializer} == wanted
    assert again.SerializeToString(deterministic=True) == record.SerializeToString(deterministic=True)
    assert replace_weights(graph, record, named_weights(other)) == 0


def test_a_graph_with_a_tensor_of_unknown_origin_names_it() -> None:
    class Hidden(Model):
        def __init__(self) -> None:
            super().__init__(0)
            self.scale = 2.0 * self.line.bias.detach()  # follows from a weight, and nothing says so

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    graph, record = export(Hidden())
    (name,) = untraced_of(record)
    held = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}[name]
    np.testing.assert_array_equal(held, Hidden().scale.numpy())


def test_weights_that_are_missing_or_of_another_size_change_nothing(exported) -> None:
    graph, record = exported
    before = graph.SerializeToString(deterministic=True)
    weights = {name: value + 1 for name, value in named_weights(Model(0)).items()}
    for wrong, words in (
        ({k: v for k, v in weights.items() if k != "both"}, "a weight both, which the model lacks"),
        (weights | {"both": weights["both"][:5]}, r"both is float32\[6, 4\] in the graph and float32\[5, 4\]"),
        (weights | {"both": weights["both"].astype(np.float16)}, "float16"),
    ):
        with pytest.raises(UserError, match=words):
            replace_weights(graph, record, wrong)
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    del other.graph.initializer[0]
    with pytest.raises(UserError, match="as its record has it"):
        replace_weights(other, record, weights)
    assert graph.SerializeToString(deterministic=True) == before
