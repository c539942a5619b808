"""All losses of a stage as one module: what a training clip calls, frame by frame and then once for the whole clip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from uniad.config.spec import ModelSpec
from uniad.interface.types import Agents, DetOutput, MotionOutput, PlanOutput, Targets
from uniad.losses.map import MapMatch, map_losses, match_map
from uniad.losses.map_matcher import canvas_size
from uniad.losses.matcher import FrameTargets, Match, match_frame
from uniad.losses.motion import motion_losses
from uniad.losses.occ import occ_losses
from uniad.losses.planning import plan_losses
from uniad.losses.track import FrameTerms, frame_terms, track_losses
from uniad.models.map import LearntMasks, MapQueries
from uniad.models.occ import OccRaw


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """What training minimises: the sum of the entries with "loss" in their name; others are for the log only."""
    return torch.stack([value.float().reshape(()) for name, value in losses.items() if "loss" in name]).sum()


def identity(values: Tensor) -> Tensor:
    """Mean over processes where there is only this one."""
    return values


class Criterion(nn.Module):
    """Losses under upstream's names, weighted, so that their sum is what is minimised.

    reduce_mean averages a small tensor over all processes: what losses are divided by must be the same on each, or a process
    with few objects would pull harder than one with many.
    """

    code_weights: Tensor
    canvas: Tensor

    def __init__(self, spec: ModelSpec, reduce_mean: Callable[[Tensor], Tensor] = identity) -> None:
        super().__init__()
        self.spec = spec
        self.reduce_mean = reduce_mean
        self.ego_row = spec.track.num_query  # the ego query follows the others
        self.register_buffer("code_weights", torch.tensor(spec.track_loss.code_weights))
        self.register_buffer("canvas", canvas_size(spec.map.canvas_hw), persistent=False)

    def frame(
        self, det: DetOutput, obj_id: Tensor, iou: Tensor, row_valid: Tensor, gt: FrameTargets
    ) -> tuple[Match, FrameTerms]:
        """Matches one frame and sums up what it lost. obj_id, iou, row_valid: [B, R], as ``match_frame`` takes them."""
        match = match_frame(det, obj_id, iou, row_valid, gt, self.spec.track_loss)
        terms = frame_terms(det, match, row_valid, gt, self.code_weights, self.ego_row, self.spec.track_loss)
        return match, terms

    def track_losses(self, terms: list[FrameTerms]) -> dict[str, Tensor]:
        """Losses of a clip from the sums of its frames."""
        return track_losses(terms, self.spec.track_loss, self.reduce_mean)

    def match_map(self, queries: MapQueries, targets: Targets) -> MapMatch:
        """Which map queries answer for the elements of the clip's last frame: ``map_losses`` needs masks of those."""
        return match_map(queries, targets, self.canvas, self.spec.map_loss)

    def map_losses(self, queries: MapQueries, match: MapMatch, masks: LearntMasks) -> dict[str, Tensor]:
        """Losses of the map head on the clip's last frame. masks: ``MapHead.learnt_masks`` of ``match.chosen``."""
        return map_losses(queries, match, masks, self.canvas, self.spec.map_loss, self.reduce_mean)

    def stage2_losses(
        self, agents: Agents, matched_gt: Tensor, motion: MotionOutput, occ: OccRaw, plan: PlanOutput, targets: Targets
    ) -> dict[str, Tensor]:
        """Losses of motion, occupancy and planning on the clip's last frame. matched_gt [B, A]: each agent's object, -1 none."""
        spec, truth = self.spec.stage2, targets.stage2
        assert spec is not None and truth is not None
        return {
            **motion_losses(motion, agents, matched_gt, targets, spec.motion),
            **occ_losses(occ, matched_gt, targets, spec.occ, self.reduce_mean),
            **plan_losses(plan, truth, spec.plan, self.spec.compat),
        }
