"""Motion anchors: made from infos, the same for the same seed, and read with one clear line for every wrong file."""

from __future__ import annotations

import os
import pickle
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import REPO
from helpers.specs import config_path, tiny_spec
from uniad.config.spec import DataSpec, MotionSpec
from uniad.data.anchors import (
    Futures,
    cluster,
    cluster_futures,
    load_motion_anchors,
    save_motion_anchors,
    training_futures,
)
from uniad.errors import UserError

SPEC: MotionSpec = tiny_spec(2).model.stage2.motion
NAMES = tiny_spec(2).data.class_names
MAKE = runpy.run_path(str(REPO / "tools" / "make_motion_anchors.py"))["main"]


def anchors(value: float = 0.0, shape: tuple[int, ...] = (6, 12, 2)) -> list[np.ndarray]:
    return [np.full(shape, value + group) for group in range(4)]


def test_what_is_saved_is_loaded_and_has_the_upstream_structure(tmp_path: Path, golden: Path) -> None:
    save_motion_anchors(tmp_path / "a.pkl", anchors(0.5), SPEC, NAMES)
    loaded = load_motion_anchors(tmp_path / "a.pkl", SPEC)
    assert loaded.shape == (4, 6, 12, 2) and loaded.dtype == torch.float32
    assert loaded[:, 0, 0, 0].tolist() == [0.5, 1.5, 2.5, 3.5]
    ours, theirs = (pickle.loads(path.read_bytes()) for path in (tmp_path / "a.pkl", golden / "motion_anchor_infos_mode6.pkl"))
    assert ours["grouped_classes"] == theirs["grouped_classes"]
    for a, b in zip(ours["anchors_all"], theirs["anchors_all"], strict=True):
        assert type(a) is type(b) and a.shape == b.shape and a.dtype == b.dtype


def test_an_upstream_file_is_read(golden: Path) -> None:
    want = torch.from_numpy(np.load(golden / "motion_anchors.npy")).float()
    assert torch.equal(load_motion_anchors(golden / "motion_anchor_infos_mode6.pkl", SPEC), want)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"anchors": []}, "holds a dict of 'anchors', not motion anchors"),
        ([1], "holds a list, not motion anchors"),
        ({"anchors_all": anchors()[:3]}, "has 3 groups of anchors, the config has 4 groups"),
        ({"anchors_all": 5}, "has one int of anchors, the config has 4 groups"),
        ({"anchors_all": anchors(shape=(6, 6, 2))}, r"group 0 are \(6, 6, 2\) of float64, the config wants \(6, 12, 2\)"),
        ({"anchors_all": [[1]] * 4}, r"anchors of group 0 are list, the config wants \(6, 12, 2\)"),
        ({"anchors_all": anchors(np.nan)}, "anchors of group 0 are not all finite"),
        ({"anchors_all": os.system}, "is not a readable pickle of plain data"),
    ],
)
def test_another_structure_is_one_line_that_says_what_is_there(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=says) as error:
        load_motion_anchors(path, SPEC)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_names_the_target_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`make anchors` makes them"):
        load_motion_anchors(tmp_path / "a.pkl", SPEC)


def test_clusters_are_found_sorted_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    centres = np.arange(6)[:, None, None] * 10 + np.linspace(0, 1, 12)[:, None] * np.ones(2)
    paths = np.repeat(centres, 50, 0) + rng.normal(0, 0.1, (300, 12, 2))
    order = rng.permutation(300)
    got = cluster(paths[order], 6, np.random.default_rng(1))
    np.testing.assert_allclose(got, centres, atol=0.1)
    assert np.array_equal(got, cluster(paths[order], 6, np.random.default_rng(1)))


@pytest.mark.parametrize("count", [1, 3, 6])
def test_fewer_different_paths_than_anchors_are_repeated(count: int) -> None:
    paths = np.repeat(np.arange(count)[:, None, None] * np.ones((12, 2)), 4, 0)
    got = cluster(paths, 6, np.random.default_rng(0))
    assert got.shape == (6, 12, 2) and len(np.unique(got, axis=0)) == count


def test_a_group_that_was_never_seen_takes_all_paths() -> None:
    paths = np.random.default_rng(0).normal(size=(40, 12, 2))
    got = cluster_futures(Futures(paths, np.full(40, 8)), SPEC)
    assert all(np.isfinite(group).all() and group.shape == (6, 12, 2) for group in got)
    assert np.abs(got[1]).sum() > 0


def test_synthetic_cars_drive_ahead_and_positions_and_offsets_give_the_same_paths(long_data_spec: DataSpec) -> None:
    futures = training_futures(long_data_spec)
    offsets = training_futures(replace(long_data_spec, use_nonlinear_optimizer=False))
    np.testing.assert_allclose(futures.paths, offsets.paths, atol=1e-4)
    cars = futures.paths[futures.labels == 0]
    moving = cars[np.linalg.norm(cars[:, 0], axis=-1) > 1.0]
    assert len(moving) > 3
    # Half a second on, a car is still ahead of where it was: its heading is +y.
    assert (moving[:, 0, 1] > np.abs(moving[:, 0, 0])).all()


def test_the_tool_writes_the_same_file_for_the_same_seed(tmp_path: Path, long_data_spec: DataSpec, capsys) -> None:
    options = [f"data_root={long_data_spec.data_root}/", f"info_root={Path(long_data_spec.ann_file_train).parent}/"]
    for name in ("a", "b"):
        MAKE([str(config_path("tiny", 2)), "--out", str(tmp_path / f"{name}.pkl"), "--cfg-options", *options])
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()
    assert load_motion_anchors(tmp_path / "a.pkl", SPEC).isfinite().all()
    assert "anchors of 4 groups from" in capsys.readouterr().out


def test_scenes_too_short_for_a_future_and_a_stage_1_config_are_refused(data_spec: DataSpec) -> None:
    with pytest.raises(UserError, match=r"no object is seen for 12 steps \(6 s\) on end"):
        training_futures(data_spec)  # six frames
    with pytest.raises(UserError, match="is no stage-2 config"):
        MAKE([str(config_path("tiny", 1))])


@pytest.fixture(scope="module")
def long_data_spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    """A world whose scenes are long enough for whole futures."""
    from helpers.specs import edit
    from uniad.data.infos import create_infos
    from uniad.data.synthetic.generate import generate
    from uniad.data.synthetic.params import WorldParams

    root, folder = tmp_path_factory.mktemp("world") / "long", tmp_path_factory.mktemp("infos")
    generate(WorldParams(train_scenes=1, val_scenes=1, frames=15, lidar_columns=90, seed=2), root)
    create_infos(root, folder, workers=1, progress=False)
    return edit(
        tiny_spec(2).data, data_root=str(root), ann_file_train=str(folder / "nuscenes_infos_temporal_train.pkl"),
        ann_file_val=str(folder / "nuscenes_infos_temporal_val.pkl"),
    )  # fmt: skip
