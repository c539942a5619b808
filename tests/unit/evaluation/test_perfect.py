"""The ground truth, handed in as a prediction, is scored as perfect: frames, conventions and names agree with the devkit."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.specs import edit, nano_spec
from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.evaluation import official
from uniad.evaluation.official import coverage
from uniad.evaluation.report import table
from uniad.evaluation.run import Collected, score
from uniad.postprocess.submission import TRACKING_NAMES, class_ranges, to_annotations


@pytest.fixture(scope="module")
def spec(synthetic_root: Path, synthetic_infos: Path) -> Spec:
    return edit(
        nano_spec(),
        data__data_root=str(synthetic_root),
        data__ann_file_train=str(synthetic_infos / "nuscenes_infos_temporal_train.pkl"),
        data__ann_file_val=str(synthetic_infos / "nuscenes_infos_temporal_val.pkl"),
        data__workers_per_gpu=0,
    )


@pytest.fixture(scope="module")
def truth(spec: Spec) -> Collected:
    """What a model would report that is never wrong. Scores differ per object: the protocols rank by them."""
    from uniad.data.dataset import SceneStream

    found, names, ranges = Collected(), spec.data.class_names, class_ranges()
    for sample in SceneStream(spec.data, "val", stage=1):
        gt, token = sample.targets, sample.info["token"]
        seen = gt.valid[0, 0]
        boxes, labels, ids = (v[0, 0][seen].numpy() for v in (gt.boxes, gt.labels, gt.ids))
        scores = 1 - 0.004 * (ids % 200)
        found.detections[token] = to_annotations(boxes, scores, labels, sample.info, names, ranges)
        found.tracks[token] = to_annotations(boxes, scores, labels, sample.info, names, ranges, ids)
        lane_labels = np.where(gt.lane_valid[0], gt.lane_labels[0], -1)
        masks = gt.lane_masks[0].numpy()
        lanes = np.stack([masks[lane_labels == c].any(0) for c in range(3)])
        found.map_iou.update(lanes, gt.drivable[0], masks, lane_labels, gt.drivable[0])
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("eval")


@pytest.fixture(scope="module")
def metrics(truth: Collected, spec: Spec, out: Path) -> dict:
    return score(truth, spec, "v1.0-trainval", out)


def present(truth: Collected) -> set[str]:
    return {entry["detection_name"] for entries in truth.detections.values() for entry in entries}


def test_every_class_that_occurs_is_detected_perfectly(metrics, truth):
    classes = present(truth)
    assert len(classes) >= 3  # else this shows little
    for name in classes:
        assert metrics["detection"]["mean_AP"][name] > 0.99, (name, metrics["detection"]["AP"][name])


def test_places_sizes_headings_and_velocities_are_exact(metrics, truth, out):
    assert metrics["samples"] == 6
    errors = json.loads((out / "det" / "metrics_summary.json").read_text())["label_tp_errors"]
    for name in present(truth):
        wrong = {
            key: value for key, value in errors[name].items() if key != "attr_err" and value > 1e-3
        }  # NaN: not defined for it
        assert not wrong, (name, wrong)


def test_every_class_that_occurs_is_tracked_perfectly(metrics, truth):
    tracking = metrics["tracking"]
    for name in present(truth) & set(TRACKING_NAMES):
        assert tracking["per_class"]["amota"][name] > 0.98, (name, tracking["per_class"])
        assert tracking["per_class"]["amotp"][name] < 0.05
    assert tracking["amota"] > 0.98 and tracking["ids"] == 0 and tracking["fp"] == 0


def test_the_map_is_perfect(metrics):
    road = metrics["map"]
    assert road["drivable_iou"] == road["lanes_iou"] == 1.0
    assert all(value in (1.0, None) for value in road.values())


def test_the_table_shows_the_scores(metrics):
    shown = table(metrics)
    assert "6 samples" in shown and f"AMOTA {metrics['tracking']['amota']:.3f}" in shown and "drivable 1.000" in shown


def test_swapped_ids_cost_identity_switches(truth, spec, tmp_path):
    from uniad.evaluation.official import evaluate_tracking

    changed = {
        token: [entry | {"tracking_id": f"{entry['tracking_id']}0{number}"} for entry in entries]
        for number, (token, entries) in enumerate(truth.tracks.items())
    }
    result = evaluate_tracking(changed, spec.data.data_root, "v1.0-trainval", tmp_path)
    assert result["ids"] > 0 and result["amota"] < 0.9


def test_boxes_turned_around_are_a_heading_error(truth, spec, metrics, tmp_path):
    from pyquaternion import Quaternion

    from uniad.evaluation.official import evaluate_detection

    half = Quaternion(axis=[0, 0, 1], degrees=180)
    turned = {
        token: [entry | {"rotation": (Quaternion(entry["rotation"]) * half).elements.tolist()} for entry in entries]
        for token, entries in truth.detections.items()
    }
    result = evaluate_detection(turned, spec.data.data_root, "v1.0-trainval", tmp_path)
    assert result["errors"]["orient_err"] > metrics["detection"]["errors"]["orient_err"] + 0.5


def test_no_track_at_all_is_amota_0(truth, spec, tmp_path):
    none = Collected(truth.detections, {token: [] for token in truth.tracks}, truth.map_iou)
    result = score(none, spec, "v1.0-trainval", tmp_path)
    assert result["tracking"]["amota"] == 0.0 and result["tracking"]["recall"] == 0.0
    assert "AMOTA 0.000" in table(result)


def test_part_of_a_split_is_scored_on_what_is_there(truth, spec, metrics, tmp_path):
    """Each second frame of a scene: what is missing is said, what is there is perfect."""
    tokens = list(truth.detections)[::2]
    part = Collected({t: truth.detections[t] for t in tokens}, {t: truth.tracks[t] for t in tokens}, truth.map_iou)
    covered = coverage(tokens, spec.data.data_root, "v1.0-trainval")
    assert covered.told() == "evaluating 3 of 6 samples of val; 1 scenes are there in part"
    result = score(part, spec, "v1.0-trainval", tmp_path)
    assert result["samples"] == 3
    for name in present(part):
        assert result["detection"]["mean_AP"][name] > 0.99, name
    assert result["tracking"]["amota"] == pytest.approx(metrics["tracking"]["amota"], abs=0.05)


def test_a_split_handed_over_as_one_s_own_has_the_scores_of_the_official_one(truth, spec, metrics, tmp_path, monkeypatch):
    whole = coverage(truth.detections, spec.data.data_root, "v1.0-trainval")
    assert whole.whole and not whole.told()
    monkeypatch.setattr(official, "coverage", lambda *_: replace(whole, whole=False))
    result = score(truth, spec, "v1.0-trainval", tmp_path)
    for task in ("detection", "tracking"):
        assert str(result[task]) == str(metrics[task])  # as text: NaN is equal to itself


@pytest.fixture(scope="module")
def own(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with names of one's own, split by splits.json: its val scene, and one that nobody evaluated."""
    root = tmp_path_factory.mktemp("own") / "nuscenes"
    shutil.copytree(spec.data.data_root, root, copy_function=os.link)
    path = root / "v1.0-trainval" / "scene.json"
    scenes = json.loads(path.read_bytes())
    for number, scene in enumerate(scenes):
        scene["name"] = f"drive-{number}"
    path.unlink()
    path.write_text(json.dumps(scenes))
    (path.parent / "splits.json").write_text(json.dumps({"train": [], "val": [scene["name"] for scene in scenes]}))
    return root


