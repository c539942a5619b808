"""What a lower precision does to the recorded sequence, and which layer groups must keep fp32 so that a tolerance holds.

Effects are measured where they matter, on the whole step with its state fed back: metres of the plan, metres of boxes, objects.
An error inside a layer says little, since the next norm may remove it, and the state may make it grow from frame to frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf, isfinite

import onnx

from uniad.artifacts.sequence import Sequence
from uniad.backends.onnxruntime import OrtRunner
from uniad.backends.rounding import has_halves, rounded
from uniad.errors import UserError
from uniad.interface.contract import Contract
from uniad.verify.compare import compare, replayed
from uniad.verify.tolerances import TOLERANCES

Say = Callable[[str], None]
# Share of the plan's limit that a choice may use. It is a mean over the recorded frames, and other scenes have another one: a
# graph that took 96 % of it on eight frames took 108 % on the 200 frames of five scenes (docs/quantization.md).
PLAN_ROOM = 0.8


class Span(Enum):
    """How much of the recorded sequence a measurement takes."""

    WHOLE = "all frames"
    FIRST = "the first frames, enough to rank by"
    STOP_ON_FAILURE = "all frames where the tolerance holds, else up to the first that breaks it"


@dataclass(frozen=True)
class Effect:
    """A candidate against the recorded fp32 step."""

    tolerance_ratio: float  # the largest difference over its limit: up to 1 the tolerance holds
    boxes_m: float
    ids: float  # rows, over all frames, whose id or label differs
    plan_m: float | None = None  # mean over frames of the mean distance of planned positions; None before stage 2
    worst: dict[str, float] = field(default_factory=dict)  # every row of the tolerance
    fault: str = ""  # the first
    frames: int = 0  # that were looked at

    @property
    def ok(self) -> bool:
        return not self.fault

    def to_json(self) -> dict:
        kept = {"plan_m": self.plan_m, "boxes_m": self.boxes_m, "ids": self.ids, "frames": self.frames}
        kept["strain"] = self.tolerance_ratio  # its name in cards
        numbers = {k: (round(v, 9) if isfinite(v) else None) for k, v in kept.items() if v is not None}
        return numbers | ({"fault": self.fault} if self.fault else {})

    def __str__(self) -> str:
        plan = "" if self.plan_m is None else f"plan {self.plan_m:.1e} m, "
        return f"{plan}boxes {self.boxes_m:.1e} m, ids {self.ids:.0f}, {self.tolerance_ratio:.2f} of the tolerance"


def shortened(sequence: Sequence, frames: int) -> Sequence:
    """The first frames of a sequence; its last state is only known for all of it."""
    if frames >= len(sequence):
        return sequence
    return Sequence(sequence.feeds[:frames], sequence.expected[:frames], {})


def measure(
    model: onnx.ModelProto,
    contract: Contract,
    sequence: Sequence,
    precision: str,
    span: Span = Span.WHOLE,
    first: int = 4,
    threads: int = 0,
) -> Effect:
    """Replay ``span`` of the sequence through onnxruntime on CPU and judge it by the tolerances of ``precision``.

    first: how many frames the first ones are. Halves are rounded as a device rounds them, see ``backends.rounding``.
    """
    part = shortened(sequence, first) if span is Span.FIRST else sequence
    runner = OrtRunner(contract, rounded(model) if has_halves(model) else model, threads=threads, device="cpu")
    report = compare(replayed(runner, part), part, contract, "onnxruntime", precision, span is Span.STOP_ON_FAILURE)
    limit = TOLERANCES[precision]
    broken = any("non-finite" in fault for fault in report.faults)
    ratios = [value / getattr(limit, row) for row, value in report.worst.items() if 0 < getattr(limit, row) < inf]
    plan, faults = report.worst.get("plan_mean_m"), list(report.faults)
    if plan is not None and plan > PLAN_ROOM * limit.plan_mean_m:
        faults.append(f"all frames: the plan differs by {plan:.3g} m, over {PLAN_ROOM:.0%} of {limit.plan_mean_m:g} m")
    return Effect(
        tolerance_ratio=inf if broken else max(ratios),
        boxes_m=report.worst["boxes_m"],
        ids=report.worst["ids"],
        plan_m=plan,
        worst=report.worst,
        fault=faults[0] if faults else "",
        frames=report.frames,
    )


@dataclass(frozen=True)
class Choice:
    """Groups that keep fp32, in the graph's order, and what was measured on the way."""

    kept: tuple[str, ...]
    effect: Effect  # of what was chosen, over all frames
    all_converted: Effect
    alone: dict[str, Effect]  # group -> effect of converting it alone, where groups were ranked
    without: dict[str, Effect]  # kept group -> effect of converting it too: why it is kept


