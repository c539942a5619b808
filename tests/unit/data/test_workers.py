"""Loader processes that cannot deliver say why; a training never hangs for want of a batch."""

from __future__ import annotations

import resource
import time

import pytest
import torch
from torch.utils.data import Dataset

from uniad.data import workers
from uniad.data.workers import Room, batches, guarded_loader, shortage
from uniad.errors import UserError

PLENTY = Room(10**12, 10**6)


class Samples(Dataset):
    """Two tensors of a megabyte each."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.full((1 << 18,), float(index)), torch.zeros(1 << 18)


def test_batches_come_in_order_and_a_loader_can_be_read_again():
    loader = guarded_loader(Samples(), workers=2, batch_size=None)
    for _ in range(2):
        stream = batches(loader)
        assert [float(next(stream)[0][0]) for _ in range(4)] == [0.0, 1.0, 2.0, 3.0]
        stream.close()


def test_what_loader_processes_need_is_compared_with_what_there_is():
    batch = {"a": [torch.zeros(1 << 18)], "b": (torch.zeros(1 << 18), "text")}
    assert shortage(batch, 4, 2, PLENTY) is None
    assert shortage(batch, 4, 2, PLENTY._replace(shared_bytes=None)) is None
    text = shortage(batch, 4, 2, PLENTY._replace(shared_bytes=16 << 20)).message
    assert text.startswith("/dev/shm has 17 MB free, 4 loader processes need 23 MB: --workers 2 ")
    assert "--shm-size" in text
    text = shortage(batch, 4, 2, PLENTY._replace(files=15)).message
    assert text.startswith("this process may open 15 more files, 4 loader processes need 22: raise the limit (ulimit -n")
    assert "--workers 2" in text


@pytest.mark.parametrize(
    ("room", "output"),
    [(PLENTY._replace(shared_bytes=8 << 20), "/dev/shm has 8 MB free"), (PLENTY._replace(files=5), "5 more files")],
)
def test_too_little_room_is_said_before_the_first_batch(monkeypatch, room, output):
    monkeypatch.setattr(Room, "now", classmethod(lambda _: room))
    with pytest.raises(UserError, match=output):
        next(batches(guarded_loader(Samples(), workers=1, batch_size=None)))


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        next(batches(guarded_loader(Samples(), workers=1, batch_size=None)))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class NoMoreFiles(Samples):
    """The third batch meets the limit of open files in the loader process, where PyTorch would lose it."""

    def __getitem__(self, index):
        if index == 2:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return super().__getitem__(index)


def test_a_batch_that_cannot_be_handed_over_is_one_line_and_not_waited_for_for_ever(capfd):
    stream = batches(guarded_loader(NoMoreFiles(), workers=1, batch_size=None), timeout_s=60)
    began = time.monotonic()
    with pytest.raises(UserError, match="^loader processes ran out of open files: raise the limit|^/dev/shm is full"):
        for _ in stream:
            pass
    assert time.monotonic() - began < 30 and "resource_sharer" not in capfd.readouterr().err


class Stuck(Samples):
    def __getitem__(self, index):
        if index == 1:
            time.sleep(1000)
        return super().__getitem__(index)


def test_a_batch_that_never_comes_is_given_up_with_what_is_known():
    stream = batches(guarded_loader(Stuck(), workers=1, batch_size=None), timeout_s=1.5, if_slow="wait longer")
    next(stream)
    began = time.monotonic()
    text = "no batch has come from 1 loader processes for 2 s .* more files may be opened here.*If it is only slow, wait longer"
    with pytest.raises(UserError, match=text):
        next(stream)
    assert time.monotonic() - began < 10  # the process that is stuck is ended, too


def test_a_mistake_in_a_loader_process_is_one_line():
    class Wrong(Samples):
        def __getitem__(self, index):
            return workers.Failure("data/x.jpg is truncated")

    for processes in (0, 1):
        with pytest.raises(UserError, match="^data/x.jpg is truncated$"):
            next(batches(guarded_loader(Wrong(), workers=processes, batch_size=None)))
