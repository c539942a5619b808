"""Tests lie where what they test lies; what they share is the package `helpers`; no test file needs another."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from helpers import REPO, TESTS

# Folders of the repository, other than the package, that have unit tests
BESIDE_THE_PACKAGE = {"benchmarks", "third_party", "stacks"}
FILES = sorted(p for p in TESTS.rglob("*.py") if "upstream" not in p.parts)
SHARED = {p.stem for p in (TESTS / "helpers").glob("*.py")}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it; `from a import b` counts as a and as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import; write `from helpers.NAME import ...`"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_test_file_imports_another_one_or_a_conftest() -> None:
    tests = {p.stem for p in FILES if p.stem.startswith("test_")} | {"conftest"}
    wrong = {f"{path.relative_to(REPO)}: {name}" for path in FILES for name in imported(path) if tests & set(name.split("."))}
    assert not wrong, "what two tests need is a module of tests/helpers"


def test_what_is_no_test_is_a_helper() -> None:
    folders = ("unit", "pipeline", "make", "contract", "jetson", "containers")
    wrong = [str(p.relative_to(REPO)) for p in FILES if p.relative_to(TESTS).parts[0] in folders
             and not p.stem.startswith("test_") and p.stem not in ("conftest", "__init__")]  # fmt: skip
    assert not wrong, "move it to tests/helpers"


def test_helpers_are_imported_one_way() -> None:
    wrong = {f"{path.relative_to(REPO)}: {name}" for path in FILES for name in imported(path)
             if name.split(".")[0] in {"tests", *SHARED} - {"helpers"}}  # fmt: skip
    assert not wrong, "write `from helpers.NAME import ...`"


def test_every_folder_of_unit_tests_is_one_of_the_source_tree() -> None:
    package = REPO / "projects" / "uniad"
    folders = {p.parent.relative_to(TESTS / "unit") for p in FILES if p.is_relative_to(TESTS / "unit")}
    strange = {str(f) for f in folders if not (package / f).is_dir() and str(f) not in BESIDE_THE_PACKAGE}
    assert not strange, "a unit test lies in the folder of what it tests"


def test_a_unit_test_lies_with_a_package_that_it_imports() -> None:
    """One that drives a command line, a script or the whole repository may import none."""
    wrong = []
    for path in FILES:
        if not path.is_relative_to(TESTS / "unit") or not path.stem.startswith("test_"):
            continue
        folder = str(path.parent.relative_to(TESTS / "unit"))
        used = {name.split(".")[1] for name in imported(path) if name.startswith("uniad.")}
        if folder != "." and folder not in BESIDE_THE_PACKAGE and used and folder.split("/")[0] not in used:
            wrong.append(f"{path.relative_to(REPO)} imports {', '.join(sorted(used))}")
    assert not wrong, "\n".join(wrong)


def test_no_two_helpers_or_unit_tests_have_one_name() -> None:
    names = Counter(p.name for p in FILES if p.is_relative_to(TESTS / "unit") or p.parent.name in ("helpers", "pipeline"))
    assert not [name for name, count in names.items() if count > 1 and name not in ("conftest.py", "__init__.py")]
