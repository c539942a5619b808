"""The order of packages that docs/architecture.md shows, as `make lint` holds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO

LINT = re.search(r"-c '(from importlinter.*)'", (REPO / "mk/test.mk").read_text())[1]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(root / "projects")}
    return subprocess.run([sys.executable, "-c", LINT], cwd=root, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(REPO / "projects/uniad", tmp_path / "projects/uniad", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    return tmp_path


def test_packages_import_only_what_stands_below_them():
    done = lint(REPO)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file, line, told", [
    ("geometry/grid.py", "from uniad.config.spec import Spec", "uniad.geometry is not allowed to import uniad.config"),
    ("losses/occ.py", "def late():\n    from uniad.training import clip", "uniad.losses is not allowed to import uniad.training"),
    ("models/occ.py", "from uniad.data.rig import rigs_of", "uniad.models is not allowed to import uniad.data"),
    ("models/layers.py", "from uniad.models.uniad import UniAD", "cycle"),
])  # fmt: skip
def test_an_import_upwards_or_in_a_circle_is_an_error(copy: Path, file: str, line: str, told: str):
    with (copy / "projects/uniad" / file).open("a") as end:
        end.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode != 0 and told in done.stdout, done.stdout


def test_a_package_without_a_place_is_an_error(copy: Path):
    (copy / "projects/uniad/new").mkdir()
    (copy / "projects/uniad/new/__init__.py").touch()
    done = lint(copy)
    assert done.returncode != 0 and "uniad.new" in done.stdout, done.stdout


def test_the_page_shows_the_order_that_is_held():
    rows = re.search(r"^layers = \[\n(.*?)^\]", (REPO / "pyproject.toml").read_text(), re.S | re.M)[1]
    page = (REPO / "docs/architecture.md").read_text()
    shown = [line.split("  ")[0] for line in re.search(r"```text\n(cli .*?)```", page, re.S)[1].splitlines()]
    assert shown == re.findall(r'"(.*)"', rows)
