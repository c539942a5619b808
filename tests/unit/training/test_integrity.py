"""Nothing damaged or not finite is saved over a good file, and nothing of the kind is read."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
import torch

from helpers.changes import put
from helpers.toy_training import ToyModel, run, toy_trainer
from helpers.training_runs import log_of
from uniad.errors import UserError
from uniad.training import checkpoint as C
from uniad.training.integrity import first_nonfinite, tensors_of_run


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A checkpoint of a run, after two steps."""
    outcome, _ = run(toy_trainer(tmp_path_factory.mktemp("run"), stop_after=2))
    return outcome.checkpoint


def changed(written: Path, folder: Path, change) -> Path:
    content = torch.load(written, weights_only=True)
    change(content)
    path = folder / "changed.pth"
    torch.save(content, path)
    return path


# --- finite ----------------------------------------------------------------------------------------------------------


def test_the_first_tensor_that_is_not_finite_is_named_whatever_its_kind():
    good = [("whole", torch.arange(3)), ("none", torch.zeros(0)), ("a", torch.ones(2))]
    good += [("b", torch.full((2, 2), 1e300, dtype=torch.float64))]
    assert first_nonfinite(good) is None
    for value in (float("nan"), float("inf"), -float("inf")):
        for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            assert first_nonfinite([*good, ("c", torch.tensor([0.0, value, 1.0], dtype=kind))]) == "c"


def infinite_rate(trainer):
    """A learning rate of infinity at step 3 alone: the loss of that step still is finite."""
    plain = trainer.schedule.factor
    trainer.schedule = type("S", (), {"factor": lambda _, i: float("inf") if i == 2 else plain(i)})()


@pytest.mark.parametrize("every", [1, None])
def test_weights_that_are_not_finite_never_replace_a_good_file_and_the_run_can_go_on(tmp_path, every):
    """Saved at the very step, or where the run is stopped right after it."""
    trainer = toy_trainer(tmp_path, save_every_iters=every, stop_after=None if every else 3)
    if not every:
        run(toy_trainer(tmp_path, stop_after=2))
    infinite_rate(trainer)
    with pytest.raises(UserError, match=r"^\S+ is not finite after step 3: last good checkpoint: .*iter_latest.pth") as error:
        run(trainer, "none" if every else "auto")
    assert str(error.value).split()[0] in dict(ToyModel().named_parameters())
    assert torch.load(tmp_path / "iter_latest.pth", weights_only=True)["native"]["iteration"] == 2
    run(toy_trainer(tmp_path), "auto")
    run(toy_trainer(tmp_path / "whole"))
    assert log_of(tmp_path) == log_of(tmp_path / "whole")


def test_a_nan_in_the_optimizer_alone_is_not_saved(tmp_path):
    trainer = toy_trainer(tmp_path, stop_after=2)
    finish = trainer._finish

    def spoil():
        trainer.optimizer.state[trainer.model.head.weight]["exp_avg_sq"][0, 0] = float("nan")
        return finish()

    trainer._finish = spoil
    with pytest.raises(UserError, match="^optimizer state exp_avg_sq of head.weight is not finite after step 2: no checkpoint"):
        run(trainer)
    assert not list(tmp_path.glob("*.pth"))
    assert first_nonfinite(tensors_of_run(trainer.model, trainer.optimizer)) == "optimizer state exp_avg_sq of head.weight"


def spoil_weights(content):
    content["state_dict"]["img_neck.weight"][1, 1] = float("nan")


def spoil_optimizer(content):
    index = content["native"]["parameter_names"].index("head.weight")
    content["optimizer"]["state"][index]["exp_avg"][0, 0] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "name"), [(spoil_weights, "img_neck.weight"), (spoil_optimizer, "optimizer state exp_avg of head.weight")]
)
def test_a_checkpoint_that_is_not_finite_is_refused_by_the_tensors_name(written, tmp_path, spoil, name):
    path = changed(written, tmp_path, spoil)
    trainer = toy_trainer(tmp_path / "run")
    for read in (
        lambda: C.load_checkpoint(ToyModel(), path, say=None),  # evaluation, export, inference, initial weights
        lambda: run(trainer, str(path)),
    ):
        with pytest.raises(UserError, match=f"{path} holds numbers that are not finite, first in {name}: "):
            read()


def weight(change):
    def spoil(content):
        content["state_dict"]["img_neck.weight"] = change(content["state_dict"]["img_neck.weight"])

    return spoil


