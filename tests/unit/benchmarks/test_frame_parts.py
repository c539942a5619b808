"""The profile of a frame: kernels belong to the part whose host code queued them; overlapping ones count once as work."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace

import pytest

from helpers import REPO
from uniad.errors import run_cli

FOLDER = REPO / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> SimpleNamespace:
    sys.path.insert(0, str(FOLDER))  # it uses its neighbours
    try:
        return SimpleNamespace(**runpy.run_path(str(FOLDER / "frame_parts.py")))
    finally:
        sys.path.remove(str(FOLDER))


def event(kind: str, name: str, start: float, took: float, thread: int = 1, **args) -> dict:
    return {"cat": kind, "name": name, "ts": start, "dur": took, "tid": thread, "args": args}


TRACE = [
    event("user_annotation", "part: look_back", 0, 10),
    event("user_annotation", "part: seg_head", 20, 10),
    event("user_annotation", "something else", 0, 100),
    event("cuda_runtime", "cudaLaunchKernel", 5, 1, correlation=1),
    event("cuda_driver", "cuLaunchKernelEx", 25, 1, correlation=2),
    event("cuda_runtime", "cudaLaunchKernel", 15, 1, correlation=3),
    event("cuda_runtime", "cudaLaunchKernel", 25, 1, thread=2, correlation=4),
    event("kernel", "late", 50, 10, correlation=2, stream=9),
    event("kernel", "early", 40, 4, correlation=1, stream=7),
    event("kernel", "between", 52, 2, correlation=3, stream=7),
    event("gpu_memset", "Memset", 70, 1, correlation=4, stream=7),
    {"ph": "M", "name": "process_name"},
]


def test_kernels_come_in_the_order_of_their_start_under_the_part_that_queued_them(bench) -> None:
    found = bench.kernels(TRACE)
    assert [(k.name, k.part) for k in found] == [
        ("early", "look_back"), ("late", "seg_head"), ("between", "between parts"), ("Memset", "between parts"),
    ]  # fmt: skip
    assert bench.busy(found) == 4 + 10 + 1  # one ran beside another


def test_a_report_names_parts_and_longest_kernels(bench, capsys) -> None:
    found = bench.kernels(TRACE)
    bench.report("parts-fp16", 3.0, 0.5, found, found, longest=1)
    output = capsys.readouterr().out
    assert "parts-fp16: 0.50 ms a frame, 4 kernels, first to last 0.03 ms, at work 0.01 ms" in output
    assert "seg_head                 1 kernels   0.010 ms" in output and output.rstrip().endswith("late")


def test_unknown_modes_and_a_machine_without_a_gpu_are_one_line(bench, capsys, monkeypatch) -> None:
    for argv, want in ((["--modes", "fast"], "unknown mode 'fast'"), ([], "needs a GPU")):
        monkeypatch.setattr(sys, "argv", ["frame_parts.py", "--variant", "nano", *argv])
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        with pytest.raises(SystemExit) as stopped:
            run_cli(bench.main)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and want in error and error.count("\n") == 1
