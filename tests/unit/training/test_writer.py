"""Checkpoints are written beside training, and hold what training held when they were due."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

from helpers.toy_training import run, toy_loss, toy_trainer
from helpers.training_processes import SCRIPT, start
from uniad.errors import UserError
from uniad.files import atomic_path
from uniad.training import store
from uniad.training.writer import CheckpointWriter, Copies

SECONDS = 60


def records(path: Path) -> dict[str, bytes]:
    """What a checkpoint file holds, without the name of its temporary file, which it repeats, and a number made of that."""
    with zipfile.ZipFile(path) as archive:
        found = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    found.pop(".data/serialization_id", None)
    return found


def counted(at: int, event: threading.Event):
    """The toy's loss, which sets ``event`` in iteration ``at``."""
    calls = []

    def loss(model, clip, generator):
        calls.append(1)
        if len(calls) == at:
            event.set()
        return toy_loss(model, clip, generator)

    return loss


def test_training_goes_on_while_a_file_is_written_and_the_file_is_as_if_it_had_not(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "asctime", lambda: "now")
    with monkeypatch.context() as patch:  # in the foreground, as a reference
        patch.setattr(CheckpointWriter, "write", lambda self, name, content: self.store.save(name, content()))
        run(toy_trainer(tmp_path / "waiting"))
    write, later, waited = store.save_checkpoint, threading.Event(), []

    def slow_disk(path, payload):
        waited.append(later.wait(SECONDS))
        write(path, payload)

    monkeypatch.setattr(store, "save_checkpoint", slow_disk)
    outcome, _ = run(toy_trainer(tmp_path / "beside", loss=counted(10, later)))  # an epoch has 6 iterations
    assert outcome.finished and waited == [True, True], "training waited for the disk"
    for name in ("epoch_1.pth", "epoch_2.pth"):
        assert records(tmp_path / "beside" / name) == records(tmp_path / "waiting" / name)


def test_one_file_at_a_time_and_the_last_one_before_the_run_ends(tmp_path, monkeypatch):
    write, at_once, most, order = store.save_checkpoint, [], [], []

    def slow_disk(path, payload):
        at_once.append(path)
        most.append(len(at_once))
        time.sleep(0.05)
        write(path, payload)
        order.append(path.name)
        at_once.remove(path)

    monkeypatch.setattr(store, "save_checkpoint", slow_disk)
    outcome, output = run(toy_trainer(tmp_path, save_every_iters=2, max_iters=7))
    assert max(most) == 1 and outcome.checkpoint == tmp_path / "iter_7.pth"
    assert order == ["iter_latest.pth", "iter_latest.pth", "epoch_1.pth", "iter_7.pth"] and "trained 7 iterations" in output[-1]


class Disk:
    """A store that keeps the names."""

    def __init__(self) -> None:
        self.saved: list[str] = []

    def save(self, name, content) -> None:
        self.saved.append(name)


def test_the_writer_waits_for_the_file_before_and_python_for_the_writer():
    disk, going = Disk(), threading.Event()
    writer = CheckpointWriter(disk)
    writer.write("a", lambda: going.wait(SECONDS))
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    assert not thread.daemon, "cut off where the run ends"
    threading.Timer(0.2, going.set).start()
    writer.write("b", dict)
    assert disk.saved[0] == "a"
    writer.wait()
    assert disk.saved == ["a", "b"]


def test_whatever_a_write_fails_of_is_raised_once():
    writer = CheckpointWriter(Disk())
    writer.write("a", lambda: sys.exit(3))
    with pytest.raises(SystemExit):
        writer.wait()
    writer.wait()
    writer.write("b", dict)
    writer.wait()
    assert writer.store.saved == ["b"]


def test_by_time_none_is_begun_while_one_is_being_written(tmp_path, monkeypatch):
    write, later, begun = store.save_checkpoint, threading.Event(), []

    def slow_disk(path, payload):
        begun.append(path.name)
        assert len(begun) > 1 or later.wait(SECONDS)
        write(path, payload)

    monkeypatch.setattr(store, "save_checkpoint", slow_disk)
    run(toy_trainer(tmp_path, save_every_s=1e-9, max_iters=5, loss=counted(4, later)))
    assert len(begun) < 5


