"""Parts that do not wait for each other: in order without streams; forked, joined and kept alive with them."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from uniad.models import branches
from uniad.models.branches import on_streams, run_concurrently


class Machine:
    """Stands for CUDA's streams and writes down what runs where and what waits for what."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current = ["main"]
        self.made = iter("ABCDEF")

    def part(self, name: str) -> torch.Tensor:
        self.log.append(f"{name} on {self.current[-1]}")
        return torch.zeros(1)


@pytest.fixture
def machine(monkeypatch) -> Machine:
    m = Machine()

    class Stream:
        def __init__(self, name: str | None = None) -> None:
            self.name = name or next(m.made)

        def wait_stream(self, other: Stream) -> None:
            m.log.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def stream(chosen: Stream):
        m.current.append(chosen.name)
        yield
        m.current.pop()

    cuda = branches.torch.cuda
    monkeypatch.setattr(cuda, "Stream", Stream)
    monkeypatch.setattr(cuda, "current_stream", lambda: Stream(m.current[-1]))
    monkeypatch.setattr(cuda, "stream", stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, where: m.log.append(f"kept for {where.name}"))
    return m


def test_without_streams_parts_run_in_order() -> None:
    seen: list[int] = []
    assert run_concurrently(lambda: seen.append(1), lambda: seen.append(2) or "two") == (None, "two")
    assert seen == [1, 2]


def test_with_streams_they_fork_join_and_their_results_are_kept(machine) -> None:
    with on_streams([]):
        run_concurrently(lambda: machine.part("first"), lambda: {"x": (machine.part("second"), 3)}, lambda: machine.part("last"))
    assert machine.log == [
        "A waits for main", "first on A", "B waits for main", "second on B", "last on main",
        "main waits for A", "kept for main", "main waits for B", "kept for main",
    ]  # fmt: skip
    machine.log.clear()
    run_concurrently(lambda: machine.part("first"), lambda: machine.part("last"))
    assert machine.log == ["first on main", "last on main"]


def test_every_run_lends_a_part_the_same_stream_and_forks_may_nest(machine) -> None:
    streams: list = []

    def run() -> list[str]:
        machine.log.clear()
        with on_streams(streams):
            run_concurrently(
                lambda: run_concurrently(lambda: machine.part("a"), lambda: machine.part("b")),
                lambda: run_concurrently(lambda: machine.part("c"), lambda: machine.part("d")),
            )
        return list(machine.log)

    first, second = run(), run()
    assert first == second and len(streams) == 2
    assert [line for line in first if " on " in line] == ["a on B", "b on A", "c on B", "d on main"]
    # b's stream begins after the fork, and what a read is joined to it before main goes on
    assert first.index("A waits for B") < first.index("main waits for A")
