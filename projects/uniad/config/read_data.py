"""Datasets and the steps that make a sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from uniad.config import spec as S
from uniad.config.file import ConfigError
from uniad.config.layers import bounds
from uniad.config.node import Node
from uniad.geometry.nuscenes import IMAGE_HW


@dataclass
class _Steps:
    """What a list of steps amounts to."""

    mean: tuple[float, float, float] | None = None  # of NormalizeMultiviewImage, which every list has
    std: tuple[float, float, float] | None = None
    to_rgb: bool | None = None
    scale: float = 1.0
    divisor: int = 1
    photometric: bool = False
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None  # of occupancy, along x and y
    vehicles: tuple[str, ...] = ()  # classes that occupancy is about, where they are not nuScenes'


def read_steps(steps: list[Node], classes: tuple[str, ...], pc_range: S.Range6, out: _Steps | None = None) -> _Steps:
    """The steps, on top of those that stand before them (``out``)."""
    out = out or _Steps()
    for n in steps:
        with n:
            kind = n.type(
                "LoadMultiViewImageFromFilesInCeph", "PhotoMetricDistortionMultiViewImage", "LoadAnnotations3D_E2E",
                "GenerateOccFlowLabels", "ObjectRangeFilterTrack", "ObjectNameFilterTrack", "NormalizeMultiviewImage",
                "RandomScaleImageMultiViewImage", "PadMultiViewImage", "DefaultFormatBundle3D", "CustomCollect3D",
                "MultiScaleFlipAug3D", "LoadAnnotations3D", "ObjectRangeFilter", "ObjectNameFilter",
            )  # fmt: skip
            if kind == "LoadMultiViewImageFromFilesInCeph":
                n.only(to_float32=True)
                n.skip("file_client_args", "img_root")
            elif kind == "PhotoMetricDistortionMultiViewImage":
                out.photometric = True
            elif kind == "LoadAnnotations3D_E2E":
                n.only(with_future_anns=True, ins_inds_add_1=True, with_attr_label=False)
                n.skip("with_bbox_3d", "with_label_3d", "with_ins_inds_3d", "with_vis_token")
            elif kind == "LoadAnnotations3D":
                n.only(with_bbox_3d=True, with_label_3d=True, with_attr_label=False)
            elif kind == "GenerateOccFlowLabels":
                n.only(ignore_index=255, only_vehicle=True, filter_invisible=False)
                out.bounds = bounds(n.sub("grid_conf"))
                n.must_equal("all_classes", classes, "data.train.classes")
                out.vehicles = tuple(n.get("vehicle_classes", ()))
                n.skip("plan_classes")
            elif kind in ("ObjectRangeFilterTrack", "ObjectRangeFilter"):
                n.must_equal("point_cloud_range", list(pc_range), "model.pc_range")
            elif kind in ("ObjectNameFilterTrack", "ObjectNameFilter"):
                n.must_equal("classes", classes, "data.train.classes")
            elif kind == "NormalizeMultiviewImage":
                out.mean, out.std, out.to_rgb = n.numbers("mean", 3), n.numbers("std", 3), n.boolean("to_rgb", True)
            elif kind == "RandomScaleImageMultiViewImage":
                (out.scale,) = n.numbers("scales", 1)
            elif kind == "PadMultiViewImage":
                out.divisor = n.integer("size_divisor")
            elif kind == "MultiScaleFlipAug3D":
                n.only(flip=False, pts_scale_ratio=1)
                n.skip("img_scale")
                read_steps(n.subs("transforms"), classes, pc_range, out)
            else:
                n.skip("class_names", "with_label", "keys", "meta_keys")
    return out


def image_of(train: _Steps, test: _Steps, node: Node) -> S.ImageSpec:
    if train.mean is None or train.std is None or train.to_rgb is None:
        raise ConfigError(f"{node.file}: data.train.pipeline has no NormalizeMultiviewImage step")
    for key in ("mean", "std", "to_rgb", "scale", "divisor"):
        ours, theirs = getattr(train, key), getattr(test, key)
        if ours != theirs:
            raise ConfigError(f"{node.file}: {key} is {ours} in data.train.pipeline but {theirs} in data.test.pipeline")
    scale, divisor = train.scale, train.divisor
    height, width = (-(-int(side * scale) // divisor) * divisor for side in IMAGE_HW)
    return S.ImageSpec(
        mean=train.mean,
        std=train.std,
        to_rgb=train.to_rgb,
        scale=scale,
        photometric=train.photometric,
        height=height,
        width=width,
    )


def loading_of(data: Node, native: Node) -> dict[str, Any]:
    """How samples are loaded, by field of ``DataSpec``; the same in every stage."""
    return {
        "samples_per_gpu": data.integer("samples_per_gpu"),
        "workers_per_gpu": data.integer("workers_per_gpu", low=0),
        "max_objects": native.integer("max_objects", 192),
        "decode_threads": native.integer("decode_threads", 1),
        "jpeg": native.choice("jpeg", ("exact", "reduced", "gpu"), "exact"),
        "image_cache": native.choice("image_cache", ("off", "exact", "scaled"), "off"),
        "image_cache_dir": native.text("image_cache_dir") if "image_cache_dir" in native.data else "data/cache",
        "image_pack": native.text("image_pack") if "image_pack" in native.data else "",
    }


def _nuscenes(n: Node, model: S.ModelSpec) -> dict[str, Any]:
    n.must_equal("canvas_size", model.map.canvas_hw, "model.seg_head.canvas_size")
    return {
        "vocabulary": S.NUSCENES_WORDS,
        "patch_size": n.numbers("patch_size", 2),
        "predict_steps": n.integer("predict_steps"),
        "past_steps": n.integer("past_steps"),
        "fut_steps": n.integer("fut_steps"),
        "use_nonlinear_optimizer": n.boolean("use_nonlinear_optimizer", False),
        "occ_n_future": n.integer("occ_n_future", 4),
    }


def _bench2drive(n: Node, model: S.ModelSpec) -> dict[str, Any]:
    """Bench2DriveZoo's names for the same, and its defaults. Objects' futures are positions, as the smoother wants them."""
    n.skip("map_root", "point_cloud_range", "with_velocity", "overlap_test")
    mapping = n.get("name_mapping")
    ranges: tuple[tuple[str, tuple[float, float]], ...] = ()
    if "eval_cfg" in n.data:
        with n.sub("eval_cfg") as e:
            ranges = tuple((name, (float(x), float(y))) for name, (x, y) in e.get("class_range").items())
            e.only(dist_ths=(0.5, 1.0, 2.0, 4.0), dist_th_tp=2.0, min_recall=0.1, min_precision=0.1, mean_ap_weight=5)
            e.skip("class_names", "tp_metrics", "err_name_maping")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise n.fail("name_mapping", "it must be a dict from the names of a file to classes")
    found = {
        "vocabulary": S.BENCH2DRIVE_WORDS,
        "patch_size": n.numbers("patch_size", 2, (102.4, 102.4)),
        "predict_steps": n.integer("predict_frames", 12),
        "past_steps": n.integer("past_frames", 4),
        "fut_steps": n.integer("future_frames", 4),
        "use_nonlinear_optimizer": True,
        "occ_n_future": n.integer("occ_n_future", 6),
        "sample_interval": n.integer("sample_interval", 5),
        "map_file": n.text("map_file"),
        "name_mapping": tuple(sorted(mapping.items())),
    }
    return found | ({"eval_range": ranges} if ranges else {})


_DATASETS = {"NuScenesE2EDataset": _nuscenes, "B2D_E2E_Dataset": _bench2drive}


def _every(native: Node, interval: int) -> int:
    """Frames are left out by whole fractions of a trajectory's step."""
    every = native.integer("every", 1)
    if interval % every:
        raise native.fail("every", f"it must divide data.train.sample_interval, which is {interval}")
    return every


