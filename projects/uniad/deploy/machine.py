"""What a machine says of itself while it works: memory, temperatures, clocks. Everything here only reads, and needs no rights.

Linux's thermal zones and frequencies, which Jetsons have too; nvidia-smi where there is one, else tegrastats. What cannot be read
is left out. The GPU's own figures have not been read on a GPU by these tests: only the text that its tools print.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from uniad.backends import cuda
from uniad.engines.jetpack import clocks_mhz

SMI = ("temperature.gpu", "clocks.sm", "power.draw")
_TEGRA_ZONE = re.compile(r"([A-Za-z]\w*)@(-?[\d.]+)C")
_TEGRA_GPU = re.compile(r"GR3D_FREQ \d+%@\[?(\d+)")
_LIMITS = ("passive", "hot", "critical")  # trip points at which a device slows down or stops; active ones start a fan


@dataclass(frozen=True)
class Reading:
    """temperatures: degrees Celsius by zone. limits: of those zones that state one. clocks: MHz by name, cpu0 or gpu."""

    temperatures: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    power_w: float | None = None

    @property
    def hottest(self) -> float | None:
        return max(self.temperatures.values(), default=None)

    @property
    def clock(self) -> float | None:
        """The GPU's, else the mean of the processor's cores."""
        cores = [mhz for name, mhz in self.clocks.items() if name != "gpu"]
        return self.clocks.get("gpu", sum(cores) / len(cores) if cores else None)


def resident_mib() -> float:
    """What the process holds now; where the system does not say, the most that it held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def gpu_mib() -> float:
    """What PyTorch holds of the GPU, where it is used; else what all programs do; 0 without a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.memory_allocated() / 2**20
    return cuda.used_mib()


class Machine:
    """Call ``read`` now and then: it takes milliseconds, tens of them where a program has to be asked."""

    def __init__(self, root: str | Path = "/") -> None:
        self.root = Path(root)
        self._smi, self._tegra = shutil.which("nvidia-smi"), shutil.which("tegrastats")

    def read(self) -> Reading:
        temperatures, limits = self._zones()
        clocks, power = clocks_mhz(self.root), None
        if self._smi:
            found = parse_smi(_first_line([self._smi, f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits"]))
            temperatures.update({"gpu": found["temperature.gpu"]} if "temperature.gpu" in found else {})
            clocks.update({"gpu": found["clocks.sm"]} if "clocks.sm" in found else {})
            power = found.get("power.draw")
        elif self._tegra:
            zones, gpu = parse_tegrastats(_first_line([self._tegra, "--interval", "100"]))
            temperatures = {**zones, **temperatures}
            clocks.update({"gpu": gpu} if gpu and "gpu" not in clocks else {})
        return Reading(temperatures, limits, clocks, power)

    def _zones(self) -> tuple[dict[str, float], dict[str, float]]:
        temperatures: dict[str, float] = {}
        limits: dict[str, float] = {}
        for zone in sorted((self.root / "sys/class/thermal").glob("thermal_zone*")):
            kind, value = _text(zone / "type"), _number(zone / "temp")
            if not kind or value is None or value <= 0:  # a zone that is switched off says 0, or fails
                continue
            name = kind.removesuffix("-thermal").removesuffix("-therm")
            name = name if name not in temperatures else f"{name}.{zone.name.removeprefix('thermal_zone')}"
            temperatures[name] = value / 1e3
            trips = [_number(t.with_name(t.name.replace("_type", "_temp"))) for t in zone.glob("trip_point_*_type")
                     if _text(t) in _LIMITS]  # fmt: skip
            known = [t / 1e3 for t in trips if t is not None and t > 0]
            if known:
                limits[name] = min(known)
        return temperatures, limits


def parse_smi(line: str) -> dict[str, float]:
    """Figures of the first GPU by their name in the query; what it does not know is left out."""
    found = {}
    for name, text in zip(SMI, line.split(",")):
        try:
            found[name] = float(text)
        except ValueError:
            continue
    return found


def parse_tegrastats(line: str) -> tuple[dict[str, float], float | None]:
    """(Temperatures by zone, the GPU's MHz) of a line such as ``... GR3D_FREQ 61%@[1300] ... CPU@48.5C GPU@46C ...``."""
    zones = {name.lower(): float(value) for name, value in _TEGRA_ZONE.findall(line) if float(value) > 0}
    gpu = _TEGRA_GPU.search(line)
    return zones, float(gpu.group(1)) if gpu else None


def _first_line(command: list[str]) -> str:
    """Of a program that may go on for ever; empty where it says nothing in two seconds."""
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
            try:
                # tegrastats never ends: what it said when it is stopped is read
                out, _ = process.communicate(timeout=2 if command[0].endswith("nvidia-smi") else 0.4)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
    except OSError:
        return ""
    return out.decode("utf8", "replace").partition("\n")[0]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
