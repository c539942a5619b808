"""The image-to-BEV part leaves as a plain static graph in every decomposition, and computes the same there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from helpers.specs import nano_spec
from helpers.weights import fill
from uniad.export.audit import audit
from uniad.export.passes import downgrade_opset
from uniad.models.backbone import Bottleneck
from uniad.models.bev_encoder import PerceptionTransformer
from uniad.ops.sampling import sampling_as

HW = (64, 96)  # image


class Graph(nn.Module):
    """A deformable bottleneck as backbone, a strided map as second level, and the encoder."""

    def __init__(self) -> None:
        super().__init__()
        spec = nano_spec(
            model__bev__embed_dims=32, model__bev__ffn_dims=32, model__bev__height=9, model__bev__width=8,
            model__bev__num_levels=2, model__bev__num_layers=2, model__bev__num_cams=3, model__bev__sca_capacity=0.6,
        ).model.bev  # fmt: skip
        self.block = Bottleneck(3, 8, 2, caffe=False, dcn=True, dcn_groups=1)
        self.transformer = PerceptionTransformer(spec, nn.Identity())
        self.query = nn.Parameter(torch.zeros(72, 32))
        self.pos = nn.Parameter(torch.zeros(32, 9, 8))

    def forward(self, img: Tensor, prev_bev: Tensor, has_prev: Tensor, can_bus: Tensor, lidar2img: Tensor) -> Tensor:
        fine = self.block(img.flatten(0, 1)).unflatten(0, img.shape[:2])
        return self.transformer.bev_features(
            [fine, fine[..., ::2, ::2]], self.query, self.pos, prev_bev, has_prev > 0, can_bus, lidar2img, HW
        )


@pytest.fixture(scope="module")
def model() -> Graph:
    model = fill(Graph().eval(), "img_backbone.weight_")
    with torch.no_grad():
        g = torch.Generator().manual_seed(0)
        model.query.normal_(generator=g)
        model.pos.normal_(generator=g)
    return model


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    lidar2img = torch.zeros(1, 3, 4, 4)
    for camera, (x, y) in enumerate(((1.0, 0.0), (0.0, 1.0), (0.0, -1.0))):
        lidar2img[0, camera] = torch.tensor(
            [[40 * y + 48 * x, -40 * x + 48 * y, 0.0, 3.0], [32 * x, 32 * y, -40.0, 0.0], [x, y, 0.0, 0.1], [0, 0, 0, 1]]
        )
    can_bus = torch.randn(1, 18, generator=g)
    return (torch.randn(1, 3, 3, *HW, generator=g), torch.randn(1, 72, 32, generator=g), torch.ones(1, dtype=torch.int32),
            can_bus, lidar2img)  # fmt: skip


def export(model: Graph, inputs: tuple[Tensor, ...], sampling: str) -> onnx.ModelProto:
    with torch.no_grad(), sampling_as(sampling):
        program = torch.onnx.export(
            model, inputs, input_names=["img", "prev", "has", "can_bus", "l2i"], opset_version=18, dynamo=True, verbose=False
        )
    return downgrade_opset(program.model_proto, 17)


@pytest.mark.parametrize("sampling", ["gridsample", "gather"])
def test_a_plain_graph_computes_what_torch_computes(model, inputs, sampling) -> None:
    graph = export(model, inputs, sampling)
    assert audit(graph) == []
    used = {node.op_type for node in graph.graph.node}
    assert ("GridSample" in used) == (sampling == "gridsample")
    assert not used & {"CumSum", "ScatterElements", "ScatterND", "TopK", "Atan"}, "slow or missing in engines"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for has in (0, 1):
        values = (*inputs[:2], torch.full((1,), has, dtype=torch.int32), *inputs[3:])
        feed = {i.name: v.numpy() for i, v in zip(session.get_inputs(), values, strict=True)}
        got = session.run(None, feed)[0]
        with torch.no_grad():
            want = model(*values).numpy()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_attention_leaves_as_the_stock_plugin_node(model, inputs) -> None:
    graph = export(model, inputs, "plugin")
    nodes = [node for node in graph.graph.node if node.op_type == "MultiscaleDeformableAttnPlugin_TRT"]
    assert len(nodes) == 4  # temporal and spatial, two layers
    assert audit(graph, allow_plugin=True) == []
    assert audit(graph) != []
    kinds = {i.name: i.data_type for i in graph.graph.initializer}
    shapes = {v.name: v for v in graph.graph.value_info}
    for node in nodes:
        assert len(node.input) == 5
        for index in node.input[1:3]:
            assert kinds.get(index, onnx.TensorProto.INT32) == onnx.TensorProto.INT32
        loc = shapes[node.input[3]].type.tensor_type.shape.dim
        assert len(loc) == 6 and loc[5].dim_value == 2
