"""What is wrong with a call for packs is told before worlds are made; a pack of other worlds is not taken for one of these."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import make_packs
from helpers import REPO
from uniad.errors import UserError

CONFIG = str(REPO / "projects/configs/stage2_e2e/nano_e2e.py")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls the tool, whose steps only leave the pack; the names of those that ran."""

    def call(*words: str) -> list[str]:
        ran = []

        def run(tool: str, *given: object) -> None:
            ran.append(tool)
            if tool == "pack_clips.py":
                Path(str(given[given.index("--out") + 1])).write_bytes(b"pack")

        monkeypatch.setattr(make_packs, "run", run)
        monkeypatch.setattr(sys, "argv", ["make_packs.py", CONFIG, "--out", str(tmp_path / "packs"), *words])
        make_packs.main()
        return ran

    (tmp_path / "packs").mkdir()
    return call


@pytest.mark.parametrize("words, told", [
    ("--seeds 11 --at-once 0", "--at-once 0: give a number from 1 on"), ("--seeds 11 --jobs 0", "--jobs 0: give a number"),
    ("--seeds 11 --scenes -1", "--scenes -1: give a number"), ("--seeds 11 12 11", "--seeds names 11 twice"),
    ("--seeds 11 --keep 12", "--keep 12: --seeds does not name it"), ("--seeds 11 --learner x.pth", "for --driven worlds"),
    ("--seeds 11 --cfg-options native.plan_image_patch=5", "plan_image_patch"),
    ("--seeds 11 --driven --learner /dev/null", "/dev/null is a pipe or a device"),
])  # fmt: skip
def test_what_cannot_be_meant_is_told_before_a_world_is_made(made, tmp_path, words, told):
    with pytest.raises(UserError, match=told):
        made(*words.split())
    assert not list((tmp_path / "packs").iterdir())


def test_a_pack_of_other_worlds_is_not_taken_for_one_of_these(made, tmp_path):
    learner, packs = tmp_path / "a.pth", tmp_path / "packs"
    learner.write_bytes(b"one")
    words = ["--seeds", "11", "--driven", "--learner", str(learner)]
    assert made(*words)[-1] == "pack_clips.py" and made(*words) == []  # is there
    for other in (words[:3], [*words, "--scenes", "3"], [*words, "--frames", "7"]):
        with pytest.raises(UserError, match=r"11\.pt is of other worlds"):
            made(*other)
    learner.write_bytes(b"another")
    with pytest.raises(UserError, match=r"11\.pt is of other worlds"):
        made(*words)
    (packs / "11.json").write_text("[")
    with pytest.raises(UserError, match=r"11\.json is damaged"):
        made(*words)
    (packs / "11.json").unlink()  # of an earlier version
    assert made(*words) == []
