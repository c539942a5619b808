"""The model of more GPUs gives back what went into it, and says what it lacks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers import REPO

LATENCY, PER_BYTE = 1e-3, 1 / 200e9


def scaling(tmp_path, rows: list[dict], *options: str) -> subprocess.CompletedProcess:
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    reduce = [{"mb": mb, "ms": 1e3 * (LATENCY + mb * 1e6 * PER_BYTE)} for mb in (10, 100, 400)]
    (tmp_path / "reduce.json").write_text(json.dumps(reduce))
    command = [sys.executable, "benchmarks/scaling.py", tmp_path / "rows.json", "--reduce", tmp_path / "reduce.json"]
    return subprocess.run([*map(str, command), "--million", "50", *options], cwd=REPO, capture_output=True, text=True)


def row(gpus: int, seconds: float) -> dict:
    return {"mode": "fast", "gpus": gpus, "seconds": seconds}


def test_two_processes_are_predicted_as_they_were_measured(tmp_path):
    done = scaling(tmp_path, [row(1, 0.2), row(2, 0.21)], "--gpus", "2", "8", "16")
    assert done.returncode == 0, done.stderr
    head, two, eight, sixteen = done.stdout.splitlines()
    assert "averaging 1.00 ms + 200 GB/s" in head and "1.90 times one" in head
    assert "2 GPUs: 210.0 ms, 1.9 times one" in two and "averaging 2.0" in two  # 200 MB
    assert "averaging 2.8, waiting 20.2" in eight  # 1 + 1.75 ms; 8 ms over 0.564, times 1.424
    assert "averaging 4.2" in sixteen  # 1 ms and 25 MB at 50 GB/s more


def test_equal_times_vary_by_nothing(tmp_path):
    done = scaling(tmp_path, [row(1, 0.2), row(2, 0.2)], "--gpus", "8")
    assert "waiting 0.0 ms" in done.stdout


@pytest.mark.parametrize("rows", [[row(1, 0.2)], [row(2, 0.2), row(4, 0.2)]])
def test_rows_that_lack_one_or_two_gpus_are_one_line(tmp_path, rows):
    done = scaling(tmp_path, rows)
    assert done.returncode == 2 and done.stderr.startswith("error: mode fast needs rows of 1 and of 2 GPUs"), done.stderr
