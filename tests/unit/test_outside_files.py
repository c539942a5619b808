"""Where a file is looked for may be a pipe that nobody writes to, or a device that never ends: each reader says so."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.specs import nano_spec
from uniad.artifacts import sequence
from uniad.artifacts.card import card_path, read_card
from uniad.data import unpickle
from uniad.data.packs import read_packs
from uniad.data.splits import OWN, splits_of
from uniad.data.tables import Tables
from uniad.data.transforms import decode
from uniad.deploy.records import SUMMARY, read_summary
from uniad.deploy.sources import INDEX, FolderFrames
from uniad.errors import UserError
from uniad.files import read_outside, sha256
from uniad.formats.canbus import read_messages
from uniad.interface.contract import contract_for

NOW = np.array([0])


def card_of_a_graph(path: Path) -> object:
    (path.parent / "a.onnx").write_bytes(b"graph")
    return read_card(path.parent / "a.onnx")


# Name of the file, and what reads it
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "an info file": ("infos.pkl", unpickle.load),
    "an image": ("a.jpg", decode),
    "a frame folder": (INDEX, lambda path: FolderFrames(path.parent)),
    "a card": (card_path("a.onnx").name, card_of_a_graph),
    "a recorded sequence": ("a.npz", lambda path: sequence.load(path, contract_for(nano_spec(1)))),
    "results": (SUMMARY, lambda path: read_summary(path.parent)),
    "CAN bus messages": ("can_bus/scene-0001_pose.json", lambda path: read_messages(path.parent.parent, "scene-0001", NOW)),
    "a digest": ("model.pth", sha256),
    "a pack": ("1.pt", lambda path: read_packs([path], nano_spec(2))),
    "a table": ("v1.0-trainval/category.json", lambda path: Tables(path.parent.parent, "v1.0-trainval")),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_and_a_device_are_no_files(tmp_path: Path, kind: str) -> None:
    name, read = READERS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is a pipe or a device, not a file"):
        read(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is a pipe or a device, not a file"):
        read(path)


def test_splits_that_are_no_file_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "v1.0-trainval").mkdir()
    os.mkfifo(tmp_path / "v1.0-trainval" / OWN)
    with pytest.raises(UserError, match="is a pipe or a device"):
        splits_of(tmp_path, "v1.0-trainval", {"scene-0001"})


@pytest.mark.parametrize(("name", "read"), [(INDEX, FolderFrames), (SUMMARY, read_summary)])
def test_a_key_that_stands_twice_is_not_the_last_one(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    (tmp_path / name).write_text('{"frames": [{"time_s": 1, "time_s": 2}], "frames": [], "scenes": []}')
    with pytest.raises(UserError, match=f"{name} (cannot be read: the key 'time_s' stands twice|is not complete)"):
        read(tmp_path)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / INDEX, "wb") as handle:
        handle.truncate(300 << 20)
    with pytest.raises(UserError, match="frames.json holds 300 MiB; at most 256 are read of such a file"):
        FolderFrames(tmp_path)
    assert read_outside(tmp_path / INDEX, 1 << 30)[:1] == b"\0"
