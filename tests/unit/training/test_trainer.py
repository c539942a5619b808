"""Training can be stopped anywhere, by anything, and goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

from helpers.toy_training import SAMPLES, ToyData, ToyModel, run, toy_loss, toy_spec, toy_trainer
from helpers.training_runs import log_of, same_checkpoint
from uniad.errors import UserError
from uniad.training import optim, store
from uniad.training.options import check_precision, run_length


def test_two_steps_save_resume_and_two_steps_equal_four(tmp_path):
    outcome, _ = run(toy_trainer(tmp_path / "whole", max_iters=4))
    assert outcome.finished and outcome.checkpoint.name == "iter_4.pth"
    first, output = run(toy_trainer(tmp_path / "parts", max_iters=4, stop_after=2))
    assert not first.finished and "run the same command again to continue" in output[-1]
    second, output = run(toy_trainer(tmp_path / "parts", max_iters=4), "auto")
    assert second.finished and "resuming from" in output[0]
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    same_checkpoint(tmp_path / "whole/latest.pth", tmp_path / "parts/latest.pth")


@pytest.mark.parametrize("stop", [1, 6, 7, 11])
def test_resume_is_exact_at_any_step_inside_or_between_epochs_and_log_windows(tmp_path, stop):
    run(toy_trainer(tmp_path / "whole", train__log_interval=4))
    run(toy_trainer(tmp_path / "parts", train__log_interval=4, stop_after=stop))
    run(toy_trainer(tmp_path / "parts", train__log_interval=4, workers=2), "auto")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    same_checkpoint(tmp_path / "whole/epoch_2.pth", tmp_path / "parts/epoch_2.pth")


def test_a_run_after_a_kill_repeats_what_was_not_saved_and_logs_each_step_once(tmp_path):
    run(toy_trainer(tmp_path / "whole"))

    class Killed(Exception):
        pass

    def dies(model, clip, generator):
        dies.calls += 1
        if dies.calls == 10:
            raise Killed
        return toy_loss(model, clip, generator)

    dies.calls = 0
    with pytest.raises(Killed):
        run(toy_trainer(tmp_path / "parts", loss=dies, save_every_iters=4))
    assert max(line["step"] for line in log_of(tmp_path / "parts")) == 8  # steps 9 and 10 are lost; 8 was saved
    run(toy_trainer(tmp_path / "parts", save_every_iters=4), "auto")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_ctrl_c_saves_says_how_to_go_on_and_resumes_exactly(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run(toy_trainer(tmp_path / "whole"))

    def interrupted(model, clip, generator):
        interrupted.calls += 1
        if interrupted.calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return toy_loss(model, clip, generator)

    interrupted.calls = 0
    outcome, output = run(toy_trainer(tmp_path / "parts", loss=interrupted))
    assert not outcome.finished and outcome.iteration < 7 and outcome.checkpoint.name == "iter_latest.pth"
    assert f"stopped at step {outcome.iteration} of 12" in output[-1]
    assert signal.getsignal(signal.SIGINT) is before
    run(toy_trainer(tmp_path / "parts"), "auto")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_ctrl_c_while_the_last_checkpoint_is_written_does_not_lose_it(tmp_path, monkeypatch):
    monkeypatch.setattr("uniad.interrupt.SAME_REQUEST_S", 0.0)
    write = store.save_checkpoint

    def impatient(path, payload):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        write(path, payload)

    monkeypatch.setattr(store, "save_checkpoint", impatient)
    outcome, output = run(toy_trainer(tmp_path, max_iters=4))
    assert outcome.finished and outcome.checkpoint == tmp_path / "iter_4.pth" and outcome.checkpoint.exists()
    assert "trained 4 iterations" in output[-1]


def test_ctrl_c_while_data_workers_are_told_to_go_does_not_lose_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("uniad.interrupt.SAME_REQUEST_S", 0.0)
    trainer = toy_trainer(tmp_path, max_iters=4)
    flush, calls = trainer._flush, []

    def impatient():
        calls.append(1)
        if len(calls) == 1:  # the loop is over, nothing is saved yet
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        flush()

    monkeypatch.setattr(trainer, "_flush", impatient)
    outcome, _ = run(trainer)
    assert outcome.checkpoint == tmp_path / "iter_4.pth" and outcome.checkpoint.exists()


def test_one_ctrl_c_that_arrives_twice_is_one(tmp_path):
    """As `timeout` and torchrun deliver it: to the process and to its group."""

    def interrupted(model, clip, generator):
        interrupted.calls += 1
        if interrupted.calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return toy_loss(model, clip, generator)

    interrupted.calls = 0
    outcome, _ = run(toy_trainer(tmp_path, loss=interrupted))
    assert not outcome.finished and outcome.checkpoint.name == "iter_latest.pth"


def test_a_second_ctrl_c_ends_at_once(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("uniad.interrupt.SAME_REQUEST_S", 0.0)

    def interrupted(model, clip, generator):
        os.kill(os.getpid(), signal.SIGINT)
        return toy_loss(model, clip, generator)

    with pytest.raises(KeyboardInterrupt):
        run(toy_trainer(tmp_path, loss=interrupted))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_started_again_does_nothing(tmp_path):
    run(toy_trainer(tmp_path))
    before = (tmp_path / "epoch_2.pth").stat().st_mtime_ns
    outcome, output = run(toy_trainer(tmp_path), "auto")
    assert outcome.finished and "nothing to do" in output[-1]
    assert (tmp_path / "epoch_2.pth").stat().st_mtime_ns == before


def test_checkpoint_names_and_content_are_upstreams(tmp_path):
    run(toy_trainer(tmp_path))
    assert {p.name for p in tmp_path.glob("*.pth")} == {"epoch_1.pth", "epoch_2.pth", "latest.pth"}
    content = torch.load(tmp_path / "epoch_2.pth", weights_only=True)
    assert {"meta", "state_dict", "optimizer"} <= set(content)
    assert content["meta"]["epoch"] == 2 and content["meta"]["iter"] == 12
    assert "config" not in content["meta"]  # the upstream stack would run it
    assert content["meta"]["uniad"]["variant"] == "nano" and content["meta"]["CLASSES"][0] == "car"
    assert list(content["state_dict"]) == list(ToyModel().state_dict())


def test_frozen_and_unused_parameters_stay_as_they_were(tmp_path):
    model = ToyModel()
    before = {k: v.clone() for k, v in model.named_parameters()}
    run(toy_trainer(tmp_path, model=model))
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(("img_neck", "unused")), name


def nan_from(step: int, where: str):
    """A loss function that breaks at ``step`` (counted from 1), in its value or in its gradient only."""

    def loss(model, clip, generator):
        loss.calls += 1
        broken = loss.calls == step or loss.calls > step + 1  # again when the iteration is repeated for the diagnosis
        losses = toy_loss(model, clip, generator)
        if broken and where == "loss":
            losses["loss_abs"] = losses["loss_abs"] / 0.0 * 0.0
        if broken and where == "gradient":
            losses["loss_root"] = (losses["loss_abs"].detach() * 0 + model.head.weight.sum() * 0.0).abs().sqrt()
        return losses

    loss.calls = 0
    return loss


class BreaksAt(torch.nn.Module):
    """Lets values through until the third call, then makes them infinite."""

    def __init__(self, step: int):
        super().__init__()
        self.step, self.calls = step, 0

    def forward(self, x):
        self.calls += 1
        return x / 0.0 if self.calls == self.step or self.calls > self.step + 1 else x


def test_a_nan_names_the_first_module_keeps_the_last_good_checkpoint_and_stops(tmp_path):
    model = ToyModel()
    model.img_backbone.insert(1, BreaksAt(5))
    trainer = toy_trainer(tmp_path, model=model, save_every_iters=1)
    with pytest.raises(UserError) as error:
        run(trainer)
    text = str(error.value)
    assert "not finite at step 5: first in the output of module 'img_backbone.1' (BreaksAt) (rank 0)" in text
    assert f"last good checkpoint: {tmp_path / 'iter_latest.pth'}" in text and "\n" not in text
    saved = torch.load(tmp_path / "iter_latest.pth", weights_only=True)
    assert saved["native"]["iteration"] == 4
    assert all(torch.isfinite(v).all() for v in saved["state_dict"].values())


@pytest.mark.parametrize(
    ("where", "expected"),
    [("loss", "first in loss 'loss_abs'"), ("gradient", "first in the gradient of parameter 'head.weight'")],
)
def test_a_nan_outside_modules_is_located_too(tmp_path, where, expected):
    with pytest.raises(UserError, match="not finite at step 3") as error:
        run(toy_trainer(tmp_path, loss=nan_from(3, where)))
    assert expected in str(error.value) and "no checkpoint had been written yet" in str(error.value)
    assert not list(tmp_path.glob("*.pth"))


def test_weights_of_the_failing_step_are_untouched(tmp_path):
    good, _ = run(toy_trainer(tmp_path / "good", max_iters=12, stop_after=4))
    torch.manual_seed(7)
    model = ToyModel()
    with pytest.raises(UserError):
        run(toy_trainer(tmp_path / "bad", model=model, loss=nan_from(5, "loss")))
    expected = torch.load(good.checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(p, expected[n]) for n, p in model.named_parameters())


def test_bad_data_in_a_worker_is_one_line(tmp_path):
    class Truncated(ToyData):
        def __getitem__(self, position):
            if position.index == 3:
                raise UserError("data/x.jpg is truncated: download it again")
            return super().__getitem__(position)

    for workers in (0, 1):
        with pytest.raises(UserError, match="^data/x.jpg is truncated: download it again$"):
            run(toy_trainer(tmp_path / str(workers), data=Truncated(), workers=workers))


def test_another_stage_or_variant_cannot_be_resumed(tmp_path):
    run(toy_trainer(tmp_path, stop_after=2))
    trainer = toy_trainer(tmp_path)
    for change, output in (({"stage": 2}, "stage 2"), ({"variant": "full"}, "full")):
        trainer.spec = toy_spec(**change)
        with pytest.raises(UserError, match=f"cannot resume .*{output}.*choose another --resume"):
            trainer.resume(*trainer.store.resume_from("auto", print), print)


def test_a_changed_setting_is_said_when_resuming(tmp_path):
    run(toy_trainer(tmp_path, stop_after=2))
    _, output = run(toy_trainer(tmp_path, train__lr=1e-3, seed=5), "auto")
    assert any("train.lr: 0.0002 -> 0.001; seed: 0 -> 5" in line for line in output)


def test_upstream_checkpoint_resumes_at_its_epoch(tmp_path):
    run(toy_trainer(tmp_path / "ours", stop_after=6))
    content = torch.load(tmp_path / "ours/epoch_1.pth", weights_only=True)
    del content["native"], content["meta"]["uniad"]
    torch.save(content, tmp_path / "theirs.pth")
    outcome, output = run(toy_trainer(tmp_path / "b"), str(tmp_path / "theirs.pth"))
    assert outcome.finished and "written by the upstream stack: epoch 1" in output[0]
    run(toy_trainer(tmp_path / "whole"))
    same_checkpoint(tmp_path / "whole/epoch_2.pth", tmp_path / "b/epoch_2.pth")  # our draws are positional, so even these agree


def iterations_of(path) -> tuple[int, set[int]]:
    """What a checkpoint says of itself, and the updates that its optimizer has counted."""
    content = torch.load(path, weights_only=True)
    return content["native"]["iteration"], {int(moments["step"]) for moments in content["optimizer"]["state"].values()}


def test_a_run_of_iterations_makes_all_of_them_however_long_an_epoch_is_now(tmp_path):
    """Begun with twice the clips an iteration, as by two processes, and continued by one."""
    run(toy_trainer(tmp_path, batch=4, max_iters=6, stop_after=4))
    outcome, output = run(toy_trainer(tmp_path, batch=2, max_iters=6), "auto")
    assert outcome.finished and outcome.iteration == 6 and "at step 4 of 6" in output[1]
    assert iterations_of(tmp_path / "iter_6.pth") == (6, {6})


def test_a_run_of_epochs_goes_on_at_the_same_place_of_its_epoch(tmp_path):
    run(toy_trainer(tmp_path, batch=4, stop_after=4))  # a third of the second epoch
    outcome, output = run(toy_trainer(tmp_path, batch=2), "auto")
    assert outcome.finished and "at step 8 of 12" in output[1]


def test_a_complete_run_whose_last_checkpoint_lost_its_name_gets_it_back(tmp_path):
    run(toy_trainer(tmp_path, max_iters=6))
    (tmp_path / "iter_6.pth").rename(tmp_path / "iter_latest.pth")
    outcome, _ = run(toy_trainer(tmp_path, max_iters=6), "auto")
    assert outcome.checkpoint == tmp_path / "iter_6.pth" and iterations_of(outcome.checkpoint) == (6, {6})


def test_a_checkpoint_of_more_iterations_is_not_given_the_name_of_fewer(tmp_path):
    run(toy_trainer(tmp_path, max_iters=6))
    with pytest.raises(UserError, match="has 6 iterations, more than the 4 of this run"):
        run(toy_trainer(tmp_path, max_iters=4), "auto")
    assert not (tmp_path / "iter_4.pth").exists()


def test_epochs_cover_every_sample_once(tmp_path):
    trainer = toy_trainer(tmp_path, batch=5)
    seen = []
    trainer.loader.loader.dataset.dataset = type("D", (), {"__getitem__": lambda _, p: (seen.append(p.index), ToyData()[p])[1]})()
    stream = trainer.loader.stream(0)
    for _ in range(trainer.epoch_len):
        next(stream)
    assert trainer.epoch_len == 3 and len(seen) == 15 and set(seen) == set(range(SAMPLES))  # filled up to whole batches


def test_bf16_trains_and_precisions_that_this_device_lacks_are_refused(tmp_path):
    outcome, _ = run(toy_trainer(tmp_path, precision="bf16", max_iters=2))
    assert outcome.finished
    with pytest.raises(UserError, match="fp16 needs a GPU: choose fp32 or bf16"):
        check_precision("fp16", torch.device("cpu"))
    with pytest.raises(UserError, match="unknown precision 'int8'"):
        check_precision("int8", torch.device("cpu"))


def test_length_of_a_run_follows_config_or_command_line(tmp_path):
    options = toy_trainer(tmp_path).options
    assert run_length(toy_spec(), options, 6) == (2, 12)
    assert run_length(toy_spec(), replace(options, max_epochs=3), 6) == (3, 18)
    assert run_length(toy_spec(), replace(options, max_iters=7), 6) == (2, 7)


def test_running_out_of_gpu_memory_says_what_to_lower(tmp_path):
    def greedy(model, clip, generator):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="out of memory at step 1: 2 clip.*Lower --samples-per-gpu, add --recompute"):
        run(toy_trainer(tmp_path, loss=greedy))


def scaled(trainer):
    """As fp16 trains, which the CPU cannot: losses times a scale before their gradients."""
    trainer.loss_scale = optim.LossScale(True, trainer.world.device)
    return trainer


def test_a_scale_of_the_loss_changes_neither_norm_nor_update(tmp_path):
    """It is a power of two: all but the smallest numbers are the same to the digit, clipped or not."""
    for clip_norm in (1000.0, 0.5):
        plain, fp16 = tmp_path / f"plain-{clip_norm}", tmp_path / f"scaled-{clip_norm}"
        run(toy_trainer(plain, max_iters=3, train__clip_norm=clip_norm))
        run(scaled(toy_trainer(fp16, max_iters=3, train__clip_norm=clip_norm)))
        norms = [line["grad_norm"] for line in log_of(plain)]
        assert norms == [line["grad_norm"] for line in log_of(fp16)] and all(0.5 < norm < 1000 for norm in norms)
        same_checkpoint(plain / "iter_3.pth", fp16 / "iter_3.pth")


def overflowing(at: int, always: bool = False):
    """The toy's loss with a gradient that is not finite, though the loss is, in the call ``at`` (and after it)."""

    def loss(model, clip, generator):
        loss.calls += 1
        found = toy_loss(model, clip, generator)
        if loss.calls == at or always and loss.calls > at:
            found["loss_square"] = found["loss_square"] + (model.head.weight * 0).sum().sqrt()
        return found

    loss.calls = 0
    return loss


