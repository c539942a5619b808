"""The ground truth, handed in as a prediction, is scored as perfect: frames, conventions and names agree with the devkit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from specs import edit, nano_spec
from uniad.evaluation.report import table
from uniad.evaluation.run import Collected, score
from uniad.evaluation.submission import TRACKING_NAMES, class_ranges, to_annotations
from uniad.spec import Spec


@pytest.fixture(scope="module")
def spec(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    from uniad.data.infos import create_infos

    folder = tmp_path_factory.mktemp("infos")
    create_infos(synthetic_root, folder, workers=1, progress=False)
    return edit(
        nano_spec(),
        data__data_root=str(synthetic_root),
        data__ann_file_train=str(folder / "nuscenes_infos_temporal_train.pkl"),
        data__ann_file_val=str(folder / "nuscenes_infos_temporal_val.pkl"),
        data__workers_per_gpu=0,
    )


@pytest.fixture(scope="module")
def truth(spec: Spec) -> Collected:
    """What a model would report that is never wrong. Scores differ per object: the protocols rank by them."""
    from uniad.data.dataset import SceneStream

    found, names, ranges = Collected(), spec.data.class_names, class_ranges()
    for sample in SceneStream(spec, "val"):
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
