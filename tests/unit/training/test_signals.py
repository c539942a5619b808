"""Signals as a terminal, a cluster and an out-of-memory killer send them: what was trained is saved, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import REPO, TESTS
from helpers.training_processes import ENV, SCRIPT, finish, free_port, wait_for_steps
from helpers.waiting import eventually

MARK = "UNIAD_TEST_MARK"


def heard() -> None:
    """Signals as in a terminal, also where the tests run in a script's background or under nohup, which ignore some."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Started:
    """A program in a session of its own, and all processes that came of it, wherever they went."""

    def __init__(self, *command: object, **env: str):
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)], env={**ENV, MARK: self.mark, **env}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=REPO, preexec_fn=heard,
        )  # fmt: skip

    def alive(self) -> list[int]:
        """Processes that carry the mark and still run."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes() and " Z " not in (folder / "stat").read_text():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def others(self) -> list[int]:
        return [pid for pid in self.alive() if pid != self.process.pid]

    def signal_everybody(self, number: int) -> None:
        """As Slurm does: each process of the job, whatever its group."""
        for pid in self.alive():
            os.kill(pid, number)


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    runs: list[Started] = []

    def begin(*command: object, **env: str) -> Started:
        runs.append(Started(*command, **env))
        return runs[-1]

    yield begin
    for run in runs:
        run.signal_everybody(signal.SIGKILL)
        run.process.communicate()


def launch(start: Callable[..., Started], *args: object) -> Started:
    return start(
        "-m", "uniad.training.launch", 2, SCRIPT, *args, "--launcher", "pytorch", MASTER_PORT=str(free_port()), NNODES="1"
    )


def saved_and_gone(run: Started, work_dir: Path) -> str:
    code, _, err = finish(run.process)
    assert code == 130 and "run the same command again to continue" in err and "Traceback" not in err, err
    assert (work_dir / "iter_latest.pth").exists()
    eventually(lambda: not run.alive(), 10, "processes are left")
    return err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_saves_first_and_is_answered_at_once(tmp_path, start, number):
    run = start(SCRIPT, tmp_path, "--slow", "--workers", 2)
    wait_for_steps(tmp_path, 2, run.process)
    assert len(run.others()) >= 2
    os.killpg(run.process.pid, number)
    assert f"{number.name}: finishing this step, then saving" in saved_and_gone(run, tmp_path)


@pytest.mark.slow
def test_a_cluster_that_signals_every_process_of_a_launched_run_finds_it_saved(tmp_path, start):
    run = launch(start, tmp_path, "--slow", "--workers", 1)
    wait_for_steps(tmp_path, 2, run.process)
    run.signal_everybody(signal.SIGTERM)
    saved_and_gone(run, tmp_path)


@pytest.mark.slow
def test_a_launcher_that_is_killed_takes_its_ranks_along_and_they_save(tmp_path, start):
    run = launch(start, tmp_path, "--slow", "--workers", 1, "--epochs", 99)
    wait_for_steps(tmp_path, 2, run.process)
    assert len(run.others()) >= 4  # two ranks with a loader process each
    run.process.send_signal(signal.SIGKILL)
    eventually(lambda: not run.alive(), 20, "ranks train on without their launcher")
    assert (tmp_path / "iter_latest.pth").exists()


@pytest.mark.slow
def test_a_run_that_ignores_a_closed_terminal_trains_on(tmp_path, start):
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    run = start("-c", code, sys.executable, SCRIPT, tmp_path, "--slow", "--stop-after", 6)  # as nohup does
    wait_for_steps(tmp_path, 2, run.process)
    os.killpg(run.process.pid, signal.SIGHUP)
    code, out, err = finish(run.process)
    assert code == 0 and "stopped at step 6" in err, err


@pytest.mark.slow
def test_a_killed_loader_process_is_one_line(tmp_path, start):
    run = start(SCRIPT, tmp_path, "--slow", "--workers", 2)
    wait_for_steps(tmp_path, 2, run.process)
    victims = run.others()
    os.kill(max(victims), signal.SIGKILL)
    code, _, err = finish(run.process)
    assert code == 2 and "Traceback" not in err, err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: a data-loader process (pid {max(victims)}) was ended by SIGKILL"), line
    eventually(lambda: not run.alive(), 10, "processes are left")


@pytest.mark.slow
def test_a_killed_loader_process_of_one_of_two_is_what_people_read(tmp_path, start):
    run = launch(start, tmp_path, "--slow", "--workers", 1)
    wait_for_steps(tmp_path, 2, run.process)
    loader = max(run.others())
    os.kill(loader, signal.SIGKILL)
    code, _, err = finish(run.process)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    cause = f"error: a data-loader process (pid {loader}) was ended by SIGKILL"
    assert code == 2 and [line[: len(cause)] for line in lines] == [cause], err
    eventually(lambda: not run.alive(), 10, "processes are left")


STUCK = """
import time, torch
from uniad.errors import UserError
from uniad.training import distributed
distributed.TEARDOWN_S = 0.2
world = distributed.World(0, 2, 0, torch.device("cpu"))
with distributed.report_once(), distributed.explain_peer_loss(world):
    try:
        with distributed.ends_in_time(world):
            raise {error}
    finally:
        time.sleep(60)
