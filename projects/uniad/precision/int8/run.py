"""From the fp32 graph to the int8 one: calibrate, measure, choose, write. Nothing is written before all of it went well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx

from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import inherited, sequence_path, spec_of, write_card
from uniad.artifacts.derived import write_derived
from uniad.artifacts.graph import is_quantised, load_graph
from uniad.data.dataset import Split
from uniad.errors import UserError
from uniad.export.audit import audit
from uniad.export.groups import UNGROUPED
from uniad.precision.int8.calibrate import Calibration, CalibrationSet, calibrate
from uniad.precision.int8.candidates import Layer, check_groups, find_layers, groups_of
from uniad.precision.int8.histogram import METHODS
from uniad.precision.int8.qdq import insert_qdq
from uniad.precision.search import Choice, Effect, Span, choose, measure
from uniad.verify.run import contract_of
from uniad.verify.tolerances import TOLERANCES

PRECISION = "int8"
AUTO = "auto"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to quantise. method: auto tries each and takes the one that does least harm. keep: layer groups that stay in fp32
    whatever they measure."""

    method: str = AUTO
    percentile: float = 99.99
    split: Split = "train"
    scenes: int = 4
    frames: int = 20
    keep: tuple[str, ...] = ()
    negligible: float = 1.0  # smallest groups of together at most so many % of the multiply-adds keep fp32 unmeasured
    rank_frames: int = 4  # recorded frames over which groups are ranked; what is chosen is judged over all
    memory_mib: int = 1024
    threads: int = 0

    def checked(self) -> Options:
        """Raises UserError for a value that cannot be."""
        if self.method not in (AUTO, *METHODS):
            raise UserError(f"calibration method {self.method!r}: choose one of {', '.join((AUTO, *METHODS))}")
        if not 50 < self.percentile <= 100:
            raise UserError(f"percentile {self.percentile:g}: should be above 50 and at most 100")
        if not 0 <= self.negligible <= 50:
            raise UserError(f"negligible {self.negligible:g}: should be a share of the multiply-adds from 0 to 50 %")
        if self.rank_frames < 1 or self.memory_mib < 1:
            raise UserError(f"rank_frames {self.rank_frames}, memory {self.memory_mib} MiB: give numbers from 1 on")
        return self


def int8_name(onnx_path: str | Path) -> Path:
    """Where the int8 graph of an fp32 one lies: ``<name>_int8.onnx`` beside it."""
    path = Path(onnx_path)
    return path.with_name(f"{path.stem}_{PRECISION}{path.suffix}")


def quantise(onnx_path: str | Path, out: str | Path, options: Options, say: Say = lambda line: None) -> dict:
    """Write the int8 graph of ``onnx_path`` to ``out`` with its card and recorded sequence; return the card.

    Calibrated on scenes of ``options.split``, judged over the recorded sequence, which `make export` takes from the other one.
    Raises UserError, and writes nothing, for an empty calibration set, a sequence that cannot be read, an unknown layer group, a
    graph without layer names, and where no choice of layers holds the tolerance.
    """
    options.checked()
    card, contract = contract_of(onnx_path)
    if is_quantised(onnx_path):
        raise UserError(f"{onnx_path}: is quantised already; give the fp32 graph that `make export` writes")
    sequence = recorded.load(sequence_path(onnx_path), contract, card)
    model = onnx.shape_inference.infer_shapes(load_graph(onnx_path))
    layers = find_layers(model)
    check_groups(list(options.keep), layers)
    if not layers:
        raise UserError(f"{onnx_path}: has no convolution or matrix product of a size that int8 is for")
    spec = spec_of(card)
    chosen = CalibrationSet(spec, options.split, options.scenes, options.frames)
    found = calibrate(model, layers, contract, chosen, options.memory_mib, options.threads, say)
    groups = groups_of(layers)
    total = sum(layer.macs for layer in layers)
    work = {group: sum(layer.macs for layer in members) / total for group, members in groups.items()}
    reasons = reasons_to_keep(work, options)
    always = list(reasons)

    def effect_with(limits: dict[str, float], kept: frozenset[str], span: Span) -> Effect:
        candidate = insert_qdq(model, [layer for layer in layers if layer.group not in kept], limits)
        return measure(candidate, contract, sequence, PRECISION, span, options.rank_frames, options.threads)

    methods: dict[str, Effect] = {}  # what converting all costs with each
    tried = METHODS if options.method == AUTO else (options.method,)
    limits_of = {method: found.limits(method, options.percentile) for method in tried}
    if options.method == AUTO:
        for method, limits in limits_of.items():
            methods[method] = effect_with(limits, frozenset(always), Span.WHOLE)
            say(f"{method}: all converted, {methods[method]}")
        options = replace(options, method=min(methods, key=lambda method: methods[method].tolerance_ratio))
    limits = limits_of[options.method]

    def effect_of(kept: frozenset[str], span: Span) -> Effect:
        if options.method in methods and kept == frozenset(always) and span is Span.WHOLE:
            return methods[options.method]
        return effect_with(limits, kept, span)

    choice = choose(groups, effect_of, say, always, work)
    chosen = [layer for layer in layers if layer.group not in choice.kept]
    if not chosen:
        raise UserError(f"{onnx_path}: no layer is left for int8: every group must keep fp32, or was asked to")
    graph = insert_qdq(model, chosen, limits)
    faults = audit(graph, contract)
    if faults:
        raise UserError(f"{out}: the quantised graph is not deployable: {faults[0]}")
    onnx.checker.check_model(graph, full_check=True)
    write_derived(graph, Path(onnx_path), Path(out))
    return _write_card(card, Path(onnx_path), Path(out), options, found, layers, choice, methods, work, reasons)


