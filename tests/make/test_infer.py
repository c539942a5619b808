"""Inference, videos and metadata by make: each once, through the model that was asked for, and one line for what cannot be."""

from __future__ import annotations

import os
import time

import pytest

from helpers.make_tree import Tree, bring_sources


def inferred(tree: Tree) -> str:
    (line,) = (line for line in tree.calls() if line.startswith("tools/infer.py"))
    return line


def test_a_scene_runs_once_through_the_exported_model_unless_said_otherwise(tree: Tree):
    tree.done("export", "VARIANT=nano")
    tree.calls()
    tree.done("infer", "VARIANT=nano")
    assert "[onnx/uniad_nano_cp.onnx] [--out] [outputs/infer/nano_e2e.onnxruntime/0] [--scene] [0]" in inferred(tree)
    tree.done("infer", "VARIANT=nano")
    assert tree.tools() == []
    tree.done("infer", "VARIANT=nano", "FRAMES=3")
    assert "[--frames] [3]" in inferred(tree), "another length is another run"


@pytest.mark.parametrize("backend, package, again", [
    ("torch", "models", True), ("onnxruntime", "losses", False), ("torch", "postprocess", True), ("onnxruntime", "viz", False),
])  # fmt: skip
def test_a_run_is_made_again_when_the_packages_that_it_goes_through_change(tree: Tree, backend: str, package: str, again: bool):
    words = ("infer", "VARIANT=nano", f"BACKEND={backend}")
    bring_sources(tree).done(*words)
    tree.calls()
    changed = tree.root / "projects/uniad" / package / "changed.py"
    changed.parent.mkdir(exist_ok=True)
    changed.write_text("")
    os.utime(changed, (time.time() + 5,) * 2)
    shown = tree.done("-n", *words)
    assert ("tools/infer.py" in shown) == again, shown


def test_other_backends_and_scenes_lie_beside_it(tree: Tree):
    tree.done("export", "VARIANT=nano")
    tree.calls()
    tree.done("infer", "VARIANT=nano", "BACKEND=torch", "SCENE=scene-0103")
    line = inferred(tree)
    assert "[ckpts/nano_e2e_ep20.pth] [--out] [outputs/infer/nano_e2e.torch/scene-0103] [--config]" in line
    assert "[--scene] [scene-0103]" in line
    tree.done("infer", "VARIANT=nano", "BACKEND=compiled")
    line = inferred(tree)
    assert "[ckpts/nano_e2e_ep20.pth] [--out] [outputs/infer/nano_e2e.compiled/0]" in line and "[--backend] [compiled]" in line
    tree.done("infer", "VARIANT=nano", "BACKEND=engine")
    assert "[engines/uniad_nano_cp.fp32.tensorrt_rtx.engine]" in inferred(tree)


def test_a_recorded_folder_runs_in_place_of_a_scene(tree: Tree):
    tree.done("export", "VARIANT=nano")
    (tree.root / "drives/monday").mkdir(parents=True)
    (tree.root / "drives/monday/frames.json").write_text("{}")
    tree.calls()
    tree.done("infer", "VARIANT=nano", "FRAMES_DIR=drives/monday")
    line = inferred(tree)
    assert "[outputs/infer/nano_e2e.onnxruntime/monday] [--folder] [drives/monday]" in line and "--scene" not in line


def test_a_bag_runs_in_place_of_a_scene_again_when_it_or_its_topics_changed(tree: Tree):
    tree.done("export", "VARIANT=nano")
    (tree.root / "logs").mkdir()
    bag, topics = tree.root / "logs/monday.mcap", tree.root / "logs/topics.json"
    bag.write_text(""), topics.write_text("{}")
    tree.calls()
    words = ("infer", "VARIANT=nano", "BAG=logs/monday.mcap", "BAG_TOPICS=logs/topics.json")
    tree.done(*words)
    line = inferred(tree)
    assert "[outputs/infer/nano_e2e.onnxruntime/monday] [--bag] [logs/monday.mcap] [--topics] [logs/topics.json]" in line
    assert "--scene" not in line
    tree.done(*words)
    assert tree.tools() == []
    for changed in (bag, topics):
        os.utime(changed, (time.time() + 5,) * 2)
        assert "tools/infer.py" in tree.done("-n", *words)
    assert "tools/make_video.py" in tree.done("-n", "visualize", *words[1:])
    gone = tree.done("-n", "infer", "VARIANT=nano", "BAG=logs/gone.mcap")
    assert "--bag 'logs/gone.mcap'" in gone, "the tool says what is wrong with it"