@pytest.mark.parametrize("failing", [1, 2])  # the second is the last of the run
def test_a_full_disk_ends_the_run_with_its_line_and_keeps_the_files_before(failing, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def disk(payload, path):
        calls.append(path)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        save(payload, path)

    monkeypatch.setattr(torch, "save", disk)
    name = f"epoch_{failing}.pth"
    with pytest.raises(
        UserError, match=f"^disk full while writing .*{name}: nothing was written; free some space and run again$"
    ):
        run(toy_trainer(tmp_path))
    assert [path.name for path in sorted(tmp_path.glob("*.pth"))] == (["epoch_1.pth", "latest.pth"] if failing == 2 else [])
    assert not list(tmp_path.glob(".*partial*"))
    outcome, _ = run(toy_trainer(tmp_path), "auto")
    assert outcome.finished and (tmp_path / "epoch_2.pth").is_file()


def test_who_names_the_last_good_checkpoint_waits_for_it(tmp_path, monkeypatch):
    write, broken = store.save_checkpoint, threading.Event()

    def slow_disk(path, payload):
        assert broken.wait(SECONDS)
        time.sleep(0.2)
        write(path, payload)

    def nan_in_the_second_epoch(model, clip, generator):
        terms = toy_loss(model, clip, generator)
        nan_in_the_second_epoch.calls += 1
        if nan_in_the_second_epoch.calls < 8:
            return terms
        broken.set()
        return {name: value * torch.nan for name, value in terms.items()}

    nan_in_the_second_epoch.calls = 0
    monkeypatch.setattr(store, "save_checkpoint", slow_disk)
    with pytest.raises(UserError, match=r"not finite at step 8.*last good checkpoint: .*epoch_1\.pth"):
        run(toy_trainer(tmp_path, loss=nan_in_the_second_epoch))
    assert (tmp_path / "epoch_1.pth").is_file()


def test_ctrl_c_twice_leaves_no_half_written_file(tmp_path, monkeypatch):
    monkeypatch.setattr("uniad.interrupt.SAME_REQUEST_S", 0.0)
    write, calls = store.save_checkpoint, []

    def slow_disk(path, payload):
        time.sleep(0.3)
        write(path, payload)

    def impatient(model, clip, generator):
        calls.append(1)
        for _ in range(2 * (len(calls) == 7)):  # the first epoch's file is being written
            os.kill(os.getpid(), signal.SIGINT)
        return toy_loss(model, clip, generator)

    monkeypatch.setattr(store, "save_checkpoint", slow_disk)
    with pytest.raises(KeyboardInterrupt):
        run(toy_trainer(tmp_path, loss=impatient))
    assert {path.name for path in tmp_path.glob("*.pth")} == {"epoch_1.pth", "latest.pth"} and not list(
        tmp_path.glob(".*partial*")
    )


def test_a_kill_in_the_middle_of_a_write_leaves_the_file_before_and_the_same_losses(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    process = start(SCRIPT, parts, "--hang-in-write", 2)  # iter_latest.pth after 3 steps, then epoch_1.pth after 6
    run(toy_trainer(whole, save_every_iters=3))
    assert process.stdout.readline() == "hangs\n"
    process.kill()
    process.communicate()
    assert sorted(path.name for path in parts.glob("[!.]*.pth")) == ["iter_latest.pth", "latest.pth"]
    assert len(list(parts.glob(".epoch_1.pth.*.partial.pth"))) == 1
    trainer = toy_trainer(parts, save_every_iters=3)
    trainer.store.prepare()
    outcome, output = run(trainer, "auto")
    assert outcome.finished and "at step 3 of 12" in output[0] and not list(parts.glob(".*.partial.pth"))
    for name in ("epoch_1.pth", "epoch_2.pth"):
        expected, found = (torch.load(folder / name, weights_only=True) for folder in (whole, parts))
        assert expected["native"]["weights_sha256"] == found["native"]["weights_sha256"]


def test_copies_share_memory_where_their_originals_do_and_nothing_else():
    whole = torch.arange(6.0)
    with Copies(torch.device("cpu")).taking() as (take, arrived):
        first, second, empty = take(whole[1:3]), take(whole[2:].view(2, 2).t()), take(torch.empty(0))
        made = [take(torch.full((3,), float(number))) for number in range(50)]  # each is freed at once
    arrived()
    whole.zero_()
    assert first.tolist() == [1, 2] and second.tolist() == [[2, 4], [3, 5]] and second.stride() == (1, 2) and not len(empty)
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert [value[0].item() for value in made] == list(range(50))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_from_a_gpu_are_of_the_moment_and_their_memory_is_used_again():
    device = torch.device("cuda")
    values = [
        torch.randn(2000, 2000, device=device),
        torch.randn(8, 3, 5, 5, device=device).to(memory_format=torch.channels_last),
    ]
    copies, pointers = Copies(device), []
    for _ in range(2):
        expected = [value.cpu() for value in values]
        with copies.taking() as (take, arrived):
            taken = [take(value) for value in values]
        for value in values:
            value.add_(1)  # the next step: queued behind the copies
        arrived()
        for value, wanted in zip(taken, expected):
            assert torch.equal(value, wanted) and value.stride() == wanted.stride() and value.is_pinned()
        pointers.append([value.data_ptr() for value in taken])
    assert pointers[0] == pointers[1]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells its umask")
def test_a_file_is_published_without_a_moment_in_which_others_are_for_everybody(tmp_path, monkeypatch):
    """A thread that writes a checkpoint must not set the umask under one that writes something else."""
    wanted = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask of all threads is set"))
            with atomic_path(tmp_path / "a") as path:
                path.write_text("a")
    finally:
        os.umask(wanted)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
