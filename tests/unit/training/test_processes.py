"""What only shows with real processes: kills, signals, several ranks, ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing import api as elastic

from helpers import REPO
from helpers.toy_training import run, toy_trainer
from helpers.training_processes import SCRIPT, finish, free_port, start, wait_for_steps
from helpers.training_runs import log_of, same_checkpoint
from uniad.errors import UserError
from uniad.training import launch as launcher
from uniad.training.launch import _end_the_rest_soon, layout


def launch(gpus: int, *args: object, port: int | None = None) -> tuple[int, str, str]:
    command = ("-m", "uniad.training.launch", gpus, SCRIPT, *args, "--launcher", "pytorch")
    return finish(start(*command, MASTER_PORT=str(port or free_port()), NNODES="1"))


@pytest.mark.slow
def test_after_kill_9_the_same_command_continues_with_the_losses_of_an_uninterrupted_run(tmp_path):
    assert finish(start(SCRIPT, tmp_path / "whole"))[0] == 0
    victim = start(SCRIPT, tmp_path / "parts", "--slow")
    wait_for_steps(tmp_path / "parts", 5, victim)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    code, out, _ = finish(start(SCRIPT, tmp_path / "parts"))
    assert code == 0 and "resuming from" in out
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    same_checkpoint(tmp_path / "parts/epoch_2.pth", tmp_path / "whole/epoch_2.pth")
    assert not list((tmp_path / "parts").glob(".*"))


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_a_checkpoint(tmp_path):
    process = start(SCRIPT, tmp_path, "--slow")
    wait_for_steps(tmp_path, 2, process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130 and "run the same command again to continue" in err and "Traceback" not in err
    assert (tmp_path / "iter_latest.pth").exists()


@pytest.mark.slow
def test_two_processes_resume_exactly_and_log_the_mean_over_both(tmp_path):
    for folder, stops in (("whole", [None]), ("parts", [3, None])):
        for stop in stops:
            code, _, err = launch(2, tmp_path / folder, *(["--stop-after", stop] if stop else []))
            assert code == 0, err
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    same_checkpoint(tmp_path / "whole/latest.pth", tmp_path / "parts/latest.pth")
    lines = log_of(tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(1, 7))  # 12 samples, 2 processes of batch 2, 2 epochs
    alone, _ = run(toy_trainer(tmp_path / "alone"))
    assert log_of(alone.checkpoint.parent)[0]["loss"] != lines[0]["loss"]


@pytest.mark.slow
def test_a_nan_on_one_process_stops_all_with_one_line_that_names_it(tmp_path):
    code, _, err = launch(2, tmp_path, "--nan-on", 1)
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "'img_backbone.2' (Broken) (rank 1)" in errors[0], err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_mistake_on_one_process_ends_all_with_its_line_only(tmp_path):
    code, _, err = launch(2, tmp_path, "--fail-on", 1)
    assert code == 2 and "error: data/y.jpg is truncated" in err and "Traceback" not in err, err


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, _, err = launch(2, "unused", port=port)
    assert code == 2
    hint = f"stop what listens there, or set MASTER_PORT to another, e.g. {port + 1}"
    assert err == f"error: port {port} is in use on this machine: {hint}\n"


@pytest.mark.parametrize("codes, given", [([None, None], 120), ([0, None], 120), ([-9, None], 15), ([None, 2], 15)])
def test_a_rank_that_failed_leaves_the_others_little_time(monkeypatch, codes, given):
    asked = []
    monkeypatch.setattr(elastic.SubprocessContext, "close", lambda self, death_sig, timeout: asked.append(timeout))
    _end_the_rest_soon()
    ranks = {rank: SimpleNamespace(proc=SimpleNamespace(poll=lambda code=code: code)) for rank, code in enumerate(codes)}
    elastic.SubprocessContext.close(SimpleNamespace(subprocess_handlers=ranks), signal.SIGTERM, 120)
    assert asked == [given]


@pytest.fixture
def launched(monkeypatch) -> Callable[..., tuple[dict[str, str], list[str]]]:
    """Starts the launcher without its processes: the environment that they would have, and torchrun's words."""
    given: list[list[str]] = []
    monkeypatch.setattr(launcher, "_answer_signals", lambda: None)
    monkeypatch.setattr(launcher, "_end_the_rest_soon", lambda: None)
    monkeypatch.setattr(launcher, "parse_args", given.append)
    monkeypatch.setattr(launcher, "port_is_free", lambda address, port: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)

    def begin(gpus: str, **env: str) -> tuple[dict[str, str], list[str]]:
        monkeypatch.setattr(os, "environ", env)
        seen: dict[str, str] = {}
        monkeypatch.setattr(launcher, "run", lambda _: seen.update(env))
        monkeypatch.setattr(sys, "argv", ["launch", gpus, "train.py", "a.py"])
        assert launcher.main() == 0
        return seen, given[-1]

    return begin


