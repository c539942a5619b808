"""A checkpoint carries what its weights are nothing without, and a file that does not fit says what it was made with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.clips import anchors
from helpers.specs import edit, nano_spec
from uniad.config.spec import Spec
from uniad.data.anchors import save_motion_anchors
from uniad.errors import UserError
from uniad.models.uniad import UniAD
from uniad.training.carried import ANCHORS, carried, check_anchors, load_trained
from uniad.training.checkpoint import WEIGHTS_DIGEST, read_checkpoint, save_checkpoint, weights_digest
from uniad.training.initial import load_initial
from uniad.training.state import meta_of

SMALL = {"model__bev__num_layers": 1, "model__decoder__num_layers": 2}
RUN = {"seed": 0, "precision": "fp32", "world_size": 1, "samples_per_gpu": 1, "max_iters": 1}


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    motion = {"det_layers": 2, "anchor_path": str(tmp_path / "anchors.pkl")}
    return nano_spec(2, **SMALL, **{f"model__stage2__motion__{key}": value for key, value in motion.items()})


@pytest.fixture
def model(spec: Spec) -> UniAD:
    torch.manual_seed(2)
    return UniAD(spec.model, anchors(spec.model))


def save(model: UniAD, spec: Spec, path: Path) -> Path:
    """As the trainer saves it, without what resuming needs."""
    state = model.state_dict()
    native = {WEIGHTS_DIGEST: weights_digest(state), **carried(model)}
    save_checkpoint(path, {"meta": meta_of(spec, epoch=1, iteration=1, run=RUN), "state_dict": state, "native": native})
    return path


def put_anchors(spec: Spec, values: torch.Tensor) -> None:
    motion = spec.model.stage2.motion
    save_motion_anchors(motion.anchor_path, values.double().numpy(), motion, spec.data.class_names)


def test_its_own_anchors_are_used_and_no_file_is_needed(tmp_path, spec, model):
    loaded, report = load_trained(spec, save(model, spec, tmp_path / "a.pth"), None)
    torch.testing.assert_close(loaded.motion_head.anchors, model.motion_head.anchors, rtol=0, atol=0)
    assert not report.missing
    put_anchors(spec, model.motion_head.anchors)
    load_trained(spec, tmp_path / "a.pth", None)


def test_other_anchors_than_its_own_are_an_error_that_names_both_files(tmp_path, spec, model):
    path = save(model, spec, tmp_path / "a.pth")
    put_anchors(spec, model.motion_head.anchors + 1)
    with pytest.raises(UserError, match=r"a\.pth was trained with other motion anchors than those in .*anchors\.pkl") as raised:
        load_trained(spec, path, None)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="other motion anchors"):
        load_initial(model, edit(spec, train__load_from=str(path)), lambda line: None)


@pytest.mark.parametrize("spoil", [
    lambda a: "x", lambda a: a[:1], lambda a: a * float("nan"), lambda a: a.int(), lambda a: [1.0],
])  # fmt: skip
def test_damaged_anchors_of_its_own_are_one_line_with_a_file_and_without(tmp_path, spec, model, spoil):
    content = torch.load(save(model, spec, tmp_path / "a.pth"), weights_only=True)
    content["native"][ANCHORS] = spoil(content["native"][ANCHORS])
    torch.save(content, tmp_path / "a.pth")
    for _ in range(2):
        with pytest.raises(UserError, match=r"a\.pth: the motion anchors that it carries are no finite float32"):
            load_trained(spec, tmp_path / "a.pth", None)
        put_anchors(spec, model.motion_head.anchors)


def test_a_checkpoint_without_record_takes_the_file_or_says_that_it_is_missing(tmp_path, spec, model):
    meta = {"epoch": 20, "config": "model = dict(type='UniAD')"}  # as upstream's
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"anchors\.pkl are missing, and checkpoint .*theirs\.pth carries none"):
        load_trained(spec, tmp_path / "theirs.pth", None)
    put_anchors(spec, model.motion_head.anchors + 1)
    loaded, _ = load_trained(spec, tmp_path / "theirs.pth", None)
    torch.testing.assert_close(loaded.motion_head.anchors, model.motion_head.anchors + 1)


@pytest.mark.parametrize("change, output", [
    ({"model__compat__rotate_center": "documented"}, "model.compat.rotate_center=fixed (here documented)"),
    ({"data__class_names": ("car", "truck")}, "data.class_names="),
    ({"data__image__scale": 0.5}, "data.image.scale=0.25 (here 0.5)"),
    ({"model__bev__pc_range": (-10.0, -10.0, -5.0, 10.0, 10.0, 3.0)}, "model.bev.pc_range="),
])  # fmt: skip
def test_a_config_that_means_something_else_is_told_what_it_was_made_with(tmp_path, spec, model, change, output):
    path = save(model, spec, tmp_path / "a.pth")
    with pytest.raises(UserError) as raised:
        load_trained(edit(spec, **change), path, None)
    assert "does not fit nano_e2e: it was made by nano (" in str(raised.value) and output in str(raised.value)
    assert "nano_e2e.py" in str(raised.value)


def test_thresholds_metrics_and_a_config_of_another_name_fit(tmp_path, spec, model):
    path = save(model, spec, tmp_path / "a.pth")
    load_trained(edit(spec, name="mine_e2e", variant="mine", model__track__score_thresh=0.1,
                      model__compat__planning_metric="fixed", model__stage2__plan__use_col_optim=False), path, None)  # fmt: skip


def test_a_stage_1_checkpoint_is_named_as_one_without_any_anchors(tmp_path, spec):
    one = nano_spec(**SMALL)
    with pytest.raises(UserError, match="is of stage 1, nano_e2e is stage 2"):
        load_trained(spec, save(UniAD(one.model), one, tmp_path / "one.pth"), None)


def test_other_weights_than_were_saved_are_an_error(tmp_path, spec, model):
    path = save(model, spec, tmp_path / "a.pth")
    content = torch.load(path, weights_only=True)
    assert content["native"].keys() == {WEIGHTS_DIGEST, ANCHORS}
    next(iter(content["state_dict"].values())).view(-1)[0] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match=r"a\.pth holds other weights than were saved") as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)
    del content["native"]
    torch.save(content, path)
    read_checkpoint(path)


def test_the_digest_tells_names_types_shapes_and_values_apart():
    state = {"a": torch.zeros(2, 3), "b": torch.ones((), dtype=torch.int64)}
    other = [{**state, "a": torch.zeros(3, 2)}, {**state, "a": torch.zeros(2, 3).double()}, {"a": state["a"], "c": state["b"]},
             {**state, "b": torch.zeros((), dtype=torch.int64)}]  # fmt: skip
    assert len({weights_digest(s) for s in (state, *other)}) == 5
    assert weights_digest(dict(reversed(state.items()))) == weights_digest(state)


def test_anchors_of_a_stage_without_them_are_nobody_s_business(tmp_path, spec, model):
    assert check_anchors(read_checkpoint(save(model, spec, tmp_path / "a.pth")), nano_spec(**SMALL), "a.pth") is not None
    assert carried(UniAD(nano_spec(**SMALL).model)) == {}
