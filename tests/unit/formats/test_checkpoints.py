"""Whose weights a file holds: read off its digest, its names and its shapes, without PyTorch and without its tensors."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import REPO
from helpers.published import of_a_fork, of_bench2drive, shapes_of, stand_in
from helpers.specs import nano_spec, tiny_spec
from uniad.errors import UserError
from uniad.files import sha256
from uniad.formats import checkpoints
from uniad.formats.checkpoints import Sizes, model_of, names_and_shapes, recognise, recognise_names
from uniad.formats.published import BENCH2DRIVE, PUBLISHED, UNIAD_V1, UNIAD_V2


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    return {
        "v1": stand_in(folder / "uniad_base_e2e.pth"),
        "v1 stage 1": stand_in(folder / "uniad_base_track_map.pth", 1),
        "v2": stand_in(folder / "v2/uniad_base_e2e.pth", v2=True),
        "b2d": stand_in(folder / "uniad_base_b2d.pth", change=of_bench2drive),
        "fork": stand_in(folder / "fork.pth", change=of_a_fork),
    }


@pytest.mark.parametrize(
    ("name", "generation", "stage", "certain"),
    [("v1", UNIAD_V1, 2, False), ("v1 stage 1", UNIAD_V1, 1, False), ("v2", UNIAD_V2, 2, False), ("b2d", BENCH2DRIVE, 2, True)],
)
def test_names_and_shapes_tell_generations_apart(files, name, generation, stage, certain):
    found = recognise(files[name])
    assert (found.generation, found.sizes.stage, found.certain) == (generation, stage, certain)
    assert model_of(found.sizes, generation) == "base"
    assert found.option == f"native.compat={generation}"


def test_nvidias_tiny_is_of_v1_and_known_by_its_sizes():
    found = recognise_names(shapes_of(tiny_spec(1)))
    assert found.generation == UNIAD_V1 and model_of(found.sizes, UNIAD_V1) == "tiny"
    nano = recognise_names(shapes_of(nano_spec(1)))
    assert model_of(nano.sizes, UNIAD_V1) is None
    assert model_of(Sizes(2, 10000, 9, 6, 6, 3, 6, False), BENCH2DRIVE) == "tiny"


def test_a_fork_is_named_by_what_it_has_and_no_digest_is_guessed(files):
    found = recognise(files["fork"])
    assert found.generation is None and "lidar_backbone.*, which no UniAD has" in found.strange


def test_a_published_digest_leaves_no_doubt(files, monkeypatch):
    path = files["v1"]
    entry = replace(PUBLISHED[1], generation=UNIAD_V2, sha256=sha256(path), size=path.stat().st_size)
    monkeypatch.setattr(checkpoints, "PUBLISHED", (entry,))
    found = recognise(path)
    assert found.certain and found.generation == UNIAD_V2 and found.published is entry and found.why.startswith("by its SHA-256")
    assert len({(e.sha256, e.size) for e in PUBLISHED if e.sha256}) == sum(bool(e.sha256) for e in PUBLISHED)
    assert all(re.fullmatch("[0-9a-f]{64}", e.sha256) and e.size for e in PUBLISHED if e.sha256)


def test_headers_of_both_formats_are_read_without_pytorch(files, tmp_path):
    state = {"a.weight": torch.zeros(3, 4), "b": torch.zeros(())}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, tmp_path / "new.pth")
    for name in ("old.pth", "new.pth"):
        assert names_and_shapes(tmp_path / name) == {"a.weight": (3, 4), "b": ()}
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; sys.path.insert(0, 'projects');"
        f"from uniad.formats.checkpoints import recognise; print(recognise({str(files['v2'])!r}).generation)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == UNIAD_V2


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_hostile_or_damaged_file_runs_nothing(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "evil": Touch(str(tmp_path / "made"))}, tmp_path / "evil.pth")
    assert names_and_shapes(tmp_path / "evil.pth") == {"a": (1,)}
    assert not (tmp_path / "made").exists()
    for content in (b"", b"text", (tmp_path / "evil.pth").read_bytes()[:300]):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(UserError, match="bad.pth cannot be read, it is truncated, damaged or no PyTorch file"):
            names_and_shapes(tmp_path / "bad.pth")


def test_the_page_lists_every_published_file_with_its_digest_and_figures():
    page = (REPO / "docs/weights.md").read_text()
    for entry in PUBLISHED:
        assert entry.url in page, entry.url
        (row,) = (line for line in page.splitlines() if line.startswith("|") and entry.url in line)
        assert entry.name in row and (entry.sha256 or "none stated") in row and entry.figures in row, entry
    assert all(any(digest == e.sha256 for e in PUBLISHED) for digest in re.findall(r"\b[0-9a-f]{64}\b", page))
    pinned = (REPO / "mk/weights.mk").read_text()
    assert all(any(digest == e.sha256 for e in PUBLISHED) for digest in re.findall(r"\b[0-9a-f]{64}\b", pinned))