@pytest.mark.parametrize(("spoil", "output"), [
    (weight(lambda w: w.to_sparse()), "img_neck.weight is sparse"),
    (weight(lambda w: w.to("meta")), "img_neck.weight is without data"),
    (weight(lambda w: w.to(torch.float8_e4m3fn)), "img_neck.weight is float8_e4m3fn"),
    (weight(lambda w: w.to(torch.complex64)), "img_neck.weight is complex64"),
    (weight(lambda w: w.to(torch.int8)), "img_neck.weight is torch.int8, needed is torch.float32"),
    (weight(lambda w: w > 0), "img_neck.weight is torch.bool, needed is"),
    (weight(lambda w: w.double() + 1e300), "img_neck.weight holds numbers beyond the range of torch.float32"),
    (lambda c: c["state_dict"].update({5: torch.zeros(1)}), "has no 'state_dict' of tensors"),
    (lambda c: c.update(native=[1]), "native is not a dictionary"),
    (lambda c: c["meta"].update(iter="x"), "meta.iter is not a whole"),
])  # fmt: skip
def test_what_would_be_rounded_cut_or_misread_is_one_line_by_its_name(written, tmp_path, spoil, output):
    """Of a file of somebody else: one without our digest of the weights."""
    path = changed(written, tmp_path, lambda content: (content["native"].pop(C.WEIGHTS_DIGEST, None), spoil(content)))
    model = ToyModel()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=output) as raised:
        C.load_checkpoint(model, path, say=None)
    assert str(path) in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_resuming_goes_past_a_checkpoint_that_is_not_finite(written, tmp_path):
    run(toy_trainer(tmp_path, max_iters=12, stop_after=7))  # epoch_1 and, newer, iter_latest
    newest = tmp_path / "iter_latest.pth"
    changed(newest, tmp_path, spoil_weights).replace(newest)
    _, output = run(toy_trainer(tmp_path, max_iters=12), "auto")
    assert any(line.startswith("skipping a damaged checkpoint") and "img_neck.weight" in line for line in output), output
    assert any(line.startswith(f"resuming from {tmp_path / 'epoch_1.pth'}") for line in output), output


# --- undamaged -------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_is_refused_or_changes_nothing(written, tmp_path):
    """All that is stored has a checksum; what has none (alignment, times) decides nothing."""
    whole, good = written.read_bytes(), torch.load(written, weights_only=True)
    path, rng, refused = tmp_path / "flipped.pth", random.Random(0), 0
    for _ in range(40):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        try:
            content = C.read_checkpoint(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
            continue
        assert content["meta"] == good["meta"] and content["native"]["iteration"] == good["native"]["iteration"]
        assert all(torch.equal(v, good["state_dict"][k]) for k, v in content["state_dict"].items())
        for index, moments in good["optimizer"]["state"].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(content["optimizer"]["state"][index][k]))
                       for k, v in moments.items())  # fmt: skip
    assert refused


def test_every_bit_of_every_tensor_is_covered(written, tmp_path):
    whole, path = written.read_bytes(), tmp_path / "flipped.pth"
    with zipfile.ZipFile(written) as archive:
        stored = [info for info in archive.infolist() if "/data/" in info.filename and info.file_size]
        for info in stored[:3]:
            content = archive.read(info)
            at = whole.index(content, info.header_offset) + len(content) - 1
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(UserError, match=f"{path} is damaged: {info.filename} does not match its checksum"):
                C.read_checkpoint(path)


def test_a_file_without_checksums_says_so(tmp_path):
    path, output = tmp_path / "old.pth", []
    torch.save({"state_dict": ToyModel().state_dict()}, path, _use_new_zipfile_serialization=False)
    C.load_checkpoint(ToyModel(), path, say=output.append)
    assert output[1].startswith(f"note: {path} is in the format before PyTorch 1.6, which carries no checksum")


# --- whole -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (put("native", value=[]), "native"),
        (put("native", "iteration", drop=True), "native.iteration"),
        (put("native", "iteration", value="7"), "native.iteration"),
        (put("native", "epoch_len", value=0), "native.epoch_len"),
        (put("native", "parameter_names", value=[1]), "native.parameter_names"),
        (put("native", "loss_scale", value={}), "native.loss_scale.scale"),
        (put("native", "window", "sums", value=None), "native.window.sums"),
        (put("native", "window", "count", value=1.5), "native.window.count"),
        (put("optimizer", value=3), "optimizer"),
        (put("optimizer", "state", 0, "exp_avg", drop=True), "optimizer.state[0].exp_avg"),
        (put("optimizer", "param_groups", value={}), "optimizer.param_groups"),
        (put("optimizer", "param_groups", 0, "params", value=None), "optimizer.param_groups[0].params"),
        (put("meta", "uniad", "spec", value="{"), "meta.uniad.spec"),
        (put("meta", "uniad", value={}), "meta.uniad.spec"),
        (put("meta", "uniad", value=[]), "meta.uniad"),
        (put("meta", value="x"), "meta"),
    ],
)
def test_resume_state_with_a_wrong_field_is_one_line_that_names_it(written, tmp_path, change, field):
    path = changed(written, tmp_path, change)
    trainer = toy_trainer(tmp_path / "run")
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with pytest.raises(UserError) as error:
        run(trainer, str(path))
    assert f" {field} is " in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value), error.value
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


# --- memory ----------------------------------------------------------------------------------------------------------


def too_large():
    return torch.empty(1 << 50)


@pytest.mark.parametrize("ask", [too_large, lambda: bytearray(1 << 60)])
def test_running_out_of_memory_is_one_line_wherever_it_happens(tmp_path, ask, capsys):
    from helpers.toy_training import ToyData
    from uniad.errors import run_cli

    class Greedy(ToyData):
        def __getitem__(self, position):
            ask()

    with pytest.raises(UserError, match="out of memory at step 1: 2 clip.* do not fit into what this machine has left"):
        run(toy_trainer(tmp_path / "loss", loss=lambda *_: ask()))
    with pytest.raises(UserError, match="memory has run out in a data-loader process: lower --workers"):
        run(toy_trainer(tmp_path / "data", data=Greedy(), workers=1))
    with pytest.raises(SystemExit) as end:
        run_cli(ask)
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: memory has run out")
