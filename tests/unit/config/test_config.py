"""Configs: read without being run, inherited as mmcv does, strict about what native does not support."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from helpers import REPO, specs, upstream_config
from uniad.config import spec as spec_file
from uniad.config.file import ConfigError, load_config, parse_override
from uniad.config.read import from_config, load_spec
from uniad.config.spec import UPSTREAM, from_scratch
from uniad.interface.pillars import camera_slots
from uniad.training import identity

ALL = sorted(specs.CONFIGS.glob("stage*/*.py"))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_spec(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_every_shipped_config_gives_a_spec(path: Path):
    spec = load_spec(path)
    assert spec.name == path.stem
    assert spec.stage == (1 if "stage1" in str(path) else 2)
    assert (spec.model.stage2 is None) == (spec.stage == 1)


def test_every_value_of_the_specs_is_read_by_something() -> None:
    """A key that is parsed into a spec acts: code beyond the reader takes it."""
    places = [REPO / name for name in ("projects/uniad", "tools", "benchmarks")]
    files = [path for place in places for path in place.rglob("*.py") if place / "config" not in path.parents]
    read = {node.attr for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    kept = [kind for kind in vars(spec_file).values() if dataclasses.is_dataclass(kind)]
    assert len(kept) > 20
    idle = {f"{kind.__name__}.{field.name}" for kind in kept for field in dataclasses.fields(kind) if field.name not in read}
    assert idle == {"CompatSpec.bev_shift"}, idle  # that one reaches the model as BevSpec.shift_rule


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_both_readers_resolve_a_config_to_the_same_values(path: Path):
    ours, theirs = load_config(path), upstream_config.resolve(path)
    for values in (ours, theirs):
        for parts in ("_variant_", "_b2d_"):  # read where they are put
            values.pop(parts, None)
    assert ours == theirs


@pytest.mark.parametrize("variant", ["nano", "tiny"])
def test_the_stages_of_a_variant_differ_only_where_a_stage_has_to(variant: str):
    """It is stated once, in _base_/variants; freezing is what stage 2 adds to it."""
    one, two = (load_config(specs.config_path(variant, stage)) for stage in (1, 2))
    for part in ("pts_bbox_head", "seg_head", "img_neck"):
        assert one["model"][part] == two["model"][part]
    assert {k for k, v in one["model"]["img_backbone"].items() if two["model"]["img_backbone"][k] != v} <= {"norm_eval"}


def test_a_part_of_a_base_may_drop_what_its_new_place_had_and_local_names_stay_local(tmp_path: Path):
    write(tmp_path, "base.py", "model = dict(backbone=dict(depth=101, dcn=True), neck=dict(a=1))")
    write(tmp_path, "parts.py", "__depth = 18\npart_ = dict(backbone=dict(_delete_=True, depth=__depth), neck=dict(b=2))")
    model = "dict(backbone={{_base_.part_.backbone}}, neck={{_base_.part_.neck}})"
    child = write(tmp_path, "child.py", f'_base_ = ["base.py", "parts.py"]\n__depth = 5\nmodel = {model}')
    assert load_config(child)["model"] == {"backbone": {"depth": 18}, "neck": {"a": 1, "b": 2}}
    assert set(load_config(child)) == {"model", "part_"}
    assert load_config(child) == upstream_config.resolve(child) | {"part_": load_config(tmp_path / "parts.py")["part_"]}


def test_a_name_that_is_given_twice_is_refused_as_python_does(tmp_path: Path):
    for text in ("a = dict(x=1, x=2)", "b = dict(x=1)\na = dict(x=2, **b)"):
        assert "x given twice" in refused(write(tmp_path, "twice.py", text))


# Facts from upstream's configs: (BEV cells, image, layers, levels, backbone, out_indices, frozen stages, load_from)
FACTS = {
    "tiny": ((50, 50), (256, 416), 3, 1, (50, "pytorch"), (3,), 1, "ckpts/bevformer_tiny_epoch_24_updated2.pth"),
    "full": ((200, 200), (928, 1600), 6, 4, (101, "caffe"), (1, 2, 3), 4, "ckpts/bevformer_r101_dcn_24ep.pth"),
}


@pytest.mark.parametrize("variant", FACTS)
def test_stage_1_has_the_upstream_values(variant: str):
    spec = load_spec(specs.config_path(variant))
    m, d, t = spec.model, spec.data, spec.train
    bev, image, layers, levels, backbone, out, frozen, load_from = FACTS[variant]
    assert (m.bev.height, m.bev.width) == d.bev_hw == d.canvas_hw == m.map.bev_hw == bev
    assert (d.image.height, d.image.width) == image
    assert (m.bev.num_layers, m.bev.num_levels, m.neck.num_outs, m.map.attn_levels) == (layers, levels, levels, levels)
    assert (m.backbone.depth, m.backbone.style, m.backbone.out_indices, m.backbone.frozen_stages) == (*backbone, out, frozen)
    assert m.backbone.stage_with_dcn == ((False, False, True, True) if variant == "full" else (False,) * 4)
    assert (m.queue_length, m.track.num_query, m.map.num_query, m.map.top_k) == (5, 900, 300, 100)
    assert (m.freeze.img_backbone, m.freeze.img_neck, m.freeze.bn, m.freeze.bev_encoder) == (True, False, False, False)
    assert (m.track.score_thresh, m.track.filter_score_thresh, m.track.gt_iou_threshold) == (0.4, 0.35, 0.3)
    assert (m.track_loss.weight_past_traj, m.track_loss.weight_cls, m.track_loss.weight_box) == (0.0, 2.0, 0.25)
    assert (m.map.things_mask_layers, m.map.stuff_mask_layers, m.map.encoder_layers, m.decoder.num_layers) == (4, 6, 6, 6)
    assert (t.lr, t.weight_decay, t.backbone_lr_mult, t.clip_norm) == (2e-4, 0.01, 0.1, 35.0)
    assert (t.warmup_iters, t.warmup_ratio, t.min_lr_ratio, t.total_epochs) == (500, 1 / 3, 1e-3, 6)
    assert t.load_from == load_from
    caffe = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False)
    torchvision = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
    assert (d.image.mean, d.image.std, d.image.to_rgb) == (caffe if variant == "full" else torchvision)


@pytest.mark.parametrize("variant", FACTS)
def test_stage_2_has_the_upstream_values(variant: str):
    spec = load_spec(specs.config_path(variant, 2))
    m, s = spec.model, spec.model.stage2
    assert (m.queue_length, spec.train.total_epochs, m.track_loss.weight_past_traj) == (3, 20, 1.0)
    assert (m.freeze.img_backbone, m.freeze.img_neck, m.freeze.bn, m.freeze.bev_encoder) == (True,) * 4
    assert (s.occ.slice_bev, s.occ.num_layers, s.occ.proj_dims, s.occ.ffn_dims) == (variant == "full", 5, 256, 2048)
    assert s.occ.xbound == ((-50.0, 50.0, 0.5) if variant == "full" else (-12.5, 12.5, 0.5))
    assert (s.motion.num_layers, s.motion.predict_steps, s.motion.predict_modes) == (3, 12, 6)
    assert s.plan.collision == ((0.0, 2.5), (0.5, 1.0), (1.0, 0.25))
    stage1 = {"tiny": "ckpts/tiny_imgx0.25_track_map.pth", "full": "ckpts/full_track_map.pth"}
    assert spec.train.load_from == stage1[variant]


def test_stage_2_is_stage_1_with_more_heads():
    for variant in specs.STEM:
        one, two = load_spec(specs.config_path(variant)), load_spec(specs.config_path(variant, 2))
        assert (one.model.bev, one.model.decoder, one.model.map) == (two.model.bev, two.model.decoder, two.model.map)
        assert (one.model.neck, one.data.image) == (two.model.neck, two.data.image)
        assert one.model.track == two.model.track


def test_nano_trains_everything_it_has():
    spec = specs.nano_spec()
    assert spec == from_scratch(spec)


def test_training_from_scratch_loads_nothing_and_freezes_nothing():
    spec = from_scratch(specs.full_spec())
    assert spec.train.load_from is None and spec.train.backbone_lr_mult == 1.0
    assert not any(vars(spec.model.freeze).values())
    assert (spec.model.backbone.frozen_stages, spec.model.backbone.norm_eval) == (-1, False)
    assert spec.model.backbone.stage_with_dcn == (False, False, True, True)
    assert load_spec(specs.config_path("full"), ["native.from_scratch=True"]) == spec


def test_a_config_is_not_run(tmp_path: Path):
    marker = tmp_path / "marker"
    for line in (f"import os; os.mkdir({str(marker)!r})", f"x = open({str(marker)!r}, 'w')", "x = ().__class__"):
        with pytest.raises(ConfigError, match="line 1"):
            load_config(write(tmp_path, "bad.py", line))
    assert not marker.exists()


def test_a_config_that_grows_without_bound_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="more than"):
        load_config(write(tmp_path, "big.py", "x = 'a' * 10000000"))


def test_inheritance_merges_dicts_and_replaces_the_rest(tmp_path: Path):
    write(tmp_path, "base.py", "n = 2\nmodel = dict(a=1, list=[1, 2], inner=dict(x=n, y=3), gone=dict(z=1))")
    child = write(
        tmp_path,
        "child.py",
        "_base_ = 'base.py'\n"
        "k = {{_base_.model.inner.x}} + 1\n"
        "model = dict(list=[*(7,)], inner=dict(y=k), gone=dict(_delete_=True, w=f'{k}'))",
    )
    got = load_config(child)["model"]
    assert got == {"a": 1, "list": [7], "inner": {"x": 2, "y": 3}, "gone": {"w": "3"}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("_base_ = 'self.py'", "inherits from itself"),
        ("_base_ = 'absent.py'", "no config file"),
        ("a = b", "'b' is not defined above"),
        ("a = (", "not a config"),
        ("a = 1 / 0", "division by zero"),
        ("for i in []:\n  pass", "assignments only"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, "self.py", text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert "self.py" in str(error.value)


def test_overrides_reach_what_the_files_derive_from_them():
    overrides = ["queue_length=3", "total_epochs=2", "data_root=/w/nuscenes/", "info_root=/w/infos/", "optimizer.lr=1e-3"]
    spec = load_spec(specs.config_path("tiny"), overrides)
    assert (spec.model.queue_length, spec.data.queue_length) == (3, 3)
    assert (spec.train.total_epochs, spec.train.lr) == (2, 1e-3)
    assert spec.data.data_root == "/w/nuscenes/"
    assert spec.data.ann_file_train == "/w/infos/nuscenes_infos_temporal_train.pkl"


@pytest.mark.parametrize(
    "override, words",
    [
        ("queue_lenght=3", ["queue_lenght", "did you mean 'queue_length'?"]),
        ("model.bogus=1", ["model.bogus", "supported"]),
        ("model.img_backbone.dept=50", ["model.img_backbone.dept", "did you mean 'depth'?"]),
        ("model.img_backbone.depth=34", ["model.img_backbone.depth", "18, 50, 101"]),
        ("model.img_backbone.type=ResNeXt", ["img_backbone.type", "ResNet"]),
        ("model.bbox.type=x", ["model.bbox"]),
        ("model.pts_bbox_head.bev_h=60", ["model.pts_bbox_head", "60"]),
        ("model.queue_length=4", ["queue_length", "4"]),
        ("lr_config.policy=step", ["lr_config.policy", "CosineAnnealing"]),
        ("optimizer.type=SGD", ["optimizer.type", "AdamW"]),
        ("data.train.pipeline.0.type=LoadPoints", ["data.train.pipeline.0.type"]),
        ("data.samples_per_gpu=0", ["data.samples_per_gpu", "at least 1"]),
        ("native.compat=maybe", ["native.compat", "documented"]),
        ("native.sca_capacity=0", ["native.sca_capacity", "more than 0"]),
        ("native.sca_capacity=1.5", ["native.sca_capacity", "at most 1"]),
        ("native.track_capasity=3", ["native.track_capasity", "did you mean 'track_capacity'?"]),
        ("queue_length", ["key.sub=value"]),
    ],
)
def test_what_native_does_not_support_is_named_with_what_it_does(override: str, words: list[str]):
    message = refused(specs.config_path("tiny"), override)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("variant", ["full", "tiny", "nano"])
@pytest.mark.parametrize("stage", [1, 2])
def test_clip_length_camera_room_and_line_width_can_be_set_in_every_config(variant: str, stage: int):
    """What make's QUEUE_LENGTH passes, what the rig check advises, and what published UniAD-base weights were trained with."""
    path = specs.config_path(variant, stage)
    plain = load_spec(path)
    assert plain.model.bev.sca_capacity == 0.3 and plain.data.lane_thickness == 1
    length = [f"{key}=4" for key in ("queue_length", "model.queue_length", "data.train.queue_length")]
    spec = load_spec(path, [*length, "native.sca_capacity=0.45", "native.lane_thickness=2"])
    assert (spec.model.queue_length, spec.data.queue_length) == (4, 4)
    assert spec.model.bev.sca_capacity == 0.45 and camera_slots(spec.model.bev) > camera_slots(plain.model.bev)
    assert spec.data.lane_thickness == 2


