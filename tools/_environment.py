"""Every tool imports this first: it runs in this tree's environment, on this tree's code, wherever it was started from.

`python tools/train.py` with the system's Python starts again in .venv, or in VENV, or with PYTHON, as make and the images name
them. The package is the one beside tools/, also in a copied clone whose environment was made for another. What a shell put on
PYTHONPATH (a sourced ROS) stays outside.

In a wheel there is no tree: a tool runs where it is installed, and a package that it lacks gets one line.

As a script it prints the interpreter, for shell scripts. Standard library only, and old Pythons must be able to read it.
"""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType
from typing import NoReturn

TOOLS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TOOLS)
PROJECTS = os.path.join(ROOT, "projects")
STARTED_AGAIN = "UNIAD_STARTED_AGAIN"  # by this module: the interpreter that runs is the one that was chosen


def prefix_of(python: str) -> str:
    """sys.prefix of an interpreter: that of its virtual environment, where it lies in one, else its real file."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    return os.path.realpath(folder if os.path.isfile(os.path.join(folder, "pyvenv.cfg")) else python)


def running() -> str:
    return os.path.realpath(sys.prefix if sys.prefix != sys.base_prefix else sys.executable)


def find(path: str) -> str | None:
    """A program by name, or a path from here or from the tree."""
    if os.sep not in path:
        return shutil.which(path)
    found = (os.path.abspath(p) for p in (path, os.path.join(ROOT, path)))
    return next((p for p in found if os.access(p, os.X_OK)), None)


def holds(distribution: str) -> bool:
    """Whether a distribution is installed for the interpreter that runs."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def interpreter() -> str:
    """Path of the Python that tools run with. Exits with one line where there is none."""
    venv = os.environ.get("VENV") or ".venv"
    own = find(os.path.join(venv, "bin", "python"))
    if own and prefix_of(own) == running():
        return sys.executable
    named = os.environ.get("PYTHON")
    if named:
        found = find(named)
        if not found:
            fail(f"PYTHON={named} is no program: unset it, and tools use {venv}")
        return sys.executable if prefix_of(found) == running() else found
    usable = sys.version_info >= (3, 10) and holds("torch")
    # An environment of one's own, with the package installed in it, was chosen by whoever started it.
    if usable and holds("uniad"):
        return sys.executable
    if own:
        return own
    if usable:
        return sys.executable  # an image, or a machine whose own Python has the packages
    place = venv if os.path.isabs(venv) else os.path.join(ROOT, venv)
    if os.path.lexists(os.path.join(place, "bin", "python")):
        fail(f"{venv} has lost its Python: rm -r {venv} && make env")
    fail(f"no environment at {venv} yet: run `make env` in {ROOT}")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def inside_tree(path: str) -> bool:
    return os.path.abspath(path) == ROOT or os.path.abspath(path).startswith(ROOT + os.sep)


def keep_to_the_tree() -> None:
    """The tree's package first, here and in child processes, and nothing from PYTHONPATH that lies outside the tree."""
    given = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    foreign = {os.path.abspath(p) for p in given if not inside_tree(p)}
    sys.path[:] = [p for p in sys.path if not p or os.path.abspath(p) not in foreign]
    kept = [p for p in given if inside_tree(p) and os.path.abspath(p) != PROJECTS]
    os.environ["PYTHONPATH"] = os.pathsep.join([PROJECTS, *kept])
    if PROJECTS in sys.path:
        sys.path.remove(PROJECTS)
    sys.path.insert(1 if sys.path and os.path.abspath(sys.path[0]) == TOOLS else 0, PROJECTS)


def one_line_where_a_package_lacks(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError):
        fail(f"this needs the package {error.name}, which is not installed: pip install 'uniad[train]'")
    sys.__excepthook__(kind, error, trace)


def enter() -> None:
    if not os.path.isdir(PROJECTS):
        sys.excepthook = one_line_where_a_package_lacks
        return
    keep_to_the_tree()
    # Only a tool that was started starts again: not a test that imports one, and not a loader's process.
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or not inside_tree(script) or os.environ.pop(STARTED_AGAIN, None):
        return
    if os.path.basename(os.path.dirname(os.path.abspath(script))) not in ("tools", "benchmarks"):
        return
    chosen = interpreter()
    if chosen != sys.executable:
        words = getattr(sys, "orig_argv", None) or [sys.executable, *sys.argv]
        os.execve(chosen, [chosen, *words[1:]], {**os.environ, STARTED_AGAIN: "1"})


if __name__ == "__main__":
    print(interpreter())
else:
    enter()
