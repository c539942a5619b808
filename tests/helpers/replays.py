"""Sequences of arbitrary numbers in the shapes of a contract, and a runner that repeats them, spoilt or not."""

from __future__ import annotations

import numpy as np

from uniad.artifacts.sequence import Sequence
from uniad.backends.base import Runner
from uniad.interface.contract import Contract
from uniad.postprocess.map_merge import merged_anew
from uniad.verify.compare import compare, replay

FRAMES = 3


def draw_sequence(contract: Contract) -> Sequence:
    """Three frames with a few reported tracks each; the numbers are arbitrary, the shapes are the contract's."""
    rng = np.random.default_rng(0)

    def draw(port):
        if port.dtype == "int32":
            return np.zeros(port.shape, np.int32)
        return rng.random(port.shape, np.float32)

    feeds = [{p.name: draw(p) for p in contract.frame} for _ in range(FRAMES)]
    expected = [{p.name: draw(p) for p in contract.outputs} for _ in range(FRAMES)]
    for frame in expected:
        frame["active"][:, :4] = 1
        frame["valid"][:, :20] = 1
        frame["obj_id"][:, :4] = np.arange(4)
        frame["label"][:] = frame["cls_logits"].argmax(-1)
        frame["map_score"][:] = np.sort(frame["map_score"])[:, ::-1] * 0.9
        frame["map_kept"][:] = frame["map_score"] >= contract.map_merge.quality_threshold
        frame["map_label"][:] = rng.integers(0, 3, frame["map_label"].shape)
        _draw_masks(rng, frame["map_mask"][0])
        frame["map_settled"][:] = 1
        frame["map_lanes"] = merged_anew(frame, contract.map_merge)
        if contract.has_stage2:
            _draw_future(rng, frame)
    end = {p.name: draw(p) for p in contract.state}
    end["track_id"][:, :6] = np.arange(6)
    return Sequence(feeds, expected, end)


def _draw_masks(rng, masks):
    """A street of its own for every element: a few cells in a row."""
    masks *= 0.1
    for mask in masks:
        y, x = rng.integers(0, mask.shape[0]), rng.integers(0, mask.shape[1] - 6)
        mask[y, x : x + 6] = rng.uniform(0.7, 1.3, 6)


def _draw_future(rng, frame):
    """Agents in the first and the last slots; each of the first claims a few cells."""
    frame["agent_valid"][0, [0, 1, 2, -1]] = 1
    best = np.argsort(-frame["score"][0, :4], kind="stable")[:3]
    frame["agent_row"][0, [0, 1, 2]], frame["agent_row"][0, -1] = best, 5
    frame["agent_id"][:] = -1
    frame["agent_id"][0, [0, 1, 2]], frame["agent_id"][0, -1] = frame["obj_id"][0, best], -2
    frame["occ_ids"][:] = rng.integers(0, 4, frame["occ_ids"].shape)
    frame["occ_seg"][:] = frame["occ_ids"] > 0


class Parrot(Runner):
    """Answers with what it was given; remembers the state it was fed."""

    name = "parrot"

    def __init__(self, contract, sequence, change=lambda i, out: out):
        super().__init__(contract)
        self.sequence, self.change, self.fed = sequence, change, []

    def _infer(self, feeds):
        i = len(self.fed)
        self.fed.append(feeds["state_bev"])
        out = {k: v.copy() for k, v in self.sequence.expected[i].items()}
        out |= {
            f"next_{p.name}": self.sequence.end_state[p.name] + (i if p.name == "bev" and i < FRAMES - 1 else 0)
            for p in self.contract.state
        }
        return self.change(i, out)


def judge(contract, sequence, change=lambda i, out: out, precision="fp32"):
    runner = Parrot(contract, sequence, change)
    return compare(replay(runner, sequence), sequence, contract, runner.name, precision), runner
