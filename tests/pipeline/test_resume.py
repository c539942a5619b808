"""A killed training run of the real nano model goes on as if it had never stopped."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from helpers.command_line import ran, start
from helpers.waiting import eventually

TIMING = {"time", "data_time", "eta_s", "memory"}
EVERY_STEP = ("--max-iters", 2, "--save-every", 1, "--cfg-options", "log_config.interval=1")


def log_of(work_dir):
    lines = [json.loads(line) for line in (work_dir / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


@pytest.mark.slow
def test_after_kill_9_nano_continues_with_the_losses_of_an_uninterrupted_run(world, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, _, err = ran(*world.train(whole, *EVERY_STEP))
    assert code == 0, err

    victim = start(*world.train(parts, *EVERY_STEP))
    eventually((parts / "iter_latest.pth").exists, 240, "no checkpoint is written", victim)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not (parts / "iter_2.pth").exists()

    code, _, err = ran(*world.train(parts, *EVERY_STEP))
    assert code == 0 and "resuming from" in err, err
    assert log_of(parts) == log_of(whole) and len(log_of(whole)) == 2
    a, b = (torch.load(folder / "iter_2.pth", weights_only=True)["state_dict"] for folder in (whole, parts))
    assert all(torch.equal(value, b[key]) for key, value in a.items())
