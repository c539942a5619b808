"""A verifier must pass what is right and must fail every way of being wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.replays import FRAMES, Parrot, draw_sequence, judge
from helpers.specs import edit, nano_spec
from uniad.artifacts.card import card_path, read_card, write_card
from uniad.artifacts.sequence import Sequence, load, normalise_images
from uniad.errors import UserError
from uniad.interface.contract import contract_for
from uniad.postprocess.map_merge import finish_lanes, merged_anew
from uniad.verify.compare import compare, replay, replayed
from uniad.verify.tolerances import TOLERANCES


@pytest.fixture(scope="module")
def contract():
    """Nano's on 25x25 cells, so that half a dozen cells of a lane are more than a tolerance."""
    cells = {"model__bev__height": 25, "model__bev__width": 25, "model__map__bev_hw": (25, 25), "model__map__canvas_hw": (25, 25)}
    return contract_for(edit(nano_spec(), **cells))


@pytest.fixture()
def sequence(contract) -> Sequence:
    return draw_sequence(contract)


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


def test_a_heading_that_turned_over_at_half_a_circle_is_the_same_heading(contract, sequence):
    for want in sequence.expected:
        want["boxes"][0, :, 6] = np.pi - 1e-4
    report, _ = judge(contract, sequence, _set("boxes", (0, 2, 6), 1e-4 - np.pi))
    assert report.ok and 1e-4 < report.worst["boxes_m"] < 3e-4
    report, _ = judge(contract, sequence, _set("boxes", (0, 2, 6), 0.0))
    assert not report.ok, "half a circle apart is none"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_set("boxes", (0, 2, 0), 99.0), "boxes_m"),
        (_set("obj_id", (0, 2), 77), "ids"),
        (_set("active", (0, 10), 1), "ids"),
        (_set("score", (0, 15), 5.0), "score"),
        (_set("map_drivable", (0, slice(None), 3), 7.0), "map_drivable"),
        (_set("cls_logits", (0, 0, 0), np.nan), "non-finite"),
        (lambda i, out: out | {"next_bev": out["next_bev"] * 1.01}, "next_bev"),
    ],
)
def test_every_way_of_being_wrong_fails(contract, sequence, change, word):
    report, _ = judge(contract, sequence, change)
    assert not report.ok and any(word in f for f in report.faults), report.faults


OUTPUTS = [p.name for p in contract_for(nano_spec()).outputs]
STATES = [p.name for p in contract_for(nano_spec()).state]


@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "in one place"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_no_output_can_be_wrong_unnoticed(contract, sequence, name, everywhere):
    """One wrong number suffices: in the first row or element. An image of cells may have one on the edge, not a patch."""

    def spoil(value):
        if value.dtype.kind == "i":
            return np.where(value > 0, 0, 1).astype(value.dtype)
        return 1.0 - value if name in ("map_lanes", "map_drivable") else value + np.float32(0.3)

    patch = slice(0, 9), slice(0, 9)
    places = {"map_drivable": (0, *patch), "map_lanes": (0, 0, *patch), "dropped": 0, "map_settled": 0}

    def change(i, out):
        where = ... if everywhere else places.get(name, (0, 1))
        value = out[name].copy()
        value[where] = spoil(value)[where]
        return out | {name: value}

    report, _ = judge(contract, sequence, change)
    assert any(f"{name} differs" in f or f"and {name}" in f for f in report.faults), report.faults


@pytest.mark.parametrize("name", STATES)
def test_no_state_can_be_wrong_unnoticed(contract, sequence, name):
    def change(i, out):
        value = out[f"next_{name}"].copy()
        value[(0,) * value.ndim] += 1
        return out | {f"next_{name}": value}

    report, _ = judge(contract, sequence, change)
    assert [f for f in report.faults if f"next_{name} differs" in f] == report.faults != []


def test_a_rounding_on_the_edge_of_the_range_is_none_of_the_place(contract, sequence):
    points = sequence.end_state["track_ref_pts"]
    points[0, 0] = 11.49

    def change(shift):
        def apply(i, out):
            out["next_track_ref_pts"][0, 0, 0] += shift
            return out

        return apply

    assert judge(contract, sequence, change(0.014))[0].ok, "two roundings of a place at 0.99999 of the range"
    points[0, 0] = 0.5
    report, _ = judge(contract, sequence, change(0.014))
    assert any("next_track_ref_pts" in fault for fault in report.faults), "0.3 m in the middle of it"


