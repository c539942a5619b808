"""The pure step along a training clip: BEVs of all frames, then detection, matching and tracks frame by frame.

What differs from the step at inference, as published weights were trained:

* The BEV before is made in evaluation mode, without gradient and without grid mask; only the BEV of a frame itself learns.
  Upstream's code makes the whole history anew for every frame; it comes out the same each time, so here every frame is
  encoded once for the history and, all frames in one batch, once with gradient. Frame 0 has itself as the frame before.
* Ids come from matching, not from scores, and tracks that overlap their object poorly are not carried on.
* Reference points move to the next frame's axes with the queries from before the query interaction.

No value visits the host and every shape is static, for any batch size.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from uniad.config.spec import ModelSpec
from uniad.interface.types import Agents, Clip, DetOutput, Frame, MotionOutput, PlanOutput, Targets, Tracks
from uniad.losses.criterion import Criterion
from uniad.losses.matcher import Match, frame_targets
from uniad.losses.track import FrameTerms
from uniad.models.agents import select_training_agents
from uniad.models.bev_model import BevModel
from uniad.models.grid_mask import DRAWS, apply_grid_mask
from uniad.models.map import MapQueries
from uniad.models.occ import OccRaw
from uniad.models.track import Rows, empty_tracks, select_training_tracks, take_rows, take_tracks
from uniad.models.uniad import UniAD


@dataclass(frozen=True)
class ClipOptions:
    """Choices that trade fidelity for speed. The defaults are upstream's behaviour.

    history_features: ``exact`` gives the history its own image features, made in evaluation mode from unmasked images;
    ``shared`` lets it read those of the learning pass, at about half the cost of the backbone. Where both are equal anyhow
    (no grid mask, no norm with batch statistics) ``exact`` shares them too.
    frames_at_once: how many frames the image and BEV encoders take at once, None for all. Fewer save memory where layers
    are recomputed in the backward pass or frozen, and nothing else changes but norms with batch statistics.
    """

    history_features: Literal["exact", "shared"] = "exact"
    frames_at_once: int | None = None


class Draws(NamedTuple):
    """All that is random in a clip but dropout, uniform in [0, 1)."""

    masks: Tensor  # [B * T, 4] grid masks
    tracks: Tensor  # [T, 2, B, R] which tracks are dropped, and which admit a false positive


class TrackState(NamedTuple):
    """Track slots between two frames of a clip. False positives are carried without an id, so validity is apart."""

    tracks: Tracks
    valid: Tensor  # [B, Q] bool
    iou: Tensor  # [B, Q] overlap with the object when last measured


class Stage1Result(NamedTuple):
    """What stage 1 says of a clip's last frame: all that the heads of stage 2 read."""

    bev: Tensor  # [B, S, D]
    agents: Agents
    matched_gt: Tensor  # [B, A] int64, each agent's object; -1 none, and the ego car
    map_query: Tensor  # [B, M, D]
    map_query_pos: Tensor  # [B, M, D]
    command: Tensor  # [B] int32
    can_bus: Tensor  # [B, 18]
    images_ahead: Tensor | None = None  # see ``UniAD.images_ahead``


class Ahead(NamedTuple):
    """What stage 2 made of the last frame."""

    agents: Agents
    matched_gt: Tensor  # [B, A] int64, each agent's object; -1 none, and the ego car
    motion: MotionOutput
    occ: OccRaw
    plan: PlanOutput


class ClipOutput(NamedTuple):
    """What a clip leaves behind, for tests. Lists have an entry a frame."""

    bev: Tensor  # [B, T, S, D]
    history: Tensor  # [B, T, S, D] the BEV before that each frame was given, no gradient
    rows: list[Rows]
    det: list[DetOutput]
    match: list[Match]
    dropped: Tensor  # [B] int32, tracks lost because all slots were taken
    ahead: Ahead | None = None  # stage 2
    images_ahead: Tensor | None = None  # of the last frame, see ``UniAD.images_ahead``


def forward_clip(
    model: UniAD,
    clip: Clip,
    criterion: Criterion,
    rng: torch.Generator | None = None,
    options: ClipOptions | None = None,
) -> tuple[dict[str, Tensor], ClipOutput]:
    """Losses of a batch of clips, under upstream's names and weighted, and what the clip leaves behind.

    rng: source of grid masks, dropped tracks and false positives (dropout uses the global one); None for the global one.
    The total to minimise is the sum of the losses, see ``criterion.total_loss``.
    """
    targets = clip.targets
    # Drawn here, not below: a compiler leaves its graph once for it, and once more for every function in between.
    draws = draw(model.spec, *clip.frames.img.shape[:2], rng, clip.frames.img.device)
    terms, maps, out = forward_stage1(model, clip, criterion, draws, options)
    losses = criterion.track_losses(terms)
    match = criterion.match_map(maps, targets)
    losses |= criterion.map_losses(maps, match, model.seg_head.learnt_masks(maps, match.chosen.clamp(min=0)))
    if model.spec.stage2 is not None:
        ahead = run_stage2(model, stage1_result(model, out, maps, clip), targets)
        losses |= criterion.stage2_losses(*ahead, targets)
        out = out._replace(ahead=ahead)
    return losses, out


