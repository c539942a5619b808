"""Where canaries are put to the test: ``TrtexecBench`` here, the other back ends in ``benches``.

Travels to the device: Python 3.8 and numpy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from uniad.backends import trtexec
from uniad.canary.judge import (
    BUILT,
    CRASHED,
    ELSEWHERE,
    REFUSED,
    RIGHT,
    SLOW,
    Arrays,
    CanarySet,
    Outcome,
    Result,
    cache_file,
    cached,
    judge,
    keep,
    stored_whole,
)
from uniad.errors import UserError

WORKSPACE_MIB = 512
Say = Callable[[str], None]


class Refused(UserError):
    """The builder does not take a canary, and says why."""


class Bench:
    """A back end under test. Subclasses implement ``answer``."""

    backend = "bench"
    version = ""
    device = ""
    only_built = ""  # why nothing runs here

    def answer(self, row: dict, onnx: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        """Outputs of a canary (none where ``only_built``), and the size of its engine in bytes, or 0.

        Raises Refused, or trtexec.Crashed.
        """
        raise NotImplementedError


class TrtexecBench(Bench):
    backend = "trtexec"

    def __init__(self, tool: trtexec.Trtexec, device: str = "") -> None:
        self.tool, self.version, self.device = tool, tool.version_text, device

    def answer(self, row: dict, onnx: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        engine = folder / "canary.engine"
        try:
            trtexec.build(self._command(row, onnx, engine), folder / "build.log", lambda line: None)
        except trtexec.Crashed:
            raise
        except UserError as error:
            raise Refused(str(error).partition("; all of it")[0]) from None
        if not engine.is_file():
            raise Refused("trtexec wrote no engine")
        runner = trtexec.TrtexecEngine(self.tool, engine, row["outputs"])
        runner.shapes = {name: row["inputs"][name]["shape"] for name in row["dynamic"]}
        return runner.infer({name: np.ascontiguousarray(inputs[name]) for name in row["inputs"]}), engine.stat().st_size

    def _command(self, row: dict, onnx: Path, engine: Path) -> list[str]:
        precision, more = row["precision"], []
        if precision == "fp8":
            if self.tool.version < (10,):
                raise Refused("TensorRT before 10 takes no FP8 from a graph")
            precision, more = "fp32", [] if self.tool.strongly_typed_only else ["--stronglyTyped"]
        words = trtexec.build_command(
            self.tool,
            str(onnx),
            str(engine),
            precision,
            WORKSPACE_MIB,
            fp32_nodes=row["fp32_nodes"] if precision == "fp16" else (),
        )
        for flag, bound in (("--minShapes", 0), ("--optShapes", 1), ("--maxShapes", 1)):
            shapes = [f"{name}:{'x'.join(map(str, bounds[bound]))}" for name, bounds in row["dynamic"].items()]
            more += [f"{flag}={','.join(shapes)}"] if shapes else []
        return words[:-1] + more + words[-1:]


def run_one(bench: Bench, canaries: CanarySet, name: str) -> Outcome:
    """What this back end makes of a canary."""
    row = canaries.rows[name]
    if bench.backend in row["elsewhere"]:
        return Outcome(ELSEWHERE, row["elsewhere"][bench.backend])
    with tempfile.TemporaryDirectory(prefix="canary-") as made:
        try:
            onnx = canaries.folder.resolve() / f"{name}.onnx"
            outputs, size = bench.answer(row, onnx, canaries.part(name, "in"), Path(made))
        except trtexec.Crashed as error:
            return Outcome(CRASHED, str(error))
        except Refused as error:
            return Outcome(REFUSED, str(error))
        except UserError as error:  # built, but it does not run
            return Outcome(CRASHED, str(error))
    if bench.only_built:
        return Outcome(BUILT, bench.only_built)
    outcome = judge(canaries, name, outputs)
    whole = stored_whole(row, size)
    return Outcome(SLOW, whole) if whole and outcome.state == RIGHT else outcome


def run_set(bench: Bench, canaries: CanarySet, run: Callable[[], dict[str, Outcome]] | None = None) -> Result:
    """``run``: in place of one after the other in this process."""
    outcomes = run() if run else {name: run_one(bench, canaries, name) for name in canaries.rows}
    return Result(canaries.digest, bench.backend, bench.version, bench.device, bench.only_built, outcomes)


def run_cached(
    bench: Bench, canaries: CanarySet, cache: Path | None, say: Say, run: Callable[[], dict[str, Outcome]] | None = None
) -> Result:
    """The result of this set on this back end, from ``cache`` where it was run before. Says what was done in one line."""
    path = cache_file(cache, canaries.digest, bench.backend, bench.version, bench.device) if cache else None
    result = cached(path) if path else None
    again = result is not None
    if result is None:
        result = run_set(bench, canaries, run)
        if path:
            keep(path, result)
    only = f"; not run: {result.ran}" if result.ran else ""
    say(f"canaries: {result.where}: {result.tally()}{' (as found before)' if again else ''}{only}")
    return result
