"""Which of the devkit's splits is evaluated: the one that no model was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nuscenes.utils.splits import create_splits_scenes

from helpers.specs import edit, nano_spec
from uniad.data.splits import SPLITS
from uniad.evaluation import run
from uniad.evaluation.official import EVAL_SETS, coverage
from uniad.evaluation.report import table
from uniad.evaluation.run import Collected, score


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


def test_v2s_own_scores_stand_beside_the_right_ones(tmp_path, monkeypatch):
    """Its evaluation hands lengths to nuScenes as widths: the size error and NDS feel it, and both are told."""
    spec = edit(nano_spec(1), data__eval_mod=("det",))
    found = Collected(detections={"a": [{"size": [1.8, 4.5, 1.6], "detection_name": "car"}]})
    seen = {}

    def devkit(results, root, version, out):
        seen[out.name] = results["a"][0]["size"]
        error = 0.1 if results["a"][0]["size"] == [1.8, 4.5, 1.6] else 0.6
        errors = dict.fromkeys(("trans_err", "orient_err", "vel_err", "attr_err"), 0.5) | {"scale_err": error}
        return {"NDS": 0.4, "mAP": 0.3, "errors": errors, "AP": {}, "mean_AP": {}}

    monkeypatch.setattr(run, "evaluate_detection", devkit)
    for compat in ("documented", "fixed", "uniad-v2"):
        seen.clear()
        metrics = score(found, edit(spec, model__compat__box_sizes=compat), "v1.0-mini", tmp_path / "eval")
        shown = table(metrics)
        assert seen["eval"] == [1.8, 4.5, 1.6] and "size 0.100" in shown
        if compat == "uniad-v2":
            assert seen["as_published"] == [4.5, 1.8, 1.6]
            assert metrics["detection_as_published"]["errors"]["scale_err"] == 0.6
            assert "length and width exchanged: NDS 0.400   mAP 0.300   size error 0.600" in shown
        else:
            assert seen.keys() == {"eval"} and "exchanged" not in shown