def test_map_elements_that_tie_may_change_places(contract, sequence):
    for frame in sequence.expected:
        frame["map_score"][0, 3] = frame["map_score"][0, 4] = (frame["map_score"][0, 2] + frame["map_score"][0, 5]) / 2

    def swap(i, out):
        order = [0, 1, 2, 4, 3, *range(5, out["map_score"].shape[1])]
        return out | {n: out[n][:, order] for n in out if n in ("map_score", "map_label", "map_box", "map_mask", "map_kept")}

    report, _ = judge(contract, sequence, swap)
    assert report.ok, report.faults


def test_the_last_map_element_may_be_another_unless_the_map_is_made_of_it(contract, sequence):
    def exchange(i, out):
        last = {n: out[n].copy() for n in ("map_label", "map_box", "map_mask")}
        last["map_label"][0, -1] = (last["map_label"][0, -1] + 1) % 3
        last["map_box"][0, -1] = 1 - last["map_box"][0, -1]
        last["map_mask"][0, -1] = last["map_mask"][0, -1, ::-1]
        return out | last

    for frame in sequence.expected:
        frame["map_score"][0, -1], frame["map_kept"][0, -1] = 0.0, 0
        frame["map_lanes"] = merged_anew(frame, contract.map_merge)
    assert judge(contract, sequence, exchange)[0].ok
    for frame in sequence.expected:
        frame["map_score"][0] += 0.2
        frame["map_kept"][:] = 1
        frame["map_lanes"] = merged_anew(frame, contract.map_merge)
    report, _ = judge(contract, sequence, exchange)
    assert any("map_label" in f for f in report.faults), report.faults


def test_lanes_may_differ_where_a_cell_on_the_edge_decided_but_not_from_their_own_elements(contract, sequence):
    """Two elements, the second 40 % inside the first: one cell more and it is left out whole."""
    frame = sequence.expected[1]
    frame["map_mask"][:] = 0.0
    frame["map_label"][:] = 1
    frame["map_mask"][0, 0, 0, :20], frame["map_mask"][0, 0, 0, 8] = 1.0, 0.4999
    frame["map_mask"][0, 1, 0, 5:10], frame["map_mask"][0, 1, 1, 5:13] = 1.0, 1.0
    frame["map_mask"][0, 1, 0, 9:10] = 1.0
    frame["map_mask"][0, 1, 1, 11:13] = 0.0
    frame["map_lanes"] = merged_anew(frame, contract.map_merge)
    assert frame["map_lanes"][0, 1, 1].sum() == 6, "painted"

    def flip(i, out):
        if i == 1:
            out["map_mask"][0, 0, 0, 8] = 0.5001
            out["map_lanes"] = merged_anew(out, contract.map_merge)
            assert out["map_lanes"][0, 1, 1].sum() == 0, "left out"
        return out

    assert judge(contract, sequence, flip)[0].ok

    def alone(i, out):
        return out | {"map_lanes": merged_anew(flip(i, {k: v.copy() for k, v in out.items()}), contract.map_merge)}

    assert any("map_lanes" in f for f in judge(contract, sequence, alone)[0].faults)


def test_lanes_that_the_graph_did_not_settle_are_merged_on_the_host_for_every_runner(contract, sequence):
    frame = sequence.expected[1]
    lanes = frame["map_lanes"].copy()
    frame["map_settled"][:] = 0

    def unsettled(i, out):
        return out | {"map_lanes": np.zeros_like(lanes)} if i == 1 else out

    report, runner = judge(contract, sequence, unsettled)
    assert report.ok, report.faults
    got = finish_lanes(unsettled(1, frame), contract.map_merge)
    np.testing.assert_array_equal(got["map_lanes"], lanes)
    assert got["map_settled"] == 0, "what the graph put out stays"
    kept = finish_lanes(unsettled(1, frame | {"map_settled": np.ones(1, np.int32)}), contract.map_merge)
    assert not kept["map_lanes"].any(), "a graph that settled is believed"


