"""Track slots: what lives from one frame to the next, as tensor code over fixed capacities.

A frame's detection rows R are the fresh queries (the last of them is the ego car) followed by the Q carried slots. After the
detection decoder has run, the tracker hands out ids, and the rows that live on are gathered into the Q slots of the next frame.
Rows that a slot does not fill are masked, never removed, so every shape is static and no scalar leaves the device.

The learned parts (memory bank, query interaction) are in ``track_modules``; reading results on the host is in ``results``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from uniad.config.spec import Range6, TrackSpec
from uniad.interface.types import FREE_ID, Tracks
from uniad.models.layers import inverse_sigmoid
from uniad.models.precision import full_precision

TRAINING_IOU = 0.5  # a track must overlap its object this much to be carried on in training


class Rows(NamedTuple):
    """All queries of one frame: fresh ones, then the carried slots."""

    tracks: Tracks  # with R rows in place of Q slots
    valid: Tensor  # [B, R] bool, False for an empty carried slot


class Selection(NamedTuple):
    """Which rows go into which slot of the next frame."""

    index: Tensor  # [B, Q] int32, row of each slot (some row where the slot stays empty)
    valid: Tensor  # [B, Q] bool
    dropped: Tensor  # [B] int32, selected rows that found no slot


def empty_tracks(batch: int, slots: int, dim: int, mem_len: int, device: torch.device | str | None = None) -> Tracks:
    """Tracks with every slot free and every memory empty. ``dim`` is the width of one half of a query."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(batch, slots, *shape, dtype=dtype, device=device)

    return Tracks(
        query=zeros(2 * dim),
        ref_pts=zeros(3),
        boxes=zeros(10),
        obj_id=zeros(dtype=torch.int32) + FREE_ID,
        disappear_time=zeros(dtype=torch.int32),
        mem_bank=zeros(mem_len, dim),
        mem_padding=~zeros(mem_len, dtype=torch.bool),
        save_period=zeros(),
    )


def stack_rows(fresh: Tracks, carried: Tracks, carried_valid: Tensor | None = None) -> Rows:
    """Fresh queries followed by carried slots.

    carried_valid: [B, Q] bool; None means "the slots that have an id". Training passes its own, because it also carries false
    positives, which have none.
    """
    if carried_valid is None:
        carried_valid = carried.obj_id >= 0
    valid = torch.cat([torch.ones_like(fresh.obj_id, dtype=torch.bool), carried_valid], dim=1)
    return Rows(Tracks(*(torch.cat(pair, dim=1) for pair in zip(fresh, carried))), valid)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """x: [B, R, ...], index: [B, Q] int32 -> [B, Q, ...]. One flat gather; exports as a plain Gather."""
    batch, rows = x.shape[:2]
    first = torch.arange(0, batch * rows, rows, dtype=torch.int32, device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)


def take_tracks(tracks: Tracks, selection: Selection) -> Tracks:
    """The carried rows of ``tracks`` in their new slots; slots that stay empty get no id and no memory."""
    taken = Tracks(*(take_rows(field, selection.index) for field in tracks))
    return release(taken, ~selection.valid)


def release(tracks: Tracks, freed: Tensor) -> Tracks:
    """Empty the slots where ``freed`` [B, Q] is True. What numbers they still hold is masked everywhere."""
    return tracks._replace(
        obj_id=tracks.obj_id.masked_fill(freed, FREE_ID),
        disappear_time=tracks.disappear_time.masked_fill(freed, 0),
        mem_padding=tracks.mem_padding | freed[..., None],
        save_period=tracks.save_period.masked_fill(freed, 0.0),
    )


# Runtime tracker ------------------------------------------------------------------------------------------------------