def read_data(cfg: Node, native: Node, model: S.ModelSpec, compat: S.CompatSpec) -> S.DataSpec:
    with cfg.sub("data") as data:
        data.skip("shuffler_sampler", "nonshuffler_sampler")
        bev_hw = (model.bev.height, model.bev.width)
        shared: dict[str, Any] = {}
        pipelines: dict[str, _Steps] = {}
        ann_files: dict[str, str] = {}
        use_valid_flag, eval_mod = False, ()
        for key in ("train", "val", "test"):
            with data.sub(key) as n:
                kind = n.type(*_DATASETS)
                n.skip("file_client_args", "modality", "box_type_3d", "samples_per_gpu", "test_mode")
                n.must_equal("bev_size", bev_hw, "the BEV size of model.pts_bbox_head")
                classes = tuple(n.get("classes"))
                if len(classes) != model.track.num_classes:
                    raise n.fail("classes", f"model.num_classes is {model.track.num_classes}")
                n.only(occ_filter_invalid_sample=False)  # upstream would leave such samples out; native has labels for each
                here = {
                    "data_root": n.text("data_root"),
                    "class_names": classes,
                    "planning_steps": n.integer("planning_steps", 6),
                    "occ_receptive_field": n.integer("occ_receptive_field", 3),
                    **_DATASETS[kind](n, model),
                }
                for name, value in here.items():
                    if shared.setdefault(name, value) != value:
                        raise ConfigError(
                            f"{n.file}: {name} is {value!r} in data.{key} but {shared[name]!r} in data.train; "
                            "native has one for all"
                        )
                pipelines[key] = read_steps(n.subs("pipeline"), classes, model.bev.pc_range)
                ann_files[key] = n.text("ann_file")
                if key == "train":
                    n.must_equal("queue_length", model.queue_length, "model.queue_length")
                    use_valid_flag = n.boolean("use_valid_flag", False)
                else:
                    eval_mod = tuple(n.get("eval_mod", ()))
                    unknown = [m for m in eval_mod if m not in ("det", "track", "map", "motion")]
                    if unknown:
                        raise n.fail("eval_mod", "native supports 'det', 'track', 'map', 'motion'")
        if (shared["past_steps"], shared["fut_steps"]) != (model.decoder.past_steps, model.decoder.fut_steps):
            raise ConfigError(
                f"{data.file}: data.train has past_steps, fut_steps = {shared['past_steps']}, {shared['fut_steps']} but "
                f"model.pts_bbox_head has {model.decoder.past_steps}, {model.decoder.fut_steps}"
            )
        bounds = pipelines["train"].bounds
        if bounds is None:
            raise ConfigError(f"{data.file}: data.train.pipeline has no GenerateOccFlowLabels step")
        if (stage2 := model.stage2) is not None and (stage2.occ.xbound, stage2.occ.ybound) != bounds:
            raise ConfigError(f"{data.file}: model.occ_head.grid_conf and GenerateOccFlowLabels.grid_conf differ")
        vocabulary: S.Vocabulary = shared["vocabulary"]
        vehicles = pipelines["train"].vehicles or vocabulary.vehicles
        for what, names, wanted in (
            ("model.seg_head.num_things_classes", vocabulary.map_things, model.map.num_things),
            ("model.seg_head.num_stuff_classes", vocabulary.map_stuff, model.map.num_stuff),
            ("model.planning_head.command_dim", vocabulary.commands, model.stage2.plan.num_commands if model.stage2 else None),
        ):
            if wanted not in (len(names), None):
                raise ConfigError(f"{data.file}: {what} is {wanted}; {vocabulary.dataset} has {len(names)}: {', '.join(names)}")
        return S.DataSpec(
            **shared | {"vocabulary": replace(vocabulary, vehicles=vehicles)},
            ann_file_train=ann_files["train"],
            ann_file_val=ann_files["test"],
            image=image_of(pipelines["train"], pipelines["test"], data),
            pc_range=model.bev.pc_range,
            canvas_hw=model.map.canvas_hw,
            bev_hw=bev_hw,
            queue_length=model.queue_length,
            **loading_of(data, native),
            use_valid_flag=use_valid_flag,
            occ_xbound=bounds[0],
            occ_ybound=bounds[1],
            eval_mod=eval_mod,
            every=_every(native, shared.get("sample_interval", 1)),
            max_lanes=native.integer("max_lanes", 64),
            lane_thickness=native.integer("lane_thickness", 1),
            compat=compat,
        )