def test_scenes_of_one_s_own_are_scored_and_missing_ones_named(truth, spec, metrics, own, tmp_path):
    covered = coverage(truth.detections, own, "v1.0-trainval")
    (missing,) = covered.missing_scenes
    assert covered.told() == f"evaluating 6 of 12 samples of val; missing are 1 scenes: {missing}"
    result = score(truth, edit(spec, data__data_root=str(own)), "v1.0-trainval", tmp_path)
    assert result["detection"]["NDS"] == metrics["detection"]["NDS"]
    assert result["tracking"]["amota"] == metrics["tracking"]["amota"]


def test_samples_of_other_tables_are_one_line(spec, tmp_path):
    with pytest.raises(UserError, match=r"sample\.json has no sample abc; the infos were made from other tables"):
        coverage(["abc"], spec.data.data_root, "v1.0-trainval")
    with pytest.raises(FileNotFoundError, match="scene.json"):
        coverage(["abc"], tmp_path, "v1.0-trainval")


def test_the_test_split_gets_submissions_and_the_word_that_nobody_here_can_score_them(truth, spec, tmp_path):
    result = score(truth, spec, "v1.0-test", tmp_path)
    assert set(result) == {"samples", "tracks_dropped", "submissions"}
    for path, entries in zip(result["submissions"], (truth.detections, truth.tracks), strict=True):
        assert json.loads(Path(path).read_text())["results"] == entries
    shown = table(result)
    assert "no ground truth" in shown and result["submissions"][0] in shown and "NDS" not in shown


def test_samples_of_scenes_that_were_taken_out_of_their_table_change_nothing(truth, spec, metrics, tmp_path):
    root = tmp_path / "nuscenes"
    shutil.copytree(spec.data.data_root, root, copy_function=os.link)
    path = root / "v1.0-trainval" / "scene.json"
    scenes = json.loads(path.read_bytes())
    path.unlink()
    path.write_text(json.dumps([scene for scene in scenes if scene["name"] != "scene-0001"]))
    covered = coverage(truth.detections, root, "v1.0-trainval")
    assert not covered.whole and not covered.told()
    result = score(truth, edit(spec, data__data_root=str(root)), "v1.0-trainval", tmp_path / "out")
    assert result["detection"]["NDS"] == metrics["detection"]["NDS"]
