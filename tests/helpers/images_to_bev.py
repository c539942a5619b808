"""From images to the BEV: its parts alone, and the BEV of the recorded images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from helpers.recorded import Recorded
from helpers.specs import tiny_spec
from helpers.weights import fill
from uniad.config.spec import ModelSpec
from uniad.interface.types import Frame
from uniad.models.backbone import ResNet
from uniad.models.bev_encoder import PerceptionTransformer
from uniad.models.layers import LearnedPositionalEncoding
from uniad.models.neck import FPN
from uniad.models.uniad import UniAD


class ImagesToBev(nn.Module):
    """The parts under test, under the names that they have in the whole model."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        bev = spec.bev
        self.img_backbone, self.img_neck = ResNet(spec.backbone), FPN(spec.neck)
        self.pts_bbox_head = nn.Module()
        self.pts_bbox_head.transformer = PerceptionTransformer(bev, decoder=nn.Identity())
        self.pts_bbox_head.positional_encoding = LearnedPositionalEncoding(bev.embed_dims, bev.height, bev.width)
        self.pts_bbox_head.bev_embedding = nn.Embedding(bev.height * bev.width, bev.embed_dims)

    def forward(self, img: Tensor, prev: Tensor, has_prev: Tensor, can_bus: Tensor, lidar2img: Tensor):
        """img [B, N, 3, H, W] and the rest as in bev_features -> feature maps [B, N, D, h, w], BEV"""
        head = self.pts_bbox_head
        feats = [f.unflatten(0, img.shape[:2]) for f in self.img_neck(self.img_backbone(img.flatten(0, 1)))]
        bev = head.transformer.bev_features(
            feats, head.bev_embedding.weight, head.positional_encoding(), prev, has_prev, can_bus, lidar2img, img.shape[-2:]
        )
        return feats, bev


@torch.no_grad()
def bev_from_images(recorded: Recorded) -> Tensor:
    spec = tiny_spec()
    model = fill(UniAD(spec.model))
    shape = (1, 6, 3, spec.data.image.height, spec.data.image.width)
    noise = np.random.RandomState(int(recorded["image_seeds"][0])).standard_normal(np.prod(shape)).astype(np.float32)
    assert np.array_equal(noise[:64], recorded["f0/img_first64"].numpy())
    pose = torch.zeros(1, 3, 3), torch.zeros(1, 3), torch.zeros(1)
    frame = Frame(
        torch.from_numpy(noise.reshape(shape)), recorded["lidar2img"].float()[None], recorded["f0/can_bus"].float()[None],
        *pose, scene_start=torch.ones(1, dtype=torch.bool), command=torch.full((1,), 2),
    )  # fmt: skip
    state = model.init_state()
    feats = model.extract_features(frame.img)
    return model.encode_bev(feats, frame, model.pose_delta(frame, state), state.prev_bev, state.has_prev_bev)
