"""A verifier must pass what is right and must fail every way of being wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from uniad.contract import contract_for
from uniad.deploy.card import card_path, read_card, write_card
from uniad.deploy.compare import compare, replay
from uniad.deploy.runner import Runner
from uniad.deploy.sequence import Sequence, load, normalise_images
from uniad.errors import UserError

from tests.specs import nano_spec

FRAMES = 3


@pytest.fixture(scope="module")
def contract():
    return contract_for(nano_spec())


@pytest.fixture()
def sequence(contract) -> Sequence:
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
    return Sequence(feeds, expected, {p.name: draw(p) for p in contract.state})


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
    return compare(replay(runner, sequence), sequence, runner.name, precision), runner


def test_what_is_right_passes_and_the_state_is_fed_back(contract, sequence):
    report, runner = judge(contract, sequence)
    assert report.ok and report.frames == FRAMES and report.tracks == 4 * FRAMES
    assert not runner.fed[0].any(), "the first frame starts from the initial state"
    np.testing.assert_array_equal(runner.fed[2], sequence.end_state["bev"] + 1)


def _set(name, index, value):
    def change(i, out):
        if i == 1:
            out[name][index] = value
        return out

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_set("boxes", (0, 2, 0), 99.0), "boxes_m"),
        (_set("obj_id", (0, 2), 77), "ids"),
        (_set("active", (0, 10), 1), "ids"),
        (_set("score", (0, 15), 5.0), "score"),
        (_set("map_drivable", (0, slice(None), 3), 7.0), "map_cells"),
        (_set("cls_logits", (0, 0, 0), np.nan), "non-finite"),
        (lambda i, out: out | {"next_bev": out["next_bev"] * 1.01}, "next_bev"),
    ],
)
def test_every_way_of_being_wrong_fails(contract, sequence, change, word):
    report, _ = judge(contract, sequence, change)
    assert not report.ok and any(word in f for f in report.faults), report.faults


def test_a_box_that_nobody_reports_may_differ(contract, sequence):
    report, _ = judge(contract, sequence, _set("boxes", (0, 30, 0), 99.0))
    assert report.ok


def test_lower_precision_has_wider_limits(contract, sequence):
    def change(i, out):
        return out | {"boxes": out["boxes"] + np.float32(0.05)}

    assert not judge(contract, sequence, change)[0].ok
    assert judge(contract, sequence, change, "fp16")[0].ok


def test_missing_frames_fail(contract, sequence):
    report = compare([], sequence, "none")
    assert not report.ok


def test_a_wrong_input_is_named_with_both_shapes(contract, sequence):
    with Parrot(contract, sequence) as runner:
        feed = sequence.feeds[0] | {"can_bus": np.zeros((1, 17), np.float32)}
        with pytest.raises(ValueError, match=r"can_bus is float32\[1, 17\], expected float32\[1, 18\]"):
            runner.step(feed)


def test_a_runner_outside_its_context_refuses(contract, sequence):
    with pytest.raises(RuntimeError, match="context manager"):
        Parrot(contract, sequence).step(sequence.feeds[0])


def test_images_come_back_normalised(contract):
    mean, std = np.float32([1, 2, 3]), np.float32([2, 2, 4])
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    got = normalise_images(pixels, mean, std)
    assert got.shape == (1, 2, 3, 4, 5)
    assert got[0, 1, 2, 3, 4] == (pixels[1, 3, 4, 2] - 3.0) / 4.0


def test_a_sequence_of_another_config_is_refused(contract, tmp_path):
    np.savez(tmp_path / "s.npz", mean=np.zeros(3), std=np.ones(3), **{"f0/img_u8": np.zeros((1, 2, 2, 3), np.uint8)})
    with pytest.raises(UserError, match="belongs to another config"):
        load(tmp_path / "s.npz", contract)
    with pytest.raises(UserError, match="no recorded sequence"):
        load(tmp_path / "absent.npz", contract)


def test_a_file_that_changed_after_its_card_is_refused(tmp_path):
    artefact = tmp_path / "a.onnx"
    artefact.write_bytes(b"one")
    write_card(artefact, {"kind": "onnx"})
    assert read_card(artefact)["bytes"] == 3
    artefact.write_bytes(b"two")
    with pytest.raises(UserError, match="changed after its card"):
        read_card(artefact)
    card_path(artefact).unlink()
    with pytest.raises(UserError, match="card of a.onnx is missing"):
        read_card(artefact)


def test_the_contract_follows_the_spec():
    spec = nano_spec()
    small = contract_for(spec)
    wider = replace(spec, model=replace(spec.model, track=replace(spec.model.track, capacity=spec.model.track.capacity + 8)))
    rows = {p.name: p.shape for p in contract_for(wider).outputs}["boxes"][1]
    assert rows == {p.name: p.shape for p in small.outputs}["boxes"][1] + 8
    listed = json.loads(json.dumps(small.to_json()))
    assert {e["name"] for e in listed["inputs"]} == set(small.input_names)
    assert set(listed["feedback"].values()) <= set(small.input_names)