def test_the_file_is_named_in_the_message():
    cfg = load_config(specs.config_path("tiny"))
    cfg["model"]["img_neck"]["typo"] = 1
    with pytest.raises(ConfigError, match=r"my\.py: native does not support the key model\.img_neck\.typo"):
        from_config(cfg, "my.py")


def test_compat_is_chosen_as_a_whole_or_one_by_one():
    path = specs.config_path("tiny")
    assert set(vars(load_spec(path).model.compat).values()) == {"documented"}
    assert set(vars(load_spec(path, ["native.compat=fixed"]).data.compat).values()) == {"fixed"}
    one = load_spec(path, ["native.compat=dict(rotate_center='fixed')"]).model.compat
    assert (one.rotate_center, one.timestamps) == ("fixed", "documented")


@pytest.mark.parametrize("word", ["upstream", "documented"])
def test_upstream_has_two_words_and_both_mean_the_same(word: str):
    """Configs, checkpoints and cards of earlier versions say "documented"."""
    path = specs.config_path("nano", 2)
    assert set(vars(load_spec(path, [f"native.compat={word}"]).model.compat).values()) == {UPSTREAM}
    one = load_spec(path, [f"native.compat=dict(rotate_center='{word}',timestamps='fixed')"]).model.compat
    assert (one.rotate_center, one.timestamps) == (UPSTREAM, "fixed")
    whole, part = ([[f"native.compat={w}"], [f"native.compat=dict(occ_grid='{w}')"]] for w in (word, "upstream"))
    for mine, other in zip(whole, part):
        found, wanted = (identity.settings(identity.parser().parse_args([str(path), "--cfg-options", *o])) for o in (mine, other))
        assert found == wanted, "one run under either word"


