"""A set of canaries on disk, and what a back end's answers to it mean.

Travels to the device: Python 3.8 and numpy. A set is a folder: ``canaries.json`` with one row a canary, NAME.onnx, and
``canaries.npz`` with inputs (``NAME/in/x``), expected outputs (``NAME/out/y``) and what known faults give (``NAME/sign0/y``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Dict, NamedTuple  # noqa: UP035  an alias is evaluated

import numpy as np

from uniad.errors import UserError

ROWS, ARRAYS = "canaries.json", "canaries.npz"
RIGHT, BROKEN, CRASHED, REFUSED, SLOW, BUILT, ELSEWHERE = "right", "broken", "crashed", "refused", "slow", "built", "elsewhere"
# What each outcome means to a person
STATES = {
    RIGHT: "as expected",
    BROKEN: "computed wrong",
    CRASHED: "the builder or the engine ended without an answer",
    REFUSED: "the builder does not take it, and says so",
    SLOW: "right, in another precision than was asked for",
    BUILT: "built, not run",
    ELSEWHERE: "not asked of this back end",
}
WRONG = (BROKEN, CRASHED)
EXPLAINED = 0.1  # a known fault is named where it leaves at most this share of the error
Arrays = Dict[str, np.ndarray]  # noqa: UP006


class Outcome(NamedTuple):
    state: str
    text: str = ""


class CanarySet(NamedTuple):
    """Rows by name, and all arrays of them."""

    folder: Path
    digest: str
    rows: dict[str, dict]
    arrays: Arrays

    def part(self, name: str, kind: str) -> Arrays:
        """Arrays ``NAME/kind/...`` by their last part."""
        start = f"{name}/{kind}/"
        return {key[len(start) :]: value for key, value in self.arrays.items() if key.startswith(start)}


def read_set(folder: Path) -> CanarySet:
    """Raises UserError for a folder that is none, or not whole."""
    folder = Path(folder)
    try:
        text = (folder / ROWS).read_bytes()
        rows = json.loads(text)["canaries"]
        with np.load(str(folder / ARRAYS), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        missing = [name for name in rows if not (folder / f"{name}.onnx").is_file()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no set of canaries ({error}); `make canary` writes one") from None
    if missing:
        raise UserError(f"{folder}: {missing[0]}.onnx is missing; `make canary` writes the set anew")
    return CanarySet(folder, hashlib.sha256(text).hexdigest(), rows, arrays)


def judge(canaries: CanarySet, name: str, outputs: Arrays) -> Outcome:
    """Whether these are the outputs of the canary; of wrong ones, which known fault gives them."""
    limit = canaries.rows[name]["limit"]
    expected = canaries.part(name, "out")
    worst, where = 0.0, ""
    for key, want in expected.items():
        got = outputs.get(key)
        if got is None or got.shape != want.shape:
            found = "missing" if got is None else f"of shape {list(got.shape)}, not {list(want.shape)}"
            return Outcome(BROKEN, f"its output {key} is {found}")
        if not np.isfinite(got).all():
            return Outcome(BROKEN, f"{int((~np.isfinite(got)).sum())} of {got.size} values of {key} are not finite")
        error = departure(got, want)
        if error > worst:
            worst, where = error, key
    if worst <= limit:
        return Outcome(RIGHT, f"off by {worst:.1e} of the range")
    named = ""
    for number, sign in enumerate(canaries.rows[name]["signs"]):
        values = canaries.part(name, f"sign{number}")
        # on the whole, not at its worst: a fault that jumps (the nearest cell) jumps elsewhere for another rounding
        if all(_mean(outputs[key], value) <= EXPLAINED * _mean(outputs[key], expected[key]) for key, value in values.items()):
            named = f"{sign}: "
            break
    return Outcome(BROKEN, f"{named}{where} is off by {worst:.2g} of its range (allowed {limit:g})")


def departure(got: np.ndarray, want: np.ndarray) -> float:
    """Of floats the largest difference over the largest value, of integers the share that differs."""
    if want.dtype.kind != "f":
        return float((got != want).mean())
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(got.astype(np.float64) - want).max() / max(float(np.abs(want).max()), 1e-30)
    return float(error) if np.isfinite(error) else float("inf")


def _mean(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got.astype(np.float64) - want).mean())


def stored_whole(row: dict, plan_bytes: int) -> str:
    """Of an engine whose weights should take a byte each: a text where it is as large as in fp32."""
    if not row["weight_bytes"] or plan_bytes < row["weight_bytes"]:
        return ""
    small = row["weight_bytes"] // 4096
    return f"the engine has {plan_bytes // 1024} KiB, its weights in {row['precision']} take {small}: they are fp32"


class Result(NamedTuple):
    """What a back end made of a set."""

    digest: str  # of the set
    backend: str
    version: str
    device: str
    ran: str  # empty, or why it was only built
    outcomes: dict[str, Outcome]

    @property
    def where(self) -> str:
        return f"{self.backend} {self.version}" + (f" on {self.device}" if self.device else "")

    def of(self, *states: str) -> dict[str, Outcome]:
        return {name: outcome for name, outcome in self.outcomes.items() if outcome.state in states}

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "outcomes": {name: list(outcome) for name, outcome in self.outcomes.items()}}

    def entry(self, concerned: list[str]) -> dict[str, Any]:
        """For the card of a TensorRT engine."""
        told = {state: {n: o.text for n, o in self.of(state).items()} for state in (*WRONG, REFUSED, SLOW)}
        return {
            "set": self.digest,
            "backend": self.backend,
            "version": self.version,
            "device": self.device,
            "not_run": self.ran or None,
            "right": len(self.of(RIGHT)),
            "built": len(self.of(BUILT)),
            "concerned": concerned,
            **{state: texts for state, texts in told.items() if texts},
        }

    def tally(self) -> str:
        """ "24 right, 1 broken, 2 not asked"."""
        counts = [(len(self.of(state)), "not asked" if state == ELSEWHERE else state) for state in STATES]
        return ", ".join(f"{n} {label}" for n, label in counts if n)


def result_of(values: dict[str, Any]) -> Result:
    """Raises ValueError, KeyError or TypeError for what is no result."""
    outcomes = {name: Outcome(*outcome) for name, outcome in values["outcomes"].items()}
    if any(outcome.state not in STATES for outcome in outcomes.values()):
        raise ValueError("an outcome that there is not")
    return Result(*(str(values[key]) for key in Result._fields[:-1]), outcomes=outcomes)


def cache_file(folder: Path, digest: str, backend: str, version: str, device: str) -> Path:
    """Where the result of this set on this back end is kept."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"{backend}-{version}-{device}").strip("-")
    return Path(folder) / f"{plain}-{digest[:12]}.json"


