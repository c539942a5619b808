"""Stage 2 scored on frames as the data set gives them: the truth is perfect, scenes of every kind are taken, order is nothing."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.specs import edit, nano_spec
from uniad.backends.torch import TorchRunner
from uniad.config.spec import UPSTREAM, CompatSpec, Spec
from uniad.data.dataset import SceneSample, SceneStream
from uniad.data.labels import Labeller
from uniad.deploy.plausible import Limits
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.evaluation import planning
from uniad.evaluation.future import BASELINE, MODEL, OPTIMISED, EgoMotion, FutureScores, ego_in_lidar
from uniad.evaluation.report import table
from uniad.evaluation.run import Collected, collect, score
from uniad.interface.contract import contract_for
from uniad.models.uniad import UniAD
from uniad.postprocess.collision import optimise_plan
from uniad.postprocess.result import NOBODY, Forecasts, Objects, Plan, Result

GRID = (-50.0, 50.0, 0.5)  # fine enough for a footprint to be one
VAL = "nuscenes_infos_temporal_val.pkl"


@pytest.fixture(scope="module")
def spec(synthetic_root: Path, synthetic_infos: Path) -> Spec:
    compat = CompatSpec(collision_pixels="fixed")  # as upstream, but for what counts cells
    return edit(
        nano_spec(2), model__compat=compat, data__compat=compat,
        model__stage2__motion__use_nonlinear_optimizer=True, data__use_nonlinear_optimizer=True,
        data__data_root=str(synthetic_root), data__workers_per_gpu=0, data__eval_mod=("map",),
        data__ann_file_train=str(synthetic_infos / VAL.replace("val", "train")), data__ann_file_val=str(synthetic_infos / VAL),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fine(spec: Spec) -> Spec:
    # Without pasts to wait for, the six frames of a scene hold two with all that occupancy asks for
    spec = edit(spec, data__occ_receptive_field=1)
    spec = edit(spec, data__occ_xbound=GRID, data__occ_ybound=GRID)
    return edit(spec, model__stage2__occ__xbound=GRID, model__stage2__occ__ybound=GRID)


@pytest.fixture(scope="module")
def samples(fine: Spec) -> list[SceneSample]:
    return list(SceneStream(fine.data, "val", stage=2))


def perfect(sample: SceneSample, spec: Spec) -> Result:
    """What a model would say that is never wrong."""
    gt = sample.targets
    chosen = gt.valid[0, 0]
    boxes, labels, ids = (values[0, 0][chosen].numpy() for values in (gt.boxes, gt.labels, gt.ids))
    scores = (1 - 0.001 * np.arange(len(boxes))).astype(np.float32)
    known = gt.stage2.fut_traj_mask[0][chosen].numpy() != 0
    offsets = (gt.stage2.fut_traj[0][chosen].numpy() - boxes[:, None, :2]) * known  # the labels are positions, for the smoother
    modes = np.stack([offsets, offsets + 5], 1)
    prob = np.full((len(boxes), 2), 0.5, np.float32)
    forecasts = Forecasts(ids, boxes[:, :3], labels, boxes[:, None, None, :2] + modes, prob, boxes, scores, modes)
    steps = spec.model.stage2.occ.n_future + 1
    occupied = gt.stage2.segmentation[0, :steps].numpy() == 1
    tracks, nothing = Objects(boxes, labels, scores, ids), Objects(np.zeros((0, 9)), labels[:0], scores[:0], ids[:0])
    masks = np.zeros((3, 1, 1), bool), np.zeros((1, 1), bool)
    claimed = np.where(occupied, gt.stage2.instance[0, :steps].numpy(), NOBODY)
    plan = planned(gt.stage2.sdc_planning[0, 0, :, :2].numpy(), occupied, spec)
    return Result(tracks, tracks, nothing, *masks, forecasts, occupied, claimed, plan)


def planned(path: np.ndarray, occupied: np.ndarray, spec: Spec) -> Plan:
    grid = (spec.model.stage2.occ.xbound, spec.model.stage2.occ.ybound)
    return Plan(optimise_plan(path, occupied, spec.model.stage2.plan, spec.model.compat, grid), path, 2)


def scored(samples: list[SceneSample], spec: Spec) -> FutureScores:
    scores, ego = FutureScores(spec), EgoMotion()
    for sample in samples:
        scores.update(perfect(sample, spec), sample, ego.velocity(sample.frame), spec)
    return scores


@pytest.fixture(scope="module")
def truth(samples: list[SceneSample], fine: Spec) -> dict:
    return scored(samples, fine).compute()


def test_true_forecasts_are_perfect_and_constant_velocity_is_not(truth: dict) -> None:
    model, baseline = truth["motion"][MODEL], truth["motion"][BASELINE]
    assert model["car/N_gt"] == model["car/N_tp"] > 0
    assert model["car/min_ade_mean"] == pytest.approx(0, abs=1e-5)
    assert 0.5 < model["car/EPA"] <= 1, "in a scene's last frame nothing has a future to match"
    assert baseline["car/min_ade_mean"] > 0.01 and baseline["car/N_tp"] == model["car/N_tp"], "the same detections"


def test_true_occupancy_is_perfect_and_boxes_at_constant_velocity_come_close(truth: dict) -> None:
    far = truth["occupancy"]["areas"][1]
    model, baseline = truth["occupancy"][MODEL], truth["occupancy"][BASELINE]
    assert model["occ_samples"] > 0 and model[f"occ_iou_{far}"] == model[f"occ_pq_{far}"] == 1.0
    assert 0.5 < baseline[f"occ_iou_{far}"] < 1.0


def test_the_drivers_own_path_is_perfect_and_constant_velocity_is_not(truth: dict) -> None:
    assert truth["planning"][MODEL]["L2_1s"] == 0
    assert truth["planning"][BASELINE]["L2_1s"] > 0
    assert truth["planning"][MODEL]["obj_box_col_1s"] == 0
    assert set(truth["planning"]) == {MODEL, OPTIMISED, BASELINE, "grid"}


def test_the_collision_optimiser_is_scored_beside_the_plan_and_only_where_the_config_has_one(samples, fine) -> None:
    """A plan through a parked car: pushed away by the optimiser, left alone without it."""
    sample, ego = samples[0], EgoMotion()
    seg = np.zeros_like(perfect(sample, fine).occupancy)
    seg[:, 108:112, 101:104] = True  # 4 to 6 m ahead, right of the middle
    path = np.linspace(1, 6, 6, dtype=np.float32)[:, None] * np.float32([0, 1])
    seen = replace(perfect(sample, fine), occupancy=seg)
    velocity = ego.velocity(sample.frame)
    for wanted in (True, False):
        assert fine.model.compat.collision_pixels == "fixed", "nano's cells are not half a metre wide"
        spec = edit(fine, model__stage2__plan__use_col_optim=wanted)
        scores = FutureScores(spec)
        scores.update(replace(seen, plan=planned(path, seg, spec)), sample, velocity, spec)
        found = scores.compute()["planning"]
        assert (OPTIMISED in found) == wanted
        assert not wanted or found[OPTIMISED]["L2_2s"] != found[MODEL]["L2_2s"]


def test_compatibility_switches_reach_the_metrics(fine: Spec) -> None:
    fixed = edit(fine, model__compat__planning_metric="fixed", model__compat__motion_metric="fixed")
    assert all(m.compat == "fixed" for m in (*FutureScores(fixed).planning.values(), *FutureScores(fixed).motion.values()))
    assert all(m.compat == UPSTREAM for m in FutureScores(fine).planning.values())


@pytest.mark.parametrize("compat", ["upstream", "fixed"])
def test_the_drivers_own_collisions_are_looked_for_once_for_all_plans(samples, fine, monkeypatch, compat) -> None:
    spec = edit(fine, model__compat__planning_metric=UPSTREAM if compat == "upstream" else "fixed")
    paths = []
    for owner, name in ((planning.PlanningMetric, "footprint_hits"), (planning, "box_hits")):
        look = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, look=look: paths.append(args) or look(*args))
    scores = FutureScores(spec)
    scores.update(perfect(samples[0], spec), samples[0], EgoMotion().velocity(samples[0].frame), spec)
    assert len(scores.planning) == 3 and len(paths) == 1 + 3


def test_metrics_stand_on_the_grid_of_the_labels(spec: Spec, fine: Spec) -> None:
    for one, cells in ((spec, 50), (fine, 200)):
        scores = FutureScores(one)
        assert scores.planning[MODEL].cells == (cells, cells) == scores.occupancy[MODEL].shape


def test_the_ego_cars_velocity_starts_from_the_can_bus_and_goes_on_from_poses(samples: list[SceneSample]) -> None:
    ego = EgoMotion()
    velocities = [ego.velocity(sample.frame) for sample in samples]
    assert velocities[0] == pytest.approx(-1 * np.array([1, -1]) * samples[0].frame.can_bus[0, [14, 13]].numpy())
    # What it did in the last half second, seen from where it is now
    moved = samples[1].frame.l2g_t[0] - samples[0].frame.l2g_t[0]
    dt = float(samples[1].frame.time_s[0] - samples[0].frame.time_s[0])
    assert np.linalg.norm(velocities[1]) == pytest.approx(float(moved[:2].norm()) / dt, rel=1e-3)
    ego.before = (np.full(3, 1e6, np.float32), 0.0)
    assert ego.velocity(samples[0].frame) == pytest.approx(velocities[0]), "a new scene forgets the one before"


def test_the_ego_car_is_where_its_lidar_is_not() -> None:
    quarter = [np.sqrt(0.5), 0, 0, -np.sqrt(0.5)]  # x right, y forward in a lidar 1 m ahead of the ego's origin
    assert ego_in_lidar({"lidar2ego_rotation": quarter, "lidar2ego_translation": [1, 0, 2]}) == pytest.approx([0, -1])


def test_the_order_of_scenes_and_processes_changes_nothing(samples: list[SceneSample], fine: Spec) -> None:
    parts = {f"scene {i}": scored([sample], fine) for i, sample in enumerate(samples)}
    alone = Collected(future=parts)
    first, second = (Collected(future=dict(part)) for part in (list(parts.items())[3:], list(parts.items())[:3]))
    first.merge(second)
    assert json.dumps(first.all_futures().compute()) == json.dumps(alone.all_futures().compute())
    assert Collected().all_futures() is None


# Whole scenes through the model --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> UniAD:
    torch.manual_seed(0)
    return UniAD(edit(nano_spec(2).model, track__score_thresh=0.0, track__filter_score_thresh=0.0), torch.randn(4, 6, 12, 2))


@pytest.fixture(scope="module")
def odd(spec: Spec, synthetic_infos: Path, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """A scene without any object, and one of a single frame far from every lane."""
    content = pickle.loads((synthetic_infos / VAL).read_bytes())
    empty, single = content["infos"][:2], content["infos"][3]
    for info in empty:
        count = len(info["gt_names"])
        for key, value in info.items():
            if isinstance(value, np.ndarray) and key != "can_bus" and value.shape[:1] == (count,):
                info[key] = value[:0]
    single["scene_token"] = "single"
    single["ego2global_translation"] = [1e4, 1e4, 0.0]
    content["infos"] = [*empty, single]
    path = tmp_path_factory.mktemp("odd") / VAL
    path.write_bytes(pickle.dumps(content))
    return edit(spec, data__ann_file_val=str(path))


def evaluated(model: UniAD, spec: Spec, stream: SceneStream) -> Collected:
    with Runtime(TorchRunner(contract_for(spec), model), spec, limits=Limits.off()) as runtime:
        return collect(runtime, stream)


def test_scenes_without_objects_or_lanes_or_of_one_frame_are_scored(model: UniAD, odd: Spec, tmp_path: Path) -> None:
    stream = SceneStream(odd.data, "val", stage=2)
    kinds = [(int(s.targets.valid.sum()), int(s.targets.lane_valid.sum())) for s in stream]
    assert [n for n, _ in kinds[:2]] == [0, 0] and kinds[2][0] > 0 and kinds[2][1] == 0
    found = evaluated(model, odd, stream)
    assert len(found.future) == 2
    metrics = score(found, odd, stream.version, tmp_path)
    assert metrics["occupancy"][MODEL]["occ_samples"] == 0, "no frame has all its futures"
    json.dumps(metrics, allow_nan=False)
    shown = table(metrics)
    assert "nan" not in shown and "constant velocity" in shown


def test_a_scene_without_any_track_is_scored(model: UniAD, odd: Spec) -> None:
    strict = edit(model.spec, track__score_thresh=1.1, track__filter_score_thresh=1.1)
    before, model.spec = model.spec, strict
    try:
        found = evaluated(model, edit(odd, model__track=strict.track), SceneStream(odd.data, "val", stage=2))
    finally:
        model.spec = before
    scores = found.all_futures().compute()
    assert scores["motion"][MODEL]["car/N_tp"] == 0 < scores["motion"][MODEL]["car/N_gt"]
    assert scores["planning"][MODEL]["L2_1s"] is not None


def test_a_command_that_is_none_stops_where_data_is_read(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labeller, "command", lambda self, frame: 3)
    with pytest.raises(UserError, match="command is 3, .* use 0 right, 1 left, 2 straight"):
        next(iter(SceneStream(spec.data, "val", stage=2)))


def test_the_table_shows_both_definitions_and_every_baseline(truth: dict) -> None:
    shown = table({"samples": 6, **truth})
    for words in ("at the time (UniAD)", "mean up to it (ST-P3, VAD)", "minADE", "EPA", "VPQ near", "with collision optimiser"):
        assert words in shown
    assert shown.count("constant velocity") == 2 + 1 + 3  # two classes, occupancy, three planning metrics
    assert max(map(len, shown.splitlines())) <= 110
