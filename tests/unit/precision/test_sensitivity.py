"""Which groups keep fp32: none without need, each for a reason that was measured, the same ones every time."""

from __future__ import annotations

import onnx
import pytest

from helpers.specs import nano_spec
from uniad.artifacts.sequence import Sequence
from uniad.errors import UserError
from uniad.interface.contract import contract_for
from uniad.precision import search as sensitivity
from uniad.precision.search import Effect, Span, choose, measure
from uniad.verify.compare import Report

GROUPS = [f"layer{i}" for i in range(8)]
EVEN = dict.fromkeys(GROUPS, 0.1)  # what converting each saves


class Scene:
    """Every converted group does its harm; up to 1 in all is tolerated."""

    def __init__(self, **harm: float) -> None:
        self.harm, self.asked = harm, []

    def __call__(self, kept: frozenset[str], span: Span) -> Effect:
        self.asked.append((kept, span))
        ratio = sum(self.harm.get(g, 0.0) for g in GROUPS if g not in kept)
        return Effect(tolerance_ratio=ratio, boxes_m=ratio / 10, ids=0, fault="" if ratio <= 1 else "boxes are off")


def test_nothing_is_kept_without_need_and_nothing_more_is_measured() -> None:
    scene = Scene(layer1=0.4, layer2=0.5)
    choice = choose(GROUPS, scene)
    assert choice.kept == () and choice.effect.ok and choice.alone == {} and len(scene.asked) == 1


@pytest.mark.parametrize("work", [None, EVEN])
def test_the_groups_that_do_harm_are_kept_in_the_order_of_the_graph(work) -> None:
    choice = choose(GROUPS, Scene(layer6=5.0, layer1=3.0, layer2=0.4), work=work)
    assert choice.kept == ("layer1", "layer6") and choice.effect.ok and not choice.all_converted.ok


@pytest.mark.parametrize("work", [None, EVEN])
def test_each_kept_group_is_needed_and_the_choice_says_how_much(work) -> None:
    scene = Scene(layer0=2.0, layer3=0.7, layer4=0.6, layer7=9.0)
    choice = choose(GROUPS, scene, work=work)
    assert choice.effect.ok and choice.without.keys() == set(choice.kept)
    for group in choice.kept:
        assert not scene(frozenset(choice.kept) - {group}, Span.WHOLE).ok and not choice.without[group].ok
        assert work is None or choice.alone[group].tolerance_ratio == scene.harm[group]


def test_where_all_groups_count_alike_few_measurements_find_the_harmful_one() -> None:
    scene = Scene(layer5=5.0)
    assert choose(GROUPS, scene).kept == ("layer5",)
    assert len(scene.asked) <= 2 + 2 * 3, "all, none, and three times two halves"
    assert choose(GROUPS, Scene(layer1=0.9, layer6=0.8)).kept == ("layer6",), "what comes first in the graph is converted first"


def test_a_group_whose_harm_alone_misleads_is_given_up_again() -> None:
    class Misleading(Scene):
        def __call__(self, kept: frozenset[str], span: Span) -> Effect:
            """layer5 looks worst by itself, but only layer2 matters once others are converted."""
            if span is Span.FIRST:
                ratio = 9.0 if "layer5" not in kept else 3.0 if "layer2" not in kept else 0.1
                return Effect(tolerance_ratio=ratio, boxes_m=0, ids=0)
            return Effect(tolerance_ratio=0, boxes_m=0, ids=0, fault="" if "layer2" in kept else "boxes are off")

    assert choose(GROUPS, Misleading(), work=EVEN).kept == ("layer2",)


def test_only_what_is_told_of_at_length_is_measured_to_the_end() -> None:
    scene = Scene(layer0=2.0, layer3=0.7, layer4=0.6)
    choose(GROUPS, scene, work=EVEN)
    spans = [span for _, span in scene.asked]
    assert spans[: 1 + len(GROUPS)] == [Span.WHOLE] + [Span.FIRST] * len(GROUPS)
    assert len(spans) > 1 + len(GROUPS) and set(spans[1 + len(GROUPS) :]) == {Span.STOP_ON_FAILURE}


def test_one_that_breaks_the_tolerance_alone_is_kept_before_any_other_and_tried_once_more() -> None:
    """Even where it saves so much that its harm for that is the least."""
    scene = Scene(layer0=1.2, layer3=0.6, layer4=0.5)
    output: list[str] = []
    choice = choose(GROUPS, scene, output.append, work={**EVEN, "layer0": 50.0})
    assert choice.kept == ("layer0", "layer3") and choice.without.keys() == set(choice.kept)
    spans = [(kept, span) for kept, span in scene.asked if span is Span.STOP_ON_FAILURE]
    assert spans[0][0] == {"layer0"}, "no shorter list is tried"
    assert len(spans) <= 4


def test_the_same_measurements_give_the_same_choice() -> None:
    equal = dict.fromkeys(GROUPS, 0.3)
    first, second = choose(GROUPS, Scene(**equal), work=EVEN), choose(GROUPS, Scene(**equal), work=EVEN)
    assert first.kept == second.kept and len(first.kept) == 5


def test_of_two_that_would_do_the_one_that_saves_less_work_is_kept() -> None:
    harm = {"layer1": 0.9, "layer6": 0.8}
    assert choose(GROUPS, Scene(**harm), work=EVEN).kept == ("layer1",)
    assert choose(GROUPS, Scene(**harm), work={**EVEN, "layer1": 0.3}).kept == ("layer6",)


def test_what_must_stay_stays_and_is_not_measured() -> None:
    scene = Scene(layer1=5.0)
    choice = choose(GROUPS, scene, always=["layer7"])
    assert choice.kept == ("layer1", "layer7") and "layer7" not in choice.alone
    assert all("layer7" in kept for kept, _ in scene.asked)


def test_progress_is_told_and_a_tolerance_that_cannot_hold_is_an_error() -> None:
    output: list[str] = []
    choose(GROUPS, Scene(layer1=5.0), output.append, work=EVEN)
    assert any("8/8 layer7 alone" in line for line in output) and any("layer1 is kept" in line for line in output)
    for work in (None, EVEN):
        with pytest.raises(UserError, match="no choice of layers holds the tolerance.*make verify"):
            choose(GROUPS, lambda kept, span: Effect(tolerance_ratio=9, boxes_m=1, ids=0, fault="boxes are off"), work=work)


@pytest.mark.parametrize(("plan_m", "holds"), [(0.015, True), (0.017, False)])
def test_of_the_plan_s_limit_a_fifth_is_left_for_other_scenes(plan_m: float, holds: bool, monkeypatch) -> None:
    rows = {"plan_mean_m": plan_m, "boxes_m": 0.0, "ids": 0.0}
    monkeypatch.setattr(sensitivity, "compare", lambda *_: Report("", "int8", 8, 0, rows))
    contract = contract_for(nano_spec(2))
    effect = measure(onnx.ModelProto(), contract, Sequence([], [], {}), "int8")
    assert effect.ok is holds and effect.plan_m == plan_m and effect.tolerance_ratio == pytest.approx(plan_m / 0.02)
    assert holds or effect.fault == "all frames: the plan differs by 0.017 m, over 80% of 0.02 m"