def test_processes_share_the_cores_and_rank_names_the_machine_to_the_launcher_alone(launched):
    env, words = launched("8", NNODES="2", RANK="1")  # where the first machine alone asks whether the port is free
    assert env["OMP_NUM_THREADS"] == "3" and "RANK" not in env
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4"} <= set(words) and words[-2:] == ["train.py", "a.py"]
    with pytest.raises(UserError, match="is in use"):
        launched("8", NNODES="2", RANK="0")


def test_no_gpu_is_one_process_on_the_cpu(launched, monkeypatch):
    monkeypatch.setattr(launcher, "port_is_free", lambda address, port: True)
    env, words = launched("0")
    assert words[-2:] == ["--device", "cpu"] and "--nproc-per-node=1" in words and env["OMP_NUM_THREADS"] == "12"
    assert "--device" not in launched("1")[1]


def test_ctrl_c_twice_in_one_moment_is_one_request_and_later_another(monkeypatch):
    raised, told, now = [], [], [100.0]
    monkeypatch.setattr(elastic, "_terminate_process_handler", lambda signum, frame: raised.append(signum))
    monkeypatch.setattr(launcher, "_children", lambda: [7])
    monkeypatch.setattr(os, "kill", lambda pid, signum: told.append((pid, signum)))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(signal, "getsignal", lambda signum: signal.SIG_IGN)
    monkeypatch.setattr(os, "environ", {})
    launcher._answer_signals()
    assert "SIGHUP" not in os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"], "nohup"
    for after, signum in ((0.0, signal.SIGINT), (0.0, signal.SIGINT), (60.0, signal.SIGTERM), (60.0, signal.SIGINT)):
        now[0] = 100.0 + after
        elastic._terminate_process_handler(signum, None)
    assert raised == [signal.SIGINT] and told == [(7, signal.SIGINT)]


def test_layout_follows_the_upstream_arguments_and_environment():
    assert layout("4", {}) == layout("4", {"NNODES": "1"})
    assert (layout("16", {}).nodes, layout("16", {}).per_node) == (2, 8)
    two = layout("8", {"NNODES": "2", "RANK": "1", "MASTER_ADDR": "a.b", "MASTER_PORT": "1234"})
    assert (two.nodes, two.per_node, two.node_rank, two.address, two.port) == (2, 4, 1, "a.b", 1234)
    assert layout("2", {"NNODES": "2", "NODE_RANK": "1", "RANK": "0"}).node_rank == 1


@pytest.mark.parametrize(
    ("gpus", "env", "output"),
    [
        ("many", {}, "GPUS='many' is not a whole number"),
        ("3", {"NNODES": "2"}, "GPUS=3 cannot be spread evenly over NNODES=2"),
        ("4", {"NNODES": "2", "NODE_RANK": "2"}, "NODE_RANK=2 but NNODES=2"),
        ("2", {"MASTER_PORT": "x"}, "MASTER_PORT='x'"),
    ],
)
def test_layouts_that_cannot_be_are_named(gpus, env, output):
    with pytest.raises(UserError, match=output):
        layout(gpus, env)


def test_command_line_rejects_nonsense_before_it_loads_anything():
    for args, output in (
        (["x.py", "--max-iters", "-1"], "not a whole number of at least 1"),
        (["x.py", "--save-every", "soon"], "neither a number of iterations"),
        (["x.py", "--max-iters", "3", "--max-epochs", "1"], "give one"),
        (["x.py", "--precision", "fp8"], "invalid choice: 'fp8'"),
    ):
        began = time.monotonic()
        code, _, err = finish(start(REPO / "tools/train.py", *args))
        assert code == 2 and output in err and time.monotonic() - began < 5


def test_shell_script_explains_itself():
    done = subprocess.run([REPO / "tools/uniad_dist_train.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "CFG and GPUS are needed" in done.stderr and "NNODES" in done.stdout
