"""BEVFormer (Li et al. 2022), stage 0: detection from the BEV, whose encoder UniAD takes over.

Its detections know nothing of each other's past; what one frame hands to the next is the BEV alone. Submodule names are those of
BEVFormer's checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from uniad.config.spec import ModelSpec
from uniad.interface.types import DetOutput, Frame
from uniad.models.bev_model import BevModel, TrackHead
from uniad.models.decoder import detect
from uniad.models.track_modules import ReferencePoints


class DetectorHead(TrackHead):
    """Everything that BEVFormer's checkpoints keep under ``pts_bbox_head``: queries too, but no past trajectories."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        del self.past_traj_reg_branches
        track = spec.track
        self.query_embedding = nn.Embedding(track.num_query, 2 * track.embed_dims)
        self.transformer.reference_points = ReferencePoints(track.embed_dims)

    def trajectory(self, layer: int, x: Tensor) -> Tensor:
        """None: zeros [B, R, P + F, 2] in its place."""
        return torch.zeros(*x.shape[:-1], self.trajectory_steps, 2, dtype=torch.float32, device=x.device)


class BevState(NamedTuple):
    """What a frame hands to the next."""

    prev_bev: Tensor  # [B, S, D]
    has_prev_bev: Tensor  # [B] bool
    prev_can_bus: Tensor  # [B, 18] of the frame before


class BevFormer(BevModel):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, DetectorHead)

    @property
    def head(self) -> DetectorHead:
        """The head with its queries."""
        assert isinstance(self.pts_bbox_head, DetectorHead)
        return self.pts_bbox_head

    def init_state(self, batch: int = 1, dtype: torch.dtype = torch.float32) -> BevState:
        """The state before the first frame. ``dtype`` is the BEV's."""
        bev, device = self.spec.bev, self.pts_bbox_head.bev_embedding.weight.device
        return BevState(
            torch.zeros(batch, bev.height * bev.width, bev.embed_dims, dtype=dtype, device=device),
            torch.zeros(batch, dtype=torch.bool, device=device),
            torch.zeros(batch, 18, device=device),
        )

    def step(self, frame: Frame, state: BevState) -> tuple[DetOutput, BevState]:
        """One frame at inference: frame tensors [B, ...]. Boxes of the last layer alone (L = 1)."""
        bev, state = self.bev_step(self.extract_features(frame.img), frame, state)
        return self.boxes(bev, all_layers=False), state

    def bev_step(self, feats: list[Tensor], frame: Frame, state: BevState) -> tuple[Tensor, BevState]:
        """The BEV [B, S, D] of a frame whose image features are at hand. A scene's first frame has no past and has not moved."""
        known = state.has_prev_bev & ~frame.scene_start
        bev = self.encode_bev(feats, frame, self.motion(frame, state, known), state.prev_bev.to(feats[0].dtype), known)
        return bev, BevState(bev, torch.ones_like(known), frame.can_bus)

    def motion(self, frame: Frame, state: BevState, known: Tensor) -> Tensor:
        """can_bus [B, 18] with position (m, global axes) and heading (degrees) relative to the frame before, where known."""
        now = frame.can_bus
        moved = torch.where(known[:, None], now - state.prev_can_bus, torch.zeros_like(now))
        return torch.cat([moved[:, :3], now[:, 3:17], moved[:, 17:]], dim=1).float()

    def boxes(self, bev: Tensor, all_layers: bool = True) -> DetOutput:
        """Detection decoder over the queries (see ``decoder.detect``). bev: [B, S, D]."""
        spec, head = self.spec, self.head
        query = head.query_embedding.weight.expand(bev.shape[0], -1, -1)
        reference = head.transformer.reference_points
        assert isinstance(reference, ReferencePoints)
        valid = torch.ones(query.shape[:2], dtype=torch.bool, device=bev.device)
        return detect(
            head.transformer.decoder, head, bev, (spec.bev.height, spec.bev.width), query, reference(query), valid,
            spec.decoder.pc_range, all_layers,
        )  # fmt: skip