def choose(
    groups: Iterable[str],
    effect_of: Callable[[frozenset[str], Span], Effect],
    say: Say = lambda line: None,
    always: Iterable[str] = (),
    work: Mapping[str, float] | None = None,
) -> Choice:
    """The groups to keep in fp32, beside ``always``: none if that holds, else as few as a greedy search finds.

    effect_of(kept, span): the effect of converting all groups but ``kept``, measured over so much of the sequence.
    The search starts from a list that holds when kept, and gives up what need not be kept, many at once while that holds. So
    converting any kept group as well breaks the tolerance. The same measurements give the same choice.
    work: what converting each saves. Where groups differ in that, harm counts by what it buys, and a small sensitive head is kept
    before a large backbone: groups are ranked by the harm that each does alone, those that break the tolerance alone before all
    others, since no list holds without them; the list is the shortest of the worst, and the harmless are given up first, many at
    once. Without it the list is all groups, given up from the graph's beginning, where images are large.
    Raises UserError where even all of them kept do not hold.
    """
    always = frozenset(always)
    free = [g for g in groups if g not in always]

    def hold(kept: Iterable[str]) -> Effect:
        return effect_of(frozenset(kept) | always, Span.STOP_ON_FAILURE)

    say(f"all of {len(free)} groups converted:")
    everything = effect_of(always, Span.WHOLE)
    say(f"  {everything}")
    if everything.ok:
        return Choice(tuple(g for g in groups if g in always), everything, everything, {}, {})
    say(f"  over the tolerance ({everything.fault})")
    alone: dict[str, Effect] = {}
    needed = 0  # groups at the head of the list that break the tolerance alone
    if work is None:
        kept, effect = free[::-1], hold(free)
        say(f"  all in fp32: {effect}")
        if not effect.ok:
            raise _no_choice(effect)
    else:
        for i, group in enumerate(free):
            alone[group] = effect_of(frozenset(free) - {group} | always, Span.FIRST)
            say(f"  {i + 1:3d}/{len(free)} {group} alone: {alone[group]}")
        harm = {g: alone[g].tolerance_ratio / max(work[g], 1e-9) for g in free}
        ranked = sorted(free, key=lambda g: (alone[g].ok, -harm[g], free.index(g)))  # of equals the first: its errors travel on
        needed = sum(not alone[g].ok for g in free)
        kept, effect = _shortest(ranked, needed, hold, say)
    without = {}
    # One that breaks the tolerance alone is not tried in company, which would only break it, too
    blocks = _halves(kept[needed:][::-1]) + [[g] for g in kept[:needed][::-1]]
    while blocks:
        block = blocks.pop(0)
        tried = hold(set(kept) - set(block))
        if tried.ok:
            kept, effect = [g for g in kept if g not in block], tried
            say(f"  {', '.join(block)} need not be kept: {tried}")
        elif len(block) > 1:
            blocks = _halves(block) + blocks
        else:
            without[block[0]] = tried
            say(f"  {block[0]} is kept: without, {tried.fault}")
    order = [g for g in groups if g in always or g in kept]
    return Choice(tuple(order), effect, everything, alone, without)


def _no_choice(effect: Effect) -> UserError:
    return UserError(
        f"no choice of layers holds the tolerance: even with all of them in fp32, {effect.fault}; "
        f"see whether the fp32 graph passes `make verify`"
    )


def _halves(block: list[str]) -> list[list[str]]:
    middle = (len(block) + 1) // 2
    return [half for half in (block[:middle], block[middle:]) if half]


def _shortest(ranked: list[str], needed: int, hold: Callable[[Iterable[str]], Effect], say: Say) -> tuple[list[str], Effect]:
    """The shortest beginning of ``ranked``, of at least ``needed``, that holds when kept: more are added, one, two, four, ...,
    until it does, then halved in between."""
    tried: dict[int, Effect] = {}

    def holds(count: int) -> bool:
        if count not in tried:
            tried[count] = hold(ranked[:count])
            say(f"  the worst {count} kept: {tried[count]}")
        return tried[count].ok

    low, high, more = max(needed, 1) - 1, max(needed, 1), 1
    while not holds(high):
        if high >= len(ranked):
            raise _no_choice(tried[high])
        low, high, more = high, min(high + more, len(ranked)), 2 * more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return ranked[:high], tried[high]
