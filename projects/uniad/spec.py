"""Typed specs: what every part of the native model, data and training needs to know, and nothing else.

A module takes its own spec, never the whole. ``load_config(path)`` reads a config file of the documented schema, and
``from_config(cfg)`` turns it into a ``Spec``; a key or value that native does not support is a ``ConfigError`` that names
the file, the key and what is supported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from uniad.errors import UserError

Range6 = tuple[float, float, float, float, float, float]


class ConfigError(UserError, ValueError):
    """A config file asks for what native does not have. The message names file, key and what is supported."""


@dataclass(frozen=True)
class CompatSpec:
    """Known faults of the documented implementation: ``documented`` (what published weights saw) or ``fixed``, one by one."""

    can_bus_quaternion: Literal["documented", "fixed"] = "documented"  # first component written four times
    timestamps: Literal["documented", "fixed"] = "documented"  # float32 epoch seconds in training: 128 s apart
    first_frame_pose: Literal["documented", "fixed"] = "documented"  # scene start keeps the delta to the pose before
    rotate_center: Literal["documented", "fixed"] = "documented"  # (100, 100) for every BEV size
    occ_grid: Literal["documented", "fixed"] = "documented"  # tiny: +-12.5 m labels on a +-51.2 m BEV
    planning_metric: Literal["documented", "fixed"] = "documented"  # masked frames count as zero error


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
    rotate_center: tuple[int, int] = (100, 100)  # x, y in BEV cells; documented for every size


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
    ffn_dropout: float = 0.1
    past_steps: int = 4
    fut_steps: int = 4


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
    dropout: float = 0.1
    ffn_dropout: float = 0.1
    top_k: int = 100
    quality_threshold_things: float = 0.1  # the documented code ignores its argument
    quality_threshold_stuff: float = 0.25
    overlap_threshold_things: float = 0.4
    overlap_threshold_stuff: float = 0.2


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


@dataclass(frozen=True)
class ImageSpec:
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    to_rgb: bool
    scale: float  # of the 1600x900 original
    pad_divisor: int
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
    occ_filter_invalid_sample: bool
    eval_mod: tuple[str, ...]
    max_objects: int = 192  # ground-truth slots per frame
    max_lanes: int = 64  # ground-truth map element slots
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
    find_unused_parameters: bool
    lr_by_epoch: bool = True  # cosine stepped by epoch (documented) or by iteration


@dataclass(frozen=True)
class Spec:
    name: str  # the config file's stem
    path: str
    variant: str  # full, tiny, nano
    stage: int  # 1 or 2
    model: ModelSpec
    data: DataSpec
    train: TrainSpec
