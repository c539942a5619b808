"""Motion metrics: the recorded curves and values, small cases by hand, and merging."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pyquaternion import Quaternion

from helpers.recorded import Recorded
from uniad.config.spec import UPSTREAM
from uniad.evaluation.motion import ERRORS, MotionMetric, Predictions, Truth, forecast_errors
from uniad.evaluation.motion_boxes import constant_velocity, motion_labels, predictions, truth

NAMES = ("car", "pedestrian", "barrier")
KINDS = ("standard", "motion_map")
DISTS = (0.5, 1.0, 2.0, 4.0)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded.extract("motion_metrics")


def frames(recorded: Recorded) -> list[tuple[str, Predictions, Truth]]:
    pred, gt = (
        {k.removeprefix(f"motion/{who}_"): v for k, v in recorded.arrays.items() if k.startswith(f"motion/{who}_")}
        for who in ("pred", "gt")
    )
    found = []
    for sample in np.unique(gt["sample"]):
        p, g = ({k: v[who["sample"] == sample] for k, v in who.items()} for who in (pred, gt))
        boxes = [
            (o["translation"][:, :2], o["size"], np.array([Quaternion(q).yaw_pitch_roll[0] for q in o["rotation"]]),
             o["velocity"], o["name"].astype(int))
            for o in (p, g)
        ]  # fmt: skip
        found.append(
            (f"{sample:.0f}", Predictions(*boxes[0], p["score"], p["traj"]), Truth(*boxes[1], g["traj"], g["L"].astype(int)))
        )
    return found


@pytest.fixture(scope="module")
def metric(recorded: Recorded) -> MotionMetric:
    metric = MotionMetric(NAMES)
    for frame in frames(recorded):
        metric.update(*frame)
    return metric


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dist", DISTS)
def test_recorded_curves(name: str, kind: str, dist: float, metric: MotionMetric, recorded: Recorded) -> None:
    curves, _ = metric.curve(name, kind, dist)
    want = recorded[f"motion/out_{kind}_{name}_{dist:g}"].numpy()
    for row, field in enumerate(recorded.arrays["motion/fields"]):
        if field != "attr_err":  # attributes are what the detection metric is for
            np.testing.assert_allclose(getattr(curves, field)[::4], want[row], atol=1e-6, err_msg=field)


@pytest.mark.parametrize("name", NAMES)
def test_recorded_counts_precision_errors_and_epa(name: str, metric: MotionMetric, recorded: Recorded) -> None:
    from nuscenes.eval.detection.algo import calc_tp

    results = json.loads(str(recorded.arrays["results"]))
    for kind in KINDS:
        for dist in DISTS:
            want = results[f"{kind}/{name}/{dist:g}"]
            curves, counts = metric.curve(name, kind, dist)
            assert counts == {k: want[k] for k in counts}
            assert metric.average_precision(name, kind, dist) == pytest.approx(want["ap"], abs=1e-9)
            for key in ERRORS:
                assert calc_tp(curves, 0.1, key) == pytest.approx(want["tp"][key], abs=1e-6), key
    assert metric.epa(name) == pytest.approx(results[f"EPA/{name}"], abs=1e-9)


def test_recorded_forecast_errors(recorded: Recorded) -> None:
    traj, gt, invalid = (recorded.arrays[f"motion_fn/{k}"] for k in ("traj", "gt", "masks_1_is_invalid"))
    found = forecast_errors(traj, gt, (1 - invalid).sum(1).astype(int))
    np.testing.assert_allclose(found.min_ade, recorded.arrays["motion_fn/min_ade"], rtol=1e-6)
    np.testing.assert_allclose(found.min_fde, recorded.arrays["motion_fn/min_fde"], rtol=1e-6)
    assert found.missed.mean() == pytest.approx(float(recorded.arrays["motion_fn/miss_rate"]))


def test_two_processes_in_any_order_are_one(metric: MotionMetric, recorded: Recorded) -> None:
    parts = [MotionMetric(NAMES) for _ in range(2)]
    for i, frame in enumerate(reversed(frames(recorded))):
        parts[i % 2].update(*frame)
    parts[1].merge(parts[0])
    assert parts[1].compute() == metric.compute()


# By hand ----------------------------------------------------------------------------------------------------------------

CLASSES = ("car", "truck", "construction_vehicle", "pedestrian", "barrier")
MOTION = ("car", "pedestrian")


def box(x: float, y: float, vx: float = 0.0, vy: float = 0.0) -> list[float]:
    return [x, y, 0, 2, 4, 1.5, 0, vx, vy]


def straight(vx: float, vy: float, steps: int = 12) -> np.ndarray:
    """Offsets [steps, 2] of an object that keeps its velocity."""
    return np.arange(1, steps + 1)[:, None] * 0.5 * np.array([vx, vy])


def labelled(objects: list[list[float]], known: int = 12, label: int = 0) -> Truth:
    traj = np.array([straight(*o[7:9]) for o in objects]).reshape(-1, 12, 2)
    mask = np.arange(12) < np.full((len(objects), 1), known)
    return truth(np.reshape(objects, (-1, 9)), np.full(len(objects), label), traj, mask, MOTION, absolute=False)


def tracked(objects: list[list[float]], modes: np.ndarray, label: int = 0) -> Predictions:
    """modes [n, K, 12, 2] offsets; the first object has the best score."""
    scores = np.linspace(0.9, 0.5, len(objects))
    return predictions(np.reshape(objects, (-1, 9)), scores, np.full(len(objects), label), modes, MOTION)


def test_the_best_of_several_modes_counts() -> None:
    metric = MotionMetric(MOTION)
    gt = labelled([box(0, 10, 0, 4)])
    modes = np.stack([straight(0, 0), straight(0, 5), straight(2, 4)])[None]
    metric.update("a", tracked([box(0, 10.5)], modes), gt)
    found = metric.compute()
    # mode 1 starts half a metre ahead and gains half a metre each second
    assert found["car/min_fde_err"] == pytest.approx(0.5 + 6)
    assert found["car/min_ade_err"] == pytest.approx(0.5 + 6 * 6.5 / 12)
    assert found["car/miss_rate_err"] == 1
    assert found["car/min_ade_mean"] == found["car/min_ade_err"]
    assert found["car/EPA"] == 0  # detected, but no mode ends within 2 m; a false forecast costs nothing
    assert found["car/N_gt"] == found["car/N_tp"] == 1
    assert np.isnan(found["pedestrian/min_ade_mean"])


def test_steps_without_ground_truth_do_not_count() -> None:
    found = forecast_errors(straight(0, 5)[None, None], straight(0, 4)[None], np.array([2]))
    assert (found.min_ade[0], found.min_fde[0], found.missed[0]) == (pytest.approx(0.75), pytest.approx(1.0), False)
    nothing = forecast_errors(straight(0, 5)[None, None], np.full((1, 12, 2), np.nan), np.array([0]))
    assert (nothing.min_ade[0], nothing.min_fde[0], nothing.missed[0]) == (0, 0, False)


def test_an_object_is_taken_once_by_the_best_score() -> None:
    metric = MotionMetric(MOTION)
    gt = labelled([box(0, 10, 0, 4)])
    modes = np.stack([straight(0, 4)[None], straight(0, 4)[None]])
    metric.update("a", tracked([box(0, 11), box(0, 10)], modes), gt)
    _, counts = metric.curve("car", "standard", 2.0)
    assert counts == {"N_tp": 1, "N_fp": 1, "N_gt": 1}
    assert metric.compute()["car/min_ade_err"] == pytest.approx(1.0)  # the first has it, though the second is nearer
    assert metric.epa("car") == pytest.approx(0.5, abs=1e-4)


def test_false_positives_without_any_match_cost_only_the_fixed_epa() -> None:
    for compat, want in ((UPSTREAM, 0.0), ("fixed", -0.5)):
        metric = MotionMetric(MOTION, compat=compat)
        metric.update("a", tracked([box(0, 30)], np.zeros((1, 6, 12, 2))), labelled([box(0, 10)]))
        assert metric.epa("car") == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("tracks", [0, 2])
@pytest.mark.parametrize("objects", [0, 2])
def test_empty_frames_are_frames(tracks: int, objects: int) -> None:
    metric = MotionMetric(MOTION)
    boxes = [box(0, 10, 0, 1), box(5, 20, 0, 1)]
    metric.update("a", tracked(boxes[:tracks], np.zeros((tracks, 6, 12, 2))), labelled(boxes[:objects]))
    found = metric.compute()
    assert found["car/N_gt"] == objects and found["car/N_tp"] == min(tracks, objects)
    assert MotionMetric(MOTION).compute()["car/min_ade_err"] == 1


def test_constant_velocity_is_perfect_for_objects_that_keep_it() -> None:
    gt = labelled([box(0, 10, 3, 4), box(5, 20, 0, -6)])
    for objects in (gt, tracked([box(0, 10, 3, 4), box(5, 20, 0, -6)], np.zeros((2, 6, 12, 2)))):
        metric = MotionMetric(MOTION)
        metric.update("a", constant_velocity(objects), gt)
        found = metric.compute()
        assert found["car/min_fde_err"] == pytest.approx(0, abs=1e-9) and found["car/miss_rate_err"] == 0
        assert found["car/EPA"] == pytest.approx(1, abs=1e-4) and found["car/mAP_f"] == pytest.approx(1)


def test_labels_are_grouped_and_far_objects_ignored() -> None:
    labels = np.array([0, 1, 2, 3, 4, -1, 99])
    assert motion_labels(labels, CLASSES, MOTION, predicted=True).tolist() == [0, 0, -1, 1, -1, -1, -1]
    assert motion_labels(labels, CLASSES, MOTION, predicted=True, compat="fixed").tolist() == [0, 0, 0, 1, -1, -1, -1]
    assert motion_labels(labels, CLASSES, MOTION, predicted=False).tolist() == [0, 0, 0, 1, -1, -1, -1]
    far = labelled([box(0, 49), box(0, 51)])
    assert far.label.tolist() == [0, -1]
    assert labelled([box(0, 39), box(0, 41)], label=1).label.tolist() == [1, -1]
    moved = truth(np.array([box(0, 49)]), [0], np.zeros((1, 12, 2)), np.ones((1, 12, 2)), MOTION, ego_xy=(0.0, -2.0))
    assert moved.label.tolist() == [-1]


def test_a_future_ends_where_it_is_first_unknown() -> None:
    mask = np.ones((1, 12, 2))
    mask[0, 3] = 0
    found = truth(np.array([box(1, 2)]), [0], np.ones((1, 12, 2)), mask, MOTION)
    assert found.steps.tolist() == [3]
    assert found.traj[0, 0].tolist() == [1, 1]


def test_a_prediction_beyond_its_own_class_s_range_never_reaches_the_metric() -> None:
    """A motorcycle counts as a car, whose range is 50 m, but is submitted up to 40 m only."""
    names, labels, distance = ("car", "motorcycle"), np.array([0, 1, 1]), np.array([45.0, 45.0, 39.0])
    assert motion_labels(labels, names, MOTION, predicted=True, distance=distance).tolist() == [0, -1, 0]
    assert motion_labels(labels, names, MOTION, predicted=True, compat="fixed", distance=distance).tolist() == [0, 0, 0]
    assert motion_labels(labels, names, MOTION, predicted=False, distance=distance).tolist() == [0, 0, 0]
