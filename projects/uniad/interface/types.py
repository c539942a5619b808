"""What flows between the parts of the system.

Axis letters: B batch, T time in a clip, N camera, L decoder or encoder layer, D feature, H W image, S BEV cell
(row-major, row 0 behind the car at y_min, column 0 on its left at x_min), Q carried track slot, R detection row
(the 901 fresh queries followed by the Q carried slots), G ground-truth object, M map element, A agent slot, K motion mode,
F future step, P past step, C class.

A set is a tensor of fixed capacity plus a validity mask, so every shape is static. Frames of reference: *lidar* is x right,
y forward, z up, in metres; *image* is pixels of the network's input; poses follow upstream's convention
``p_global = p_lidar @ l2g_r + l2g_t`` (the rotation is stored transposed).

A box is stored in one of two codes:
* ``box9`` (x, y, z of the bottom centre, w, l, h, yaw, vx, vy): metres, radians, metres per second, lidar frame;
* ``box10`` (cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy): what the network regresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # a car runs an engine without PyTorch
    import numpy as np
    from torch import Tensor

EGO_ID = -2  # of the ego query: never a track, never matched
FREE_ID = -1  # of an empty slot, and of a row that is not a track
# Of occupancy labels (Targets): a cell that does not count, and what an instance is called that happens to have that number
IGNORE, ID_OF_255 = 255, -20


class Frame(NamedTuple):
    """All that the car knows at one instant. Every tensor has a leading batch axis; in a clip, batch and time axes."""

    img: Tensor  # [B, N, 3, H, W] float32, normalised, padded to a multiple of 32
    lidar2img: Tensor  # [B, N, 4, 4] float32, lidar frame -> pixels of img (homogeneous)
    can_bus: Tensor  # [B, 18] float32: 0:3 global position (m), 3:7 quaternion, 7:10 acceleration, 10:13 angular rate,
    # 13:16 velocity, 16 heading (rad), 17 heading (degrees); absolute pose, the step forms the difference
    l2g_r: Tensor  # [B, 3, 3] float32, transposed rotation lidar -> global
    l2g_t: Tensor  # [B, 3] float32, metres
    time_s: Tensor  # [B] float32, seconds since the scene's first frame
    scene_start: Tensor  # [B] bool: drop tracks and previous BEV before this frame
    command: Tensor  # [B] int32: 0 right, 1 left, 2 straight


class FrameArrays(NamedTuple):
    """A ``Frame`` of arrays: a car makes its input without PyTorch."""

    img: Any  # an array; where a back end computes with PyTorch on a GPU, a tensor there
    lidar2img: np.ndarray
    can_bus: np.ndarray
    l2g_r: np.ndarray
    l2g_t: np.ndarray
    time_s: np.ndarray
    scene_start: np.ndarray
    command: np.ndarray


class Tracks(NamedTuple):
    """Carried track slots. A slot is empty when obj_id is -1."""

    query: Tensor  # [B, Q, 512] float32: position half, feature half
    ref_pts: Tensor  # [B, Q, 3] float32, inverse-sigmoid of the position normalised by pc_range
    boxes: Tensor  # [B, Q, 10] float32, box10 of the frame before
    obj_id: Tensor  # [B, Q] int32, -1 empty
    disappear_time: Tensor  # [B, Q] int32, frames below the filter threshold
    mem_bank: Tensor  # [B, Q, 4, 256] float32, oldest first
    mem_padding: Tensor  # [B, Q, 4] bool, True where the memory is empty
    save_period: Tensor  # [B, Q] float32, frames until the next memory is saved


class Past(NamedTuple):
    """BEVs and poses of the frames that come up as "the frame before" in later steps, the next one first."""

    bev: Tensor  # [B, N, S, 256] float32
    has_bev: Tensor  # [B, N] bool
    pos: Tensor  # [B, N, 3] float32
    angle: Tensor  # [B, N] float32, degrees


class State(NamedTuple):
    """Everything that one step hands to the next. Nothing else survives a call.

    Of a model whose cameras are faster than half a second, "the frame before" of BEV, position and angle is one of
    ``prev_frame_num`` frames ago, and ``past`` holds those in between. Tracks are always those of the last frame.
    """

    prev_bev: Tensor  # [B, S, 256] float32, BEV of the frame before, in that frame's axes
    has_prev_bev: Tensor  # [B] bool
    tracks: Tracks
    prev_pos: Tensor  # [B, 3] float32, can_bus[0:3] of the frame before
    prev_angle: Tensor  # [B] float32, can_bus[17] of the frame before, degrees
    prev_l2g_r: Tensor  # [B, 3, 3]
    prev_l2g_t: Tensor  # [B, 3]
    prev_time_s: Tensor  # [B]
    next_id: Tensor  # [B] int32, the next unused track id
    past: Past | None = None


class DetOutput(NamedTuple):
    """Detection decoder, per layer (Carion et al. 2020; UniAD section 3.1)."""

    cls: Tensor  # [L, B, R, C] logits
    boxes: Tensor  # [L, B, R, 10] box10, centre in metres
    past_traj: Tensor  # [L, B, R, P+F, 2] metres, offsets from the box centre, lidar axes
    ref_pts: Tensor  # [B, R, 3] inverse-sigmoid, after the last refinement
    query_feat: Tensor  # [L, B, R, 256]


class TrackOutput(NamedTuple):
    """One row per detection row, tracked or not; masks select. Score order is left to the caller."""

    boxes: Tensor  # [B, R, 9] box9
    cls_logits: Tensor  # [B, R, C]
    score: Tensor  # [B, R] largest class probability
    label: Tensor  # [B, R] int32
    obj_id: Tensor  # [B, R] int32; -1 none, -2 the ego query
    valid: Tensor  # [B, R] bool, False for an empty carried slot
    active: Tensor  # [B, R] bool, a track to be reported (id >= 0 and score >= the filter threshold)
    embedding: Tensor  # [B, R, 256] output embedding of the last decoder layer (before the memory bank)
    dropped: Tensor  # [B] int32, tracks lost because all slots were taken


class MapOutput(NamedTuple):
    """Panoptic map head after selection of the M best (UniAD section 3.1, Panoptic SegFormer)."""

    score: Tensor  # [B, M] float32
    label: Tensor  # [B, M] int32: 0 divider, 1 crossing, 2 contour
    box: Tensor  # [B, M, 4] normalised x0 y0 x1 y1 on the canvas
    mask: Tensor  # [B, M, h, w] mask value on the canvas, >= 0 (a ReLU, not bounded above); inside where > 0.5
    kept: Tensor  # [B, M] bool, survives the quality thresholds
    drivable: Tensor  # [B, h, w] float32 mask value, inside where > 0.5
    lanes: Tensor  # [B, 3, h, w] float32, merged binary masks, one per class
    query: Tensor  # [B, num_query, 256] features of all map queries, selected or not, for the motion head
    query_pos: Tensor  # [B, num_query, 256]
    settled: Tensor | None = None  # [B] bool, lanes are exactly the sequential merge; else see map_select.merge_masks


class Agents(NamedTuple):
    """The tracks that the stage-2 heads reason about, best score first; the last slot is always the ego car.

    At test these are the active tracks; in training those that matched an object well enough.
    """

    query: Tensor  # [B, A, D] track embedding of the last decoder layer
    boxes: Tensor  # [B, A, 9] box9, predicted; in training with gradient, as in upstream
    label: Tensor  # [B, A] int32 class
    score: Tensor  # [B, A] float32
    obj_id: Tensor  # [B, A] int32 track id; -2 the ego car, -1 an empty slot
    valid: Tensor  # [B, A] bool; always True for the ego car
    row: Tensor  # [B, A] int64, the detection row that each slot came from
    dropped: Tensor  # [B] int32, tracks left out because all slots were taken


class MotionOutput(NamedTuple):
    """Motion head (UniAD section 3.2). Trajectories are offsets from the agent's centre, lidar axes, 0.5 s steps."""

    traj: Tensor  # [L, B, A, K, F, 5] mu_x, mu_y, sig_x, sig_y, rho (sig as the loss uses it: an inverse deviation)
    score: Tensor  # [L, B, A, K] log probability of each mode
    traj_query: Tensor  # [L, B, A, K, D]
    query: Tensor  # [B, A, D] the agents' track queries as handed to the next heads
    query_pos: Tensor  # [B, A, D]


