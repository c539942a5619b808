"""Several processes share out the scenes and find what one finds."""

from __future__ import annotations

import json
import socket

import pytest

from helpers.command_line import ENV, NANO, World, ran, refused
from helpers.specs import config_path

E2E = config_path("nano", 2)

# Random weights are sure of nothing: let everything count.
LOWERED = ("model.score_thresh=0.0", "model.filter_score_thresh=0.0")


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory) -> World:
    """A world with a scene for each of two processes."""
    from uniad.data.synthetic.generate import generate
    from uniad.data.synthetic.params import WorldParams

    folder = tmp_path_factory.mktemp("two")
    generate(WorldParams(train_scenes=1, val_scenes=2, frames=3, lidar_columns=90), folder / "world")
    create = ("tools/create_data.py", "nuscenes", "--root-path", folder / "world", "--out-dir", folder / "infos", "--quiet")
    code, _, err = ran(*create)
    assert code == 0, err
    return World(folder / "world", folder / "infos")


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.mark.slow
def test_one_process_and_two_give_the_same_results(two_scenes, nano_e2e_checkpoint, anchors, tmp_path, monkeypatch):
    """Of stage 2, which has all that stage 1 has and more."""
    monkeypatch.setitem(ENV, "MASTER_PORT", free_port())
    results, entries = [], []
    for processes in (0, 2):
        out = tmp_path / str(processes) / "results.json"
        code, shown, err = ran(
            "tools/uniad_dist_eval.sh", E2E, nano_e2e_checkpoint, processes, "--device", "cpu", "--out", out,
            "--cfg-options", *two_scenes.data_options(), f"anchor_root={anchors}/", *LOWERED,
        )  # fmt: skip
        assert code == 0, err
        assert "AMOTA" in shown and "mean up to it (ST-P3, VAD)" in shown and "Traceback" not in err
        results.append(json.loads(out.read_text()))
        entries.append([json.loads((out.parent / "eval" / name).read_text())["results"]
                        for name in ("results_nusc_det.json", "results_nusc.json")])  # fmt: skip
    assert results[0] == results[1] and results[0]["samples"] == 6
    assert entries[0] == entries[1]
    assert any(found for found in entries[0][1].values())  # else nothing was compared
    for family in ("motion", "occupancy", "planning"):
        assert {"model", "constant_velocity"} <= set(results[0][family]), family
    assert results[0]["planning"]["model"]["L2_1s"] > 0 and results[0]["motion"]["model"]["car/N_gt"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["test.py", "visualize.py"])
def test_a_checkpoint_of_the_other_stage_is_refused_with_what_to_do(
    world, nano_checkpoint, nano_e2e_checkpoint, anchors, tmp_path, tool
):
    options = ("--cfg-options", *world.data_options(), f"anchor_root={anchors}/")
    where = ("--device", "cpu", "--out", tmp_path / "out" / "x", *options)
    output = refused(f"tools/{tool}", E2E, nano_checkpoint, *where)
    assert f"{nano_checkpoint} is of stage 1, nano_e2e is stage 2" in output and "make train-stage2" in output
    output = refused(f"tools/{tool}", NANO, nano_e2e_checkpoint, *where)
    assert f"{nano_e2e_checkpoint} is of stage 2, nano_track_map is stage 1" in output and "stage2_e2e" in output
    assert not (tmp_path / "out").exists()


def test_missing_anchors_name_their_target(world, nano_e2e_checkpoint, tmp_path):
    output = refused("tools/test.py", E2E, nano_e2e_checkpoint, "--device", "cpu", "--out", tmp_path / "x.json",
                   "--cfg-options", *world.data_options(), f"anchor_root={tmp_path}/")  # fmt: skip
    assert "make anchors" in output
