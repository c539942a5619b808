"""Find the first tensor of a graph at which a back end, or a graph of lower precision, departs from the reference.

The reference is onnxruntime in fp32 without its optimisations. Both sides are fed the reference's state, so that a fault shows in
the frame that makes it. Then the graph is cut in two: all tensors that cross the cut are exposed as outputs on both sides. If one
departs the fault lies before the cut, if all agree behind it. Each cut halves what remains, so a graph of 4000 nodes takes about
twelve; where a probe is no build, several cuts are looked at in one.

Exposing a tensor can change what a back end fuses. So every probe also looks at what failed before it; where that has become
right, the cut proves nothing and another is taken, and a fault that no cut leaves alone is told as a range of nodes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from uniad.bisect.probes import Arrays, Side
from uniad.errors import UserError
from uniad.export.groups import UNGROUPED, group_of
from uniad.precision.half import HALF_MAX
from uniad.verify.tensors import Difference, Limits, difference

STUBBORN = 3  # cuts that hide the fault before the search stops
CUTS = 7  # in a probe that costs seconds; a build takes one, for every exposed tensor may change what is fused
Say = Callable[[str], None]


@dataclass
class Replay:
    """What both sides are asked. ``judge(got, want)`` names the outputs of a frame that are wrong."""

    feeds: Sequence[Mapping[str, np.ndarray]]  # without the state
    state: Mapping[str, np.ndarray]  # before the first frame
    carry: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
    judge: Callable[[Arrays, Arrays], list[str]]
    recorded: Callable[[int, Arrays], list[str]] = lambda frame, outputs: []  # faults of the reference itself


@dataclass
class Finding:
    """What was found. ``verdict``: agrees, recording, drift, located, range."""

    verdict: str
    backend: str
    precision: str
    limit: Limits
    frame: int | None = None
    outputs: list[str] = field(default_factory=list)  # where it shows
    tensor: str | None = None
    node: str | None = None
    op_type: str | None = None
    module: str | None = None
    group: str | None = None
    candidate_type: str | None = None
    error: Difference | None = None
    inputs: dict[str, Difference] = field(default_factory=dict)
    alone: Difference | None = None  # of the same node, fed the reference's inputs
    reason: str = ""
    until: str | None = None  # of a range: its last tensor
    nodes: list[str] = field(default_factory=list)  # of a range
    notes: list[str] = field(default_factory=list)
    probes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for a person."""
        if self.verdict not in ("located", "range"):
            return [self.reason, *self.notes]
        head = "first tensor that departs" if self.verdict == "located" else "the fault lies between"
        name = self.tensor if self.verdict == "located" else f"{self.tensor or 'the inputs'} and {self.until}"
        lines = [f"{head}: {name}"]
        if self.error is not None:
            lines += [
                f"  node     {self.node} ({self.op_type})",
                f"  layer    {self.group}" + (f", module {self.module}" if self.module != self.group else ""),
                f"  reference |x| up to {self.error.reference_max:.3g}, {self.backend} up to {self.error.candidate_max:.3g}",
                f"  error    {self.error}; allowed {self.limit.rms:.2g} (worst {self.limit.max:.2g})",
            ]
            lines += [f"  input    {name}: {error}" for name, error in self.inputs.items()]
            if self.alone is not None:
                lines.append(f"  alone    fed the reference's inputs: {self.alone}")
        lines.append(f"  so       {self.reason}")
        lines.append(f"  seen     frame {self.frame}, in {', '.join(self.outputs[:6])}{' ...' if len(self.outputs) > 6 else ''}")
        return lines + [f"  note     {note}" for note in self.notes]


def locate(
    reference: Side, candidate: Side, replay: Replay, precision: str, *, memory_mib: int = 1024, say: Say = print
) -> Finding:
    """The first tensor that departs beyond the limits of ``precision``; memory for exposed tensors is bounded."""
    started = time.monotonic()
    finding, wrong = _first_wrong_frame(reference, candidate, replay, precision, say)
    if wrong:
        finding = _Search(reference, candidate, memory_mib << 20, say).run(wrong, finding)
    finding.probes, finding.seconds = candidate.builds, round(time.monotonic() - started, 1)
    return finding