"""


@pytest.mark.parametrize(
    "error, line",
    [
        ("UserError('data/y.jpg is truncated')", "error: data/y.jpg is truncated"),
        ("RuntimeError('Connection closed by peer [127.0.0.1]')", "error: process 0 stopped because another one ended"),
        ("ValueError('odd\\nand long')", "error: ValueError: odd"),
    ],
)
def test_a_teardown_that_waits_for_ever_does_not_keep_the_reason(start, error, line):
    code, _, err = finish(start("-c", STUCK.format(error=error)).process)
    assert code == 2 and err.startswith(line) and len(err.splitlines()) == 1, err


@pytest.mark.slow
def test_loader_processes_never_outlive_a_killed_training(tmp_path, start):
    run = start(SCRIPT, tmp_path, "--slow", "--workers", 2)
    wait_for_steps(tmp_path, 2, run.process)
    run.process.send_signal(signal.SIGKILL)
    eventually(lambda: not run.alive(), 2, "loader processes are left")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_world_generation_ends_at_once_with_all_its_processes(tmp_path, start, number):
    run = start(
        "tools/make_synthetic_nuscenes.py", "--out", tmp_path / "world", "--train-scenes", 4, "--val-scenes", 2, "--workers", 2
    )
    notes = tmp_path / ".world.partial"
    eventually(lambda: list(notes.rglob("*.jpg")), 60, "nothing is made")
    os.killpg(run.process.pid, number) if number != signal.SIGKILL else run.process.kill()
    began = time.monotonic()
    code, _, err = finish(run.process)
    assert code == {signal.SIGINT: 130}.get(number, -number) and "Traceback" not in err, err
    assert time.monotonic() - began < 5
    eventually(lambda: not run.alive(), 5, "workers are left")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_call_that_stays_in_c_ends_within_two_seconds(tmp_path, start, number):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers.training_processes import in_c_for_minutes
from uniad.errors import run_cli
from uniad.processes import run_killable
run_cli(lambda: run_killable(in_c_for_minutes, progress=lambda line: print(line, flush=True)))
"""
    script = tmp_path / "build.py"
    script.write_text("if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in code.strip().splitlines()))
    run = start(script, TESTS)
    assert run.process.stdout.readline() == "building\n"
    os.killpg(run.process.pid, number) if number != signal.SIGKILL else run.process.kill()
    began = time.monotonic()
    assert run.process.stderr.readline() == ("interrupted\n" if number != signal.SIGKILL else "")
    assert time.monotonic() - began < 2
    code, _, err = finish(run.process)
    eventually(lambda: not run.alive(), 2, "the builder is left")
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number) and not err