def update_ids(
    obj_id: Tensor, disappear_time: Tensor, score: Tensor, valid: Tensor, next_id: Tensor, spec: TrackSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Birth, sleep and death of tracks (upstream's RuntimeTrackerBase, all rows at once).

    obj_id, disappear_time: [B, R] int32; score: [B, R]; valid: [B, R] bool; next_id: [B] int32.
    Returns the three updated. A free row at or above ``score_thresh`` is born, with ids in row order. A track below
    ``filter_score_thresh`` sleeps one frame more, and dies at ``miss_tolerance``; only a score at or above ``score_thresh``
    forgives its sleep, one between the thresholds does not.
    """
    confident = score >= spec.score_thresh
    disappear_time = disappear_time.masked_fill(confident, 0)
    asleep = (obj_id >= 0) & (score < spec.filter_score_thresh)
    disappear_time = disappear_time + asleep.to(torch.int32)
    dead = asleep & (disappear_time >= spec.miss_tolerance)
    born = valid & (obj_id == FREE_ID) & confident
    order = count_before(born)
    obj_id = torch.where(born, next_id[:, None] + order, obj_id).masked_fill(dead, FREE_ID)
    return obj_id, disappear_time, next_id + born.sum(dim=1, dtype=torch.int32)


def count_before(mask: Tensor) -> Tensor:
    """mask: [B, R] bool -> [B, R] int32, how many True stand before each row.

    A masked sum over pairs in place of a cumulative sum, which inference engines run as a loop over the rows. Sums in fp32 are
    exact to 2^24.
    """
    rows = torch.arange(mask.shape[1], device=mask.device)
    earlier = (rows[None, :] < rows[:, None]).to(torch.float32)
    return (mask[:, None, :].to(torch.float32) * earlier).sum(dim=-1).to(torch.int32)


# Which rows live on ---------------------------------------------------------------------------------------------------


def compact(selected: Tensor, priority: Tensor, capacity: int) -> Selection:
    """Put the selected rows into ``capacity`` slots, in row order.

    selected: [B, R] bool; priority: [B, R] float >= 0. If more rows are selected than there are slots, those of highest priority
    stay, and the rest is counted in ``dropped``.
    """
    rows = selected.shape[1]
    slots = min(capacity, rows)
    best = priority.detach().masked_fill(~selected, -1.0).topk(slots, dim=1)
    # Row numbers as floats: TopK takes no int32 in every runtime, and they are exact.
    row = best.indices.to(torch.float32).masked_fill(best.values < 0, float(rows))
    row = -((-row).topk(slots, dim=1).values)
    valid = row < rows
    index = row.clamp(max=rows - 1).to(torch.int32)
    if slots < capacity:  # fewer rows than slots: only in toy sizes
        index = torch.nn.functional.pad(index, (0, capacity - slots))
        valid = torch.nn.functional.pad(valid, (0, capacity - slots))
    dropped = selected.sum(dim=1, dtype=torch.int32) - valid.sum(dim=1, dtype=torch.int32)
    return Selection(index, valid, dropped)


def select_training_tracks(
    obj_id: Tensor, iou: Tensor, score: Tensor, valid: Tensor, drop_rand: Tensor, fp_rand: Tensor, spec: TrackSpec
) -> Selection:
    """Which rows a training clip carries to its next frame (MOTR, Zeng et al. 2022, section 3.4).

    obj_id: [B, R] int32; iou: [B, R] overlap with the matched object; score: [B, R]; valid: [B, R] bool; drop_rand, fp_rand:
    [B, R] uniform in [0, 1), passed in so that a run can be repeated and a test can choose.
    Tracks that overlap their object (see ``matcher.overlaps``) are kept, each dropped with probability ``random_drop``. Every
    kept track admits, with probability ``fp_ratio``, one false positive: those are the best-scored rows without an id (the
    upstream code counts the ego query among them), and they keep obj_id < 0, so the slot's validity is ``Selection.valid``.
    Slots are in row order; upstream's code appends the false positives instead, which no result depends on.
    """
    kept = valid & (obj_id >= 0) & (iou > TRAINING_IOU)
    if spec.random_drop > 0:
        kept = kept & (drop_rand > spec.random_drop)
    selected = kept
    if spec.fp_ratio > 0:
        wanted = (kept & (fp_rand < spec.fp_ratio)).sum(dim=1, keepdim=True)
        idle = valid & (obj_id < 0)
        best = score.detach().masked_fill(~idle, -1.0).topk(min(spec.capacity, score.shape[1]), dim=1)
        admitted = (torch.arange(best.indices.shape[1], device=score.device) < wanted) & (best.values >= 0)
        selected = kept | torch.zeros_like(kept).scatter(1, best.indices, admitted)
    # Should the slots run out, true tracks go first.
    return compact(selected, score + 2.0 * kept.to(score.dtype), spec.capacity)


# Motion of reference points between frames ----------------------------------------------------------------------------


def to_metres(unit: Tensor, pc_range: Range6) -> Tensor:
    """Positions [..., 3] as fractions of ``pc_range`` -> metres in the lidar frame."""
    axes = zip(unit.unbind(-1), pc_range[:3], pc_range[3:])
    return torch.stack([u * (high - low) + low for u, low, high in axes], dim=-1)


def to_unit(metres: Tensor, pc_range: Range6) -> Tensor:
    """Positions [..., 3] in metres in the lidar frame -> fractions of ``pc_range``."""
    axes = zip(metres.unbind(-1), pc_range[:3], pc_range[3:])
    return torch.stack([(m - low) / (high - low) for m, low, high in axes], dim=-1)


def move_reference_points(
    ref_pts: Tensor,
    velocity: Tensor,
    prev_l2g_r: Tensor,
    prev_l2g_t: Tensor,
    l2g_r: Tensor,
    l2g_t: Tensor,
    dt_s: Tensor,
    pc_range: Range6,
) -> Tensor:
    """Reference points of one frame where their objects, at constant velocity, are in the next frame's lidar axes.

    ref_pts: [B, R, 3] inverse sigmoid; velocity: [B, R, 2] m/s in the previous lidar frame; prev_l2g_r, l2g_r: [B, 3, 3] and
    prev_l2g_t, l2g_t: [B, 3] poses of both frames (p_global = p_lidar @ r + t); dt_s: [B]. Returns [B, R, 3] inverse sigmoid;
    a point that leaves ``pc_range`` stays at its border.
    """
    with full_precision(ref_pts):
        point = to_metres(ref_pts.float().sigmoid(), pc_range)
        step = velocity.float() * dt_s[:, None, None]
        point = point + torch.nn.functional.pad(step, (0, 1))
        # The difference of the translations first: both are kilometres, and fp32 has 7 digits.
        point = point @ prev_l2g_r.float() + (prev_l2g_t - l2g_t).float()[:, None, :]
        point = point @ invert_3x3(l2g_r.float())
        return inverse_sigmoid(to_unit(point, pc_range))


def invert_3x3(m: Tensor) -> Tensor:
    """[B, 3, 3] -> [B, 3, 3] by cofactors: graphs have no inverse operator, and a stored rotation is one only to rounding."""
    a, b, c = m.unbind(dim=-2)
    bc = _cross(b, c)
    det = (a * bc).sum(dim=-1)[..., None, None]
    return torch.stack([bc, _cross(c, a), _cross(a, b)], dim=-1) / det


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a.roll(-1, -1) * b.roll(-2, -1) - a.roll(-2, -1) * b.roll(-1, -1)

