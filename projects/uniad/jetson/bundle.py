"""A bundle: all that a device with JetPack alone needs to build, verify and time an engine. One folder, or one tar of it."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uniad
from uniad.artifacts.card import read_card, sequence_path
from uniad.artifacts.graph import check_graph, fp32_nodes
from uniad.backends.trtexec import passed_on
from uniad.canary.catalog import concerned
from uniad.canary.sets import facts_of, write_set
from uniad.errors import UserError
from uniad.files import atomic_path, sha256
from uniad.verify.tolerances import TOLERANCES

ONNX, SEQUENCE, PLAN, CANARIES = "model.onnx", "sequence.npz", "plan.json", "canaries"
# What runs on the device. A test keeps these within Python 3.8 and numpy.
MODULES = (
    "errors",
    "artifacts/precision",
    "postprocess/map_paint",
    "postprocess/map_merge",
    "verify/assignment",
    "verify/compare",
    "verify/future",
    "verify/map",
    "verify/objects",
    "verify/tolerances",
    "backends/trtexec",
    "engines/jetpack",
    "canary/judge",
    "canary/bench",
    "jetson/ondevice",
)
PASSED = ("variant", "stage", "config", "config_options", "config_values", "opset", "sampling", "contract", "precision_of_groups")
RUN = """#!/bin/sh
# Builds, verifies and times the engine of this bundle on this device; products go to out/. `sh run.sh --help` lists the rest.
# Needs: sh, python3 with numpy, and for all but `compare` trtexec. Changes no power mode and no clock.
set -eu
start=$PWD
cd "$(dirname "$0")"
command -v python3 >/dev/null || { echo 'error: python3 was not found: sudo apt install python3 python3-numpy' >&2; exit 2; }
python3 -c 'import numpy' 2>/dev/null || { echo 'error: python3 has no numpy: sudo apt install python3-numpy' >&2; exit 2; }
bundle=$PWD
cd "$start"
PYTHONPATH=$bundle/lib PYTHONDONTWRITEBYTECODE=1 exec python3 -m uniad.jetson.ondevice --bundle "$bundle" "$@"
"""


@dataclass(frozen=True)
class DeviceOptions:
    """How the device is to build and measure."""

    precision: str = "fp32"
    workspace_mib: int = 4096
    timing_cache: bool = True
    compute_capabilities: tuple[str, ...] = ()
    spare_mib: int = 512  # disk that must stay free
    iterations: int = 200
    seconds: int = 10
    canary: bool = True  # micro-graphs first, see uniad.canary


def write_bundle(onnx_path: str | Path, folder: Path, options: DeviceOptions = DeviceOptions()) -> dict:  # noqa: B008  frozen
    """Fill ``folder`` (made if absent); returns the plan. Raises UserError for a missing card, a changed ONNX or a bad option."""
    onnx_path, folder = Path(onnx_path), Path(folder)
    card = read_card(onnx_path)
    check_graph(onnx_path, options.precision)
    if options.compute_capabilities:
        raise UserError("trtexec builds for the GPU of its machine only; leave COMPUTE_CAPABILITIES empty")
    recorded = sequence_path(onnx_path)
    if not recorded.is_file():
        raise UserError(f"{recorded}: no recorded sequence; `make export` writes it beside the ONNX")
    if card.get("sequence_sha256", "") not in ("", sha256(recorded)):
        raise UserError(f"{recorded}: changed after its card was written (digest differs); run `make export` again")
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in ((onnx_path, ONNX), (recorded, SEQUENCE)):
        _link(source, folder / name)
    _write_program(folder)
    if options.canary:
        write_set(folder / CANARIES)
    tolerance = {k: v if math.isfinite(v) else None for k, v in asdict(TOLERANCES[options.precision]).items()}
    plan = {
        "engine": f"{onnx_path.stem}.{options.precision}.engine",
        "precision": options.precision,
        "opset": card["opset"],
        "frames": card["sequence_frames"],
        "options": {k: v for k, v in asdict(options).items() if k != "precision"},
        "outputs": {o["name"]: {"shape": o["shape"], "dtype": o["dtype"]} for o in card["contract"]["outputs"]},
        "passed_on": passed_on(card["contract"]),
        "fp32_nodes": fp32_nodes(card),
        "tolerance": tolerance,
        "canaries": concerned(facts_of(onnx_path)) if options.canary else None,
        "card": {k: card[k] for k in PASSED if k in card} | {"onnx": onnx_path.name, "onnx_sha256": card["sha256"]},
    }
    return _write_plan(folder, plan)


def write_canary_bundle(folder: Path, touched: list[str] | None, only: Sequence[str] = ()) -> dict:
    """A bundle of canaries without a graph. touched: those that concern the graph to be built; None: all count."""
    _write_program(folder)
    canaries = write_set(folder / CANARIES, only)
    return _write_plan(folder, {"canaries": list(canaries.rows) if touched is None else touched})


def _write_program(folder: Path) -> None:
    package = Path(uniad.__file__).parent
    for part in sorted({Path(module).parent for module in MODULES}):
        _write(folder / "lib" / "uniad" / part / "__init__.py", "")
    for module in MODULES:
        _write(folder / "lib" / "uniad" / f"{module}.py", (package / f"{module}.py").read_text())
    _write(folder / "run.sh", RUN)
    (folder / "run.sh").chmod(0o755)


def _write_plan(folder: Path, plan: dict) -> dict:
    files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != PLAN}
    plan = {**plan, "files": files}
    _write(folder / PLAN, json.dumps(plan, indent=1) + "\n")
    return plan


def files_of(plan: dict) -> list[str]:
    """Names of the bundle's files, the plan last: where it is, all is."""
    return [*sorted(plan["files"]), PLAN]


def pack(folder: Path, plan: dict, tar: Path, root: str) -> None:
    """One tar with one folder ``root``; the same bundle gives the same bytes."""
    with atomic_path(tar) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in files_of(plan):
            info = tarfile.TarInfo(f"{root}/{name}")
            info.size = (folder / name).stat().st_size
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            with open(folder / name, "rb") as handle:
                archive.addfile(info, handle if info.size else io.BytesIO())


def _link(source: Path, target: Path) -> None:
    """A hard link costs nothing; across file systems a copy does."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
