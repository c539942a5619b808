"""Two exports of one step, such as one that samples by GridSample and one that gathers, along the same recorded sequence."""

from __future__ import annotations

from math import isinf
from pathlib import Path

from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import sequence_path
from uniad.backends.onnxruntime import OrtRunner
from uniad.errors import UserError
from uniad.verify.compare import Report, compare, replay
from uniad.verify.run import contract_of
from uniad.verify.tolerances import TOLERANCES


def compare_sampling(first: str | Path, second: str | Path) -> list[Report]:
    """Reports of the first and of the second against the recording, and of the second against the first; states fed back.

    Raises UserError where they were not exported from one checkpoint with one interface.
    """
    cards, contracts = zip(*(contract_of(path) for path in (first, second)))
    for key in ("checkpoint_sha256", "contract"):
        if cards[0].get(key) != cards[1].get(key):
            raise UserError(f"{second}: its {key.partition('_')[0]} is another than {first}'s; export both from one")
    names = [label(card, path) for card, path in zip(cards, (first, second))]
    sequence = recorded.load(sequence_path(first), contracts[0], cards[0])
    outputs = [replay(OrtRunner(contracts[0], path), sequence) for path in (first, second)]
    against = recorded.Sequence(
        sequence.feeds, outputs[0], {p.name: outputs[0][-1][f"next_{p.name}"] for p in contracts[0].state} if outputs[0] else {}
    )
    return [
        compare(outputs[0], sequence, contracts[0], f"{names[0]} - torch"),
        compare(outputs[1], sequence, contracts[0], f"{names[1]} - torch"),
        compare(outputs[1], against, contracts[0], f"{names[1]} - {names[0]}"),
    ]


def label(card: dict, path: str | Path) -> str:
    return card.get("sampling") or Path(path).stem


def table(reports: list[Report]) -> list[str]:
    """Worst values, a row a check, as text in columns."""
    limit = TOLERANCES[reports[0].precision]
    rows = [["", *(r.backend for r in reports), "allowed"]]
    for row in reports[0].worst:
        allowed = getattr(limit, row)
        rows.append([row, *(f"{r.worst[row]:.2e}" for r in reports), "any" if isinf(allowed) else f"{allowed:g}"])
    rows.append(["", *("ok" if r.ok else "FAIL" for r in reports), ""])
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width[0]}}" if i == 0 else f"{cell:>{width[i]}}" for i, cell in enumerate(row)) for row in rows]
