"""Several processes share out the scenes and find what one finds."""

from __future__ import annotations

import json
import socket

import pytest
from command_line import ENV, NANO, World, finish, start

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
    code, _, err = finish(start(*create))
    assert code == 0, err
    return World(folder / "world", folder / "infos")


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.mark.slow
def test_one_process_and_two_give_the_same_results(two_scenes, nano_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(ENV, "MASTER_PORT", free_port())
    results, entries = [], []
    for processes in (0, 2):
        out = tmp_path / str(processes) / "results.json"
        code, shown, err = finish(
            start("tools/uniad_dist_eval.sh", NANO, nano_checkpoint, processes, "--device", "cpu", "--out", out,
                  "--cfg-options", *two_scenes.data_options(), *LOWERED)  # fmt: skip
        )
        assert code == 0, err
        assert "AMOTA" in shown and "Traceback" not in err
        results.append(json.loads(out.read_text()))
        entries.append([json.loads((out.parent / "eval" / name).read_text())["results"]
                        for name in ("results_nusc_det.json", "results_nusc.json")])  # fmt: skip
    assert results[0] == results[1] and results[0]["samples"] == 6
    assert entries[0] == entries[1]
    assert any(found for found in entries[0][1].values())  # else nothing was compared
