"""Typed specs: what every part of the native model, data and training needs to know, and nothing else.

A module takes its own spec, never the whole. ``config.read`` makes specs of a config file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing import TypeAlias

Range6: TypeAlias = "tuple[float, float, float, float, float, float]"  # in quotes for Python 3.8, which prepares upstream's data
CompatChoice = Literal["documented", "fixed", "uniad-v2", "bench2drive"]
UPSTREAM: CompatChoice = "documented"  # as checkpoints and cards spell it; a config may say "upstream", too
UNIAD_V2: CompatChoice = "uniad-v2"
BENCH2DRIVE: CompatChoice = "bench2drive"
MOST_FRAMES_BACK = 20  # that a model may look: one second of the fastest camera; each is a BEV in its state


def _also(*generations: CompatChoice) -> CompatChoice:
    """A key of ``CompatSpec`` for which these generations have a way of their own, neither v1's nor the corrected one."""
    return field(default=UPSTREAM, metadata={"also": generations})


@dataclass(frozen=True)
class CompatSpec:
    """Known faults of upstream, one by one: ``UPSTREAM`` (UniAD v1, what its published weights saw), ``fixed``, or another
    generation's way. ``config.presets`` has the sets that published weights need."""

    can_bus_quaternion: CompatChoice = UPSTREAM  # first component written four times
    timestamps: CompatChoice = UPSTREAM  # float32 epoch seconds in training: 128 s apart
    first_frame_pose: CompatChoice = UPSTREAM  # scene start keeps the delta to the pose before
    rotate_center: CompatChoice = UPSTREAM  # (100, 100) for every BEV size
    occ_grid: CompatChoice = UPSTREAM  # tiny: +-12.5 m labels on a +-51.2 m BEV
    planning_metric: CompatChoice = UPSTREAM  # masked frames count as zero error
    collision_loss: CompatChoice = _also("uniad-v2")  # teaches the trajectory nothing; v2: its ego box lies across, too
    collision_pixels: CompatChoice = UPSTREAM  # truncated to whole metres, always 0.5 m a cell
    motion_metric: CompatChoice = UPSTREAM  # EPA 0 where nothing matched, see docs/configs.md
    # Future half of past_traj: positions instead of offsets when use_nonlinear_optimizer; its loss has weight 0
    past_traj_future: CompatChoice = UPSTREAM
    # Motion anchors turn by pi/2 - heading, not heading - pi/2; v2: by the heading, its anchors face +x
    anchor_rotation: CompatChoice = _also("uniad-v2")
    shift_now: CompatChoice = UPSTREAM  # temporal attention moves the current BEV along with the previous one
    # Only a frame with a new object measures how tracks overlap their objects; other frames keep older overlaps
    stale_overlap: CompatChoice = UPSTREAM
    # For what follows "fixed" is as in v1 (presets.CONVENTIONS)
    bev_shift: CompatChoice = _also("uniad-v2")  # v2: the car's motion is turned by l2g_r's transpose, the wrong way round
    box_code: CompatChoice = _also("uniad-v2")  # v2: the network says log l, log w and the heading's sine and cosine
    smoother_start: CompatChoice = _also("uniad-v2")  # v2: smoothing starts from a heading within +-pi; v1: from -3/2 pi to pi/2
    can_bus_order: CompatChoice = _also("bench2drive")  # velocity, acceleration, rates; v1: acceleration, rates, velocity
    # Bench2Drive hands its poses to a formula for their transposes: tracks are moved between frames by the wrong turn
    track_pose: CompatChoice = _also("bench2drive")
    occ_steps: CompatChoice = _also("bench2drive")  # labels are of the next frames at 10 Hz, the plan's steps half a second apart
    # Clips drop a frame at random, and reach back beyond the start of their route
    clip_frames: CompatChoice = _also("bench2drive")
    box_sizes: CompatChoice = _also("uniad-v2")  # v2: its evaluation hands length and width to nuScenes as width and length


