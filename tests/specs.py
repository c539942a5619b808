"""Ready specs for tests: the three variants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from uniad import spec as S

PC_RANGE = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip


def edit(spec: Any, **changes: Any) -> Any:
    """A copy of a spec with nested fields replaced: ``edit(spec, model__bev__num_layers=1)``."""
    for path, value in changes.items():
        head, _, rest = path.partition("__")
        spec = replace(spec, **{head: edit(getattr(spec, head), **{rest: value}) if rest else value})
    return spec


def tiny_spec(**changes: Any) -> S.Spec:
    """UniAD-tiny, stage 1, as documented."""
    bev = S.BevSpec(50, 50, PC_RANGE, 256, 3, 1, 512)
    model = S.ModelSpec(
        backbone=S.BackboneSpec(50, "pytorch", (3,), 1, True, False),
        neck=S.NeckSpec((2048,), 256, 1),
        bev=bev,
        decoder=S.DecoderSpec(6, 256, 10, 512, PC_RANGE),
        track=S.TrackSpec(900, 10, 256, PC_RANGE, (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0), 256, 0.4, 0.35, 0.3),
        map=S.MapSpec(256, (50, 50), (50, 50), PC_RANGE, 300, 3, 1, 6, 6, 512, 1, 4, 6),
        track_loss=S.TrackLossSpec(10, (1.0,) * 8 + (0.2,) * 2, PC_RANGE),
        map_loss=S.MapLossSpec(3, 1),
        freeze=S.FreezeSpec(img_backbone=True, img_neck=False, bn=False),
        use_grid_mask=True,
        queue_length=5,
    )
    data = S.DataSpec(
        data_root="data/nuscenes/",
        ann_file_train="data/infos/nuscenes_infos_temporal_train.pkl",
        ann_file_val="data/infos/nuscenes_infos_temporal_val.pkl",
        class_names=CLASSES,
        image=S.ImageSpec((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True, 0.25, 32, True, 256, 416),
        pc_range=PC_RANGE, patch_size=(102.4, 102.4), canvas_hw=(50, 50), bev_hw=(50, 50),
        queue_length=5, samples_per_gpu=1, workers_per_gpu=8, use_valid_flag=True,
        predict_steps=12, past_steps=4, fut_steps=4, planning_steps=6, use_nonlinear_optimizer=True,
        occ_receptive_field=3, occ_n_future=6, occ_xbound=(-50.0, 50.0, 2.0), occ_ybound=(-50.0, 50.0, 2.0),
        occ_filter_invalid_sample=False, eval_mod=("det", "track", "map"),
    )  # fmt: skip
    train = S.TrainSpec(
        2e-4, 0.01, 0.1, 35.0, 500, 1 / 3, 1e-3, 6, 10, 1, "ckpts/bevformer_tiny_epoch_24_updated2.pth", True
    )
    name = "tiny_imgx0.25_track_map"
    spec = S.Spec(name, f"projects/configs/stage1_track_map/{name}.py", "tiny", 1, model, data, train)
    return edit(spec, **changes)


def full_spec(**changes: Any) -> S.Spec:
    """UniAD-full (upstream base), stage 1."""
    name = "full_track_map"
    spec = edit(
        tiny_spec(),
        name=name, path=f"projects/configs/stage1_track_map/{name}.py", variant="full",
        model__backbone=S.BackboneSpec(101, "caffe", (1, 2, 3), 4, True, False, (False, False, True, True)),
        model__neck=S.NeckSpec((512, 1024, 2048), 256, 4),
        model__bev=S.BevSpec(200, 200, PC_RANGE, 256, 6, 4, 512),
        model__map__bev_hw=(200, 200), model__map__canvas_hw=(200, 200), model__map__attn_levels=4,
        data__image=S.ImageSpec((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False, 1.0, 32, True, 928, 1600),
        data__canvas_hw=(200, 200), data__bev_hw=(200, 200),
        data__occ_xbound=(-50.0, 50.0, 0.5), data__occ_ybound=(-50.0, 50.0, 0.5),
        train__load_from="ckpts/bevformer_r101_dcn_24ep.pth",
    )  # fmt: skip
    return edit(spec, **changes)


base_spec = full_spec  # upstream calls the full model "base"


def nano_spec(**changes: Any) -> S.Spec:
    """The smallest model that still learns, stage 1; trains from scratch."""
    name = "nano_track_map"
    spec = edit(
        tiny_spec(),
        name=name, path=f"projects/configs/stage1_track_map/{name}.py", variant="nano",
        model__backbone=S.BackboneSpec(18, "pytorch", (3,), -1, False, True),
        model__neck=S.NeckSpec((512,), 128, 1),
        model__bev=S.BevSpec(25, 25, PC_RANGE, 128, 1, 1, 256),
        model__decoder=S.DecoderSpec(3, 128, 10, 256, PC_RANGE),
        model__track__num_query=300, model__track__embed_dims=128, model__track__capacity=64,
        model__map=S.MapSpec(128, (25, 25), (25, 25), PC_RANGE, 50, 3, 1, 2, 2, 256, 1, 2, 2, top_k=30),
        model__freeze=S.FreezeSpec(img_backbone=False, img_neck=False, bn=False),
        model__queue_length=3, data__queue_length=3, data__samples_per_gpu=2, data__workers_per_gpu=1,
        data__image=S.ImageSpec((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True, 0.125, 32, True, 128, 224),
        data__canvas_hw=(25, 25), data__bev_hw=(25, 25),
        data__occ_xbound=(-50.0, 50.0, 4.0), data__occ_ybound=(-50.0, 50.0, 4.0),
        train__load_from=None,
    )  # fmt: skip
    return edit(spec, **changes)
