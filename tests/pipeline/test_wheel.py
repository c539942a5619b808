"""The wheel, built with exactly the oldest setuptools that we allow, carries the command lines and says what it is."""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from helpers import REPO
from uniad import cli

FLOOR = re.search(r'requires = \["setuptools>=([0-9.]+)"\]', (REPO / "pyproject.toml").read_text())[1]

NO_CLONE = "error: uniad doctor is for a clone of the repository, which is not here\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # building writes beside the sources
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    for folder in ("projects/uniad", "tools"):
        shutil.copytree(REPO / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(place / "floor", with_pip=True)
    pip = [str(place / "floor/bin/python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    got = subprocess.run([*pip, "install", f"setuptools=={FLOOR}", "wheel"], capture_output=True, text=True, timeout=300)
    if got.returncode:
        pytest.skip(f"no index has setuptools {FLOOR}: {got.stderr.strip().splitlines()[-1]}")
    done = subprocess.run([*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", str(place), str(source)],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return next(place.glob("uniad-*.whl"))


@pytest.mark.slow
def test_the_stated_setuptools_builds_a_wheel_with_its_extras_and_addresses(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        about = archive.read(next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))).decode()
        scripts = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    assert "uniad = uniad.cli:main" in scripts
    assert {"runtime", "train", "engine", "dev"} <= set(re.findall(r"^Provides-Extra: (\w+)", about, re.M))
    assert re.search(r"^License-Expression: Apache-2.0$", about, re.M) and re.search(r"^Author: \S", about, re.M)
    assert re.search(r"^Project-URL: \w+, https://", about, re.M)


@pytest.mark.slow
def test_the_installed_command_lists_the_verbs_that_work_without_a_clone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)

    def uniad(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(wheel.parent / "floor/bin/python"), "-m", "uniad.cli", *words]  # an environment without any package
        env = {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    shown = uniad("--help").stdout
    gone = {verb for verb in cli.VERBS if not re.search(rf"^  {verb} +\S", shown, re.M)}
    assert gone == {"doctor", "configure", "preflight"}
    refused = uniad("doctor")
    assert refused.returncode == 2 and refused.stderr == NO_CLONE
    lacking = uniad("eval", "x.py", "y.pth")
    assert lacking.returncode == 2 and re.fullmatch(r"error: this needs the package \w+, .*'uniad\[train\]'\n", lacking.stderr)
