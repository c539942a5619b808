"""Scenes through a runtime: results to disk frame by frame; submissions and latencies at the end, however it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uniad.deploy.loop import results_along
from uniad.deploy.records import SUMMARY, claim, percentiles, write_frame, write_json
from uniad.deploy.runtime import Runtime
from uniad.deploy.sources import FrameRecord, Scene
from uniad.files import write_results
from uniad.interrupt import Interrupt
from uniad.postprocess.result import Result
from uniad.postprocess.submission import class_ranges, entries_of, submission

STAGES = ("load", "preprocess", "step", "postprocess")


def run(
    runtime: Runtime,
    scenes: Sequence[Scene],
    out: Path,
    about: dict[str, Any],
    warmup: int = 1,
    progress: Callable[[], None] = lambda: None,
    also: Callable[[FrameRecord, Result], None] = lambda record, result: None,
) -> dict[str, Any]:
    """Run every scene from its start, write all results to ``out``, return the summary.

    about: entries of the summary that say what is run over what. warmup: first frames that the latencies leave out, where there
    are more. also: is handed each frame that is done. SIGINT, SIGTERM or SIGHUP ends it after the frame in progress; a second
    Ctrl-C at once. Either way, and after an error, the frames done are kept and accounted for.
    """
    claim(out)
    spec, ranges = runtime.spec, class_ranges()
    names = spec.data.class_names
    detections: dict[str, list[dict]] = {}
    tracks: dict[str, list[dict]] = {}
    timings: list[dict[str, float]] = []
    done: list[dict[str, Any]] = []
    interrupt = Interrupt("finishing this frame; Ctrl-C again stops at once")

    def account(finished: bool) -> dict[str, Any]:
        counted = timings[warmup:] or timings
        summary = {
            "finished": finished,
            **about,
            "backend": runtime.backend,
            "stage": spec.stage,
            "collision_optimiser": spec.model.stage2 is not None and spec.model.stage2.plan.use_col_optim,
            "scenes": done,
            "frames": len(timings),
            "latency_ms": percentiles({stage: [t[stage] for t in counted] for stage in STAGES if counted}),
            "latency_frames": len(counted),
        }

        def write(place: Path) -> None:
            write_json(place / "detection.json", submission(detections))
            write_json(place / "tracking.json", submission(tracks))
            write_json(place / SUMMARY, summary)

        # Frames that lie on a disk that is full by now are worth something with this account alone.
        write_results(out, write, lambda: json.dumps(summary))
        return summary

    finished = False
    with interrupt:
        try:
            for scene in scenes:
                entry = {"name": scene.name, "token": scene.token, "folder": folder_name(scene.name), "frames": 0}
                done.append(entry)
                for record, result in results_along(runtime, scene):
                    write_frame(out / entry["folder"], record.number, result, record.info, names)
                    token = record.info["token"]
                    detections[token], tracks[token] = entries_of(result, record.info, names, ranges)
                    timings.append(result.timings_ms)
                    entry["frames"] += 1
                    also(record, result)
                    progress()
                    if interrupt.requested:
                        break
                if interrupt.requested:
                    break
            finished = not interrupt.requested
        finally:
            with interrupt.deferred():
                summary = account(finished)
    return summary


def folder_name(scene: str) -> str:
    """A scene's name as a folder's."""
    return re.sub(r"[^\w.-]", "_", scene).lstrip(".") or "scene"


def latency_table(summary: dict[str, Any]) -> str:
    """The latencies for people, one stage a line."""
    rows = [f"{'ms':12s}{'mean':>10s}{'p50':>10s}{'p90':>10s}{'p99':>10s}{'max':>10s}"]
    for stage, values in summary["latency_ms"].items():
        rows.append(f"{stage:12s}" + "".join(f"{values[key]:10.2f}" for key in ("mean", "p50", "p90", "p99", "max")))
    return "\n".join(rows)