def forward_stage1(
    model: UniAD,
    clip: Clip,
    criterion: Criterion,
    draws: Draws,
    options: ClipOptions | None = None,
) -> tuple[list[FrameTerms], MapQueries, ClipOutput]:
    """Tracking along the clip and the map queries of its last frame. Sums for the losses of each frame, queries, and what is left
    behind."""
    frames, targets = clip.frames, clip.targets
    num_samples, num_frames = frames.img.shape[:2]
    bev, history, images = clip_bevs(model, frames, draws.masks, options or ClipOptions())
    carried = no_tracks(model, num_samples)
    out = ClipOutput(bev, history, [], [], [], torch.zeros(num_samples, dtype=torch.int32, device=bev.device))
    out = out._replace(images_ahead=images)
    terms = []
    for t in range(num_frames):
        rows = model.rows(carried.tracks, carried.valid)
        det = model.detect(bev[:, t], rows)
        fresh = rows.valid.shape[1] - carried.valid.shape[1]
        iou = nn.functional.pad(carried.iou, (fresh, 0))
        match, frame_terms = criterion.frame(det, rows.tracks.obj_id, iou, rows.valid, frame_targets(targets, t))
        terms.append(frame_terms)
        out.rows.append(rows)
        out.det.append(det)
        out.match.append(match)
        if t + 1 < num_frames:
            carried, dropped = select_carried(model, rows, det, match, frames, t, draws.tracks[t])
            out = out._replace(dropped=out.dropped + dropped)
    return terms, model.seg_head.queries(model.fine_bev(bev[:, -1])), out


def stage1_result(model: UniAD, out: ClipOutput, maps: MapQueries, clip: Clip) -> Stage1Result:
    """What stage 2 reads of ``forward_stage1``. Agents are the tracks that overlap their object, whatever their scores are."""
    spec, match, frames = model.spec, out.match[-1], clip.frames
    assert spec.stage2 is not None
    agents, matched = select_training_agents(
        out.det[-1], out.rows[-1].valid, match.obj_id, match.iou, match.gt_of_row[-1], spec.stage2.agent_capacity, spec.track
    )
    return Stage1Result(
        out.bev[:, -1], agents, matched, maps.query, maps.query_pos, frames.command[:, -1], frames.can_bus[:, -1],
        out.images_ahead,
    )  # fmt: skip


def run_stage2(model: UniAD, stage1: Stage1Result, targets: Targets) -> Ahead:
    """Stage 2 on the last frame."""
    bev, agents, matched, map_query, map_query_pos, command, can_bus, images = stage1
    bev = model.fine_bev(bev)
    motion = model.motion_head(bev, agents, map_query, map_query_pos)
    label = targets.labels[:, -1].gather(1, matched.clamp(min=0))
    bev_pos = model.bev_position()
    occ = model.occ_head.predict(bev, motion, agents, model.is_vehicle(label) & (matched >= 0), bev_pos)
    plan = model.planning_head(bev, bev_pos, motion, command, can_bus, images)
    return Ahead(agents, matched, motion, occ, plan)


@torch.compiler.disable  # a compiled graph cannot hold a generator; one call leaves it a single break
def draw(
    spec: ModelSpec, num_samples: int, num_frames: int, rng: torch.Generator | None, device: torch.device
) -> Draws:
    """The random numbers of one batch of clips."""
    num_rows = spec.track.num_query + 1 + spec.track.capacity
    return Draws(
        masks=torch.rand(num_samples * num_frames, DRAWS, generator=rng, device=device),
        tracks=torch.rand(num_frames, 2, num_samples, num_rows, generator=rng, device=device),
    )


# BEVs -----------------------------------------------------------------------------------------------------------------