@dataclass
class _Wrong:
    """A frame that fails."""

    feeds: Mapping[str, np.ndarray]  # with the reference's state
    errors: dict[str, Difference]  # of its wrong outputs


def _first_wrong_frame(
    reference: Side, candidate: Side, replay: Replay, precision: str, say: Say
) -> tuple[Finding, _Wrong | None]:
    """Where it first fails, or why it does not."""
    base = Finding("agrees", candidate.name, precision, Limits.of(precision))
    names = reference.graph.outputs
    missing = [name for name in names if not candidate.gives(name)]
    if missing:
        raise UserError(f"the candidate graph has no {missing[0]}: it is not another version of this graph")
    odd: list[str] = []
    state, own, drift = replay.state, replay.state, None
    with ExitStack() as stack:
        ask, tell = (stack.enter_context(side.opened(names)) for side in (reference, candidate))
        for i, frame in enumerate(replay.feeds):
            feeds = {**frame, **state}
            want = ask(feeds)
            got = tell(feeds)
            odd = odd or [f"frame {i}: {name}" for name in replay.recorded(i, want)]
            wrong = replay.judge(got, want)
            if wrong:
                say(f"frame {i}: wrong given the reference's state: {', '.join(wrong)}")
                errors = {name: difference(got[name], want[name]) for name in wrong}
                notes = [f"the reference itself is not as recorded: {odd[0]}"] if odd else []
                return replace(base, verdict="located", frame=i, outputs=wrong, notes=notes), _Wrong(feeds, errors)
            if drift is None:
                fed = tell({**frame, **own}) if own is not state else got
                drift = next(((i, name) for name in replay.judge(fed, want)), None)
                own = replay.carry(fed)
            state = replay.carry(want)
    frames = len(replay.feeds)
    if odd:
        fault = (
            "the export or the recording is at fault, run `make export` again"
            if odd[0].startswith("frame 0:")
            else "small differences grow from frame to frame, or the recording is at fault"
        )
        reason = f"given the same state {candidate.name} and the reference agree, but neither is as recorded ({odd[0]}): {fault}"
        return replace(base, verdict="recording", reason=reason), None
    if drift:
        i, name = drift
        reason = (
            f"given the reference's state every frame of {frames} is right; fed its own, {candidate.name} is wrong from "
            f"frame {i} on ({name}): no tensor is at fault, small differences grow from frame to frame"
        )
        return replace(base, verdict="drift", frame=i, outputs=[name], reason=reason), None
    return replace(base, reason=f"nothing departs: {candidate.name} agrees with the reference in {frames} frames"), None