class OccOutput(NamedTuple):
    """Occupancy head (UniAD section 3.3) on its own grid of h x w cells; F' = now and n_future steps of 0.5 s."""

    logits: Tensor  # [B, A, F', h, w] per agent; meaningless where valid is False
    valid: Tensor  # [B, A] bool, agents that the head considers (vehicles; never the ego car)
    prob: Tensor  # [B, A, F', h, w] sigmoid times track score, zero where not valid
    seg: Tensor  # [B, F', h, w] int32, 1 where any agent's prob exceeds the threshold
    ids: Tensor  # [B, F', h, w] int32, 0 free, else 1 + slot of the agent that claims the cell


class PlanOutput(NamedTuple):
    """Planning head (UniAD section 3.4)."""

    traj: Tensor  # [B, 6, 2] x, y in metres, lidar frame of now, 0.5 s steps, before any collision optimisation


class Stage2Outputs(NamedTuple):
    """What the heads of stage 2 add to a step."""

    agents: Agents
    motion: MotionOutput
    occ: OccOutput
    plan: PlanOutput


class StepOutputs(NamedTuple):
    """All outputs of one step."""

    bev: Tensor  # [B, S, 256]
    track: TrackOutput
    map: MapOutput
    stage2: Stage2Outputs | None = None  # None: a model of stage 1


