"""The type checker looks at all of our code, and what it is told to leave alone says why."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO

FOLDERS = ("projects/uniad", "tools", "benchmarks", "mk/lib")
SILENCED = re.compile(r"#\s*(type|pyrefly|pyright|mypy)\s*:\s*ignore.*")
WITH_REASON = re.compile(r"# pyrefly: ignore\[[a-z-]+\]  \S+ \S+")
pytest.importorskip("pyrefly")


def config() -> dict:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["pyrefly"]


def test_no_file_of_ours_is_left_out():
    found = config()
    assert found["project-includes"] == list(FOLDERS)
    assert "project-excludes" not in found and "sub-config" not in found


def test_what_is_silenced_has_a_code_and_a_reason():
    bare = [
        f"{path.relative_to(REPO)}: {found.group()}"
        for folder in FOLDERS
        for path in sorted((REPO / folder).rglob("*.py"))
        for found in SILENCED.finditer(path.read_text())
        if not WITH_REASON.match(found.group())
    ]
    assert bare == []


@pytest.mark.parametrize(("line", "why"), [
    ("x: int | None = None\nx + 1", "an optional that nobody looked at"),
    ("def f(x: int) -> str:\n    return x", "another type than promised"),
    ("import torch\ntorch.nn.Linear(2, 'three')", "an argument of another type"),
    ("import numpy as np\nnp.zeros(3).shap", "an attribute that is none"),
])  # fmt: skip
def test_it_finds_faults(tmp_path: Path, line: str, why: str):
    (tmp_path / "x.py").write_text(line)
    command = [sys.executable, "-m", "pyrefly", "check", "--config", str(REPO / "pyproject.toml"), str(tmp_path / "x.py")]
    done = subprocess.run([*command, "--python-interpreter-path", sys.executable], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, why
