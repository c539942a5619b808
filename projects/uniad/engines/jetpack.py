"""JetPack releases, and what a device says of itself: release, model, power mode, clocks. Everything here only reads.

Travels to the device: Python 3.8, no third-party package.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from uniad.errors import UserError


class JetPack(NamedTuple):
    name: str
    l4t: tuple[int, int]  # release and first revision of Jetson Linux
    tensorrt: str
    target: str  # row of uniad.export.to_onnx.TARGETS: opset and sampling of the graph
    highest_opset: int


# Newest last. Jetson Linux R38 (7.0, 7.1) is for Thor, R39 for Orin, too.
JETPACKS = (
    JetPack("5.1", (35, 2), "8.5", "8.5", 16),
    JetPack("6.0", (36, 2), "8.6", "8.6", 17),
    JetPack("6.1/6.2", (36, 4), "10.3", "10.3", 19),
    JetPack("7.0/7.1", (38, 0), "10.13", "10.13", 19),
    JetPack("7.2", (39, 0), "10.16", "10.16", 19),
)
RELEASE_FILE = "/etc/nv_tegra_release"


def read_release(path: str | None = None) -> tuple[int, int] | None:
    """(release, revision) of Jetson Linux, such as (36, 4); None on another machine. NV_TEGRA_RELEASE names another file, as
    containers need, which do not see the device's."""
    file = Path(path or os.environ.get("NV_TEGRA_RELEASE") or RELEASE_FILE)
    if not file.is_file():
        return None
    return parse_release(file.read_text(errors="replace"), str(file))


def parse_release(text: str, where: str) -> tuple[int, int]:
    """(36, 4) of "# R36 (release), REVISION: 4.0, ..."."""
    found = re.search(r"R(\d+).*?REVISION:\s*(\d+)", text)
    if not found:
        raise UserError(f"{where}: holds no release such as 'R36 (release), REVISION: 4.0'; reinstall nvidia-l4t-core")
    return int(found.group(1)), int(found.group(2))


def jetpack_of(release: tuple[int, int]) -> JetPack:
    """The row of a release. Raises UserError for one that is too old."""
    fitting = [row for row in JETPACKS if row.l4t <= release]
    if not fitting:
        raise UserError(
            f"JetPack too old: this device runs Jetson Linux R{release[0]}.{release[1]}, the oldest that works is JetPack 5.1 "
            f"(R35.2, TensorRT 8.5); flash a newer one"
        )
    return fitting[-1]


def highest_opset(version: tuple[int, ...]) -> int:
    """The newest opset that a TensorRT release reads as it is meant. Raises UserError for one that is too old."""
    if version[:2] < (8, 5):
        raise UserError(f"TensorRT {'.'.join(map(str, version))} is too old: GridSample came with 8.5 (JetPack 5.1)")
    fitting = [row for row in JETPACKS if tuple(map(int, row.tensorrt.split("."))) <= version[:2]]
    return fitting[-1].highest_opset


def describe_device() -> dict[str, object]:
    """Model, release, power mode and clocks, as far as they can be read without rights."""
    release = read_release()
    return {
        "model": _device_model(),
        "jetson_linux": f"R{release[0]}.{release[1]}" if release else None,
        "jetpack": jetpack_of(release).name if release else None,
        "power_mode": _power_mode(),
        "clocks_mhz": clocks_mhz(),
    }


def _device_model() -> str:
    file = Path("/proc/device-tree/model")
    if file.is_file():
        return file.read_text(errors="replace").strip("\0\n ")
    output = _output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return output.splitlines()[0] if output else os.uname().machine


def _power_mode() -> str | None:
    """Such as "MAXN"; nvpmodel is only asked."""
    found = re.search(r"Power Mode:\s*(\S.*)", _output_of(["nvpmodel", "-q"]))
    return found.group(1).strip() if found else None


def clocks_mhz(root: Path = Path("/")) -> dict[str, float]:
    """By name: cpu0, cpu1, ... and gpu, as far as the system states them."""
    clocks = {}
    for core in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        clocks[core.parts[-3]] = _number(core) / 1e3  # kHz
    for gpu in sorted((root / "sys/class/devfreq").glob("*g*/cur_freq")):
        if re.search(r"gpu|gv11b|ga10b|gb10b", gpu.parent.name):
            clocks["gpu"] = _number(gpu) / 1e6  # Hz
    return {name: mhz for name, mhz in clocks.items() if mhz}


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0


def _output_of(command: list) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        return done.stdout.decode("utf8", "replace")
    except (OSError, subprocess.SubprocessError):
        return ""
