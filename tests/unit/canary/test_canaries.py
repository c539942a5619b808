"""Canaries find every planted fault, name it, and find none in a back end that is right."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers import REPO
from helpers.faulty_backends import FAULTS, StandIn, open_dying
from uniad.canary.bench import run_cached, run_set
from uniad.canary.benches import OrtBench, run_isolated
from uniad.canary.catalog import KINDS, Facts, concerned
from uniad.canary.graphs import bilinear, float8, halved, tf32
from uniad.canary.judge import (
    BROKEN,
    CRASHED,
    ELSEWHERE,
    REFUSED,
    RIGHT,
    WRONG,
    CanarySet,
    Outcome,
    Result,
    departure,
    read_set,
    refusal,
    remarks,
)
from uniad.canary.report import report_of, short
from uniad.canary.sets import facts_of_graph, write_set
from uniad.errors import UserError
from uniad.formats.report import plain, read_report, write_report


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> CanarySet:
    return write_set(tmp_path_factory.mktemp("canaries"))


@pytest.fixture(scope="module")
def right(canaries: CanarySet) -> Result:
    return run_set(StandIn(canaries), canaries)


def test_onnxruntime_is_right(canaries: CanarySet) -> None:
    outcomes = run_set(OrtBench(), canaries).outcomes
    assert {name for name, o in outcomes.items() if o.state == ELSEWHERE} == {n for n in KINDS if n.endswith("plugin")}
    assert {o.state for o in outcomes.values()} == {RIGHT, ELSEWHERE}


def test_a_right_tensorrt_is_right(canaries: CanarySet, right: Result) -> None:
    assert {o.state for o in right.outcomes.values()} == {RIGHT}
    report = report_of(canaries, right, None)
    assert report.passed and report.findings == ["All that were asked are right."]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(canaries: CanarySet, name: str) -> None:
    fault = FAULTS[name]
    result = run_set(fault.made(canaries), canaries)
    found = {canary: o for canary, o in result.outcomes.items() if o.state != RIGHT}
    assert set(found) == fault.wrong, {canary: o.text for canary, o in found.items()}
    assert {o.state for o in found.values()} == {fault.state}
    told = " ".join(f"{canary}: {o.text}" for canary, o in found.items())
    assert fault.named in told


def test_each_canary_is_found_wrong_by_a_planted_fault() -> None:
    assert set().union(*(fault.wrong for fault in FAULTS.values())) == set(KINDS)


def test_signs_are_far_from_what_is_right_and_from_each_other(canaries: CanarySet) -> None:
    for name, row in canaries.rows.items():
        right, signs = canaries.part(name, "out"), [canaries.part(name, f"sign{i}") for i in range(len(row["signs"]))]
        for i, sign in enumerate(signs):
            away = max(departure(value, right[key]) for key, value in sign.items())
            assert away > 5 * row["limit"], (name, row["signs"][i], away)


def test_a_set_is_the_same_each_time_and_is_read_whole(canaries: CanarySet, tmp_path: Path) -> None:
    again = write_set(tmp_path / "again")
    assert again.digest == canaries.digest
    (tmp_path / "again/attention.onnx").unlink()
    with pytest.raises(UserError, match="attention.onnx is missing"):
        read_set(tmp_path / "again")
    with pytest.raises(UserError, match="no set of canaries"):
        read_set(tmp_path)


def test_a_result_is_kept_for_this_back_end_and_no_other(canaries: CanarySet, tmp_path: Path) -> None:
    lines: list[str] = []
    asked: list[str] = []

    def run() -> dict[str, Outcome]:
        asked.append("run")
        return {name: Outcome(RIGHT) for name in canaries.rows}

    bench = StandIn(canaries)
    for _ in range(2):
        run_cached(bench, canaries, tmp_path, lines.append, run)
    assert len(asked) == 1 and "as found before" in lines[1]
    bench.version = "11"
    run_cached(bench, canaries, tmp_path, lines.append, run)
    assert len(asked) == 2 and "tensorrt 11 on stand-in: 27 right" in lines[2]
    for file in tmp_path.iterdir():
        file.write_text("{}")  # of an earlier version of this code: made again
    run_cached(bench, canaries, tmp_path, lines.append, run)
    assert len(asked) == 3


def test_a_builder_that_dies_takes_one_canary_with_it(canaries: CanarySet) -> None:
    outcomes = run_isolated(StandIn(canaries), canaries, reopen=functools.partial(open_dying, str(canaries.folder)))
    wrong = {name: o.text for name, o in outcomes.items() if o.state != RIGHT}
    assert list(wrong) == ["projection"] and "SIGSEGV" in wrong["projection"]


GRIDSAMPLE = Facts(frozenset({"GridSample", "MatMul", "Add", "Softmax", "Gather", "Where", "Slice", "Conv"}), frozenset())
GATHER = Facts(GRIDSAMPLE.operators - {"GridSample"}, frozenset())


def test_a_fault_in_the_graph_refuses_with_one_line_and_the_option(canaries: CanarySet) -> None:
    result = run_set(FAULTS["deformable attention of 10.14"].made(canaries), canaries)
    line = refusal(canaries, result, concerned(GRIDSAMPLE), "x.onnx")
    assert line.startswith("x.onnx: not built, its graph holds what tensorrt 10.99 on stand-in computes wrong: deformable attent")
    assert "EXPORT_SAMPLING=gather avoids it, CANARY=0 builds it all the same" in line and "\n" not in line
    assert refusal(canaries, result, concerned(GATHER), "x.onnx") == ""
    said = remarks(canaries, result, concerned(GATHER))
    assert len(said) == 4 and all("this graph does not hold it" in text for text in said)


def test_an_option_that_is_broken_too_is_not_advised(canaries: CanarySet, right: Result) -> None:
    outcomes = dict(right.outcomes)
    for name in ("deformable_attention_gridsample", "deformable_attention_gather"):
        outcomes[name] = Outcome(BROKEN, "wrong")
    line = refusal(canaries, right._replace(outcomes=outcomes), concerned(GRIDSAMPLE), "x.onnx")
    assert "EXPORT_SAMPLING=plugin avoids it" in line
    for state in (BROKEN, REFUSED, CRASHED, ELSEWHERE):
        outcomes["deformable_attention_plugin"] = Outcome(state, "wrong")
        line = refusal(canaries, right._replace(outcomes=outcomes), concerned(GRIDSAMPLE), "x.onnx")
        assert "no export option avoids it: use another release of TensorRT" in line, state


def test_each_option_that_is_advised_is_one_of_make(canaries: CanarySet) -> None:
    settings = (REPO / "mk/vars.mk").read_text()
    for kind in KINDS.values():
        for text, canary in kind.avoid:
            assert canary in KINDS
            name = re.match(r"(\w+)=", text)
            assert "make export" in text or (name and f"{name[1]} ?=" in settings), text


@pytest.mark.parametrize("facts,some,others", [
    (Facts(frozenset({"GridSample"}), frozenset(), halves=True), {"deformable_attention_half"}, {"int8_matmul", "attention"}),
    (Facts(frozenset({"MatMul", "Conv"}), frozenset(), int8=True), {"int8_matmul", "int8_convolution"}, {"fp8_matmul"}),
    (Facts(frozenset({"Softmax"}), frozenset(), dynamic=True), {"attention", "attention_dynamic"}, {"attention_half"}),
    (Facts(frozenset({"TopK"}), frozenset(), most_k=900), {"top_k"}, {"top_k_4000"}),
    (Facts(frozenset({"Gather"}), frozenset({"Gather"})), {"deformable_convolution_gather"}, {"grid_sample"}),
    (Facts(frozenset({"GridSample"}), frozenset(), opset=20), {"grid_sample_opset20"}, {"scatter_nd_add"}),
])  # fmt: skip
def test_what_a_graph_holds_decides_what_concerns_it(facts: Facts, some: set[str], others: set[str]) -> None:
    touched = set(concerned(facts))
    assert some <= touched and not others & touched


def test_each_canary_holds_what_it_warns_of(canaries: CanarySet) -> None:
    for name in canaries.rows:
        facts = facts_of_graph(onnx.load(str(canaries.folder / f"{name}.onnx")))
        assert name in concerned(replace(facts, backbone=facts.operators)), name


def test_facts_are_read_from_a_graph() -> None:
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["v", "i"], name="glue/TopK_0"),
        helper.make_node("ScatterND", ["x", "at", "u"], ["s"], reduction="add", name="img_backbone.layer3/ScatterND_1"),
    ]
    x, v = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [s, 4]) for n, s in (("x", "rows"), ("v", 3)))
    graph = helper.make_graph(nodes, "g", [x], [v], [helper.make_tensor("k", TensorProto.INT64, [1], [3])])
    facts = facts_of_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    assert (facts.opset, facts.most_k, facts.dynamic, facts.reductions, facts.halves) == (18, 3, True, True, False)
    assert facts.backbone == {"ScatterND"} and facts.operators == {"TopK", "ScatterND"}


def test_a_card_has_what_was_found(canaries: CanarySet) -> None:
    result = run_set(FAULTS["fp32 for FP8"].made(canaries), canaries)
    entry = result.entry(["attention"])
    assert entry["right"] == 26 and list(entry["broken"]) == ["fp8_matmul"] and entry["not_run"] is None
    assert entry["version"] == "10.99" and entry["concerned"] == ["attention"] and "refused" not in entry


def test_a_report_says_what_is_broken_and_what_to_do(canaries: CanarySet, tmp_path: Path) -> None:
    result = run_set(FAULTS["nearest for bilinear"].made(canaries), canaries)
    report = report_of(canaries, result, concerned(GRIDSAMPLE), "x.onnx")
    write_report(report, tmp_path)
    page = read_report(tmp_path)
    assert page.passed is False and "bilinear GridSample (grid_sample) is wrong: it takes the nearest cell" in page.findings[0]
    assert "this graph holds it; EXPORT_SAMPLING=gather avoids it" in page.findings[0]
    assert not any(result.outcomes[name].state not in WRONG for name in FAULTS["nearest for bilinear"].wrong)
    assert "grid_sample" in plain(short(result))
    unrun = result._replace(ran="this machine has no GPU")
    assert report_of(canaries, unrun, None).passed is None and "Built, not run" in report_of(canaries, unrun, None).findings[-1]


def test_references_are_known_at_known_points() -> None:
    image = np.arange(6.0).reshape(1, 2, 3)
    points = np.array([0.0, 0.5, 2.0, 2.5, -1.0]), np.array([0.0, 0.5, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(bilinear(image, *points)[0], [0, 2, 5, 2.5, 0])
    assert float8(np.array([1.06, 500.0, -0.3, 2.0**-9])).tolist() == [1.0, 448.0, -0.3125, 2.0**-9]
    assert halved(np.array([70000.0]))[0] == np.inf
    assert tf32(np.array([1 + 2.0**-11 + 2.0**-12], np.float32))[0] == np.float32(1 + 2.0**-10)


def test_the_page_names_every_canary_and_thread() -> None:
    page = (REPO / "docs/canary.md").read_text()
    for name, kind in KINDS.items():
        assert f"`{name}`" in page, name
        for thread in kind.threads:
            assert thread in page, thread