def clip_bevs(
    model: UniAD, frames: Frame, mask_draws: Tensor, options: ClipOptions
) -> tuple[Tensor, Tensor, Tensor | None]:
    """BEV of every frame with gradient, and the BEV before that each was given: [B, T, S, D] both; and ``UniAD.images_ahead`` of
    the last frame."""
    num_samples, num_frames = frames.img.shape[:2]
    deltas = pose_deltas(frames.can_bus, frames.scene_start)
    flat = Frame(*(x.flatten(0, 1) for x in frames))
    masked = model.spec.use_grid_mask and model.training
    spans = chunks(num_samples * num_frames, options.frames_at_once)
    feats = features(model, apply_grid_mask(flat.img, mask_draws) if masked else flat.img, spans)
    alike = not masked and not learns_statistics(model.img_backbone) and not learns_statistics(model.img_neck)
    share = alike or options.history_features == "shared"

    with torch.no_grad(), evaluation_mode(model):
        steps = range(max(1, num_frames - 1))  # nobody reads the last frame's history
        if share:
            past_feats = [f.detach().unflatten(0, (num_samples, num_frames)) for f in feats]
        else:
            past = frames.img[:, : len(steps)]
            spans_past = chunks(num_samples * len(steps), options.frames_at_once)
            past_feats = [f.unflatten(0, past.shape[:2]) for f in features(model, past.flatten(0, 1), spans_past)]
        has_prev = torch.zeros_like(frames.scene_start[:, 0])
        prev = model.init_state(num_samples, flat.img.device, past_feats[0].dtype).prev_bev
        bevs = []
        for t in steps:
            frame = Frame(*(x[:, t] for x in frames))
            prev = model.encode_bev([f[:, t] for f in past_feats], frame, deltas[:, t], prev, has_prev)
            has_prev = torch.ones_like(has_prev)
            bevs.append(prev)
        history = torch.stack([bevs[max(0, t - 1)] for t in range(num_frames)], dim=1)
    # Weights that autocast turned to half precision above carry no gradient, and older PyTorch hands them to the pass below
    # (pytorch issue 158232; 2.13 does not).
    torch.clear_autocast_cache()

    every, prev, deltas = torch.ones_like(flat.scene_start), history.flatten(0, 1), deltas.flatten(0, 1)
    bev = torch.cat(
        [
            model.encode_bev([f[s] for f in feats], Frame(*(x[s] for x in flat)), deltas[s], prev[s], every[s])
            for s in spans
        ]
    )
    last = [f.unflatten(0, (num_samples, num_frames))[:, -1] for f in feats[:1]]
    return bev.unflatten(0, (num_samples, num_frames)), history, model.images_ahead(last)


def chunks(count: int, at_once: int | None) -> list[slice]:
    """Slices of at most ``at_once`` that cover ``count``."""
    size = at_once or count
    return [slice(first, first + size) for first in range(0, count, size)]


def features(model: BevModel, img: Tensor, spans: list[slice]) -> list[Tensor]:
    """Image features of all frames, ``model.extract_features`` a few frames at a time."""
    parts = [model.extract_features(img[s]) for s in spans]
    return [torch.cat(level) for level in zip(*parts)]


def pose_deltas(can_bus: Tensor, scene_start: Tensor | None = None) -> Tensor:
    """can_bus [B, T, 18] with absolute poses -> position and heading relative to the frame before; zero for frame 0, and where
    another scene begins, scene_start [B, T] bool."""
    before = torch.cat([can_bus[:, :1], can_bus[:, :-1]], dim=1)
    if scene_start is not None:
        before = torch.where(scene_start[..., None], can_bus, before)
    return torch.cat([can_bus[..., :3] - before[..., :3], can_bus[..., 3:17], can_bus[..., 17:] - before[..., 17:]], -1)


def learns_statistics(module: nn.Module) -> bool:
    """Whether any norm would use the statistics of this batch."""
    return any(isinstance(m, _BatchNorm) and m.training for m in module.modules())


@contextmanager
def evaluation_mode(model: BevModel) -> Generator[None, None, None]:
    """Image and BEV encoders in evaluation mode; afterwards every module is in the mode that it was in."""
    parts = [model.img_backbone, model.img_neck, model.pts_bbox_head]
    modes = {module: module.training for part in parts for module in part.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


# Tracks ---------------------------------------------------------------------------------------------------------------


def no_tracks(model: UniAD, num_samples: int) -> TrackState:
    """All slots empty, before the first frame."""
    track, device = model.spec.track, model.query_embedding.weight.device
    slots = empty_tracks(num_samples, track.capacity, track.embed_dims, track.mem_len, device)
    valid = torch.zeros(num_samples, track.capacity, dtype=torch.bool, device=device)
    return TrackState(slots, valid, torch.zeros(num_samples, track.capacity, device=device))


def select_carried(
    model: UniAD, rows: Rows, det: DetOutput, match: Match, frames: Frame, t: int, draws: Tensor
) -> tuple[TrackState, Tensor]:
    """The slots that frame t + 1 starts with, and how many tracks found none [B].

    draws: [2, B, R] uniform in [0, 1): which tracks are dropped, and which admit a false positive.
    """
    score = det.cls[-1].detach().sigmoid().amax(-1)
    selection = select_training_tracks(match.obj_id, match.iou, score, rows.valid, draws[0], draws[1], model.spec.track)
    after = rows.tracks._replace(ref_pts=det.ref_pts, boxes=det.boxes[-1], obj_id=match.obj_id)
    tracks = take_tracks(after, selection)
    pose, next_pose = ((frames.l2g_r[:, i], frames.l2g_t[:, i], frames.time_s[:, i]) for i in (t, t + 1))
    tracks = tracks._replace(ref_pts=model.move(tracks, pose, next_pose))
    embedding, score = take_rows(det.query_feat[-1].float(), selection.index), take_rows(score, selection.index)
    tracks = model.interact(tracks, embedding, score, selection.valid)
    return TrackState(tracks, selection.valid, take_rows(match.iou, selection.index)), selection.dropped
