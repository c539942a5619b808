"""Weights of another generation than the config's are refused by name; converted ones say the same boxes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import REPO
from helpers.published import of_a_fork, of_bench2drive, stand_in
from helpers.specs import CONFIGS, edit, full_spec, nano_spec
from uniad.config.read import load_spec
from uniad.data.anchors import load_motion_anchors
from uniad.data.convert import convert_pickle
from uniad.data.dataset import open_table
from uniad.data.infos import create_infos
from uniad.errors import UserError
from uniad.formats.published import TITLES
from uniad.models.bev_model import TrackHead
from uniad.training.carried import check_made_with, load_trained
from uniad.training.checkpoint import read_checkpoint, state_dict_of
from uniad.training.convert import convert_checkpoint
from uniad.training.generation import check_generation, unused

SHIPPED = REPO / "weights/nano/nano_e2e.pth"
V2 = dict(model__compat__bev_shift="uniad-v2", model__compat__box_code="uniad-v2", model__compat__anchor_rotation="uniad-v2")

BENCH2DRIVE = dict(model__compat__can_bus_order="bench2drive", model__compat__track_pose="bench2drive")


def check(path, spec, say=None):
    content = read_checkpoint(path)
    check_generation(content, state_dict_of(content, path), spec, path, say)


@pytest.mark.parametrize(
    ("made", "changes", "line"),
    [
        (dict(v2=True), {}, r"is of UniAD v2.0 \(by its keys: .*\), full_e2e computes as UniAD v1: add native.compat=uniad-v2 "
                            r"\(make: GENERATION=uniad-v2\)"),
        (dict(change=of_bench2drive), {}, r"is of Bench2DriveZoo's UniAD \(9 classes\), full_e2e has 10 classes: take VARIANT="),
        (dict(change=of_a_fork), {}, r"is none of UniAD's generations \(UniAD v1, UniAD v2.0, Bench2DriveZoo's UniAD\): it has "
                                     r"lidar_backbone.\*, which no UniAD has"),
    ],
)  # fmt: skip
def test_weights_of_another_generation_are_one_line(tmp_path, made, changes, line):
    with pytest.raises(UserError, match=line) as error:
        check(stand_in(tmp_path / "w.pth", **made), full_spec(2, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("v2", "title"), [(False, "UniAD v1"), (True, "UniAD v2.0")])
def test_weights_of_nuscenes_are_none_of_bench2drive(tmp_path, v2, title):
    spec = load_spec(CONFIGS / "stage2_e2e/b2d-base_e2e.py")
    with pytest.raises(UserError, match=rf"is of {title} \(10 classes\), b2d-base_e2e has 9 classes: take a variant of nuScenes"):
        check(stand_in(tmp_path / "w.pth", v2=v2), spec)


FILES = {"uniad-v1": {}, "uniad-v2": dict(v2=True), "bench2drive": dict(change=of_bench2drive)}
PAIRS = [(made, said) for made in FILES for said in FILES if made != said and (made, said) != ("uniad-v1", "uniad-v2")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A stand-in of each generation: generation -> file."""
    folder = tmp_path_factory.mktemp("generations")
    return {name: stand_in(folder / f"{name}.pth", **how) for name, how in FILES.items()}


def config_for(generation, compat):
    stem = "b2d-base" if generation == "bench2drive" else "full"
    return load_spec(CONFIGS / f"stage2_e2e/{stem}_e2e.py", [f"native.compat={compat}"])


@pytest.mark.parametrize(("made", "said"), PAIRS)
def test_each_generation_with_the_conventions_of_each_other_is_one_line_that_names_both(files, made, said):
    spec = config_for(made, said)
    line = rf"is of {TITLES[made]} \(.*\), {spec.name} computes as {TITLES[said]}: add native.compat={made}"
    with pytest.raises(UserError, match=line) as error:
        check(files[made], spec)
    assert "\n" not in str(error.value)
    check(files[made], config_for(made, made))