class _Search:
    """Halves the graph until one node remains."""

    def __init__(self, reference: Side, candidate: Side, memory: int, say: Say) -> None:
        self.reference, self.candidate, self.memory, self.say = reference, candidate, memory, say
        self.graph = reference.graph
        self.cuts = CUTS if candidate.cheap else 1
        self.feeds: Mapping[str, np.ndarray] = {}
        self.limit: Limits

    def run(self, wrong: _Wrong, finding: Finding) -> Finding:
        self.feeds, errors, limit = wrong.feeds, wrong.errors, finding.limit
        worst = max(error.over(limit) for error in errors.values())
        if worst <= 1.0:
            # A task can fail by less than what tensors are allowed: then look for where half of that comes from.
            limit = Limits(*(value * max(worst, 1e-9) / 2 for value in limit))
            finding.notes.append("its outputs are off by little, so limits are half of that")
        self.limit = finding.limit = limit
        targets = [name for name, error in errors.items() if error.over(limit) > 1.0]
        constant = [name for name in targets if name in self.graph.constant]
        if constant:
            return self._constant(constant[0], errors, finding)
        region = self._region(targets)
        self.say(
            f"{len(region)} nodes lead to {', '.join(targets[:4])}{' ...' if len(targets) > 4 else ''}: "
            f"at most {_expected(len(region), self.cuts)} probes of {self.candidate.name}"
            f"{'' if self.candidate.cheap else ', each a build'}"
        )
        low, hidden, step, refused = -1, 0, 0, set()
        while hidden < STUBBORN:
            cuts = self._choose(region, targets, low, refused)
            if not cuts:
                break
            live = [self._live(region, targets, cut) for cut in cuts]
            opened, step = list(dict.fromkeys(t for tensors in live for t in tensors)), step + 1
            found, whole = self._measure(opened, targets)
            over = [[t for t in tensors if found[t].over(limit) > 1.0] for tensors in live]
            first = next((k for k, departing in enumerate(over) if departing), None)
            names = [self._describe(region[cut]) for cut in cuts]
            if first is not None:
                low = region[cuts[first - 1]] if first else low
                targets, refused = over[first], set()
                region = self._region(targets)
                verdict = f"departs behind {names[first]} ({', '.join(targets[:3])})"
            elif any(whole[t].over(limit) > 1.0 for t in targets):
                low, verdict = region[cuts[-1]], f"agrees behind {names[-1]}"
            elif len(cuts) > 1:
                self.cuts, verdict = 1, "the fault hides: one cut at a time"
            else:
                hidden, verdict = hidden + 1, f"behind {names[0]} the fault hides: another cut"
                refused.add(region[cuts[0]])
            rest = sum(index > low for index in region)
            counts = f"{len(cuts)} cut{'s' * (len(cuts) > 1)}, {len(opened)} tensor{'s' * (len(opened) > 1)}"
            self.say(f"  {step}: {counts}: {verdict}; nodes left: {rest}")
        rest = [index for index in region if index > low]
        finding.outputs = list(errors)
        if hidden >= STUBBORN:
            return self._range(rest, targets, finding, "the fault disappears once tensors there are graph outputs, so it comes "
                               "from layer fusion across these nodes, not from one of them")  # fmt: skip
        return self._name(rest, targets, finding)

    # -- cutting

    def _region(self, targets: Iterable[str]) -> list[int]:
        """Nodes that lead to the targets, without constants."""
        return [i for i in self.graph.ancestors(targets) if any(self.graph.nodes[i].input)]

    def _spans(self, region: list[int], targets: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Tensor -> places in the region of its producer and of its last reader; of a target the end."""
        place = {index: k for k, index in enumerate(region)}
        spans: dict[str, tuple[int, int]] = {}
        for k, index in enumerate(region):
            for tensor in self.graph.reads(index):
                start = place.get(self.graph.producer[tensor])
                if start is not None:
                    spans[tensor] = (start, k)
        for tensor in targets:
            spans[tensor] = (place[self.graph.producer[tensor]], len(region))
        return spans

    def _live(self, region: list[int], targets: Iterable[str], cut: int) -> list[str]:
        """Tensors that cross the cut behind the region's node number ``cut``, in the graph's order."""
        spans = self._spans(region, targets)
        return sorted((t for t, (start, end) in spans.items() if start <= cut < end), key=lambda t: spans[t][0])

    def _choose(self, region: list[int], targets: list[str], low: int, refused: set[int]) -> list[int]:
        """Places of cuts that part what remains about evenly, where few tensors cross, all of them known to the candidate."""
        crossing, unknown = np.zeros(len(region) + 1, int), np.zeros(len(region) + 1, int)
        for tensor, (start, end) in self._spans(region, targets).items():
            crossing[start] += 1
            crossing[end] -= 1
            if not self.candidate.gives(tensor) or tensor not in self.graph.kinds:
                unknown[start] += 1
                unknown[end] -= 1
        crossing, unknown = crossing.cumsum(), unknown.cumsum()
        open_ = [k for k in range(len(region) - 1) if region[k] > low and region[k] not in refused and not unknown[k]]
        parts = self.cuts + 1
        chosen = set()
        for part in range(1, parts):
            middle, width = len(open_) * part // parts, len(open_) // (4 * parts)
            near = range(max(0, middle - width), min(middle + width + 1, len(open_)))
            if near:
                chosen.add(open_[min(near, key=lambda j: (crossing[open_[j]], abs(j - middle)))])
        cuts = sorted(chosen)
        size = sum(2 * self.graph.kinds[t].bytes for cut in cuts for t in self._live(region, targets, cut))
        return cuts if size <= self.memory else cuts[len(cuts) // 2 : len(cuts) // 2 + 1]

    # -- asking

    def _measure(self, live: list[str], targets: list[str]) -> tuple[dict[str, Difference], dict[str, Difference]]:
        """(differences of ``live``, of ``targets``) with ``live`` exposed as outputs; in several probes where memory says so."""
        found: dict[str, Difference] = {}
        whole: dict[str, Difference] = {}
        for batch in self._batches(live):
            asked = list(dict.fromkeys([*batch, *targets]))
            result = self._probe(asked)
            if not any(result[t].over(self.limit) > 1.0 for t in asked) and self._tail(targets):
                # What comes behind the targets was left out, and may be what the back end fuses with them.
                result = self._probe(asked, self.graph.outputs)
            found |= {t: result[t] for t in batch}
            for t in targets:
                if t not in whole or result[t].over(self.limit) > whole[t].over(self.limit):
                    whole[t] = result[t]
        return found, whole

    def _tail(self, targets: list[str]) -> bool:
        return set(self.graph.outputs) - set(targets) != set()

    def _batches(self, tensors: list[str]) -> list[list[str]]:
        batches, size = [[]], 0
        for tensor in tensors:
            more = 2 * self.graph.kinds[tensor].bytes  # one of each side
            if batches[-1] and size + more > self.memory:
                batches.append([])
                size = 0
            batches[-1].append(tensor)
            size += more
        return batches

    def _probe(self, tensors: list[str], besides: Sequence[str] = ()) -> dict[str, Difference]:
        with self.reference.opened(tensors) as ask:
            want = ask(self.feeds)
        with self.candidate.opened(list(dict.fromkeys([*tensors, *besides]))) as ask:
            got = ask(self.feeds)
        return {t: difference(got[t], want[t]) for t in tensors}

    # -- naming

    def _name(self, rest: list[int], targets: list[str], finding: Finding) -> Finding:
        """The first departing tensor of the few nodes that remain, confirmed with its inputs beside it."""
        made = [t for i in rest for t in self.graph.nodes[i].output if t in targets or (len(rest) > 1 and self._known(t))]
        read = [t for i in rest for t in self.graph.reads(i) if self._known(t) and t not in made]
        found, _ = self._measure([*dict.fromkeys(read), *made], targets)
        departing = [t for t in made if found[t].over(self.limit) > 1.0]
        if not departing:
            return self._range(rest, targets, finding, "once its inputs are graph outputs this node is right, so the fault "
                               "comes from fusing it with what comes before")  # fmt: skip
        tensor = departing[0]
        node = self.graph.nodes[self.graph.producer[tensor]]
        finding.tensor, finding.node, finding.op_type, finding.error = tensor, node.name, node.op_type, found[tensor]
        finding.module = node.name.partition("/")[0] if "/" in node.name else UNGROUPED
        finding.group = group_of(finding.module)
        finding.candidate_type = self.candidate.type_of(tensor)
        finding.inputs = {t: found[t] for t in self.graph.reads(self.graph.producer[tensor]) if t in found}
        finding.alone = self._alone(tensor)
        finding.reason = _reason(finding, found[tensor])
        return finding

    def _constant(self, tensor: str, errors: dict[str, Difference], finding: Finding) -> Finding:
        finding.tensor, finding.op_type, finding.error, finding.outputs = tensor, "constant", errors[tensor], list(errors)
        finding.node, finding.module, finding.group = tensor, UNGROUPED, UNGROUPED
        finding.reason = f"the graph holds {tensor} as a constant, and it comes out as another"
        return finding

    def _known(self, tensor: str) -> bool:
        return self.candidate.gives(tensor) and tensor in self.graph.kinds

    def _alone(self, tensor: str) -> Difference | None:
        """The node by itself, on inputs that are right. None where the candidate's graph has not the same inputs."""
        node = self.graph.nodes[self.graph.producer[tensor]]
        reads = [t for t in dict.fromkeys(node.input) if t and t not in self.graph.constant]
        inner = [t for t in reads if t in self.graph.producer]
        if not all(self._known(t) for t in inner):
            return None
        with self.reference.opened([*inner, tensor]) as ask:
            want = ask(self.feeds)
        given = {**self.feeds, **want}
        try:
            with self.candidate.opened([tensor], inputs=reads) as ask:
                return difference(ask(given)[tensor], want[tensor])
        except UserError:  # some back ends refuse a graph of one node
            return None

    def _range(self, rest: list[int], targets: list[str], finding: Finding, reason: str) -> Finding:
        names = [self.graph.nodes[i].name for i in rest]
        finding.verdict, finding.reason = "range", f"{reason} (nodes {names[0]} to {names[-1]}, {len(names)} of them)"
        finding.nodes = names
        before = self.graph.reads(rest[0])
        finding.tensor, finding.until = (before[0] if before else None), targets[0]
        finding.module = self.graph.nodes[rest[-1]].name.partition("/")[0]
        finding.group = group_of(finding.module)
        return finding

    def _describe(self, index: int) -> str:
        node = self.graph.nodes[index]
        return node.name or f"{node.op_type} {node.output[0]}"


def _expected(nodes: int, cuts: int) -> int:
    """Probes at most: one cut leaves 5/8 of what was there, more leave parts half as large again as even ones; then one confirms
    and one looks at the node alone."""
    left = 5 / 8 if cuts == 1 else 1.5 / (cuts + 1)
    return math.ceil(math.log(max(nodes, 2)) / -math.log(left)) + 2


def _reason(f: Finding, error: Difference) -> str:
    """What the numbers mean."""
    half = f.candidate_type == "float16" or f.precision == "fp16"
    if error.infinite or error.nan:
        if half and error.reference_max > HALF_MAX:
            return f"it overflows fp16: |x| = {error.reference_max:.3g}, the largest half is {HALF_MAX:g}; keep {f.group} in fp32"
        large = next((name for name, e in f.inputs.items() if e.reference_max > HALF_MAX), None)
        if half and large:
            return f"its input {large} is more than fp16 holds: |x| = {f.inputs[large].reference_max:.3g}; keep {f.group} in fp32"
        what = "infinite" if error.infinite else "not a number"
        inside = "; something inside this operator overflows fp16" if half else ""
        return f"it is {what} where the reference has at most |x| = {error.reference_max:.3g}{inside}"
    if half and error.reference_max > HALF_MAX:
        return f"it is cut off at what fp16 holds: |x| = {error.reference_max:.3g}; keep {f.group} in fp32"
    if f.alone is None:
        return f"its inputs agree and it does not: {f.op_type} is at fault"
    if f.alone.over(f.limit) > 1.0:
        return f"its inputs agree, and it is wrong even by itself: {f.op_type} is at fault"
    given = max((e.over(f.limit) for e in f.inputs.values()), default=0.0)
    if given > 0.5:
        return f"by itself it is right; errors have added up to the limit here, of which {given:.2g} comes in"
    if given:
        return "by itself it is right; it makes much of a small difference of its inputs (a near tie, a step or a cancellation)"
    return f"by itself it is right, and its inputs are equal: {f.op_type} is wrong only within this graph"