@dataclass(frozen=True)
class Vocabulary:
    """What the numbers of a data set mean: commands, map elements, and which classes are vehicles."""

    dataset: str  # also what messages call a model or a file of it
    commands: tuple[str, ...]  # by number, as published weights learnt them
    map_things: tuple[str, ...]  # instances; label 0 comes first
    map_stuff: tuple[str, ...]  # areas, of which every frame has one; at most one
    vehicles: tuple[str, ...]  # classes that occupancy is about
    straight: int  # the command of a car that has nothing else to do
    cameras: tuple[str, ...]  # in the order of the model's images


NUSCENES_WORDS = Vocabulary(
    dataset="nuScenes",
    commands=("right", "left", "straight"),
    map_things=("divider", "crossing", "contour"),
    map_stuff=("drivable",),
    vehicles=("car", "bus", "construction_vehicle", "bicycle", "motorcycle", "truck", "trailer"),
    straight=2,
    cameras=("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"),
)
BENCH2DRIVE_WORDS = Vocabulary(
    dataset="Bench2Drive",
    # CARLA's RoadOption less one
    commands=("left", "right", "straight", "lane follow", "change lane left", "change lane right"),
    map_things=("broken line", "solid line", "double solid line", "lane centre", "traffic light", "stop sign"),
    map_stuff=(),
    vehicles=("car", "van", "truck", "bicycle"),
    straight=3,
    cameras=("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"),
)


@dataclass(frozen=True)
class BackboneSpec:
    depth: Literal[18, 50, 101]
    style: Literal["pytorch", "caffe"]
    out_indices: tuple[int, ...]
    frozen_stages: int
    norm_eval: bool
    norm_requires_grad: bool
    stage_with_dcn: tuple[bool, bool, bool, bool] = (False, False, False, False)
    dcn_groups: int = 1
    num_stages: int = 4
    base_channels: int = 64  # of the first stage; each later one has twice as many


@dataclass(frozen=True)
class NeckSpec:
    in_channels: tuple[int, ...]
    out_channels: int
    num_outs: int
    start_level: int = 0
    add_extra_convs: Literal["on_output"] | None = "on_output"
    relu_before_extra_convs: bool = True


@dataclass(frozen=True)
class BevSpec:
    """BEVFormer encoder (Li et al. 2022)."""

    height: int
    width: int
    pc_range: Range6
    embed_dims: int
    num_layers: int
    num_levels: int  # image feature levels
    ffn_dims: int
    num_heads: int = 8
    num_cams: int = 6
    points_in_pillar: int = 4
    sca_points: int = 8  # per head and level, spatial cross-attention
    tsa_points: int = 4
    dropout: float = 0.1
    ffn_dropout: float = 0.1
    rotate_prev_bev: bool = True
    use_shift: bool = True
    use_can_bus: bool = True
    rotate_center: tuple[float, float] = (100, 100)  # x, y in BEV cells; upstream's for every size
    shift_now: bool = True  # the current BEV, too, is read at the place where the previous one showed a cell
    shift_rule: CompatChoice = UPSTREAM  # compat.bev_shift
    sca_capacity: float = 0.3  # share of the cells that one camera may see; nuScenes needs 0.24 (check_rig); native.sca_capacity


@dataclass(frozen=True)
class DecoderSpec:
    """Detection decoder."""

    num_layers: int
    embed_dims: int
    num_classes: int
    ffn_dims: int
    pc_range: Range6
    num_heads: int = 8
    num_points: int = 4
    dropout: float = 0.1
    cross_dropout: float = 0.1  # of the attention to the BEV
    ffn_dropout: float = 0.1
    past_steps: int = 4
    fut_steps: int = 4
    box_code: CompatChoice = UPSTREAM