def test_export_module_names_are_read_as_the_modules_they_export():
    cfg = load_config(specs.config_path("tiny", 2))
    model = cfg["model"]
    model["type"] = "UniADTRT"
    model["pts_bbox_head"]["type"] = "BEVFormerTrackHeadTRTP"
    model["pts_bbox_head"]["transformer"]["type"] = "PerceptionTransformerUniADTRTP"
    model["seg_head"]["type"] = "PansegformerHeadTRTP"
    assert from_config(cfg, "x.py").model == specs.tiny_spec(stage=2).model


@pytest.mark.parametrize("name", ["info_root", "data_root", "anchor_root"])
def test_a_folder_means_the_same_with_and_without_its_slash(name):
    path = specs.config_path("nano", 2)
    with_slash, without = (load_config(path, [f"{name}=/some/where{end}"]) for end in ("/", ""))
    assert with_slash == without and "/some/where/" in json.dumps(without)
    assert load_config(path, ["data.val.data_root=/x"])["data"]["val"]["data_root"] == "/x/"


HOSTILE = {
    "a text that grows": "a = 'a' * 10\n" + "a = a + a\n" * 40,
    "a text times a milliard": "a = 'a' * 1000000000",
    "a text to a power": "a = 'a' * 10 ** 9",
    "bytes times a milliard": "a = b'a' * 1000000000",
    "a list that doubles": "a = [1]\n" + "a = a + a\n" * 40,
    "a list that holds itself twice": "a = [1]\n" + "a = [a, a]\n" * 40,
    "a mapping that holds itself twice": "a = 1\n" + "a = dict(b=a, c=a)\n" * 40,
    "a text of itself": "a = 'a' * 10\n" + "a = f'{a}{a}'\n" * 40,
    "a list times a list": "a = [[0] * 90000] * 90000",
    "lists in lists in lists": "a = 1\n" + "a = [a]\n" * 5000,
    "many large lists": "".join(f"a{i} = [0] * 90000\n" for i in range(5000)),
    "a number that squares itself": "a = 9\n" + "a = a * a\n" * 40,
    "an exponent beyond all numbers": "a = int(1e999)",
    "a number of 10,000 digits": f"a = {'9' * 10_000}",
    "a sum without end": "a = " + "+".join("1" * 20_000),
    "signs without end": "a = " + "-" * 20_000 + "1",
    "brackets without end": "a = " + "[" * 5000 + "]" * 5000,
    "an attribute without end": "a = a" + ".b" * 20_000,
    "a text times a text": "a = 'a' * 'b'",
    "a key that is a list": "a = {[1]: 2}",
    "a set of lists": "a = {[1]}",
    "stars of a number": "a = [*5]",
    "two stars of a number": "a = {**5}",
    "arguments of a number": "a = dict(**5)",
    "a base that is a number": "_base_ = 5",
    "bases that are numbers": "_base_ = [5]",
    "a base with a zero": "_base_ = 'a\\0b'",
    "a base that never ends": "_base_ = '/dev/zero'",
    "a base that waits": "_base_ = 'fifo'",
    "a folder": "_base_ = '.'",
    "a zero": "a = 1\0",
    "two mebibytes": "# " + "a" * (2 << 20),
    "twice the same file, and so on": "_base_ = ['next0.py', './next0.py']",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_config_that_is_an_attack_is_one_line_soon(tmp_path: Path, case: str) -> None:
    (tmp_path / "config.py").write_text(HOSTILE[case])
    os.mkfifo(tmp_path / "fifo")
    for i in range(30):
        (tmp_path / f"next{i}.py").write_text(f"_base_ = ['next{i + 1}.py', './next{i + 1}.py']")
    (tmp_path / "next30.py").write_text("")
    begun = time.process_time()
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "config.py")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)[:200]
    assert time.process_time() - begun < 20  # a bound, not a measurement: seconds at worst