def test_a_gradient_that_overflows_skips_its_update_and_halves_the_scale_where_there_is_one(tmp_path):
    trainer = scaled(toy_trainer(tmp_path / "scaled", max_iters=4, loss=overflowing(2)))
    outcome, _ = run(trainer)
    assert outcome.finished and trainer.loss_scale.scale == 32768 and trainer.loss_scale.clean == 2
    assert iterations_of(outcome.checkpoint) == (4, {3})
    with pytest.raises(UserError):
        run(toy_trainer(tmp_path / "plain", max_iters=4, loss=overflowing(2)))


def test_a_scale_that_has_come_to_nothing_stops_the_run(tmp_path):
    trainer = scaled(toy_trainer(tmp_path, max_iters=60, loss=overflowing(2, always=True)))
    with pytest.raises(UserError):
        run(trainer)
    assert trainer.iteration < 60 and trainer.loss_scale.scale < 1


def test_a_loss_that_is_not_finite_stops_the_run_whatever_the_scale(tmp_path):
    def broken(model, clip, generator):
        return toy_loss(model, clip, generator) | {"loss_broken": model.head.weight.sum() * float("inf")}

    trainer = scaled(toy_trainer(tmp_path, max_iters=4, loss=broken))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items() if "running" not in name}
    with pytest.raises(UserError):
        run(trainer)
    assert all(torch.equal(trainer.model.state_dict()[name], v) for name, v in before.items() if "num_batches" not in name)
