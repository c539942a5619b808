"""Layer groups: every node of a graph belongs to one layer of the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniad.errors import UserError
from uniad.export.groups import UNGROUPED, group_of, layer_groups, name_nodes
from uniad.export.passes import decompose_layer_norm


def node(op: str, source: list[str], out: str, scopes: list[str] | None = None, name: str = "") -> onnx.NodeProto:
    made = helper.make_node(op, source, [out], name=name)
    if scopes is not None:
        entry = made.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(scopes)
    return made


def graph(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(np.ones(4, np.float32), n) for n in ("w", "b")]
    made = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2, 4])], [value("y", TensorProto.FLOAT, [2, 4])], weights
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


def test_nodes_are_named_by_the_module_they_come_from_and_grouped_by_layer() -> None:
    made = name_nodes(
        graph(
            [
                node("Relu", ["x"], "a", ["", "relu"]),
                node("Mul", ["a", "w"], "b1", ["", "model.img_backbone", "model.img_backbone.layer3.4.conv1", "conv2d"]),
                node("Add", ["b1", "b"], "c", ["", "model.img_backbone", "model.img_backbone.layer3.5.bn1", "bn"]),
                node("Tanh", ["c"], "y", ["", "model.planning_head", "tanh"]),
            ]
        )
    )
    assert [n.name for n in made.graph.node] == [
        "glue/Relu_0",
        "img_backbone.layer3.4.conv1/Mul_1",
        "img_backbone.layer3.5.bn1/Add_2",
        "planning_head/Tanh_3",
    ]
    assert layer_groups(made) == {
        UNGROUPED: ["glue/Relu_0"],
        "img_backbone.layer3": ["img_backbone.layer3.4.conv1/Mul_1", "img_backbone.layer3.5.bn1/Add_2"],
        "planning_head": ["planning_head/Tanh_3"],
    }


def test_a_node_that_a_pass_added_goes_with_its_reader_or_else_with_its_source() -> None:
    made = graph(
        [
            node("Relu", ["x"], "a", name="img_neck/Relu_0"),
            node("Identity", ["a"], "q", name="a_QuantizeLinear"),
            node("Tanh", ["q"], "t", name="occ_head/Tanh_1"),
            node("Identity", ["t"], "y", name="y_Cast"),
        ]
    )
    assert layer_groups(made) == {
        "img_neck": ["img_neck/Relu_0"],
        "occ_head": ["a_QuantizeLinear", "occ_head/Tanh_1", "y_Cast"],
    }


def test_a_decomposed_layer_norm_stays_in_its_layer() -> None:
    made = graph([node("LayerNormalization", ["x", "w", "b"], "y", name="memory_bank.temporal_norm1/LayerNormalization_0")])
    made = decompose_layer_norm(onnx.shape_inference.infer_shapes(made))
    assert list(layer_groups(made)) == ["memory_bank"]
    assert len(made.graph.node) == len(layer_groups(made)["memory_bank"]) > 5


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("", UNGROUPED),
        ("reference_points", UNGROUPED),
        ("img_backbone.conv1", "img_backbone.stem"),
        ("img_backbone.layer4.2.conv2.conv_offset", "img_backbone.layer4"),
        ("pts_bbox_head.transformer.encoder", "pts_bbox_head.transformer.encoder"),
        ("pts_bbox_head.transformer.encoder.layers.10.ffns.0", "pts_bbox_head.transformer.encoder.layers.10"),
        ("pts_bbox_head.transformer.can_bus_mlp.0", "pts_bbox_head"),
        ("pts_bbox_head.reg_branches.5.4", "pts_bbox_head.reg_branches"),
        ("motion_head.motionformer.map_interaction_layers.2.x", "motion_head.motionformer.map_interaction_layers.2"),
        ("motion_head.motionformer.out_query_fuser.0", "motion_head.motionformer"),
        ("seg_head.transformer.decoder.layers.1.norms.2", "seg_head.transformer.decoder.layers.1"),
        ("occ_head.bev_light_proj.conv_layers.0", "occ_head"),
    ],
)
def test_group_of_a_module(path: str, group: str) -> None:
    assert group_of(path) == group


def test_a_graph_without_layers_or_with_nameless_nodes_is_refused() -> None:
    with pytest.raises(UserError, match="run `make export`"):
        layer_groups(graph([node("Relu", ["x"], "y", name="node_relu")]))
    with pytest.raises(UserError, match="have no name of their own"):
        layer_groups(graph([node("Relu", ["x"], "y")]))