class Stage2Targets(NamedTuple):
    """Ground truth of a clip's last frame that stage 2 alone reads; G object slots."""

    fut_traj: Tensor  # [B, G, 12, 2] absolute lidar xy (or offsets; see data/labels)
    fut_traj_mask: Tensor  # [B, G, 12, 2]
    sdc_fut_traj: Tensor  # [B, 1, 12, 2]
    sdc_fut_traj_mask: Tensor  # [B, 1, 12, 2]
    segmentation: Tensor  # [B, 7, h, w] int64, 255 ignored
    instance: Tensor  # [B, 7, h, w] int64
    occ_img_is_valid: Tensor  # [B, 9] bool
    future_boxes: Tensor  # [B, 7, G, 9] box9, now + 6 future, in the current lidar frame
    future_boxes_valid: Tensor  # [B, 7, G] bool
    sdc_planning: Tensor  # [B, 1, 6, 3] x y yaw, lidar frame
    sdc_planning_mask: Tensor  # [B, 1, 6, 2]


class Targets(NamedTuple):
    """Ground truth of a clip; T frames, G object slots, M map slots."""

    boxes: Tensor  # [B, T, G, 9] box9 in the lidar frame of that frame
    labels: Tensor  # [B, T, G] int64
    ids: Tensor  # [B, T, G] int64, instance id from 1; -1 in padding
    valid: Tensor  # [B, T, G] bool
    past_traj: Tensor  # [B, T, G, 8, 2] float32: 4 past offsets (nearest first) then 4 future
    past_traj_mask: Tensor  # [B, T, G, 8, 2] float32
    sdc_box: Tensor  # [B, T, 9] box9 of the ego car
    sdc_label: Tensor  # [B, T] int64
    lane_labels: Tensor  # [B, M] int64, things of the last frame (0, 1, 2)
    lane_boxes: Tensor  # [B, M, 4] int64 pixels x0 y0 x1 y1 inclusive
    lane_masks: Tensor  # [B, M, h, w] uint8
    lane_valid: Tensor  # [B, M] bool
    drivable: Tensor  # [B, h, w] uint8
    stage2: Stage2Targets | None = None  # None: a clip of stage 1


class Clip(NamedTuple):
    """A training sample batch: T consecutive frames of a scene. Frame tensors carry [B, T, ...]."""

    frames: Frame
    targets: Targets
    meta: list  # B lists of T dicts: token, scene_token, timestamp, cam paths; never read by the model
