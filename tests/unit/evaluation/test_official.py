"""Which of the devkit's splits is evaluated: the one that no model was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nuscenes.utils.splits import create_splits_scenes

from uniad.data.splits import SPLITS
from uniad.evaluation.official import EVAL_SETS, coverage


def lay_tables(root: Path, version: str, *scenes: str) -> list[str]:
    """One sample a scene; their tokens."""
    folder = root / version
    folder.mkdir(parents=True)
    (folder / "scene.json").write_text(json.dumps([{"token": name, "name": name} for name in scenes]))
    (folder / "sample.json").write_text(json.dumps([{"token": f"of {name}", "scene_token": name} for name in scenes]))
    return [f"of {name}" for name in scenes]


@pytest.mark.parametrize(
    "version, trained, evaluated", [("v1.0-mini", "mini_train", "mini_val"), ("v1.0-trainval", "train", "val")]
)
def test_the_official_split_that_is_scored_is_the_validation_split(tmp_path, version, trained, evaluated):
    names = create_splits_scenes()
    tokens = lay_tables(tmp_path, version, *names[trained], *names[evaluated])
    count = len(names[evaluated])
    found = coverage(tokens[-count:], tmp_path, version)
    assert found.whole and found.split == evaluated == EVAL_SETS[version] == SPLITS[version][1]
    assert (found.samples, found.samples_of_split, found.missing_scenes) == (count, count, ())
    first = coverage(tokens[:-count], tmp_path, version)
    assert not first.whole, "what was trained on is no official evaluation"
    assert first.missing_scenes == tuple(sorted(names[evaluated]))


def test_every_release_with_annotations_has_its_split():
    assert EVAL_SETS == {version: val for version, (_, val) in SPLITS.items() if val}