def test_a_scene_becomes_a_bag_once(tree: Tree):
    tree.done("bag", "VARIANT=nano", "SCENE=1", "FRAMES=4", "BAG_ARGS=--sweeps")
    (line,) = (line for line in tree.calls() if line.startswith("tools/make_bag.py"))
    assert "[--out] [outputs/bag/drive_1.mcap]" in line and "[--scene] [1] [--frames] [4]" in line and "[--sweeps]" in line
    tree.done("bag", "VARIANT=nano", "SCENE=1", "FRAMES=4", "BAG_ARGS=--sweeps")
    assert not any(line.startswith("tools/make_bag.py") for line in tree.calls())


def test_a_bag_that_make_wrote_is_read_as_it_is(tree: Tree):
    """Four frames were asked for; `make infer BAG=` must not write the whole scene over them."""
    tree.done("bag", "VARIANT=nano", "SCENE=0", "FRAMES=4")
    tree.calls()
    tree.done("infer", "VARIANT=nano", "BAG=outputs/bag/drive_0.mcap")
    assert not any(line.startswith("tools/make_bag.py") for line in tree.calls())
    assert "`make bag` writes outputs/bag/drive_0.mcap: leave BAG out" in tree.make("bag", "VARIANT=nano", "BAG=x.mcap").stderr


def test_visualize_draws_a_frame_and_films_a_scene_when_one_is_named(tree: Tree):
    tree.done("export", "VARIANT=nano")
    tree.calls()
    tree.done("visualize", "VARIANT=nano")
    assert tree.tools() == ["visualize"]
    tree.done("visualize", "VARIANT=nano", "SCENE=1")
    assert tree.tools() == ["infer", "make_video"]
    tree.done("visualize", "VARIANT=nano", "SCENE=1")
    assert tree.tools() == []


def test_two_runs_are_drawn_in_one_video(tree: Tree):
    for run in ("a", "b"):
        (tree.root / run).mkdir()
        (tree.root / run / "summary.json").write_text("{}")
    tree.done("visualize", "VARIANT=nano", "COMPARE=a b")
    (line,) = tree.calls()
    assert line == "tools/make_video.py [--compare] [a] [b] [--out] [outputs/video/compare]"
    result = tree.make("visualize", "VARIANT=nano", "COMPARE=a c")
    assert result.returncode != 0 and "error: c holds no results" in result.stderr
    assert tree.tools() == []


def test_metadata_lies_at_its_upstream_place_with_the_number_that_was_asked_for(tree: Tree):
    tree.done("data")
    tree.calls()
    tree.done("metadata", "NUM_FRAME=12")
    (line,) = tree.calls()
    assert "tiny_imgx0.25_e2e.py] [--dump_folder] [nuscenes_np] [--num_frame] [12]" in line


def test_an_interrupted_run_is_done_again_by_the_same_command(tree: Tree):
    tree.done("export", "VARIANT=nano")
    kept = "outputs/infer/nano_e2e.onnxruntime/0/summary.json"
    result = tree.make("infer", "VARIANT=nano", FAIL="infer", LEAVE=kept)
    assert result.returncode != 0 and (tree.root / kept).exists(), "what was done is kept"
    tree.calls()
    tree.done("infer", "VARIANT=nano")
    assert tree.tools() == ["infer"]


