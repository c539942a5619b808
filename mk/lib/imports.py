#!/usr/bin/env python3
"""Says which packages each tool comes to: what its products follow from besides their data. Words for make, one of each pattern:

    verify|tools/verify.py verify|projects/uniad/verify/*.py verify+graph|projects/uniad/verify/*.py ...

A tool comes to a package where it, or a file that it imports, imports a file of it, at once or inside a function. `+graph`: a use
of the tool that runs a graph, and never comes to the model in PyTorch. Standard library only: make asks before there is an
environment.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

PROJECTS = Path("projects")
PACKAGE = PROJECTS / "uniad"
# What nothing comes to that runs a graph
IN_PYTORCH = frozenset({"models", "ops", "training", "losses"})
# Text instead of a syntax tree: ten times as fast, and make asks often. A docstring that reads like an import does no harm.
IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(uniad[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)|import[ \t]+(uniad[\w.]*))", re.M)


def files_of(module: str) -> Iterator[Path]:
    """Files that an import of the module runs: its packages' __init__.py and its own, those that there are."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        path = PROJECTS.joinpath(*parts[:depth])
        yield from (found for found in (path / "__init__.py", path.with_suffix(".py")) if found.is_file())


@lru_cache(None)
def imported(path: Path) -> tuple[tuple[str, Path], ...]:
    """(package, file) of what a file imports."""
    found = []
    for source, names, plain in IMPORT.findall(path.read_text(encoding="utf-8")):
        # of a module, a name has no file; of a package it may
        for module in (source or plain, *(f"{source}.{name}" for name in re.findall(r"\w+", names))):
            package = module.split(".")[1] if "." in module else ""
            found += [(package, file) for file in files_of(module)]
    return tuple(dict.fromkeys(found))


def patterns(tool: Path, without: frozenset[str] = frozenset()) -> list[str]:
    """The tool, the folders of packages as `folder/*.py`, and the files beside the packages, as it comes to them."""
    seen, left = {tool}, [tool]
    while left:
        fresh = {file for package, file in imported(left.pop()) if package not in without} - seen
        seen |= fresh
        left += fresh
    return sorted({str(path if path.parent in (PACKAGE, tool.parent) else path.parent / "*.py") for path in seen})


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for tool in sorted(Path("tools").glob("*.py")):
        for name, without in ((tool.stem, frozenset()), (f"{tool.stem}+graph", IN_PYTORCH)):
            print(*(f"{name}|{pattern}" for pattern in patterns(tool, without)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
