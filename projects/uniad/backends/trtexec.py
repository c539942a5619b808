"""``trtexec`` of any release from 8.5 on: find it, know its version, build, run one frame, time it.

Options differ between releases; what its own --help lists is believed, and the version only decides what help cannot tell.
Travels to the device: Python 3.8 and numpy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Dict, NamedTuple  # noqa: UP035

import numpy as np

from uniad.artifacts.precision import check_precision
from uniad.errors import UserError

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
LONGEST_WORD = 128 * 1024 - 64  # what Linux hands a program as one argument
LATENCY = re.compile(
    r"GPU Compute Time: min = ([\d.]+) ms, max = ([\d.]+) ms, mean = ([\d.]+) ms, median = ([\d.]+) ms"
    r"(?:.*?percentile\(99%\) = ([\d.]+) ms)?"
)
Outputs = Dict[str, np.ndarray]  # noqa: UP006


class Crashed(UserError):
    """trtexec was ended by a signal: it gave no error of its own."""


class Trtexec(NamedTuple):
    path: str
    version: tuple[int, ...]  # (8, 5, 2)
    help: str

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def strongly_typed_only(self) -> bool:
        """From 11 on types come from the graph, and there is no flag to change them."""
        return self.version >= (11,)

    @property
    def takes_types(self) -> bool:
        """Whether it can be told to keep to the types in the graph."""
        return self.strongly_typed_only or self.knows("--stronglyTyped")

    def knows(self, flag: str) -> bool:
        return re.search(rf"{re.escape(flag)}\b", self.help) is not None


def find() -> str:
    """Path of trtexec: TRTEXEC, the PATH, or where NVIDIA's packages put it."""
    named = os.environ.get("TRTEXEC")
    if named:
        if not (os.path.isfile(named) and os.access(named, os.X_OK)):
            raise UserError(f"TRTEXEC={named}: no such program")
        return os.path.abspath(named)
    found = shutil.which("trtexec") or next((p for p in PLACES if os.access(p, os.X_OK)), None)
    if not found:
        raise UserError(
            "trtexec was not found on the PATH nor in /usr/src/tensorrt/bin: on a Jetson `sudo apt install nvidia-jetpack` "
            "brings it; elsewhere name it, TRTEXEC=/path/to/trtexec"
        )
    return found


def parse_version(banner: str) -> tuple[int, ...]:
    """(8, 5, 2) of "[TensorRT v8502]"; from 10 on two digits each: (10, 13, 3) of "[TensorRT v101303]"."""
    found = re.search(r"\[TensorRT v(\d+)\]", banner)
    if not found:
        raise UserError("trtexec does not say its version ('[TensorRT v...]' in its first line); is TRTEXEC the right program?")
    number = int(found.group(1))
    unit = 10000 if number >= 100000 else 1000
    return number // unit, number % unit // 100, number % 100


