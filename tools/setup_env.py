#!/usr/bin/env python3
"""Makes the virtual environment and installs what pyproject.toml pins. Does nothing where that is already so.

Standard library only. pip's own configuration and variables are honoured; the one thing decided here is which torch: on
a machine without a GPU the CPU build, which is a tenth of the size, from pip's index where it has it, else from
pytorch.org.

`--part world` stops after what draws a synthetic world: make draws one while the rest is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from _refusal import Refused, ended

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mk/lib"))
import machine  # noqa: E402

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ROOT = Path(__file__).resolve().parent.parent
# What tools/make_synthetic_nuscenes.py imports. Of what the devkit brings along those that have a pin, or the rest would put
# another version in their place while they are read.
WORLD = ("numpy", "opencv-python-headless", "pyquaternion", "shapely", "tqdm", "nuscenes-devkit", "matplotlib", "pillow", "scipy")
# What most tools come to import: pip would compile all 13,000 files that it installs, which took half of its time, and few of
# them are ever read. The others are compiled by whoever imports them first.
COMPILED = (
    "numpy", "torch", "torch.onnx", "torch.utils.tensorboard", "torch._dynamo", "onnx", "onnxscript", "onnxruntime", "casadi",
    "cv2", "scipy.optimize", "scipy.spatial", "shapely", "matplotlib.pyplot", "pandas", "motmetrics", "nuscenes.nuscenes",
    "nuscenes.eval.tracking.evaluate", "nuscenes.map_expansion.map_api",
)  # fmt: skip


def pinned(text: str, name: str) -> str:
    pins = machine.pins(text, *machine.INSTALLED)
    if name not in pins:
        raise Refused(f"pyproject.toml pins no {name}")
    return f"{name}=={pins[name]}"


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url + "/", method="HEAD"), timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False


def pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "-qq", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise Refused(f"pip could not install {arguments[-1]} (its message stands above); run the same command again when mended")


def torch_source(python: Path, torch: str, index: str) -> list[str]:
    """pip options that say where torch comes from."""
    if index:
        return ["--extra-index-url", index]
    if machine.gpus() or sys.platform == "darwin":
        return []  # the default build is the right one
    probe = subprocess.run(
        [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-qq", "--dry-run", "--no-deps",
         "--ignore-installed", "--report", "-", torch],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        version = json.loads(probe.stdout)["install"][0]["metadata"]["version"]
    except (ValueError, LookupError):
        version = ""
    if "+cpu" in version:
        return []
    if reachable(CPU_INDEX):
        return ["--extra-index-url", CPU_INDEX]
    print(
        f"note: {CPU_INDEX} cannot be reached, so pip's index decides; without a GPU the CUDA build of torch works too, "
        "but is several GB. TORCH_INDEX_URL=... names another place"
    )
    return []


# The start of a program that runs with the Python beside it: for sh an exec, for Python a string.
BESIDE = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
"""


def make_movable(venv: Path) -> None:
    """A copied or moved clone has an environment that works and runs its own code, not that of the place it was made in.

    Two things name that place: the line by which the package is found, and the first line of every program in bin/.
    """
    if venv.resolve().is_relative_to(ROOT):  # one elsewhere may serve several clones; tools put their own package first
        for pth in venv.glob("lib/python3*/site-packages/__editable__.uniad-*.pth"):
            pth.write_text(os.path.relpath(ROOT / "projects", pth.parent.resolve()) + "\n")
    places = "|".join(re.escape(str(p)) for p in {venv.absolute(), venv.resolve()})
    first_line = re.compile(rf"#!({places})/bin/python[0-9.]*\n".encode())
    for program in (venv / "bin").iterdir():
        if program.is_file() and not program.is_symlink() and first_line.match(text := program.read_bytes()):
            program.write_bytes(BESIDE + text.split(b"\n", 1)[1])


def compile_imports(python: Path) -> str | None:
    """Imports what tools import, so that it lies there compiled, also where the shell forbids to write bytecode; says versions.

    None where the environment does not work.
    """
    program = f"""
import contextlib, importlib
import numpy, torch, uniad
for name in {COMPILED}:
    with contextlib.suppress(Exception):
        importlib.import_module(name)
print(f"torch {{torch.__version__}}, numpy {{numpy.__version__}}")
"""
    return machine.run(["env", "-u", "PYTHONDONTWRITEBYTECODE", str(python), "-W", "ignore", "-c", program], timeout=600)


def make(venv: Path, index: str, part: str = "") -> bool:
    """True when something was installed."""
    if sys.version_info[:2] not in machine.PYTHONS:
        raise Refused(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} cannot hold the pinned packages (numpy < 2 for the nuScenes "
            "devkit): 3.10, 3.11 or 3.12 can; make configure HOST_PYTHON=/path/to/it"
        )
    text = (ROOT / "pyproject.toml").read_text()
    # Only what decides the packages: settings of linters and tests change often.
    wanted = hashlib.sha256("\n".join([text.split("[tool.", 1)[0], index, sys.version]).encode()).hexdigest()
    stamp, python = venv / "installed.sha256", venv / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return False
    need = 4.0
    if machine.free_gib(venv) < need:
        raise Refused(f"{venv.resolve()} needs {need:.0f} GiB, {machine.free_gib(venv):.1f} GiB are free on its disk")
    if not python.exists():
        print(f"making {venv} with Python {sys.version.split()[0]}", flush=True)
        done = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stdout + done.stderr).strip().splitlines()
            hint = "; on Debian and Ubuntu: apt install python3-venv" if "ensurepip" in done.stdout + done.stderr else ""
            raise Refused(f"python -m venv failed: {why[-1] if why else 'no message'}{hint}")
    stamp.unlink(missing_ok=True)
    if part == "world":
        pip(python, *(pinned(text, name) for name in WORLD))
        return True
    torch = pinned(text, "torch")
    print(f"installing {torch} (minutes, by the network)", flush=True)
    pip(python, *torch_source(python, torch, index), torch)
    print(f"installing what pyproject.toml pins [{machine.EXTRAS}]", flush=True)
    pip(python, "-e", f".[{machine.EXTRAS}]")
    make_movable(venv)
    found = compile_imports(python)
    if found is None:
        raise Refused(f"{python} cannot import torch and uniad after installing them: remove {venv} and run `make env`")
    stamp.write_text(wanted)
    print(f"{venv}: {found.strip()}")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venv", type=Path)
    parser.add_argument("--torch-index", default="", help="extra index for torch")
    parser.add_argument("--part", default="", choices=("", "world"), help="world: only what draws a synthetic world")
    args = parser.parse_args()
    make(args.venv, args.torch_index, args.part)


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # another project's packages must not shadow the pinned ones
    sys.exit(ended(main))
