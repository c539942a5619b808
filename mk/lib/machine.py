"""What this machine is, found with the standard library only: configure and doctor run before anything is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# The nuScenes devkit needs numpy < 2, which has wheels for these only.
PYTHONS = ((3, 10), (3, 11), (3, 12))
OLDEST_GPU = (7, 0)  # of the torch that pyproject.toml pins
NEWEST_UPSTREAM_GPU = (8, 6)  # of the upstream stack's CUDA 11.6
EXTRAS = "train,engine,dev"  # of pyproject.toml: what `make env` installs
INSTALLED = ("dependencies", "runtime", *EXTRAS.split(","))  # its lists with all that they bring along


def pins(pyproject: str, *lists: str) -> dict[str, str]:
    """Version by package in the named lists of pyproject.toml's text. Python before 3.11 reads no TOML."""
    found = re.findall(r"^([\w-]+) = \[(.*?)\][ \t]*$", pyproject, re.M | re.S)
    return dict(pin for name, text in found if name in lists for pin in re.findall(r'"([A-Za-z0-9_.-]+)==([^"]+)"', text))


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: tuple[int, int]
    memory_gib: float

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]}, {self.memory_gib:.0f} GiB)"


def run(command: list[str], timeout: float = 10) -> str | None:
    """Standard output of a command, or None when it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def gpus() -> list[Gpu]:
    """NVIDIA GPUs that the driver shows."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    found = []
    for line in (run(query) or "").splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and re.fullmatch(r"\d+\.\d+", parts[1]):
            major, minor = parts[1].split(".")
            memory = float(parts[2]) / 1024 if re.fullmatch(r"[\d.]+", parts[2]) else 0.0
            found.append(Gpu(parts[0], (int(major), int(minor)), memory))
    return found


def engines() -> dict[str, str]:
    """Container engines on PATH: name -> "answers" or why it does not."""
    found = {}
    for name in ("docker", "podman"):
        if shutil.which(name) is None:
            continue
        try:
            done = subprocess.run([name, "info"], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            found[name] = "does not answer within 10 s"
            continue
        lines = done.stderr.strip().splitlines()
        found[name] = "answers" if done.returncode == 0 else (lines[-1].strip() if lines else "fails")
    return found


def engine_has_gpus(name: str) -> bool:
    """Whether containers can get GPUs: NVIDIA's runtime is registered, its hook is installed, or a CDI file names the devices."""
    if "nvidia" in (run([name, "info", "--format", "{{json .}}"]) or "").lower():
        return True
    hook = shutil.which("nvidia-container-runtime-hook") or shutil.which("nvidia-container-toolkit")
    return bool(hook) or any(next(Path(d).glob("nvidia*.y*ml"), None) for d in ("/etc/cdi", "/var/run/cdi"))


def python_version(command: str) -> tuple[int, int] | None:
    text = run([command, "-c", "import sys; print(sys.version_info[0], sys.version_info[1])"])
    if not text:
        return None
    major, minor = text.split()
    return int(major), int(minor)


def find_python(first: str) -> tuple[str, tuple[int, int]] | None:
    """The interpreter for the environment: ``first`` if it is new enough and not too new, else one that is."""
    for command in (first, sys.executable, "python3", *(f"python{a}.{b}" for a, b in reversed(PYTHONS))):
        path = shutil.which(command)
        version = python_version(path) if path else None
        if version in PYTHONS:
            return command, version
    return None


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_gib(path: str | Path) -> float:
    path = Path(path)
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free / 2**30


def shm_gib(path: str | Path = "/dev/shm") -> float | None:
    """Size of the shared memory that loader processes hand their batches over in; None where there is none."""
    return shutil.disk_usage(path).total / 2**30 if Path(path).is_dir() else None


def memory_gib() -> float | None:
    """Memory that a program may use now, within the container's limit where there is one."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, (limit - used) / 2**30)
    except (OSError, ValueError):
        pass
    return free


def installed(python: str, packages: Iterable[str]) -> dict[str, str] | None:
    """Versions of packages in an environment ("" where absent), or None without the environment."""
    code = (
        "import json, sys\nfrom importlib.metadata import PackageNotFoundError, version\nout = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: out[name] = version(name)\n"
        "    except PackageNotFoundError: out[name] = ''\n"
        "print(json.dumps(out))"
    )
    text = run([python, "-c", code, *packages], timeout=30)
    return json.loads(text) if text else None


def nuscenes_versions(root: str | Path) -> list[str]:
    """nuScenes releases whose tables lie under a folder."""
    return sorted(p.parent.name for p in Path(root).glob("v1.0-*/sample.json"))