def probe(path: str | None = None) -> Trtexec:
    """Ask trtexec what it is."""
    path = path or find()
    try:
        done = subprocess.run(
            [path, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{path}: cannot be run ({error})") from None
    output = done.stdout.decode("utf8", "replace")
    try:
        return Trtexec(path, parse_version(output), output)
    except UserError as error:
        last = output.strip().splitlines()[-1:] or ["no output"]
        raise UserError(f"{path}: {error} Its output: {last[0]}") from None


def build_command(
    trtexec: Trtexec,
    onnx: str,
    engine: str,
    precision: str = "fp32",
    workspace_mib: int = 4096,
    timing_cache: str = "",
    capabilities: Sequence[str] = (),
    fp32_nodes: Sequence[str] = (),
) -> list[str]:
    """The command that builds. Raises UserError where this release has no such option.

    fp32_nodes: of an fp16 graph, those that stay. A release that takes types from the graph sees them there; an older one chooses
    types itself, so it is told.
    """
    check_precision(precision)
    if capabilities:
        raise UserError("trtexec builds for the GPU of its machine only; leave COMPUTE_CAPABILITIES empty")
    words = [trtexec.path, f"--onnx={onnx}", f"--saveEngine={engine}"]
    words.append(f"--memPoolSize=workspace:{workspace_mib}")  # 8.4 and newer, in MiB
    if timing_cache:
        words.append(f"--timingCacheFile={timing_cache}")
    if trtexec.strongly_typed_only:
        pass
    elif precision == "fp16":
        words += ["--stronglyTyped"] if trtexec.takes_types else _weak_fp16(fp32_nodes)
    elif precision == "int8":
        # Without --fp16: what is not between Q and DQ was measured in fp32
        words += ["--stronglyTyped"] if trtexec.takes_types else ["--int8"]
    if precision == "fp32":
        words.append("--noTF32")  # on by default, and TF32 keeps ten bits of a product: no fp32
    # Build alone; timing has a run of its own. 8.5 calls it otherwise.
    words.append("--skipInference" if trtexec.knows("--skipInference") else "--buildOnly")
    return words


def _weak_fp16(fp32_nodes: Sequence[str]) -> list[str]:
    if not fp32_nodes:
        return ["--fp16"]
    named = ",".join(f"{name}:fp32" for name in fp32_nodes)
    if len(named) >= LONGEST_WORD:
        raise UserError(
            f"this graph keeps {len(fp32_nodes)} nodes in fp32, more than trtexec before 10 can be told in a command; build with "
            f"the tensorrt package (ENGINE_BACKEND=tensorrt), or take PRECISION=fp32"
        )
    return ["--fp16", "--precisionConstraints=obey", f"--layerPrecisions={named}"]


def shown(words: Sequence[str]) -> list[str]:
    """A command to print and to keep: program without folder, long lists counted."""
    brief = [os.path.basename(words[0])]
    for word in words[1:]:
        name, _, value = word.partition("=")
        brief.append(f"{name}=<{value.count(',') + 1} nodes>" if name == "--layerPrecisions" else word)
    return brief


def build(words: Sequence[str], log: Path, say: Callable[[str], None] = print) -> float:
    """Run a build, its output in ``log``; returns seconds. Raises UserError with the first line of the builder's own error."""
    started = beat = time.monotonic()
    with open(log, "wb") as handle:
        process = subprocess.Popen(list(words), stdout=handle, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if time.monotonic() - beat > 30:
                    beat = time.monotonic()
                    say(f"building for {beat - started:.0f} s: {_last_line(log)}")
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode < 0:
        raise Crashed(f"trtexec was ended by signal {-process.returncode} while it built; its last line: {_last_line(log)}")
    if process.returncode:
        raise UserError(f"trtexec could not build the engine: {first_error(log.read_text(errors='replace'))}; all of it: {log}")
    return time.monotonic() - started


def first_error(output: str) -> str:
    """The line that explains a failure: running out of memory or disk first, then the first error of TensorRT."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for pattern in (r"out of memory|OutOfMemory|No space left", r"\[E\]", r"rror"):
        for line in lines:
            if re.search(pattern, line):
                return re.sub(r"^(\[[^\]]*\]\s*)+", "", line)[:300]
    return lines[-1][:300] if lines else "no output"


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-2000:].decode("utf8", "replace").strip().splitlines()
    return re.sub(r"^(\[[^\]]*\]\s*)+", "", lines[-1])[:120] if lines else "no output yet"


class TrtexecEngine:
    """An engine run by trtexec, a process a frame: slow, and in need of nothing else. For verification, not for driving."""

    def __init__(self, trtexec: Trtexec, engine: Path, outputs: Mapping[str, dict]) -> None:
        """outputs: name to {"shape": ..., "dtype": ...}."""
        self.trtexec, self.engine, self.outputs = trtexec, Path(engine).resolve(), outputs
        self.shapes: dict[str, Sequence[int]] = {}  # of inputs whose dimensions the engine leaves open
        # Text has six digits; where this release can write bytes, it does.
        self.exact = trtexec.knows("--dumpRawBindingsToFile")

    def command(self, feeds: Sequence[str], exact: bool) -> list[str]:
        inputs = ",".join(f"{name}:{name}.in" for name in feeds)
        words = [self.trtexec.path, f"--loadEngine={self.engine}", f"--loadInputs={inputs}"]
        if self.shapes:
            words.append("--shapes=" + ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in self.shapes.items()))
        words += ["--iterations=1", "--warmUp=0", "--duration=0", "--avgRuns=1"] + self._transfers()
        return words + (["--dumpRawBindingsToFile"] if exact else ["--exportOutput=outputs.json"])

    def _transfers(self) -> list[str]:
        """Without copies to and from the GPU there is nothing to load or to read; newer releases leave them out unless told."""
        if self.trtexec.version < (11,):
            return []
        found = re.search(r"--(?!no)\w*[tT]ransfers\b", self.trtexec.help)
        return [found.group(0)] if found else []

    def infer(self, feeds: Mapping[str, np.ndarray], folder: Path | None = None) -> Outputs:
        """All outputs for all inputs, through files in ``folder`` (default: a temporary one that is removed)."""
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="trtexec-") as made:
                return self.infer(feeds, Path(made))
        for name, value in feeds.items():
            np.ascontiguousarray(value).tofile(str(folder / f"{name}.in"))
        output = _run(self.command(list(feeds), self.exact), folder)
        if self.exact:
            return read_raw(folder, self.outputs, output)
        return read_json(folder / "outputs.json", self.outputs)

    def latency(self, feeds: Mapping[str, np.ndarray], iterations: int = 200, seconds: int = 10) -> dict[str, float]:
        """GPU milliseconds of a step, at least so many iterations and seconds after a warm-up: median, p99, min, max."""
        with tempfile.TemporaryDirectory(prefix="trtexec-") as made:
            for name, value in feeds.items():
                np.ascontiguousarray(value).tofile(os.path.join(made, f"{name}.in"))
            words = self.command(list(feeds), False)[:3]
            words += [f"--iterations={iterations}", "--warmUp=500", f"--duration={seconds}", "--percentile=99"]
            found = LATENCY.search(_run(words + self._transfers(), Path(made)))
        if not found:
            return {}
        low, high, mean, median, p99 = found.groups()
        figures = {"median_ms": median, "p99_ms": p99, "mean_ms": mean, "min_ms": low, "max_ms": high}
        return {name: float(value) for name, value in figures.items() if value}


def _run(words: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        list(words), cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    output = done.stdout.decode("utf8", "replace")
    if done.returncode:
        if re.search(r"(plan|engine).*(version|incompatible|different)|[Ss]erialization|[Dd]eserializ", output):
            raise UserError(
                f"this engine was built for another TensorRT or another GPU, or is damaged: {first_error(output)}; "
                f"build it again here"
            )
        raise UserError(f"trtexec could not run the engine: {first_error(output)}")
    return output


def read_raw(folder: Path, ports: Mapping[str, dict], output: str = "") -> Outputs:
    """Outputs from the files NAME.output.SHAPE.TYPE.raw that trtexec leaves."""
    outputs = {}
    for name, port in ports.items():
        files = sorted(Path(folder).glob(f"{name}.output.*.raw"))
        if not files:
            raise UserError(f"trtexec wrote no {name}: {first_error(output) if output else 'is this the engine of this graph?'}")
        outputs[name] = _shaped(name, np.fromfile(str(files[0]), port["dtype"]), port)
    return outputs


def read_json(path: Path, ports: Mapping[str, dict]) -> Outputs:
    """Outputs from --exportOutput, whose numbers have six digits and may be nan or inf."""
    try:
        text = re.sub(r"(?<=[\s,\[-])nan(?=[\s,\]])", "NaN", path.read_text())
        text = re.sub(r"(?<=[\s,\[-])inf(?=[\s,\]])", "Infinity", text)
        entries = json.loads(text.replace("-NaN", "NaN"))
        values = {entry["name"]: entry["values"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what trtexec --exportOutput writes ({error})") from None
    missing = [name for name in ports if name not in values]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; is this the engine of this graph?")
    return {name: _shaped(name, np.array(values[name], port["dtype"]), port) for name, port in ports.items()}


def _shaped(name: str, flat: np.ndarray, port: dict) -> np.ndarray:
    if flat.size != int(np.prod(port["shape"], dtype=np.int64)):
        raise UserError(f"{name} has {flat.size} values, the card says {port['shape']}; is this the engine of this graph?")
    return flat.reshape(port["shape"])


def passed_on(contract: dict) -> dict[str, list]:
    """State outputs that only hand an input of the frame on: name -> [input, first, last element] or [input, None, None].

    contract: the card's. A test holds this to uniad.interface.contract.
    """
    frame = {i["name"] for i in contract["inputs"] if "initial" not in i}
    parts = {"pos": ["can_bus", 0, 3], "angle": ["can_bus", 17, 18]}
    found: dict[str, list] = {}
    for output in contract["feedback"]:
        name = output[len("next_") :]
        if name in parts:
            found[output] = parts[name]
        elif name in frame:
            found[output] = [name, None, None]
    return found


def undo_rounding(outputs: Mapping, frame: Mapping, passed_on: Mapping) -> dict:
    """Text has six digits, which is a metre of a global position. What only hands an input on to the next frame is that input;
    it is put back if the text says the same as far as it goes."""
    exact = dict(outputs)
    for name, (source, first, last) in passed_on.items():
        value = frame[source]
        value = value if first is None else value[..., first:last]
        value = value.reshape(outputs[name].shape)
        if np.allclose(outputs[name], value, rtol=1e-5, atol=1e-30):
            exact[name] = value
    return exact
