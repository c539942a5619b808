"""One scene of the small world as a bag, and its messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.bags import Message, messages_of, record


@pytest.fixture(scope="session")
def drive(spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(spec.data, tmp_path_factory.mktemp("bag") / "drive.mcap")


@pytest.fixture(scope="session")
def messages(drive: Path) -> list[Message]:
    """Read, never changed in place."""
    return messages_of(drive)
