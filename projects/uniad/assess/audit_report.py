"""Runs an audit and writes its page: report.md, report.json and audit.png."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniad.assess import audit_page, ego_alone
from uniad.assess.audit import (
    AS_IS,
    BASELINES,
    CONDITIONS,
    EGO_ALONE,
    OtherScene,
    Plans,
    moved,
    other_command,
    plans_under,
    verdicts,
)  # fmt: skip
from uniad.assess.conditions import Opening, done, run_conditions
from uniad.assess.frames import Recorded
from uniad.assess.plans import ALL, MANOEUVRES, SPEEDS, TruePlan, score_plans, truths, without_a_model
from uniad.backends.open import find_model
from uniad.deploy.sources import Scene
from uniad.errors import UserError
from uniad.evaluation.planning import HORIZONS_S
from uniad.files import sha256, try_place
from uniad.formats.report import JSON_FILE, Report, Table, keep_report

PICTURE = "audit.png"


def run(
    opening: Opening, out: Path, scenes: Sequence[str] = (), most: int | None = None, seed: int = 0, jobs: int = 1,
    progress: Callable[[str], None] = lambda name: None,
) -> Report:  # fmt: skip
    """Writes ``report.json``, ``report.md`` and the page as a picture to ``out``.

    scenes, most: of the validation split, see ``Recorded``; the planner of ego status alone learns from all of the training
    split. progress: told of each condition that is done. Raises UserError for what the model or the data has wrong.
    """
    for name in (JSON_FILE, PICTURE):
        try_place(out / name)
    model = find_model(opening.model, opening.config, opening.options)
    if model.spec.model.stage2 is None:
        which = f"{model.path} ({model.spec.path})"
        raise UserError(f"{which} is of stage 1 and has no plan to audit: take the end-to-end model (STAGE=2)")
    recorded, training = Recorded(model.spec, scenes, most), Recorded(model.spec, split="train")
    truth = list(truths(recorded))
    if not truth:
        raise UserError(f"{recorded.table.path}: no frame of these scenes has a future to compare with: take more frames")
    other = _others(recorded, training)
    identity = {
        **opening.identity(), "kind": "audit", "scenes": [scene.token for scene in recorded.scenes], "most": most,
        "training": sha256(model.spec.data.ann_file_train),
    }  # fmt: skip
    names = {condition.replace(" ", "-"): condition for condition in CONDITIONS}

    def work(name: str) -> Any:
        with opening.open() as runtime:
            return plans_under(names[name], runtime, recorded, other)

    found = {names[name]: value for name, value in run_conditions(list(names), work, jobs, out, identity, progress).items()}
    learnt = ego_alone.train(training.table, training.labeller, seed)
    plans: dict[str, Plans] = {
        name: {int(key): np.asarray(plan) for key, plan in value["plans"].items()} for name, value in found.items()
    }
    plans[EGO_ALONE] = {frame.key: learnt.plan(frame.status) for frame in truth}
    plans |= without_a_model(truth)
    scores = {name: score_plans(recorded, truth, by_frame) for name, by_frame in plans.items()}
    said = verdicts(plans, scores, truth, _commands(recorded))
    subject = {
        "model": str(model.path), "sha256": identity["model"], "config": model.spec.path, "backend": found[AS_IS]["backend"],
        "device": opening.device,
    }  # fmt: skip
    setting = {
        "data": model.spec.data.data_root, "scenes": [scene.name for scene in recorded.scenes], "frames": len(truth),
        "seed": seed, "ego status alone": f"trained on {learnt.frames} frames of the training split",
        "limits": list(opening.limits) or "the runtime's own",
    }  # fmt: skip
    refused = {name: value["refused"] for name, value in found.items() if value["refused"]}
    report = Report(
        kind="audit", title=f"What the plan rests on: {model.path.name}", subject=subject, setting=setting,
        tables=tables(scores, plans, truth, refused), findings=[verdict.text for verdict in said],
        passed=all(verdict.state != "bad" for verdict in said), pictures={PICTURE: "The audit on one page"},
        details={"verdicts": [verdict._asdict() for verdict in said], "scores": scores},
    )  # fmt: skip
    keep_report(report, out, lambda place: audit_page.draw(scores, said, {**subject, **setting}, place / PICTURE))
    done(out)
    return report


def _others(recorded: Recorded, training: Recorded) -> Callable[[Scene], OtherScene]:
    """The next scene of those that are judged; where there is one alone, the first of the training split."""

    def other(scene: Scene) -> OtherScene:
        if len(recorded.scenes) == 1:
            return OtherScene(training, training.scenes[0])
        place = [s.token for s in recorded.scenes].index(scene.token)
        return OtherScene(recorded, recorded.scenes[(place + 1) % len(recorded.scenes)])

    return other


def _commands(recorded: Recorded) -> dict[int, tuple[int, int]]:
    out = {}
    for scene in recorded.scenes:
        for number, key in enumerate(scene.keys):
            command = recorded.labeller.command(key)
            out[key] = command, other_command(command, number)
    return out


def tables(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], plans: Mapping[str, Plans], truth: Sequence[TruePlan],
    refused: Mapping[str, int],
) -> list[Table]:  # fmt: skip
    """All conditions over all frames; the error of each by manoeuvre and speed; what the model's own plan hits."""
    rows = (*CONDITIONS, *BASELINES)

    def value(name: str, group: str, key: str) -> float | None:
        found = scores[name].get(group, {}).get(key)
        return None if found is None or np.isnan(found) else float(found)

    at, mean = [f"L2_{t}s" for t in HORIZONS_S], [f"L2_avg_{t}s" for t in HORIZONS_S]
    out = [Table(
        "All frames",
        ["the model gets", *(f"L2 at {t} s" for t in HORIZONS_S), "mean", *(f"L2 up to {t} s" for t in HORIZONS_S), "mean",
         "collisions (%)", "curb crossings (%)", "plan moves by (m)"],
        [[name, *(value(name, ALL, key) for key in (*at, "L2", *mean, "L2_avg", "collisions", "curbs")),
          moved(plans[AS_IS], plans[name], truth)[0] if name in CONDITIONS else None] for name in rows],
        digits=[0, *([2] * 8), 1, 1, 2],
        note="L2 at: upstream's masked mean, where a step without ground truth counts as no error. L2 up to: the mean over the "
        "steps until then, as ST-P3 and VAD report it, over steps with ground truth. Collisions: of the car's footprint with "
        "annotated boxes; curb crossings: of the same footprint with the edge of the drivable area; both the mean of 1, 2 and 3 "
        "s, and not counted where the driver's own path does the same. Plan moves by: mean distance between the ends of this "
        "plan and of the model's own.",
    )]  # fmt: skip
    for title, groups in (("Error by manoeuvre", MANOEUVRES), ("Error by speed", [name for name, _ in SPEEDS])):
        there = [group for group in groups if group in scores[AS_IS]]
        frames = [f"{group} ({scores[AS_IS][group]['frames']:.0f})" for group in there]
        out.append(Table(
            title, ["L2 up to, mean (m)", *frames], [[name, *(value(name, group, "L2_avg") for group in there)] for name in rows],
            digits=2, note="In brackets: frames.",
        ))  # fmt: skip
    kinds = [group for group in (ALL, *MANOEUVRES, *(name for name, _ in SPEEDS)) if group in scores[AS_IS]]
    out.append(Table(
        "What the model's own plan hits",
        ["frames of", "frames", "L2 at, mean (m)", "L2 up to, mean (m)", "collisions (%)", "curb crossings (%)"],
        [[g, int(scores[AS_IS][g]["frames"]), *(value(AS_IS, g, key) for key in ("L2", "L2_avg", "collisions", "curbs"))]
         for g in kinds],
        digits=[0, 0, 2, 2, 1, 1],
    ))  # fmt: skip
    if refused:
        out.append(Table("Frames that the runtime refused", ["the model gets", "frames"], [[n, c] for n, c in refused.items()]))
    return out