def cached(path: Path) -> Result | None:
    """None where there is none, or none that can be read: it is made again then."""
    try:
        return result_of(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(result.to_json(), indent=1) + "\n")
    os.replace(str(part), str(path))


def option(canaries: CanarySet, result: Result, name: str) -> str:
    """The setting that avoids a fault: the first whose own canary is not wrong here."""
    for setting, needs in canaries.rows[name]["avoid"]:
        if needs not in result.outcomes or result.outcomes[needs].state not in (*WRONG, REFUSED, ELSEWHERE):
            return setting
    return ""


def described(canaries: CanarySet, result: Result, name: str) -> str:
    """ "bilinear GridSample is wrong (it takes the nearest cell: ...)"."""
    outcome = result.outcomes[name]
    verb = {BROKEN: "is wrong", CRASHED: "ends the builder", REFUSED: "is refused", SLOW: "is right, but no faster"}[
        outcome.state
    ]
    return f"{canaries.rows[name]['what']} ({name}) {verb}: {outcome.text}"


def refusal(canaries: CanarySet, result: Result, concerned: list[str], subject: str) -> str:
    """Why ``subject`` must not be built here, in one line; empty where it may."""
    broken = [name for name in concerned if name in result.outcomes and result.outcomes[name].state in WRONG]
    if not broken:
        return ""
    more = f" (and {', '.join(broken[1:])})" if broken[1:] else ""
    # one option may mend several: the first that is not among the broken ones' own
    setting = next((found for found in (option(canaries, result, name) for name in broken) if found), "")
    advice = f"{setting} avoids it" if setting else "no export option avoids it: use another release of TensorRT"
    found = described(canaries, result, broken[0]) + more
    return (
        f"{subject}: not built, its graph holds what {result.where} computes wrong: {found}; {advice}, CANARY=0 builds it all "
        f"the same (docs/canary.md)"
    )


def checked_entry(
    canaries: CanarySet, result: Result, concerned: list[str], subject: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """The entry for the card of ``subject``; ``remarks`` are said. Raises UserError where ``refusal`` has a reason."""
    refused = refusal(canaries, result, concerned, subject)
    if refused:
        raise UserError(refused)
    for line in remarks(canaries, result, concerned):
        say(f"note: {line}")
    return result.entry(concerned)


def remarks(canaries: CanarySet, result: Result, concerned: list[str]) -> list[str]:
    """What is to be said besides: faults that do not concern the graph, and canaries that were refused or slow where they do."""
    lines = []
    for name in result.of(*WRONG):
        if name not in concerned:
            lines.append(f"{described(canaries, result, name)}; this graph does not hold it")
    for name in result.of(REFUSED, SLOW):
        if name in concerned:
            setting = option(canaries, result, name)
            lines.append(described(canaries, result, name) + (f"; {setting} avoids it" if setting else ""))
    return lines