@dataclass(frozen=True)
class TrackSpec:
    num_query: int  # without the ego query
    num_classes: int
    embed_dims: int
    pc_range: Range6
    post_center_range: Range6
    capacity: int  # carried track slots
    score_thresh: float
    filter_score_thresh: float
    gt_iou_threshold: float
    miss_tolerance: int = 5
    max_num: int = 300
    # query interaction (MOTR, Zeng et al. 2022)
    update_query_pos: bool = True
    merger_dropout: float = 0.0
    fp_ratio: float = 0.3
    random_drop: float = 0.1
    # memory bank
    mem_len: int = 4
    mem_score_thresh: float = 0.0


@dataclass(frozen=True)
class MapSpec:
    """Panoptic SegFormer on the BEV (Li et al. 2022)."""

    embed_dims: int
    bev_hw: tuple[int, int]
    canvas_hw: tuple[int, int]
    pc_range: Range6
    num_query: int
    num_things: int
    num_stuff: int
    encoder_layers: int
    decoder_layers: int
    ffn_dims: int
    attn_levels: int  # levels that the attention modules were built for; 4 in full although one is fed
    things_mask_layers: int
    stuff_mask_layers: int
    num_heads: int = 8
    num_points: int = 4
    dropout: float = 0.1  # of the queries' attention to each other
    cross_dropout: float = 0.1  # of the attention to the BEV
    ffn_dropout: float = 0.1
    top_k: int = 100
    quality_threshold_things: float = 0.1  # upstream's code ignores its argument
    overlap_threshold_things: float = 0.4
    merge_rounds: int = 8  # of the lane merge; more rounds settle longer chains of overlapping elements


@dataclass(frozen=True)
class MotionSpec:
    """Motion forecasting (UniAD section 3.2)."""

    embed_dims: int
    bev_hw: tuple[int, int]
    pc_range: Range6
    num_layers: int
    num_classes: int
    predict_steps: int
    predict_modes: int
    group_ids: tuple[tuple[int, ...], ...]  # classes that share anchors
    vehicle_ids: tuple[int, ...]
    anchor_path: str
    use_nonlinear_optimizer: bool
    ffn_dims: int
    det_layers: int  # detection decoder layers whose features are fused
    num_cls_fcs: int = 3
    ffn_dropout: float = 0.1
    num_heads: int = 8
    num_points: int = 4
    use_variance: bool = True
    weight_cls: float = 0.5
    weight_nll: float = 0.5
    weight_minade: float = 0.0
    weight_minfde: float = 0.25
    anchor_rotation: CompatChoice = UPSTREAM
    smoother_start: CompatChoice = UPSTREAM


@dataclass(frozen=True)
class OccSpec:
    """Occupancy forecasting (UniAD section 3.3)."""

    bev_hw: tuple[int, int]
    bev_dims: int
    proj_dims: int
    proj_layers: int
    slice_bev: bool  # cut the occupancy grid out of the BEV
    xbound: tuple[float, float, float]  # metres: from, to, step
    ybound: tuple[float, float, float]
    num_layers: int
    embed_dims: int
    ffn_dims: int
    query_dims: int
    query_mlp_layers: int
    num_heads: int = 8
    n_future: int = 4
    receptive_field: int = 3
    attn_mask_thresh: float = 0.3
    ignore_index: int = 255
    weight_aux: float = 1.0
    weight_mask: float = 5.0
    top_k_ratio: float = 0.25
    future_discount: float = 0.95
    weight_dice: float = 1.0
    dice_eps: float = 1.0
    test_seg_thresh: float = 0.1
    test_with_track_score: bool = True
    cell_features: bool = False  # masks also read each cell's own BEV feature and position, not only the shrunken state
    draw_boxes: bool = False  # masks begin from the agents' boxes, moved by their velocities
    # Centres of the BEV's first and last column (x) and row (y), metres, for cutting; upstream's for every BEV size
    bev_centres: tuple[float, float, float, float] = (-50.944, 50.944, -50.944, 50.944)


