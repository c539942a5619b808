"""What canaries found, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from uniad.canary.judge import (
    BUILT,
    ELSEWHERE,
    REFUSED,
    RIGHT,
    SLOW,
    STATES,
    WRONG,
    CanarySet,
    Result,
    described,
    option,
    refusal,
)
from uniad.formats.report import Report, Table

NONE: Mapping[str, str] = MappingProxyType({})


def report_of(
    canaries: CanarySet, result: Result, touched: Sequence[str] | None, graph: str = "", pictures: Mapping[str, str] = NONE
) -> Report:
    """touched: canaries that concern ``graph``; None where no graph was looked at, and then every wrong one counts."""
    counted = list(canaries.rows) if touched is None else list(touched)
    wrong = [name for name in result.of(*WRONG) if name in counted]
    findings = []
    for name in (*wrong, *(n for n in result.of(*WRONG, REFUSED, SLOW) if n not in wrong)):
        setting = option(canaries, result, name)
        holds = "" if touched is None else ("; this graph holds it" if name in touched else "; this graph does not hold it")
        findings.append(described(canaries, result, name) + holds + (f"; {setting} avoids it" if setting else ""))
    if result.ran:
        findings.append(f"Built, not run: {result.ran}. Whether the numbers are right is not known; run them on the device.")
    elif not findings:
        findings.append("All that were asked are right.")
    rows = []
    for name, outcome in result.outcomes.items():
        row = canaries.rows[name]
        holds = None if touched is None else name in touched
        rows.append([name, row["precision"], outcome.state, holds, outcome.text, row["seen_in"], ", ".join(row["threads"])])
    return Report(
        kind="canary",
        title=f"Canaries on {result.where}",
        subject={"backend": result.backend, "version": result.version, "device": result.device or "the CPU, or none"},
        setting={"set": canaries.digest[:12], "graph": graph or "none"},
        tables=[
            Table(
                "Canaries",
                ["canary", "precision", "outcome", "in this graph", "what was found", "reported of", "threads"],
                rows,
                note="; ".join(f"{state}: {text}" for state, text in STATES.items() if result.of(state)),
            )
        ],
        findings=findings,
        passed=None if result.ran else not wrong,
        pictures=pictures,
        details={**result.to_json(), "refusal": refusal(canaries, result, counted, graph or "any graph")},
    )


def short(result: Result) -> Table:
    """For a terminal."""
    shown = (RIGHT, BUILT, ELSEWHERE)
    rows = [[name, o.state, "" if o.state in shown and o.state != RIGHT else o.text] for name, o in result.outcomes.items()]
    return Table(f"canaries on {result.where}", ["canary", "outcome", "what was found"], rows)