def test_no_faults_at_all_is_v1_put_right_and_none_of_bench2drive(files):
    with pytest.raises(UserError, match="is of Bench2DriveZoo's UniAD .* computes as UniAD v1: add native.compat=bench2drive"):
        check(files["bench2drive"], config_for("bench2drive", "fixed"))
    check(files["uniad-v1"], config_for("uniad-v1", "fixed"))


@pytest.mark.parametrize(("made", "keys"), [
    ("bench2drive", "preset='bench2drive',track_pose='fixed'"), ("uniad-v2", "preset='uniad-v2',bev_shift='fixed'"),
    ("uniad-v1", "can_bus_order='bench2drive'"), ("uniad-v1", "preset='uniad-v2',box_code='upstream',bev_shift='upstream'"),
])  # fmt: skip
def test_single_keys_are_a_choice(files, made, keys):
    said = []
    check(files[made], config_for(made, f"dict({keys})"), said.append)
    assert not said


def test_our_own_checkpoint_under_another_generation_names_both(tmp_path):
    content = read_checkpoint(SHIPPED)
    spec = json.loads(content["meta"]["uniad"]["spec"])
    line = r"made by nano \(.*\) as UniAD v1 computes \(here Bench2DriveZoo's UniAD\) with .*can_bus_order"
    with pytest.raises(UserError, match=line):
        check_made_with(content, nano_spec(2, **BENCH2DRIVE), SHIPPED)
    spec |= {"model.compat.can_bus_order": "bench2drive", "model.compat.track_pose": "bench2drive"}
    content["meta"]["uniad"]["spec"] = json.dumps(spec)
    with pytest.raises(UserError, match=r"as Bench2DriveZoo's UniAD computes \(here UniAD v1\) with .*can_bus_order=bench2drive"):
        check_made_with(content, nano_spec(2), SHIPPED)


def test_a_fork_that_lacks_a_head_is_not_taken_for_stage_1(tmp_path):
    content = read_checkpoint(SHIPPED)
    content = {"state_dict": {k: v for k, v in content["state_dict"].items() if not k.startswith("occ_head.")}}
    torch.save(content, tmp_path / "w.pth")
    spec = edit(nano_spec(2), model__stage2__motion__anchor_path=str(REPO / "weights/nano/motion_anchor_infos_mode6.pkl"))
    with pytest.raises(UserError, match=r"lacks \d+ of the \d+ entries of nano_e2e \(occ_head") as error:
        load_trained(spec, tmp_path / "w.pth", None)
    assert "\n" not in str(error.value)


def test_keys_alone_do_not_overrule_a_config_that_names_its_generation(tmp_path):
    said = []
    check(stand_in(tmp_path / "w.pth"), full_spec(2, **V2), said.append)
    assert "taken for UniAD v2.0, as full_e2e says (UniAD v1 by its keys" in said[0]
    check(stand_in(tmp_path / "v2.pth", v2=True), full_spec(2, **V2), said.append)
    assert len(said) == 1
    assert unused(full_spec(2, **V2)) and not unused(full_spec(2))