OVERRIDES = ["[" * 5000, "-" * 50_000 + "1", "{[1]: 2}", "'a' * 'b'", "\0", "9" * 5000, "[[0] * 90000] * 90000"]


@pytest.mark.parametrize("value", OVERRIDES)
def test_an_override_that_is_an_attack_is_a_text_or_one_line(value: str) -> None:
    try:
        parse_override(f"a.b={value}")
    except ConfigError as error:
        assert "a.b" in str(error)


@pytest.mark.parametrize("words, told", [
    (["model.freeze_bn=True"], r"model\.freeze_bn is True; native keeps norms .*norm_eval=True"),
    (["data.train.occ_filter_invalid_sample=True"], r"occ_filter_invalid_sample is True; native supports False only"),
])  # fmt: skip
def test_a_key_that_native_cannot_follow_is_an_error(words: list[str], told: str):
    with pytest.raises(ConfigError, match=told):
        load_spec(specs.config_path("nano", 1), words)


@pytest.mark.parametrize("value, told", [
    ("(0,3)", "both at least 1"), ("x", "a list of some numbers"), ("5", "a list of some numbers"), ("()", "both at least 1"),
    ("(16,26,1)", r"\(rows, columns\)"), ("(16.5,26)", "whole numbers"), ("True", "a list of some numbers"),
    ("(26,16)", r"images of 416x256 have \(rows, columns\) \(16, 26\)"), ("(1000000000,1000000000)", r"\(16, 26\)"),
])  # fmt: skip
def test_cells_of_images_that_the_network_does_not_have_are_one_line(value: str, told: str) -> None:
    path = REPO / "projects/configs/stage2_e2e/nano_e2e.py"
    with pytest.raises(ConfigError, match=f"native.plan_image_patch is .*{told}"):
        load_spec(path, [f"native.plan_image_patch={value}"])
    for good, read in (("None", None), ("(16,26)", (16, 26))):
        stage2 = load_spec(path, [f"native.plan_image_patch={good}"]).model.stage2
        assert stage2 is not None and stage2.plan.image_patch == read


@pytest.mark.parametrize("value, told", [("0", "more than 0"), ("-1", "more than 0"), ("True", "a number"), ("x", "a number")])
def test_a_weight_of_what_is_across_is_above_0(value: str, told: str) -> None:
    path = REPO / "projects/configs/stage2_e2e/nano_e2e.py"
    with pytest.raises(ConfigError, match=f"native.plan_across_weight .*{told}"):
        load_spec(path, [f"native.plan_across_weight={value}"])
    for good, read in (("None", None), ("2", 2.0)):
        stage2 = load_spec(path, [f"native.plan_across_weight={good}"]).model.stage2
        assert stage2 is not None and stage2.plan.across_weight == read
