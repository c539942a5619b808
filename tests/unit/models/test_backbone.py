"""Names that checkpoints rely on, and what freezing leaves alone."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from helpers.images_to_bev import ImagesToBev
from helpers.specs import full_spec, nano_spec, tiny_spec
from uniad.config.file import ConfigError
from uniad.config.spec import BackboneSpec, NeckSpec
from uniad.models.backbone import ResNet
from uniad.models.neck import FPN


@pytest.mark.parametrize("spec, recorded", [(tiny_spec(), "tiny"), (full_spec(), "base")])
def test_names_and_shapes_are_those_of_published_checkpoints(golden, spec, recorded) -> None:
    rows = json.loads((golden / f"state_dict_{recorded}_stage1.json").read_text())
    mine = ("img_backbone.", "img_neck.", "pts_bbox_head.transformer.", "pts_bbox_head.positional", "pts_bbox_head.bev_emb")
    want = {k: tuple(s) for k, s, *_ in rows if k.startswith(mine) and ".decoder." not in k}
    with torch.device("meta"):
        model = ImagesToBev(spec.model)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == want


def backbone(**changes) -> ResNet:
    values = dict(depth=18, style="pytorch", out_indices=(3,), frozen_stages=-1, norm_eval=False, norm_requires_grad=True)
    return ResNet(BackboneSpec(**(values | changes)))


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_training_from_scratch_trains_everything() -> None:
    model = backbone().train()
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in norms(model))


def test_frozen_stages_stay_as_they_are_through_train() -> None:
    model = backbone(frozen_stages=1).train()
    assert not any(p.requires_grad for part in (model.conv1, model.bn1, model.layer1) for p in part.parameters())
    assert all(p.requires_grad for p in model.layer2.parameters())
    assert not any(m.training for m in (model.bn1, *norms(model.layer1)))
    assert all(m.training for m in norms(model.layer2))


def test_norm_eval_keeps_running_statistics_but_not_the_convolutions() -> None:
    model = backbone(norm_eval=True, norm_requires_grad=False).train()
    before = model.bn1.running_mean.clone()
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(model.bn1.running_mean, before)
    assert not any(p.requires_grad for m in norms(model) for p in m.parameters())
    assert model.conv1.weight.requires_grad


def test_feature_maps_have_the_strides_of_their_stages() -> None:
    model = backbone(out_indices=(1, 2, 3)).eval()
    outs = model(torch.zeros(2, 3, 64, 96))
    assert [tuple(o.shape) for o in outs] == [(2, 128, 8, 12), (2, 256, 4, 6), (2, 512, 2, 3)]


def test_styles_stride_in_different_convolutions() -> None:
    caffe, pytorch = (backbone(depth=50, style=s).layer2[0] for s in ("caffe", "pytorch"))
    assert (caffe.conv1.stride, caffe.conv2.stride) == ((2, 2), (1, 1))
    assert (pytorch.conv1.stride, pytorch.conv2.stride) == ((1, 1), (2, 2))


def test_deformable_stages_need_bottlenecks() -> None:
    with pytest.raises(ConfigError, match="use 50 or 101"):
        backbone(stage_with_dcn=(False, False, True, True))


@pytest.mark.parametrize("extra", ["on_output", None])
def test_pyramid_adds_coarser_levels_also_where_sizes_are_odd(extra) -> None:
    neck = FPN(NeckSpec((4, 8), 6, 4, add_extra_convs=extra))
    outs = neck([torch.randn(1, 4, 15, 25), torch.randn(1, 8, 8, 13)])
    assert [tuple(o.shape) for o in outs] == [(1, 6, 15, 25), (1, 6, 8, 13), (1, 6, 4, 7), (1, 6, 2, 4)]


def test_gradients_reach_every_parameter_of_the_image_to_bev_part() -> None:
    spec = nano_spec().model
    model = ImagesToBev(spec).train()
    for m in model.modules():  # attention weights start at zero, which would leave their inputs without gradient
        if hasattr(m, "attention_weights"):
            nn.init.normal_(m.attention_weights.weight, std=0.02)
            nn.init.normal_(m.sampling_offsets.weight, std=0.02)
    cells, dim = spec.bev.height * spec.bev.width, spec.bev.embed_dims
    lidar2img = torch.tensor([[60.0, 112.0, 0, 0], [0, 64.0, -60.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]]).expand(1, 6, 4, 4)
    _, bev = model(torch.randn(1, 6, 3, 128, 224), torch.randn(1, cells, dim), torch.ones(1, dtype=torch.bool),
                   torch.randn(1, 18), lidar2img)  # fmt: skip
    (bev * torch.randn_like(bev)).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A last norm of a block starts at zero, so what is before it in the block gets its first gradient one step later.
    silent = [n for n in silent if "img_backbone.layer" not in n]
    assert silent == []
