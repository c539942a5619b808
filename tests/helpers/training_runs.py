"""What a training run leaves, to be compared."""

from __future__ import annotations

import json

import torch

TIMING = {"time", "data_time", "eta_s", "memory"}


def log_of(work_dir):
    lines = [json.loads(line) for line in (work_dir / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def same_checkpoint(a, b):
    x, y = (torch.load(p, weights_only=True) for p in (a, b))
    assert all(torch.equal(v, y["state_dict"][k]) for k, v in x["state_dict"].items())
    for index, moments in x["optimizer"]["state"].items():
        other = y["optimizer"]["state"][index]
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(other[k])) for k, v in moments.items())
    assert x["native"]["iteration"] == y["native"]["iteration"]
