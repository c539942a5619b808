"""From images to a bird's-eye view: what BEVFormer (Li et al. 2022), stage 0, and UniAD, which starts from it, have in common."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from uniad.config.spec import ModelSpec
from uniad.interface.types import Frame, State
from uniad.models.backbone import ResNet
from uniad.models.bev_encoder import PerceptionTransformer
from uniad.models.decoder import DetectionBranches, DetectionDecoder
from uniad.models.layers import LearnedPositionalEncoding
from uniad.models.neck import FPN


class TrackHead(DetectionBranches):
    """Everything that upstream's checkpoints keep under ``pts_bbox_head``: BEV encoder, decoder and their branches."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec.decoder)
        bev = spec.bev
        # Only checkpoints know this copy of the loss's weights; nothing reads it.
        self.code_weights = nn.Parameter(torch.tensor(spec.track_loss.code_weights), requires_grad=False)
        self.positional_encoding = LearnedPositionalEncoding(bev.embed_dims, bev.height, bev.width)
        self.transformer = PerceptionTransformer(bev, DetectionDecoder(spec.decoder))
        self.bev_embedding = nn.Embedding(bev.height * bev.width, bev.embed_dims)


class BevModel(nn.Module):
    """Image backbone, neck and BEV encoder. Subclasses add what reads the BEV."""

    def __init__(self, spec: ModelSpec, head: type[TrackHead]) -> None:
        super().__init__()
        self.spec = spec
        self.img_backbone = ResNet(spec.backbone)
        self.img_neck = FPN(spec.neck)
        self.pts_bbox_head = head(spec)

    def extract_features(self, img: Tensor) -> list[Tensor]:
        """Images [B, N, 3, H, W] -> one [B, N, C, h, w] per pyramid level. All frames of a clip may be given as one batch."""
        feats = self.img_neck(self.img_backbone(img.flatten(0, 1)))
        return [f.unflatten(0, img.shape[:2]) for f in feats]

    def pose_delta(self, frame: Frame, state: State) -> Tensor:
        """can_bus [B, 18] with position (m, global axes) and heading (degrees) relative to the frame before.

        Upstream: a scene's first frame keeps the difference to whatever came before it, for the first frame ever to the origin;
        ``first_frame_pose=fixed`` makes it zero.
        """
        can_bus = frame.can_bus
        move = can_bus[:, :3] - state.prev_pos
        turn = can_bus[:, 17:] - state.prev_angle[:, None]
        if self.spec.compat.first_frame_pose == "fixed":
            begins = frame.scene_start if state.past is None else frame.scene_start | ~state.has_prev_bev
            move = move.masked_fill(begins[:, None], 0.0)
            turn = turn.masked_fill(begins[:, None], 0.0)
        return torch.cat([move, can_bus[:, 3:17], turn], dim=1).float()

    def encode_bev(
        self, feats: list[Tensor], frame: Frame, can_bus_delta: Tensor, prev_bev: Tensor, has_prev_bev: Tensor
    ) -> Tensor:
        """BEV features [B, S, D] of a frame.

        feats: as ``extract_features`` gives them; can_bus_delta: [B, 18] from ``pose_delta``; prev_bev: [B, S, D] in the previous
        frame's axes, used where has_prev_bev [B] bool.
        """
        head = self.pts_bbox_head
        # Frozen here means without gradient, not without requires_grad: so published optimizer states still fit.
        with torch.no_grad() if self.spec.freeze.bev_encoder else nullcontext():
            return head.transformer.bev_features(
                feats, head.bev_embedding.weight, head.positional_encoding(), prev_bev, has_prev_bev, can_bus_delta,
                frame.lidar2img, (frame.img.shape[-2], frame.img.shape[-1]), frame.l2g_r,
            )  # fmt: skip