@dataclass(frozen=True)
class PlanSpec:
    """Planning (UniAD section 3.4)."""

    embed_dims: int
    bev_hw: tuple[int, int]
    steps: int
    use_col_optim: bool
    with_adapter: bool
    collision: tuple[tuple[float, float], ...]  # (delta in metres, weight)
    num_commands: int = 3
    ego_status: bool = False  # the ego query knows the car's velocity, acceleration and yaw rate
    status_dropout: float = 0.0  # the share of clips in whose training the ego status is not known
    motion_prior: bool = False  # the path is what these give, and what the head corrects of it
    bev_patch: bool = False  # the ego query also knows what lies ahead, cell by cell, before it attends to the BEV
    image_patch: tuple[int, int] | None = None  # and the features of the images ahead; rows, columns of the finest level
    across_weight: float | None = None  # of a plan's error across the way beside that along it; None: their root of squares
    col_filter_range: float = 5.0  # metres
    col_sigma: float = 1.0
    col_alpha: float = 5.0
    col_solver: str = "newton"  # or "ipopt": upstream's own, whose optimum the other one finds
    # What the optimiser may do to a plan: move each of its points by itself, as upstream's, or slow it down on its own way
    col_moves: Literal["points", "speed"] = "points"
    num_layers: int = 3
    num_heads: int = 8
    ffn_dims: int = 0  # 0: twice embed_dims
    dropout: float = 0.1


@dataclass(frozen=True)
class Stage2Spec:
    """The heads of stage 2, and how many tracks they are for."""

    motion: MotionSpec
    occ: OccSpec
    plan: PlanSpec
    agent_capacity: int  # tracks whose future is predicted, the ego car apart; the best where there are more


@dataclass(frozen=True)
class TrackLossSpec:
    num_classes: int
    code_weights: tuple[float, ...]
    pc_range: Range6
    cost_cls: float = 2.0
    cost_box: float = 0.25
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    weight_cls: float = 2.0
    weight_box: float = 0.25
    weight_past_traj: float = 0.0
    # How training measures whether a row holds its object: IoU from above, or 1 at its centre falling to 0 at 4 m
    overlap: Literal["iou", "distance"] = "iou"
    stale_overlap: CompatChoice = UPSTREAM


@dataclass(frozen=True)
class MapLossSpec:
    num_things: int
    num_stuff: int
    cost_cls: float = 2.0
    cost_box: float = 5.0
    cost_iou: float = 2.0
    cost_mask: float = 2.0
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    weight_cls: float = 2.0
    weight_box: float = 5.0
    weight_iou: float = 2.0
    weight_mask: float = 2.0


@dataclass(frozen=True)
class FreezeSpec:
    img_backbone: bool
    img_neck: bool
    bn: bool
    bev_encoder: bool = False
    stage1: bool = False  # all that stage 1 trained: only the heads of stage 2 learn


@dataclass(frozen=True)
class ModelSpec:
    backbone: BackboneSpec
    neck: NeckSpec
    bev: BevSpec
    decoder: DecoderSpec
    track: TrackSpec
    map: MapSpec
    track_loss: TrackLossSpec
    map_loss: MapLossSpec
    freeze: FreezeSpec
    use_grid_mask: bool
    queue_length: int
    compat: CompatSpec = field(default_factory=CompatSpec)
    bev_upsample: int = 1  # the heads after tracking see the BEV this many times finer; upstream does so for 100x100 cells
    # The previous BEV and pose are those of so many frames ago, for cameras faster than 2 Hz; 0: of the frame before
    prev_frame_num: int = 0  # at most MOST_FRAMES_BACK
    stage2: Stage2Spec | None = None  # None: the model of stage 1, which tracks and maps


@dataclass(frozen=True)
class ImageSpec:
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    to_rgb: bool
    scale: float  # of the 1600x900 original
    photometric: bool
    height: int  # of the padded network input
    width: int