@pytest.mark.parametrize("arguments, message", [
    (["BACKEND=openvino"], "BACKEND=openvino is unknown: choose torch, compiled, onnxruntime, engine"),
    (["FRAMES=some"], "FRAMES=some is no whole number"),
    (["NUM_FRAME=-3"], "NUM_FRAME=-3 is no whole number"),
    (["SCENE=1", "FRAMES_DIR=x"], "both say what to run along"),
    (["COMPARE=a"], "takes two folders"),
    (["SCENE=1", "BAG=x.mcap"], "BAG=x.mcap and SCENE=1 both say what to run along"),
    (["BAG_TOPICS=t.json"], "BAG_TOPICS=t.json is of a bag: give BAG, too"),
    (["BAG=x.mcap", "BAG_TOPICS=t.json"], "BAG_TOPICS=t.json is not there"),
    (["BAG=a b.mcap"], "BAG=a b.mcap cannot be used"),
    (["SCENE=a b"], "SCENE=a b cannot be used"),
])  # fmt: skip
def test_wrong_values_stop_at_once(tree: Tree, arguments: list[str], message: str):
    result = tree.make("infer", "VARIANT=nano", *arguments)
    assert result.returncode != 0 and message in result.stderr
    assert tree.tools() == []


def test_plot_draws_the_logs_that_are_here_and_says_where_there_is_none(tree: Tree):
    assert "VARIANT=tiny was not trained here yet" in tree.make("plot", "VARIANT=tiny").stderr
    for stage in ("stage1_track_map/tiny_imgx0.25_track_map", "stage2_e2e/tiny_imgx0.25_e2e"):
        (tree.root / "projects/work_dirs" / stage).mkdir(parents=True)
        (tree.root / "projects/work_dirs" / stage / "train.jsonl").write_text("{}\n")
    tree.calls()
    tree.done("plot", "VARIANT=tiny")
    (line,) = tree.calls()
    works = "[projects/work_dirs/stage1_track_map/tiny_imgx0.25_track_map] [projects/work_dirs/stage2_e2e/tiny_imgx0.25_e2e]"
    assert line == f"tools/plot_training.py {works} [--out] [outputs/tiny_imgx0.25.curves.png]"
    tree.done("plot", "RUNS=projects/work_dirs/stage2_e2e/tiny_imgx0.25_e2e", "PLOT_ARGS=--overlay")
    assert tree.calls()[-1].endswith("[--out] [outputs/curves.png] [--overlay]")
    assert "gone is not there" in tree.make("plot", "RUNS=gone").stderr


def test_a_drive_becomes_a_recording_of_the_same_results(tree: Tree):
    tree.done("visualize", "VARIANT=nano", "SCENE=0", "MAX_ITERS=1")
    tree.calls()
    output = tree.done("view", "VARIANT=nano", "SCENE=0", "MAX_ITERS=1")
    (line,) = tree.calls()
    where = "[outputs/infer/nano_e2e.onnxruntime/0] [--out] [outputs/view/nano_e2e.onnxruntime/0]"
    assert line.startswith(f"tools/make_recording.py {where}")
    assert "rerun outputs/view/nano_e2e.onnxruntime/0/*.rrd" in output
    tree.done("view", "VARIANT=nano", "SCENE=0", "MAX_ITERS=1")
    assert tree.calls() == []


def test_scores_of_a_graph_lie_beside_those_of_the_checkpoint(tree: Tree):
    tree.done("export", "VARIANT=nano")
    tree.calls()
    for backend, model, said in (
        ("onnxruntime", "onnx/uniad_nano_cp.onnx", ""), ("compiled", "ckpts/nano_e2e_ep20.pth", " [--backend] [compiled]"),
    ):  # fmt: skip
        tree.done("eval", "VARIANT=nano", f"BACKEND={backend}")
        (line,) = tree.calls()
        assert f"[projects/configs/stage2_e2e/nano_e2e.py] [{model}]" in line and said in line
        assert f"[--out] [outputs/eval/nano_e2e.{backend}.json]" in line
        tree.done("eval", "VARIANT=nano", f"BACKEND={backend}")
        assert tree.tools() == []
    tree.done("eval", "VARIANT=nano", "BACKEND=torch")
    assert "[--out] [projects/work_dirs/stage2_e2e/nano_e2e/results.json]" in tree.calls()[0]
    tree.done("eval", "VARIANT=nano", "BACKEND=engine")
    assert "[engines/uniad_nano_cp.fp32.tensorrt_rtx.engine]" in tree.calls()[-1]
    result = tree.make("eval-stage2", "VARIANT=nano", "BACKEND=onnxruntime")
    assert result.returncode != 0 and "make eval STAGE=2 BACKEND=onnxruntime" in result.stderr
