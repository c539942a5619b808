"""A pytest plugin that keeps a run small on disk. What fixtures wrote goes with them, unless a test failed meanwhile, and what a
killed run left goes when a later one starts. The rest is pytest's own (pyproject.toml: tmp_path_retention_policy)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

OLD_S = 3600.0


class Room:
    """Knows which fixture made which folder. ``tmp_path`` and ``tmp_path_factory`` both make theirs by ``mktemp``."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self.plain = factory.mktemp
        self.used: set[str] = set()
        self.made: list[Path] = []  # by the innermost fixture that is being set up
        factory.mktemp = self.mktemp  # type: ignore[method-assign]

    def mktemp(self, basename: str, numbered: bool = True) -> Path:
        """As pytest's. A name that is free again is not used again: what is cached by path would be another's."""
        name = basename if not numbered else next(n for n in map(f"{basename}{{}}".format, count()) if n not in self.used)
        self.used.add(name)
        self.made.append(self.plain(name, numbered=False))
        return self.made[-1]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
        """Folders of a fixture that is not the session's are removed after its own teardown."""
        outer, self.made = self.made, []
        made, failed = self.made, request.session.testsfailed

        def remove() -> None:
            if request.session.testsfailed == failed:
                for folder in made:
                    shutil.rmtree(folder, ignore_errors=True)

        if fixturedef.scope != "session":
            fixturedef.addfinalizer(remove)
        try:
            return (yield)
        finally:
            self.made = outer


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Room(config._tmp_path_factory))  # type: ignore[attr-defined]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Removes folders of runs that were killed an hour ago or earlier: pytest takes them for running for three days."""
    if session.config.option.basetemp:  # a worker's is given by its controller
        return
    base: Path = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    for lock in base.parent.glob("pytest-*/.lock"):
        try:
            if lock.stat().st_mtime < time.time() - OLD_S:
                os.kill(int(lock.read_text()), 0)
        except ProcessLookupError:
            shutil.rmtree(lock.parent, ignore_errors=True)
        except (OSError, ValueError):
            continue  # another run removes it, or it is another user's
