"""onnxruntime and TensorRT's Python packages under test. A builder that dies takes its process with it, and no other canary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uniad.backends import trtexec
from uniad.backends.identity import this_device
from uniad.backends.onnxruntime import OrtRunner
from uniad.backends.rounding import has_halves, rounded
from uniad.backends.tensorrt import TensorRtRunner, load_package
from uniad.canary.bench import WORKSPACE_MIB, Bench, Refused, TrtexecBench, run_one
from uniad.canary.judge import CRASHED, Arrays, CanarySet, Outcome, read_set
from uniad.engines import jetpack
from uniad.engines.base import BuildOptions
from uniad.engines.tensorrt import PythonBackend
from uniad.errors import UserError
from uniad.interface.contract import Contract, MapMerge, Port
from uniad.processes import run_killable

PACKAGES = ("tensorrt", "tensorrt_rtx")
BACKENDS = ("onnxruntime", *PACKAGES, "trtexec")


def contract_of(row: dict) -> Contract:
    """A canary's inputs and outputs as a graph's interface: no state, no map."""

    def ports(side: str) -> tuple[Port, ...]:
        return tuple(Port(name, "", tuple(p["shape"]), p["dtype"], "") for name, p in row[side].items())

    return Contract(ports("inputs"), (), ports("outputs"), MapMerge(0, 0, 0))


class OrtBench(Bench):
    """As verification runs a graph: halves rounded where they are made."""

    backend = "onnxruntime"

    def __init__(self) -> None:
        import onnxruntime

        self.version = onnxruntime.__version__
        self.cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        self.device = (this_device() or {}).get("model", "") if self.cuda else ""

    def graph(self, onnx: Path) -> Any:
        import onnx as package

        model = package.load(str(onnx))
        return rounded(model) if has_halves(model) and not self.cuda else model

    def answer(self, row: dict, onnx: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        runner = OrtRunner(contract_of(row), self.graph(onnx), threads=1)
        try:
            runner.__enter__()
        except UserError as error:
            raise Refused(str(error)) from None
        try:
            return runner.infer(inputs), 0
        finally:
            runner.__exit__()


class PackageBench(Bench):
    """``tensorrt`` or ``tensorrt_rtx``, by ``make engine``'s builder. Without a GPU tensorrt_rtx builds, and runs nothing."""

    def __init__(self, package: str) -> None:
        self.backend, self.version = package, load_package(package).__version__
        here = this_device()
        self.device = here["model"] if here else ""
        if not here:
            if package == "tensorrt":
                raise UserError(
                    "tensorrt builds on the GPU that it is for, and this machine shows none: run canaries on the device"
                )
            self.only_built = "this machine has no GPU"

    def answer(self, row: dict, onnx: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        contract, engine = contract_of(row), folder / "canary.engine"
        source = {
            "opset": row["opset"],
            "contract": contract.to_json(),
            "lowering": {"fp32_nodes": row["fp32_nodes"]},
            "dynamic": row["dynamic"],
        }
        builder = PythonBackend(self.backend)
        if row["precision"] == "fp8" and not builder.takes_types():
            raise Refused(f"{self.backend} {self.version} takes no FP8 from a graph")
        told: list[str] = []
        options = BuildOptions(self.backend, precision=row["precision"], workspace_gib=WORKSPACE_MIB / 1024, log=told.append)
        try:
            builder.build(onnx, source, engine, options)
        except UserError as error:
            why = str(error).replace(f"{onnx}: ", "").partition("; run again")[0]
            first = " ".join(told[-1].split()).partition(". In ")[0][:200] if told and "parse" not in why else ""
            raise Refused(f"{why} ({first})" if first else why) from None
        size = engine.stat().st_size
        if self.only_built:
            return {}, size
        with TensorRtRunner(contract, engine, self.backend) as runner:
            return runner.infer(inputs), size


def open_bench(backend: str) -> Bench:
    """The back end of that name on this machine. Raises UserError where it is not here."""
    if backend == "onnxruntime":
        return OrtBench()
    if backend == "trtexec":
        return TrtexecBench(trtexec.probe(), str(jetpack.describe_device()["model"]))
    if backend in BACKENDS:
        return PackageBench(backend)
    raise UserError(f"unknown back end {backend!r} of canaries: choose {', '.join(BACKENDS)}")


def run_isolated(
    bench: Bench,
    canaries: CanarySet,
    say: Callable[[str], None] = lambda line: None,
    reopen: Callable[[str], Bench] = open_bench,
) -> dict[str, Outcome]:
    """Outcomes of all canaries, in a process that is killed with this one; where a canary ends it, another goes on.

    say: told the name of a canary before it is built. reopen: opens the back end again, in that process.
    """
    if bench.backend not in PACKAGES:
        return {name: run_one(bench, canaries, name) for name in canaries.rows}
    outcomes: dict[str, Outcome] = {}
    at = ""

    def note(line: str) -> None:
        nonlocal at
        name, state, text = json.loads(line)
        if state:
            outcomes[name] = Outcome(state, text)
        else:
            at = name
            say(name)

    while left := [name for name in canaries.rows if name not in outcomes]:
        try:
            run_killable(_answer_all, reopen, bench.backend, str(canaries.folder), left, progress=note)
        except UserError as error:
            if not at or at in outcomes:
                raise
            outcomes[at] = Outcome(CRASHED, str(error))
    return {name: outcomes[name] for name in canaries.rows}


def _answer_all(
    reopen: Callable[[str], Bench], backend: str, folder: str, names: list[str], progress: Callable[[str], None]
) -> None:
    bench, canaries = reopen(backend), read_set(Path(folder))
    for name in names:
        progress(json.dumps([name, "", ""]))
        progress(json.dumps([name, *run_one(bench, canaries, name)]))