@dataclass(frozen=True)
class DataSpec:
    data_root: str
    ann_file_train: str
    ann_file_val: str
    class_names: tuple[str, ...]
    image: ImageSpec
    pc_range: Range6
    patch_size: tuple[float, float]
    canvas_hw: tuple[int, int]
    bev_hw: tuple[int, int]
    queue_length: int
    samples_per_gpu: int
    workers_per_gpu: int
    use_valid_flag: bool
    predict_steps: int
    past_steps: int
    fut_steps: int
    planning_steps: int
    use_nonlinear_optimizer: bool
    occ_receptive_field: int
    occ_n_future: int
    occ_xbound: tuple[float, float, float]
    occ_ybound: tuple[float, float, float]
    eval_mod: tuple[str, ...]
    vocabulary: Vocabulary = NUSCENES_WORDS
    sample_interval: int = 1  # frames of the file from one step of a trajectory to the next: 0.5 s
    every: int = 1  # of a file's frames each N-th of a route is read
    map_file: str = ""  # of all towns; nuScenes keeps its maps in data_root
    name_mapping: tuple[tuple[str, str], ...] = ()  # what a file calls an object -> its class
    eval_range: tuple[tuple[str, tuple[float, float]], ...] = ()  # class -> |x|, |y| in metres, of those that are scored
    max_objects: int = 192  # ground-truth slots per frame
    max_lanes: int = 64  # ground-truth map element slots
    lane_thickness: int = 1  # pixels; upstream draws 2 on a canvas of 200
    decode_threads: int = 1  # per loader process
    # exact: as upstream. reduced: JPEGs of the size nearest above the network's, other pixels for a part of the time. gpu:
    # decoded by nvImageCodec on the GPU that trains, whose pixels may be a grey level off
    jpeg: Literal["exact", "reduced", "gpu"] = "exact"
    # off: decode every time. exact: keep the pixels that scaling reads, same result. scaled: keep the scaled 8-bit image, a
    # quarter of the room, off by at most one grey level (photometric distortion then sees the scaled image)
    image_cache: Literal["off", "exact", "scaled"] = "off"
    image_cache_dir: str = "data/cache"  # a folder in memory (/dev/shm) is faster still
    image_pack: str = ""  # a file of tools/pack_images.py that is read in place of the cache; image_cache says what it holds
    compat: CompatSpec = field(default_factory=CompatSpec)


@dataclass(frozen=True)
class TrainSpec:
    lr: float
    weight_decay: float
    backbone_lr_mult: float
    clip_norm: float
    warmup_iters: int
    warmup_ratio: float
    min_lr_ratio: float
    total_epochs: int
    log_interval: int
    checkpoint_interval: int
    load_from: str | None
    lr_by_epoch: bool = True  # cosine stepped by epoch (upstream) or by iteration
    regularise: bool = True  # False: no dropout, grid mask or photometric distortion, see training/regularisation.py
    clip_by_head: bool = False  # clip_norm holds for every top-level module's gradients, not for all together
    shared_history: bool = False  # history BEVs read the learning pass's image features, see training/clip.py


@dataclass(frozen=True)
class Spec:
    name: str  # the config file's stem
    path: str
    variant: str  # of the file's name, see uniad.config.variants
    stage: int  # 0 (BEVFormer, a detector: its model has no map head), 1 or 2
    model: ModelSpec
    data: DataSpec
    train: TrainSpec


def from_scratch(spec: Spec) -> Spec:
    """The same spec with nothing loaded and nothing frozen, for training where no published weights are at hand.

    Backbone, neck and batch norm learn, and the backbone learns as fast as the rest, since it starts from noise.
    """
    model = replace(
        spec.model,
        backbone=replace(spec.model.backbone, frozen_stages=-1, norm_eval=False, norm_requires_grad=True),
        freeze=FreezeSpec(img_backbone=False, img_neck=False, bn=False, bev_encoder=False),
    )
    return replace(spec, model=model, train=replace(spec.train, load_from=None, backbone_lr_mult=1.0))
