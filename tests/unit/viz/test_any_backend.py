"""Scores, pictures, videos and recordings are made from any back end, and say the same of every frame: PyTorch, onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.command_line import ran
from uniad.data.dataset import SceneStream
from uniad.deploy.infer import run
from uniad.deploy.loop import results_along
from uniad.deploy.plausible import Limits
from uniad.deploy.runtime import Runtime
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError
from uniad.evaluation.compare_metrics import differences
from uniad.evaluation.run import collect, score
from uniad.viz.content import content_of
from uniad.viz.difference import Difference, difference
from uniad.viz.page import render
from uniad.viz.recording import rerun, write_recording
from uniad.viz.replay import Replay

pytestmark = pytest.mark.slow

BACKENDS = ("torch", "onnxruntime")


@pytest.fixture(scope="module", params=BACKENDS)
def opened(request: pytest.FixtureRequest, runtimes: dict[str, Runtime]) -> Runtime:
    return runtimes[request.param]


@pytest.fixture(scope="module")
def runtimes(onnx: Path) -> Iterator[dict[str, Runtime]]:
    limits = Limits.off()
    with (
        Runtime.open(onnx, "cpu", "torch", limits=limits) as eager,
        Runtime.open(onnx, "cpu", "onnxruntime", threads=1, limits=limits) as graph,
    ):
        yield dict(zip(BACKENDS, (eager, graph)))


@pytest.fixture(scope="module")
def folders(nano, runtimes: dict[str, Runtime], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Replay]:
    """What inference wrote, through either."""
    out = tmp_path_factory.mktemp("any")
    for name, runtime in runtimes.items():
        about = {"config": str(nano.config), "config_options": runtime.options, "split": "val"}
        run(runtime, [DatasetFrames(runtime.spec.data).scene("0")], out / name, about)
    return {name: Replay.open(out / name) for name in runtimes}


def same(apart: Difference) -> bool:
    alike = len(apart.both) > 0 == len(apart.first) == len(apart.second) == apart.ids
    return alike and apart.shift_m < 1e-2 and apart.map_cells < 1e-3 and apart.occupied_cells < 1e-3 and apart.plan_m < 1e-2


def test_scores_are_those_of_the_checkpoint(nano, onnx: Path, runtimes: dict[str, Runtime], tmp_path: Path) -> None:
    """From the command line, through the graph, and in PyTorch: every number of the report."""
    eager = runtimes["torch"]
    stream = SceneStream(eager.spec.data, "val", stage=2, workers=0)
    want = score(collect(eager, stream), eager.spec, stream.version, tmp_path / "torch")
    out = tmp_path / "results.json"
    code, shown, err = ran("tools/test.py", nano.config, onnx, "--device", "cpu", "--out", out, "--cfg-options",
                                    *nano.options)  # fmt: skip
    assert code == 0 and "AMOTA" in shown, err
    got = json.loads(out.read_text())
    assert (got["backend"], got["model"], got["checkpoint"]) == ("onnxruntime", str(onnx), str(nano.checkpoint))
    rows = differences(want, got)
    assert {row["task"] for row in rows} == {"detection", "tracking", "map", "motion", "occupancy", "planning"}
    assert all(row["reference"] is row["other"] is None or abs(row["difference"]) < 5e-3 for row in rows), rows
    assert want["motion"]["model"]["car/N_tp"] > 0, "else little was scored"


def test_pictures_are_those_of_the_checkpoint(nano, onnx: Path, runtimes: dict[str, Runtime], tmp_path: Path) -> None:
    drawn, last = {}, None
    for name, runtime in runtimes.items():
        stream = SceneStream(runtime.spec.data, "val", stage=2, workers=0)
        frames = list(enumerate(results_along(runtime, stream)))
        spec = runtime.spec
        drawn[name] = [content_of(result, {**s.info, "frame": i}, s, spec, [spec.name]) for i, (s, result) in frames]
    for one, two in zip(*drawn.values()):
        assert same(difference(one, two)) and one.caption == two.caption
        last = [render(content, spec.data.class_names, spec.data.pc_range) for content in (one, two)]
    assert (last[0] != last[1]).any(-1).mean() < 1e-3
    code, shown, err = ran("tools/visualize.py", nano.config, onnx, "--device", "cpu", "--out", tmp_path / "x.png",
                                    "--cfg-options", *nano.options)  # fmt: skip
    assert code == 0, err
    written = cv2.imread(str(tmp_path / "x.png"))[: 2 * 405 + 720, :, ::-1]  # without the caption, which names the back end
    assert (written != last[1][: len(written)]).any(-1).mean() < 1e-3, "the last frame of the scene, drawn by the command"


def test_videos_are_those_of_the_checkpoint(folders: dict[str, Replay]) -> None:
    (scene,) = folders["torch"].scenes
    pairs = list(zip(*(replay.contents(scene) for replay in folders.values())))
    assert len(pairs) == 6 and all(same(difference(*pair)) for pair in pairs)


def test_recordings_are_those_of_the_checkpoint(folders: dict[str, Replay], tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed: make env installs it")
    (scene,) = folders["torch"].scenes
    read = {}
    for name, replay in folders.items():
        write_recording(tmp_path / f"{name}.rrd", replay, scene)
        view = rerun().dataframe.load_recording(tmp_path / f"{name}.rrd").view(index="frame", contents="/car/**")
        read[name] = sorted(view.select().read_all().to_pylist(), key=lambda row: row["frame"])
    one, two = read.values()
    assert len(one) == len(two) == 6
    for a, b in zip(one, two):
        assert all(a[f"/car/{name}:track_id"] == b[f"/car/{name}:track_id"] for name in ("tracks", "forecasts"))
        np.testing.assert_allclose(a["/car/plan:LineStrip3D"], b["/car/plan:LineStrip3D"], atol=1e-2)


def test_a_frame_that_is_refused_is_named_and_changes_nothing(opened: Runtime) -> None:
    """Whoever catches it goes on as if it had not been there."""
    stream = list(SceneStream(opened.spec.data, "val", stage=2, workers=0))[:3]
    want = [result for _, result in results_along(opened, stream)]
    spoilt = stream[1]._replace(frame=stream[1].frame._replace(lidar2img=0 * stream[1].frame.lidar2img))
    got = [result for _, result in results_along(opened, stream[:1])]
    with pytest.raises(UserError, match=rf"^sample {spoilt.info['token']}: lidar2img of CAM_FRONT"):
        next(results_along(opened, [spoilt]))
    got += [result for _, result in results_along(opened, stream[1:])]
    for a, b in zip(want, got):
        np.testing.assert_array_equal(a.tracks.boxes, b.tracks.boxes)
        np.testing.assert_array_equal(a.plan.raw, b.plan.raw)
