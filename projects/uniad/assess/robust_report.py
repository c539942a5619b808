"""Runs what was asked for and writes the report: a table, a record, a heat map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uniad.assess import heatmap, robust
from uniad.assess.conditions import Opening, done, run_conditions
from uniad.assess.faults import FAULTS, Fault, check_severity
from uniad.assess.frames import Recorded
from uniad.backends.open import find_model
from uniad.errors import UserError
from uniad.files import try_place
from uniad.formats.report import JSON_FILE, Report, keep_report

PICTURE = "heatmap.png"
HARDEST = (3,)


def run(
    opening: Opening, out: Path, faults: Sequence[Fault], severities: Sequence[int] = HARDEST, scenes: Sequence[str] = (),
    most: int | None = None, seed: int = 0, routes: int = 0, jobs: int = 1, progress: Callable[[str], None] = lambda name: None,
) -> Report:  # fmt: skip
    """Writes ``report.json``, ``report.md`` and the heat map to ``out``.

    scenes, most: of the validation split, see ``Recorded``. routes: of the closed loop, see ``driving``.
    progress: told the name of each condition that is done.
    Raises UserError for what the model, the data or a severity has wrong; an interrupted run keeps what is done.
    """
    for severity in severities:
        check_severity(severity)
    severities = tuple(sorted(set(severities) - {0}))
    if not severities:
        raise UserError("severity 0 alone is the clean run: give 1, 2 or 3 too")
    for name in (JSON_FILE, PICTURE):
        try_place(out / name)
    model = find_model(opening.model, opening.config, opening.options)
    recorded = Recorded(model.spec, scenes, most)
    tokens = [scene.token for scene in recorded.scenes]
    identity = {**opening.identity(), "scenes": tokens, "most": most, "seed": seed}
    identity |= {"routes": routes} if routes else {}

    def work(name: str) -> Any:
        fault, _, severity = name.partition(".")
        with opening.open() as runtime:
            found = robust.judge(runtime, recorded, FAULTS.get(fault), int(severity or 0), seed, routes)
            return {"backend": runtime.backend, **found}

    names = [robust.CLEAN, *(robust.condition_name(fault.name, s) for fault in faults for s in severities)]
    found = run_conditions(names, work, jobs, out, identity, progress)
    subject = {
        "model": str(model.path), "sha256": identity["model"], "config": model.spec.path,
        "backend": found[robust.CLEAN]["backend"], "device": opening.device,
    }  # fmt: skip
    setting = {
        "data": model.spec.data.data_root, "scenes": [scene.name for scene in recorded.scenes], "frames": len(recorded),
        "seed": seed, "routes driven": routes, "limits": list(opening.limits) or "the runtime's own",
    }  # fmt: skip
    report = Report(
        kind="robust", title=f"Broken sensors: {model.path.name}", subject=subject, setting=setting,
        tables=robust.tables(found, faults, severities), findings=robust.findings(found, faults, severities),
        pictures={PICTURE: "What is left of each clean score, by fault and severity"}, details={"conditions": found},
    )  # fmt: skip
    title = f"{model.path.name} ({subject['backend']}): what is left of the clean scores"
    keep_report(report, out, lambda place: heatmap.draw(found, faults, severities, title, place / PICTURE))
    done(out)
    return report