def test_a_converted_checkpoint_says_the_same_boxes_and_comes_back_to_the_bit(tmp_path):
    report = convert_checkpoint(SHIPPED, tmp_path / "v2.pth", "uniad-v2")
    assert report.changed["box layers rewritten"] == 6 and report.old == "uniad-v1"
    spec = nano_spec(2)
    heads = []
    for path, code in ((SHIPPED, "fixed"), (tmp_path / "v2.pth", "uniad-v2")):
        head = TrackHead(edit(spec.model, decoder__box_code=code))
        state = state_dict_of(read_checkpoint(path), path)
        prefix = "pts_bbox_head."
        head.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, strict=False)
        heads.append(head)
    x = torch.randn(2, 7, spec.model.decoder.embed_dims, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for layer in range(spec.model.decoder.num_layers):
            torch.testing.assert_close(heads[0].regress(layer, x), heads[1].regress(layer, x), atol=1e-6, rtol=0)
    # our own file says what its boxes are, and a config of the other code is refused
    with pytest.raises(UserError, match="model.compat.box_code=uniad-v2"):
        load_trained(spec, tmp_path / "v2.pth", None)
    convert_checkpoint(tmp_path / "v2.pth", tmp_path / "v1.pth", "uniad-v1")
    old, new = (read_checkpoint(p) for p in (SHIPPED, tmp_path / "v1.pth"))
    pairs = [(value, new["state_dict"][name]) for name, value in old["state_dict"].items()]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert new["meta"]["uniad"]["spec"] and "converted_from" not in new["meta"]
    with pytest.raises(UserError, match="its box layers are those of UniAD v1 already: nothing to convert"):
        convert_checkpoint(tmp_path / "v1.pth", tmp_path / "x.pth", "uniad-v1")


def test_a_converted_published_file_says_how_to_run_it(tmp_path):
    source = stand_in(tmp_path / "uniad_base_e2e.pth", v2=True)
    run = subprocess.run(
        [sys.executable, "tools/convert.py", source, "--to", "uniad-v1", "--out", tmp_path / "v1.pth"],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "run it with native.compat={'preset':'uniad-v2','box_code':'upstream'}" in run.stdout
    with pytest.raises(UserError, match="says boxes as UniAD v1 does, full_e2e reads them as UniAD v2.0: add native.compat={'p"):
        check(tmp_path / "v1.pth", full_spec(2, **V2))
    check(tmp_path / "v1.pth", full_spec(2, **{**V2, "model__compat__box_code": "documented"}))


def test_infos_and_anchors_of_the_other_generation_are_refused_by_what_they_hold(synthetic_root, tmp_path):
    create_infos(synthetic_root, tmp_path, workers=1, progress=False)
    data = edit(nano_spec(2).data, data_root=str(synthetic_root), ann_file_val=str(tmp_path / "nuscenes_infos_temporal_val.pkl"))
    assert open_table(data, "val").convention == "uniad-v1"
    with pytest.raises(UserError, match=r"holds boxes of UniAD v1 \(w, l, h, -yaw - pi/2\), the model computes as UniAD v2.0 .*"):
        open_table(edit(data, compat__box_code="uniad-v2"), "val")
    convert_pickle(data.ann_file_val, tmp_path / "v2.pkl", "uniad-v2")
    theirs = edit(data, ann_file_val=str(tmp_path / "v2.pkl"), compat__box_code="uniad-v2")
    assert open_table(theirs, "val").convention == "uniad-v2"
    with pytest.raises(UserError, match=r"v2.pkl holds boxes of UniAD v2.0 \(l, w, h, yaw\), the model computes as UniAD v1"):
        open_table(edit(data, ann_file_val=str(tmp_path / "v2.pkl")), "val")

    motion = nano_spec(2).model.stage2.motion
    anchors = REPO / "weights/nano/motion_anchor_infos_mode6.pkl"
    with pytest.raises(UserError, match=r"holds motion anchors of UniAD v1 \(agents face \+y\), the model computes as UniAD v2"):
        load_motion_anchors(anchors, edit(motion, anchor_rotation="uniad-v2"))
    convert_pickle(anchors, tmp_path / "anchors.pkl", "uniad-v2")
    with pytest.raises(UserError, match=r"holds motion anchors of UniAD v2.0 \(agents face \+x\), the model .* UniAD v1"):
        load_motion_anchors(tmp_path / "anchors.pkl", motion)
    ours, theirs = load_motion_anchors(anchors, motion), load_motion_anchors(
        tmp_path / "anchors.pkl", edit(motion, anchor_rotation="uniad-v2")
    )
    assert np.array_equal(theirs[..., 0], ours[..., 1]) and np.array_equal(theirs[..., 1], -ours[..., 0])
