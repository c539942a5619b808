"""What the end-to-end step says of the future is judged: every output, in the terms of the task."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.replays import FRAMES, Parrot, draw_sequence, judge
from helpers.specs import full_spec, nano_spec, tiny_spec
from uniad.artifacts.card import future_entries
from uniad.artifacts.sequence import Sequence, default_frames
from uniad.errors import UserError
from uniad.interface.contract import Contract, contract_for
from uniad.verify.compare import compare, replayed
from uniad.verify.tolerances import AHEAD

CONTRACT = contract_for(nano_spec(2))
AGENTS = {p.name: p for p in CONTRACT.outputs}["agent_row"].shape[1]
NEW = [p.name for p in CONTRACT.outputs[len(contract_for(nano_spec()).outputs) :]]


@pytest.fixture
def contract() -> Contract:
    return CONTRACT


@pytest.fixture
def sequence(contract) -> Sequence:
    return draw_sequence(contract)


def test_the_future_comes_after_what_stage_1_says_and_takes_a_command():
    first, both = contract_for(nano_spec()), contract_for(nano_spec(2))
    assert both.outputs[: len(first.outputs)] == first.outputs and both.state == first.state
    assert set(both.input_names) - set(first.input_names) == {"command"}
    assert NEW == [
        "agent_row", "agent_id", "agent_valid", "agents_dropped", "motion_traj", "motion_score",
        "occ_seg", "occ_ids", "plan_traj",
    ]  # fmt: skip
    assert "occ_grid" not in first.to_json(), "an interface that is in use stays as it is"


def test_shapes_of_the_future_follow_the_config():
    ports = {name: {p.name: p for p in contract_for(spec).outputs} for name, spec in
             (("tiny", tiny_spec(2)), ("full", full_spec(2)))}  # fmt: skip
    for spec, name in ((tiny_spec(2), "tiny"), (full_spec(2), "full")):
        agents = spec.model.stage2.agent_capacity + 1
        assert ports[name]["motion_traj"].shape == (1, agents, 6, 12, 5)
        assert ports[name]["motion_score"].shape == (1, agents, 6)
        assert ports[name]["plan_traj"].shape == (1, 6, 2)
    assert ports["tiny"]["occ_seg"].shape == (1, 5, 50, 50)
    assert ports["full"]["occ_seg"].shape == (1, 5, 200, 200)
    grid = json.loads(json.dumps(contract_for(full_spec(2)).to_json()))["occ_grid"]
    assert grid == {"xbound": [-50.0, 50.0, 0.5], "ybound": [-50.0, 50.0, 0.5], "step_s": 0.5}


def test_what_is_right_passes(contract, sequence):
    report, _ = judge(contract, sequence)
    assert report.ok and report.frames == FRAMES and set(AHEAD) <= set(report.worst)
    first = contract_for(nano_spec())
    assert not set(AHEAD) & set(judge(first, draw_sequence(first))[0].worst), "stage 1 is not judged by what it lacks"


def test_a_replay_that_is_left_early_tells_the_plans_it_saw(contract, sequence):
    runner = Parrot(contract, sequence, lambda i, out: out | {"plan_traj": out["plan_traj"] + np.float32([2.0 * i, 0.0])})
    report = compare(replayed(runner, sequence), sequence, contract, "parrot", "fp16", stop_on_failure=True)
    assert report.frames == 2 and "frame 1: plan_traj" in report.faults[0]
    assert report.worst["plan_mean_m"] == pytest.approx(1.0), "0 m in the first frame, 2 m in the second"


@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "in one place"])
@pytest.mark.parametrize("name", NEW)
def test_no_future_can_be_wrong_unnoticed(contract, sequence, name, everywhere):
    """One wrong number suffices; of cells, a patch."""
    patch = (0, 1, slice(0, 6), slice(0, 6))
    places = {"agents_dropped": 0, "occ_seg": patch, "occ_ids": patch}

    def spoil(i, out):
        where = ... if everywhere else places.get(name, (0, 1))
        value = out[name].copy()
        wrong = np.where(value > 0, 0, 1).astype(value.dtype) if value.dtype.kind == "i" else value + np.float32(0.3)
        value[where] = wrong[where]
        return out | {name: value}

    report, _ = judge(contract, sequence, spoil)
    assert any(f"{name} differs" in fault for fault in report.faults), report.faults


@pytest.mark.parametrize("name", ["motion_traj", "plan_traj", "motion_score"])
def test_a_number_that_is_none_fails(contract, sequence, name):
    def spoil(i, out):
        out[name].flat[0] = np.nan
        return out

    report, _ = judge(contract, sequence, spoil)
    assert any(name in fault for fault in report.faults), report.faults


def test_a_plan_is_measured_by_the_mean_distance_of_its_positions(contract, sequence):
    def shift(metres):
        def change(i, out):
            out["plan_traj"][0, 2, 1] += metres if i == 1 else 0.0
            return out

        return change

    assert judge(contract, sequence, shift(0.005))[0].ok, "5 mm in one of six positions"
    report, _ = judge(contract, sequence, shift(0.06))
    assert report.worst["plan_m"] == pytest.approx(0.01, rel=1e-3)
    assert [fault.split(" differs")[0] for fault in report.faults] == ["frame 1: plan_traj", "all frames: plan_traj"]
    assert report.departed == [(1, "plan_traj"), (FRAMES - 1, "plan_traj")]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lower_precision_may_shift_one_plan_by_more_than_it_may_shift_all(contract, sequence, precision):
    def shift(frames, metres):
        def change(i, out):
            out["plan_traj"][0, :, 1] += metres if i in frames else 0.0
            return out

        return judge(contract, sequence, change, precision)[0]

    assert shift([1], 0.05).ok
    report = shift(range(FRAMES), 0.03)
    assert report.worst["plan_mean_m"] == pytest.approx(0.03, rel=1e-3)
    assert [fault.split(" differs")[0] for fault in report.faults] == ["all frames: plan_traj"]


def test_agents_that_tie_may_change_slots_with_all_that_is_theirs(contract, sequence):
    for frame in sequence.expected:
        rows = frame["agent_row"][0, :3]
        frame["score"][0, rows[1]] = frame["score"][0, rows[0]]

    def swap(i, out):
        order = [1, 0, *range(2, AGENTS)]
        swapped = {n: out[n][:, order] for n in ("agent_row", "agent_id", "agent_valid", "motion_traj", "motion_score")}
        claimed = np.array([0, 2, 1, *range(3, AGENTS + 1)], np.int32)[out["occ_ids"]]
        return out | swapped | {"occ_ids": claimed}

    assert judge(contract, sequence, swap)[0].ok

    def half(i, out):
        return swap(i, out) | {"occ_ids": out["occ_ids"]}

    assert any("occ_ids" in fault for fault in judge(contract, sequence, half)[0].faults), "cells went to the wrong agent"


def test_agents_out_of_the_order_of_their_scores_fail(contract, sequence):
    def swap(i, out):
        order = [2, 1, 0, *range(3, AGENTS)]
        swapped = {n: out[n][:, order] for n in ("agent_row", "agent_id", "agent_valid", "motion_traj", "motion_score")}
        return out | swapped | {"occ_ids": np.array([0, 3, 2, 1, *range(4, AGENTS + 1)], np.int32)[out["occ_ids"]]}

    faults = judge(contract, sequence, swap)[0].faults
    assert faults and all("agent_row" in fault for fault in faults), faults


def test_what_stands_in_an_empty_slot_does_not_matter(contract, sequence):
    def change(i, out):
        out["motion_traj"][0, 5] += 9.0
        out["agent_row"][0, 5] = 7
        return out

    assert judge(contract, sequence, change)[0].ok


def test_a_command_that_is_none_is_refused_before_the_graph_sees_it(contract, sequence):
    with Parrot(contract, sequence) as runner, pytest.raises(UserError, match="command is 3, which is no driving command"):
        runner.step(sequence.feeds[0] | {"command": np.full(1, 3, np.int32)})


def test_the_card_says_that_the_collision_optimiser_comes_after_the_graph(tmp_path):
    anchors = tmp_path / "anchors.pkl"
    anchors.write_bytes(b"made of bytes")
    entries = future_entries(nano_spec(2, model__stage2__motion__anchor_path=str(anchors)))
    optimiser = entries["post_processing"]["collision_optimiser"]
    assert "not in the graph" in optimiser["what"] and optimiser["wanted_by_config"] is True
    assert optimiser["moves"] == "speed" and "give_way" in optimiser["what"], "nano's"
    assert (optimiser["sigma_m"], optimiser["alpha"], optimiser["filter_range_m"]) == (1.0, 5.0, 5.0)
    assert entries["anchors"] == str(anchors) and len(entries["anchors_sha256"]) == 64


def test_a_sequence_is_long_enough_for_what_is_fed_back():
    assert [default_frames(nano_spec(stage)) for stage in (1, 2)] == [10, 20]
    assert (default_frames(tiny_spec(2)), default_frames(full_spec(2))) == (20, 3)
