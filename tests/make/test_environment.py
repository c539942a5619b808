"""A tool runs in the environment and on the code of its own tree, whoever starts it, wherever, with whatever the shell holds."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import setup_env
from helpers import REPO

SYSTEM = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
# What a tool of the small tree finds: its interpreter's prefix, its package, and something from the environment.
TOOL = """#!/usr/bin/env python3
import sys
import _environment
import installed
import uniad
print(sys.prefix, uniad.HERE, installed.__file__, *sys.argv[1:])
"""


def environment(place: Path) -> None:
    """A virtual environment that holds what a tool needs."""
    venv.create(place, symlinks=True)
    (site,) = place.glob("lib/python3*/site-packages")
    (site / "installed.py").write_text("")
    for name in ("torch", "uniad"):
        (site / f"{name}-1.0.dist-info").mkdir()
        (site / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


def lay(root: Path) -> Path:
    """A clone cut down to one tool, a package and an environment whose programs name their place, as pip writes them."""
    (root / "tools").mkdir(parents=True)
    (root / "projects" / "uniad").mkdir(parents=True)
    for name in ("_environment.py", "usage.sh"):
        shutil.copy(REPO / "tools" / name, root / "tools")
    (root / "tools" / "tool.py").write_text(TOOL)
    (root / "tools" / "tool.py").chmod(0o755)
    (root / "projects" / "uniad" / "__init__.py").write_text("from pathlib import Path\nHERE = Path(__file__).parents[2]\n")
    environment(root / ".venv")
    (site,) = (root / ".venv").glob("lib/python3*/site-packages")
    (site / "__editable__.uniad-0.1.0.pth").write_text(f"{root}/projects\n")
    program = root / ".venv" / "bin" / "program"
    program.write_text(f"#!{root}/.venv/bin/python\nimport sys, uniad\nprint(sys.prefix, uniad.HERE, *sys.argv[1:])\n")
    program.chmod(0o755)
    return root


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return lay(tmp_path / "clone")


def run(*command: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "VENV", "PYTHONPATH", "VIRTUAL_ENV")}
    path = f"{Path(SYSTEM).parent}:{os.environ['PATH']}"  # no environment activated
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**clean, "PATH": path, **env}, capture_output=True, text=True, timeout=60
    )


def found(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_tool_typed_with_the_systems_python_runs_in_the_trees_environment(clone: Path, tmp_path: Path):
    for command in (["tools/tool.py"], [SYSTEM, "tools/tool.py"], [".venv/bin/python", "tools/tool.py"]):
        prefix, package, _, word = found(run(*command, "a b", cwd=clone))[:4]
        assert (prefix, package, word) == (str(clone / ".venv"), str(clone), "a")
    assert found(run(SYSTEM, clone / "tools/tool.py", cwd=tmp_path))[0] == str(clone / ".venv"), "from any folder"


def test_make_and_images_name_another_interpreter(clone: Path, tmp_path: Path):
    environment(tmp_path / "elsewhere")
    elsewhere = str(tmp_path / "elsewhere")
    assert found(run(SYSTEM, "tools/tool.py", cwd=clone, VENV=elsewhere))[:2] == [elsewhere, str(clone)]
    assert found(run(SYSTEM, "tools/tool.py", cwd=clone, PYTHON=f"{elsewhere}/bin/python"))[:2] == [elsewhere, str(clone)]
    # Somebody's own environment with the package installed is a choice, too.
    own = [f"{elsewhere}/bin/python", "tools/tool.py"]
    assert found(run(*own, cwd=clone))[:2] == [elsewhere, str(clone)]
    assert found(run(*own, cwd=clone, PYTHON="python3", PATH=f"{elsewhere}/bin"))[0] == elsewhere


@pytest.mark.parametrize("state, output", [("absent", "run `make env`"), ("broken", "lost its Python: rm -r .venv && make env")])
def test_without_an_environment_one_line_says_how_to_get_it(clone: Path, state: str, output: str):
    shutil.rmtree(clone / ".venv")
    if state == "broken":  # the Python that it was made with was removed
        (clone / ".venv" / "bin").mkdir(parents=True)
        (clone / ".venv" / "bin" / "python").symlink_to("/no/such/python3")
    script = '. tools/usage.sh; tree_python; exec "$python" tools/tool.py'
    for command in ([SYSTEM, "-S", "tools/tool.py"], ["bash", "-c", f'python3() {{ {SYSTEM} -S "$@"; }}; {script}']):
        done = run(*command, cwd=clone)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert output in done.stderr


def test_what_ros_puts_on_pythonpath_stays_outside(clone: Path, tmp_path: Path):
    ros = tmp_path / "ros"
    (ros / "uniad").mkdir(parents=True)
    for name in ("installed.py", "uniad/__init__.py"):
        (ros / name).write_text("raise ImportError('built for another Python')\n")
    for python in (SYSTEM, ".venv/bin/python"):
        assert found(run(python, "tools/tool.py", cwd=clone, PYTHONPATH=str(ros)))[1] == str(clone)
    script = '. tools/usage.sh; tree_python; exec "$python" -c "import installed, uniad; print(uniad.HERE)"'
    assert found(run("bash", "-c", script, cwd=clone, PYTHONPATH=str(ros))) == [str(clone)]
    # An image's own use of it
    assert found(run(SYSTEM, "tools/tool.py", cwd=clone, PYTHONPATH=str(clone / "projects")))[1] == str(clone)


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_copied_or_moved_clone_runs_its_own_code(clone: Path, tmp_path: Path, how: str):
    setup_env.ROOT, kept = clone, setup_env.ROOT
    try:
        setup_env.make_movable(clone / ".venv")
    finally:
        setup_env.ROOT = kept
    there = tmp_path / "there"
    if how == "copied":
        shutil.copytree(clone, there, symlinks=True)
    else:
        clone.rename(there)
    for command in (["tools/tool.py"], [".venv/bin/program"], [there / ".venv/bin/program"]):
        assert found(run(*command, cwd=there))[:2] == [str(there / ".venv"), str(there)]
    # An environment made before, or one that several clones share, names another tree: the tool's own comes first.
    (site,) = (there / ".venv").glob("lib/python3*/site-packages")
    (site / "__editable__.uniad-0.1.0.pth").write_text(f"{REPO}/projects\n")
    assert found(run("tools/tool.py", cwd=there))[1] == str(there)


def test_old_pythons_can_read_what_tells_them_where_to_go():
    """Up to the line that starts again, a tool must parse in the system's Python, which may be 3.8."""
    for path in sorted((REPO / "tools").glob("*.py")):
        ast.parse(path.read_text(), feature_version=(3, 8))


def test_make_keeps_pythonpath_out(tree):
    (tree.root / "GNUmakefile").write_text("include Makefile\nshown:\n\t@echo [$${PYTHONPATH-}]\n")
    assert "[]" in tree.done("-f", "GNUmakefile", "shown", PYTHONPATH="/opt/ros/lib")