def reasons_to_keep(work: Mapping[str, float], options: Options) -> dict[str, str]:
    """Groups that keep fp32 unmeasured, in the graph's order, and why. work: share of the multiply-adds of each group.

    Ungrouped nodes are poses, clocks and slots: little work, and global positions of kilometres. Of the other groups the smallest
    are left out that together hold at most ``options.negligible`` per cent: half of a model's groups can be such, each takes
    minutes to try where a frame takes seconds, and what they save, their own pairs of nodes take again.
    """
    small, room = set(), options.negligible / 100
    for group in sorted(work, key=lambda group: work[group]):
        room -= work[group]
        if room < 0:
            break
        small.add(group)
    reasons = {group: "asked for" if group in options.keep else "glue" if group == UNGROUPED else "negligible" for group in work}
    return {group: why for group, why in reasons.items() if why != "negligible" or group in small}


def _write_card(
    card: dict, source: Path, out: Path, options: Options, found: Calibration, layers: list[Layer], choice: Choice,
    methods: dict[str, Effect], work: dict[str, float], reasons: dict[str, str],
) -> dict:  # fmt: skip
    effects = {group: effect.to_json() for group, effect in choice.alone.items()}
    written = {
        **inherited(card),
        "sequence": sequence_path(out).name,
        "precision": PRECISION,
        "precision_of_groups": {group: "fp32" if group in choice.kept else PRECISION for group in work},
        "quantisation": {
            "source": source.name,
            "source_sha256": card["sha256"],
            "scheme": "explicit Q/DQ, symmetric; activations one scale a tensor, weights one an output channel",
            "method": options.method,
            "methods": {method: effect.to_json() for method, effect in methods.items()},  # all converted, with each tried
            "percentile": options.percentile if options.method == "percentile" else None,
            "calibration": {
                "sha256": found.digest,
                "split": options.split,
                "scenes": found.scenes,
                "frames": found.frames,
                "reported_tracks": found.active,
            },
            "layers": sum(layer.group not in choice.kept for layer in layers),
            "candidates": len(layers),
            "macs_share": round(sum(share for group, share in work.items() if group not in choice.kept), 4),
            "kept": {
                group: {
                    "macs_share": round(work[group], 4),
                    "why": reasons.get(group, "accuracy"),
                    "alone": effects.get(group),  # of converting this group and no other
                    "without": choice.without[group].to_json() if group in choice.without else None,  # were it converted, too
                }
                for group in choice.kept
            },
            "alone": effects,
            "all_lowered": choice.all_converted.to_json(),
            "effect": choice.effect.to_json(),
            "tolerance": {k: v for k, v in asdict(TOLERANCES[PRECISION]).items() if v != float("inf")},
        },
    }
    write_card(out, written)
    return written