def test_every_check_has_a_limit_in_every_precision():
    assert {p: set(vars(t)) for p, t in TOLERANCES.items()} == dict.fromkeys(TOLERANCES, set(vars(TOLERANCES["fp32"])))


def test_limits_are_what_the_product_promises_and_a_lower_precision_has_never_less_room():
    fp32, fp16, int8 = (vars(TOLERANCES[precision]) for precision in ("fp32", "fp16", "int8"))
    assert (fp32["ids"], fp32["objects"]) == (0, 0), "in fp32 a row is an object"
    assert {fp32[row] for row in ("boxes_m", "plan_m", "plan_mean_m", "traj_m", "occ_cells", "map_cells")} == {1e-3}
    assert fp16["plan_mean_m"] == int8["plan_mean_m"] == 0.02
    assert (fp16["boxes_m"], int8["boxes_m"]) == (0.1, 0.5), "of the finest threshold that nuScenes matches by, 0.5 m"
    assert (fp16["objects"], int8["objects"]) == (0.05, 0.1)
    for row in fp32:
        assert fp32[row] <= fp16[row] <= int8[row], row
    free = [{row for row, limit in table.items() if not np.isfinite(limit)} for table in (fp32, fp16, int8)]
    assert free == [set(), {"ids", "state_rel"}, {"ids", "state_rel"}]


def test_a_box_that_nobody_reports_may_differ(contract, sequence):
    report, _ = judge(contract, sequence, _set("boxes", (0, 30, 0), 99.0))
    assert report.ok


def test_lower_precision_has_wider_limits(contract, sequence):
    def change(i, out):
        return out | {"boxes": out["boxes"] + np.float32(0.05)}

    assert not judge(contract, sequence, change)[0].ok
    assert judge(contract, sequence, change, "fp16")[0].ok


@pytest.mark.parametrize("precision, bearable", [("fp16", 1), ("int8", 2)])
@pytest.mark.parametrize("value", [0, 1], ids=["gone", "come"])
def test_lower_precision_may_lose_or_gain_a_few_objects_over_all_frames_and_no_more(
    contract, sequence, precision, bearable, value
):
    """Of four reported in each of three frames: one is 1/23 of both replays' objects, two are 2/22, three 3/21."""
    for frame in sequence.expected:
        frame["obj_id"][:, :20] = np.arange(20)

    def come_or_go(count):
        def change(i, out):
            if i == 1:
                out["active"][0, np.arange(count) + (0 if not value else 8)] = value
                out["boxes"][0, 8:, :2] += 50.0
            return out

        return judge(contract, sequence, change, precision)[0]

    for count in range(4):
        report = come_or_go(count)
        share = count / (24 + (count if value else -count))
        assert report.worst["objects"] == pytest.approx(share) and report.tracks == 12
        judged = [fault for fault in report.faults if "(objects)" in fault]
        assert bool(judged) == (count > bearable) == (share > TOLERANCES[precision].objects), count
        assert not report.ok or not judged


def test_missing_frames_fail(contract, sequence):
    report = compare([], sequence, contract, "none")
    assert not report.ok and report.faults == [f"0 frames came back, {len(sequence)} were recorded"]
    twice = replay(Parrot(contract, sequence), sequence) * 2
    assert f"{2 * len(sequence)} frames came back" in compare(twice, sequence, contract, "none").faults[-1]


def test_who_has_seen_a_fault_asks_no_further(contract, sequence):
    asked = []

    def off_by_a_metre_a_frame(i, out):
        asked.append(i)
        return out | {"boxes": out["boxes"] + np.float32(i)}

    runner = Parrot(contract, sequence, off_by_a_metre_a_frame)
    report = compare(replayed(runner, sequence), sequence, contract, "parrot", "fp16", stop_on_failure=True)
    assert asked == [0, 1] and report.frames == 2 and "frame 1: boxes" in report.faults[0]
    assert not runner._is_open
    right = Parrot(contract, sequence)
    report = compare(replayed(right, sequence), sequence, contract, "parrot", "fp16", stop_on_failure=True)
    assert report.ok and report.frames == len(right.fed) == FRAMES


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
