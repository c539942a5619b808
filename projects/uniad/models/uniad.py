"""UniAD: the whole model as one pure step (Hu et al. 2023).

``outputs, state = model.step(frame, state)`` is evaluation, deployment and export. Its parts are methods with gradients, which
a training clip calls one by one. Submodule names are those of upstream's checkpoints.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from uniad.config.spec import ModelSpec
from uniad.geometry.boxes import decode_boxes
from uniad.interface.types import (
    EGO_ID,
    FREE_ID,
    Agents,
    DetOutput,
    Frame,
    MotionOutput,
    Past,
    Stage2Outputs,
    State,
    StepOutputs,
    TrackOutput,
    Tracks,
)
from uniad.models.agents import select_agents
from uniad.models.bev_model import BevModel, TrackHead
from uniad.models.branches import run_concurrently
from uniad.models.decoder import detect
from uniad.models.map import MapHead
from uniad.models.motion import MotionHead
from uniad.models.occ import OccHead
from uniad.models.planning import ImagesAhead, PlanHead
from uniad.models.track import (
    Rows,
    Selection,
    compact,
    empty_tracks,
    move_reference_points,
    release,
    stack_rows,
    take_rows,
    take_tracks,
    update_ids,
)
from uniad.models.track_modules import MemoryBank, QueryInteraction, ReferencePoints


class CodeWeights(nn.Module):
    """How much each number of box10 counts in the box loss: the buffer that checkpoints call ``criterion.code_weights``."""

    code_weights: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("code_weights", torch.tensor(spec.track_loss.code_weights))


class UniAD(BevModel):
    vehicle_ids: Tensor

    def __init__(self, spec: ModelSpec, motion_anchors: Tensor | None = None) -> None:
        """motion_anchors: [groups, K, F, 2] metres, see ``data.anchors``; needed where the spec has a motion head."""
        super().__init__(spec, TrackHead)
        track = spec.track
        self.seg_head = MapHead(spec.map)
        self.query_embedding = nn.Embedding(track.num_query + 1, 2 * track.embed_dims)  # the last one is the ego car
        self.reference_points = ReferencePoints(track.embed_dims)
        self.query_interact = QueryInteraction(track)
        self.memory_bank = MemoryBank(track)
        self.criterion = CodeWeights(spec)
        if (stage2 := spec.stage2) is not None:
            if motion_anchors is None:
                raise ValueError("a model with a motion head needs motion_anchors")
            self.occ_head = OccHead(stage2.occ)
            self.motion_head = MotionHead(stage2.motion, motion_anchors)
            self.planning_head = PlanHead(stage2.plan)
            self.register_buffer("vehicle_ids", torch.tensor(stage2.motion.vehicle_ids), persistent=False)
        if spec.freeze.stage1:
            for name, part in self.named_children():
                if name not in ("occ_head", "motion_head", "planning_head"):
                    part.requires_grad_(False)
        for frozen, part in ((spec.freeze.img_backbone, self.img_backbone), (spec.freeze.img_neck, self.img_neck)):
            if frozen:
                part.requires_grad_(False)

    # The step -------------------------------------------------------------------------------------------------------------

    def init_state(
        self, batch: int = 1, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> State:
        """The state before the first frame ever: no BEV, no tracks, pose at the origin, next id 0. ``dtype`` is the BEV's."""
        spec = self.spec
        device = self.query_embedding.weight.device if device is None else device

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=device)

        return State(
            prev_bev=zeros(spec.bev.height * spec.bev.width, spec.bev.embed_dims, dtype=dtype),
            has_prev_bev=zeros(dtype=torch.bool),
            tracks=empty_tracks(batch, spec.track.capacity, spec.track.embed_dims, spec.track.mem_len, device),
            prev_pos=zeros(3),
            prev_angle=zeros(),
            prev_l2g_r=zeros(3, 3),
            prev_l2g_t=zeros(3),
            prev_time_s=zeros(),
            next_id=zeros(dtype=torch.int32),
            past=Past(
                bev=zeros(count, spec.bev.height * spec.bev.width, spec.bev.embed_dims, dtype=dtype),
                has_bev=zeros(count, dtype=torch.bool),
                pos=zeros(count, 3),
                angle=zeros(count),
            )
            if (count := spec.prev_frame_num - 1) > 0
            else None,
        )

    def step(self, frame: Frame, state: State) -> tuple[StepOutputs, State]:
        """One frame: frame tensors [B, ...] and the state that the frame before left."""
        (pose, rows), feats = run_concurrently(lambda: self.look_back(frame, state), lambda: self.extract_features(frame.img))
        bev = self.encode_bev(feats, frame, pose, state.prev_bev, state.has_prev_bev & ~frame.scene_start)
        fine = self.fine_bev(bev)
        lanes, (track, after, selection, next_id) = run_concurrently(
            lambda: self.seg_head.queries(fine), lambda: self.detect_and_associate(bev, rows, state.next_id)
        )
        tracks, maps, ahead = run_concurrently(
            lambda: self.carry_tracks(after, selection, track),
            lambda: self.seg_head.select(lanes),
            lambda: self.run_stage2(
                fine, track, lanes.query, lanes.query_pos, frame.command, frame.can_bus, self.images_ahead(feats)
            ),
        )
        return StepOutputs(bev, track, maps, ahead), self.next_state(frame, bev, tracks, next_id, state.past)

    def look_back(self, frame: Frame, state: State) -> tuple[Tensor, Rows]:
        """What a frame needs of the one before, whatever its images show: ``pose_delta`` and the detection rows."""
        return self.pose_delta(frame, state), self.rows(self.propagate(frame, state))

    def detect_and_associate(self, bev: Tensor, rows: Rows, next_id: Tensor) -> tuple[TrackOutput, Tracks, Selection, Tensor]:
        """Detection and ids of a frame, see ``associate``."""
        return self.associate(rows, self.detect(bev, rows, all_layers=False), next_id)

    def run_stage2(
        self,
        bev: Tensor,
        track: TrackOutput,
        map_query: Tensor,
        map_query_pos: Tensor,
        command: Tensor,
        can_bus: Tensor,
        images: Tensor | None = None,
    ) -> Stage2Outputs | None:
        """What stage 2 predicts: futures of the tracked agents, occupancy, and the ego car's plan. Nothing in stage 1.

        bev [B, S, D] of ``fine_bev``; map_query, map_query_pos [B, M, D] of all map queries; command [B]; can_bus [B, 18];
        images of ``images_ahead``.
        """
        if self.spec.stage2 is None:
            return None
        agents, motion = self.forecast(bev, track, map_query, map_query_pos)
        bev_pos = self.bev_position()
        plan, occ = run_concurrently(
            lambda: self.planning_head(bev, bev_pos, motion, command, can_bus, images),
            lambda: self.occ_head(bev, motion, agents, self.is_vehicle(agents.label) & (agents.obj_id >= 0), bev_pos),
        )
        return Stage2Outputs(agents, motion, occ, plan)

    def forecast(
        self, bev: Tensor, track: TrackOutput, map_query: Tensor, map_query_pos: Tensor
    ) -> tuple[Agents, MotionOutput]:
        """The agents of stage 2 and their futures; arguments as for ``run_stage2``."""
        assert self.spec.stage2 is not None
        agents = select_agents(track, self.spec.stage2.agent_capacity, self.spec.track)
        return agents, self.motion_head(bev, agents, map_query, map_query_pos)

    def images_ahead(self, feats: list[Tensor]) -> Tensor | None:
        """What the planner reads of ``extract_features``, [B, cameras, D, h, w]; None where it reads the BEV alone."""
        stage2 = self.spec.stage2
        return feats[0][:, : ImagesAhead.CAMERAS] if stage2 is not None and stage2.plan.image_patch else None

    def is_vehicle(self, label: Tensor) -> Tensor:
        """Which classes occupancy is about, bool like ``label``."""
        return (label[..., None] == self.vehicle_ids).any(-1)

    def bev_position(self) -> Tensor:
        """Learnt position of every BEV cell, [1, S, D]. It is part of the BEV encoder, and frozen with it."""
        with torch.no_grad() if self.spec.freeze.bev_encoder else nullcontext():
            position = self.pts_bbox_head.positional_encoding().flatten(1).t()[None]
        return self.fine_bev(position)

    def fine_bev(self, bev: Tensor) -> Tensor:
        """The BEV [B, S, D] as the heads after tracking see it: each cell ``bev_upsample`` times in both directions."""
        times = self.spec.bev_upsample
        if times == 1:
            return bev
        grid = bev.unflatten(1, (self.spec.bev.height, self.spec.bev.width))
        return grid.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2).flatten(1, 2)

    def next_state(
        self, frame: Frame, bev: Tensor, tracks: Tracks, next_id: Tensor, past: Past | None = None
    ) -> State:
        """What this frame hands to the next one. past: what the one before handed to it."""
        # The position in the frame's precision: global metres in fp32 are 1e-4 m apart
        seen = (bev, torch.ones_like(frame.scene_start), frame.can_bus[:, :3], frame.can_bus[:, 17])
        if past is not None:
            kept = past._replace(has_bev=past.has_bev & ~frame.scene_start[:, None])
            queue = [torch.cat([old, new[:, None].to(old.dtype)], dim=1) for old, new in zip(kept, seen)]
            past, seen = Past(*(x[:, 1:] for x in queue)), tuple(x[:, 0] for x in queue)
        return State(
            prev_bev=seen[0],
            has_prev_bev=seen[1],
            tracks=tracks,
            prev_pos=seen[2],
            prev_angle=seen[3],
            prev_l2g_r=frame.l2g_r.float(),
            prev_l2g_t=frame.l2g_t.float(),
            prev_time_s=frame.time_s.float(),
            next_id=next_id,
            past=past,
        )

    # Tracks ---------------------------------------------------------------------------------------------------------------

    def fresh_tracks(self, batch: int) -> Tracks:
        """The fresh queries of a frame as rows [B, num_query + 1, ...]: no id but for the ego query, no memory."""
        track = self.spec.track
        query = self.query_embedding.weight
        count = query.shape[0]
        rows = empty_tracks(batch, count, track.embed_dims, track.mem_len, query.device)
        row = torch.arange(count, device=query.device)
        is_ego = (row == track.num_query).to(torch.int32)
        return rows._replace(
            query=query.expand(batch, -1, -1),
            ref_pts=self.reference_points(query).expand(batch, -1, -1),
            obj_id=(FREE_ID + (EGO_ID - FREE_ID) * is_ego).expand(batch, -1),
        )

    def propagate(self, frame: Frame, state: State) -> Tracks:
        """The carried tracks of ``state`` where ``frame`` will find them; none at the start of a scene."""
        tracks = release(state.tracks, frame.scene_start[:, None].expand_as(state.tracks.obj_id))
        previous = (state.prev_l2g_r, state.prev_l2g_t, state.prev_time_s)
        return tracks._replace(ref_pts=self.move(tracks, previous, (frame.l2g_r, frame.l2g_t, frame.time_s)))

    def move(
        self, tracks: Tracks, previous: tuple[Tensor, Tensor, Tensor], current: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Reference points [B, R, 3] of ``tracks`` in the axes of the current frame. Poses are (l2g_r, l2g_t, time_s).

        x and y follow the velocity; z starts anew from the query, as for a fresh one. At test this happens before the next
        frame, with the query that the interaction has updated; training moves all rows right after a frame, with the query that
        the frame began with: pass those rows.
        """
        moved = move_reference_points(
            tracks.ref_pts, tracks.boxes[..., 8:10], previous[0], previous[1], current[0], current[1],
            current[2] - previous[2], self.spec.track.pc_range,
        )  # fmt: skip
        return torch.cat([moved[..., :2], self.reference_points(tracks.query)[..., 2:]], dim=-1)

    def rows(self, carried: Tracks, carried_valid: Tensor | None = None) -> Rows:
        """All queries of a frame: the fresh ones, then the carried slots (see ``track.stack_rows``)."""
        return stack_rows(self.fresh_tracks(carried.obj_id.shape[0]), carried, carried_valid)

    def detect(self, bev: Tensor, rows: Rows, all_layers: bool = True) -> DetOutput:
        """Detection decoder over all rows (see ``decoder.detect``). bev: [B, S, D]."""
        spec, head = self.spec, self.pts_bbox_head
        return detect(
            head.transformer.decoder, head, bev, (spec.bev.height, spec.bev.width), rows.tracks.query, rows.tracks.ref_pts,
            rows.valid, spec.decoder.pc_range, all_layers,
        )  # fmt: skip

    def associate(self, rows: Rows, det: DetOutput, next_id: Tensor) -> tuple[TrackOutput, Tracks, Selection, Tensor]:
        """Ids and report of a frame at inference. Returns the report, the rows as they are after the frame, which of them the
        next frame's slots take, and the next free id."""
        spec = self.spec.track
        score, label = det.cls[-1].sigmoid().max(dim=-1)
        obj_id, disappear_time, next_id = update_ids(
            rows.tracks.obj_id, rows.tracks.disappear_time, score, rows.valid, next_id, spec
        )
        selection = compact(obj_id >= 0, score, spec.capacity)
        report = TrackOutput(
            boxes=decode_boxes(det.boxes[-1]),
            cls_logits=det.cls[-1],
            score=score,
            label=label.to(torch.int32),
            obj_id=obj_id,
            valid=rows.valid,
            active=(obj_id >= 0) & (score >= spec.filter_score_thresh),
            embedding=det.query_feat[-1].float(),
            dropped=selection.dropped,
        )
        after = rows.tracks._replace(
            ref_pts=det.ref_pts, boxes=det.boxes[-1], obj_id=obj_id, disappear_time=disappear_time
        )
        return report, after, selection, next_id

    def carry_tracks(self, after: Tracks, selection: Selection, report: TrackOutput) -> Tracks:
        """The slots of the next frame: the rows that ``selection`` names, with memory and queries brought up to date."""
        embedding, score = (take_rows(x, selection.index) for x in (report.embedding, report.score))
        return self.interact(take_tracks(after, selection), embedding, score, selection.valid)

    def interact(self, tracks: Tracks, embedding: Tensor, score: Tensor, valid: Tensor) -> Tracks:
        """Memory bank, then query interaction: the queries that the carried tracks ask with in the next frame.

        tracks: [B, Q, ...] rows already in their slots; embedding [B, Q, D], score [B, Q] of this frame; valid [B, Q] bool.
        The memory bank saves every frame in training mode and every fourth at inference.
        """
        embedding, tracks = self.memory_bank(embedding, score, tracks)
        return tracks._replace(query=self.query_interact(tracks.query, embedding, valid))
