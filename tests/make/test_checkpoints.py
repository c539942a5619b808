"""A checkpoint that somebody brings is used, never trained for and never written over; a run is trained once."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from helpers.make_tree import Tree

READERS = [["export"], ["eval"], ["verify"], ["engine"], ["quantize"], ["visualize"], ["infer"], ["infer", "BACKEND=torch"],
           ["jetson-engine", "JETSON=bundle"], ["visualize", "SCENE=0"]]  # fmt: skip
TRAINS = ("tools/train.py", "uniad_dist_train")
STEMS = {"full": "full", "tiny": "tiny_imgx0.25", "nano": "nano"}
UPSTREAM = ["STACK=torch1.12", "RUNTIME=docker", "TOOLS_RUNTIME=host", "GPUS=1"]


def bring(tree: Tree, path: str, content: str = "mine") -> Path:
    """Puts somebody's file there."""
    target = tree.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    return target


def plan(tree: Tree, *words: str) -> str:
    return tree.done("-n", *words)


def trains(shown: str) -> bool:
    return any(word in shown for word in TRAINS)


@pytest.mark.parametrize("variant", STEMS)
@pytest.mark.parametrize("goal", READERS, ids=" ".join)
def test_what_reads_a_checkpoint_takes_the_one_that_was_brought(tree: Tree, variant: str, goal: list[str]):
    brought = f"ckpts/{STEMS[variant]}_e2e_ep20.pth"
    bring(tree, brought)
    shown = plan(tree, *goal, f"VARIANT={variant}")
    assert not trains(shown) and f"{brought}'" in shown
    assert "checkpoint_record.py copy" not in shown, "nothing is put in its place"


@pytest.mark.parametrize("goal", READERS, ids=" ".join)
@pytest.mark.parametrize("name", ["ckpts/full_e2e.pth", "UniAD_train/UniAD/ckpts/full_e2e.pth", "ckpts/full_e2e_ep20.pth"])
def test_the_upstream_stack_does_the_same(tree: Tree, goal: list[str], name: str):
    bring(tree, name)
    assert not trains(plan(tree, *goal, "VARIANT=full", *UPSTREAM))


def test_the_upstream_stack_evaluates_the_file_that_was_brought_where_its_container_sees_it(tree: Tree, tmp_path: Path):
    bring(tree, "ckpts/tiny_imgx0.25_e2e_ep20.pth")
    assert "/workspace/UniAD/ckpts/tiny_imgx0.25_e2e_ep20.pth 1" in plan(tree, "eval", "VARIANT=tiny", *UPSTREAM)
    elsewhere = bring(tree, "../somewhere/else.pth").resolve()
    shown = plan(tree, "eval", "VARIANT=tiny", *UPSTREAM, f"CKPT={elsewhere}")
    assert f"'{elsewhere.parent}:/workspace/given:ro'" in shown and "/workspace/given/else.pth 1" in shown
    bring(tree, "UniAD_train/UniAD/ckpts/tiny_imgx0.25_track_map.pth")
    assert "./ckpts/tiny_imgx0.25_track_map.pth 1" in plan(tree, "eval", "VARIANT=tiny", "STAGE=1", *UPSTREAM)


def test_a_brought_first_stage_is_what_the_second_starts_from_and_stays(tree: Tree):
    mine = bring(tree, "ckpts/nano_track_map.pth")
    output = tree.done("train", "VARIANT=nano")
    assert "ckpts/nano_track_map.pth: brought here" in output
    (line,) = (line for line in tree.calls() if line.startswith("tools/train.py"))
    assert "stage2_e2e" in line
    assert mine.read_text() == "mine"
    tree.done("train-stage1", "VARIANT=nano")
    assert any("stage1" in line for line in tree.calls()), "who asks for that stage by name gets it, in its work directory"
    assert mine.read_text() == "mine"


def test_a_brought_second_stage_is_not_trained_for(tree: Tree):
    mine = bring(tree, "ckpts/nano_e2e.pth")
    output = tree.done("train", "VARIANT=nano")
    assert "ckpts/nano_e2e.pth: brought here" in output and not any("stage2" in line for line in tree.calls())
    assert mine.read_text() == "mine" and (tree.root / "ckpts/nano_e2e_ep20.pth").read_text() == "mine"


def test_training_leaves_a_deployed_checkpoint_that_was_brought(tree: Tree):
    mine = bring(tree, "ckpts/nano_e2e_ep20.pth")
    output = tree.done("train", "VARIANT=nano")
    assert "ckpts/nano_e2e_ep20.pth: brought here" in output and "train" in tree.tools()
    assert mine.read_text() == "mine" and (tree.root / "ckpts/nano_e2e.pth").is_file()
    output = tree.done("eval", "VARIANT=nano")
    assert "[ckpts/nano_e2e_ep20.pth]" in tree.calls()[-1] and "CKPT=ckpts/nano_e2e.pth takes the other" in output
    tree.done("eval", "VARIANT=nano", "CKPT=ckpts/nano_e2e.pth")
    assert "[ckpts/nano_e2e.pth]" in tree.calls()[-1]


def test_a_file_put_over_a_trained_one_is_kept_from_then_on(tree: Tree):
    tree.done("train", "VARIANT=nano", "MAX_ITERS=3")
    mine = bring(tree, "ckpts/nano_e2e.pth", "somebody's, longer")
    tree.done("train", "VARIANT=nano", "MAX_ITERS=4")
    assert mine.read_text() == "somebody's, longer"
    tree.done("export", "VARIANT=nano")
    assert (tree.root / "ckpts/nano_e2e_ep20.pth").read_text() == "somebody's, longer", "the deployed copy follows"


def test_a_tree_without_its_records_replaces_nothing(tree: Tree):
    tree.done("train", "VARIANT=nano")
    before = {p: p.read_text() for p in (tree.root / "ckpts").glob("*.pth")}
    shutil.rmtree(tree.root / ".make")
    tree.calls()
    tree.done("train", "VARIANT=nano", "SEED=3")
    assert {p: p.read_text() for p in (tree.root / "ckpts").glob("*.pth")} == before


@pytest.mark.parametrize("words", [
    ["SEED=1"], ["TRAIN_PRECISION=bf16"], ["MAX_ITERS=7"], ["EPOCHS=1"], ["QUEUE_LENGTH=3"], ["FROM_SCRATCH=0"],
    ["CFG_OPTIONS=model.score_thresh=0.1"], ["CFG_OPTIONS=data.workers_per_gpu=0"], ["TRAIN_ARGS=--workers 0"],
])  # fmt: skip
def test_what_is_said_of_training_trains_nothing_where_a_checkpoint_is_there(tree: Tree, words: list[str]):
    tree.done("train", "VARIANT=nano")
    tree.calls()
    for goal in ("eval", "visualize", "export"):
        assert not trains(plan(tree, goal, "VARIANT=nano", *words)), goal


def test_where_nothing_is_there_training_is_announced(tree: Tree):
    output = tree.done("export", "VARIANT=nano")
    assert output.count("ckpts/nano_e2e.pth: not there, so `make export` trains it first; CKPT=FILE") == 1
    assert "train" in tree.tools()


@pytest.mark.parametrize("words", [
    ["CFG_OPTIONS=data.workers_per_gpu=0"], ["CFG_OPTIONS=model.score_thresh=0.1"], ["TRAIN_ARGS=--workers 3 --save-every 2m"],
    ["JOBS=1"], ["EVAL_ARGS=--device cpu"], ["TRAIN_ARGS=--recompute"],
])  # fmt: skip
def test_a_finished_training_is_finished_whatever_changes_no_number(tree: Tree, words: list[str]):
    tree.done("train", "VARIANT=nano")
    tree.calls()
    tree.done("train", "VARIANT=nano", *words)
    assert tree.tools() == []


def test_a_comment_and_a_config_of_ones_own_train_nothing(tree: Tree):
    tree.done("train", "VARIANT=nano")
    for name in ("stage2_e2e/full_e2e.py", "stage1_track_map/nano_track_map.py", "stage1_track_map/base_track_map.py"):
        path = tree.root / "projects/configs" / name
        path.write_text(path.read_text() + "# a comment\n")
    shutil.copy(tree.root / "projects/configs/stage1_track_map/nano_track_map.py", tree.root / "projects/configs/mine.py")
    tree.calls()
    tree.done("train", "VARIANT=nano")
    assert tree.tools() == []


def test_another_run_is_set_aside_and_said(tree: Tree):
    tree.done("train", "VARIANT=nano")
    tree.calls()
    output = tree.done("train", "VARIANT=nano", "SEED=1")
    assert "an earlier run differs (seed: 0 -> 1); it was set aside as" in output
    # the second starts from other weights
    assert "content of nano_track_map.pth" in output
    assert tree.tools() == ["train", "train"]
    kept = list((tree.root / "projects/work_dirs/stage1_track_map").glob("nano_track_map.2*/epoch_6.pth"))
    assert len(kept) == 1


def test_in_the_upstream_stack_gpus_and_ranks_are_no_other_run(tree: Tree):
    """The folder of a run is shared by all machines of it."""
    words = ["claim", "UniAD_train/UniAD/projects/work_dirs/stage1_track_map/tiny_imgx0.25_track_map"]
    claims = set()
    for more in (["GPUS=1"], ["GPUS=8"], ["GPUS=8", "NNODES=2", "MASTER_ADDR=a", "NODE_RANK=0"]):
        shown = plan(tree, "train", "VARIANT=tiny", *UPSTREAM, *more, "FROM_SCRATCH=1")
        claims |= {line for line in shown.splitlines() if all(word in line for word in words)}
    assert len(claims) == 1
    shown = plan(tree, "train", "VARIANT=tiny", *UPSTREAM, "GPUS=8", "NNODES=2", "MASTER_ADDR=a", "NODE_RANK=1", "FROM_SCRATCH=1")
    assert "claim_work_dir.py claim" not in shown and "wait_for_file.sh" in shown


def test_a_checkpoint_of_ones_own_leaves_products_of_its_own_name(tree: Tree):
    bring(tree, "ckpts/nano_e2e_ep20.pth")
    mine = bring(tree, "elsewhere/theirs.pth")
    tree.done("export", "eval", "visualize", "VARIANT=nano", f"CKPT={mine}")
    calls = "\n".join(tree.calls())
    assert f"[{mine}] [--out] [onnx/theirs.onnx]" in calls and "[--out] [outputs/theirs.png]" in calls
    assert re.search(rf"\[{mine}\] (\[--device\] \[cpu\] )?\[--out\] \[outputs/eval/theirs.json\]", calls)
    assert not trains(calls) and not (tree.root / "onnx/uniad_nano_cp.onnx").exists()
    tree.done("engine", "infer", "VARIANT=nano", f"CKPT={mine}")
    calls = "\n".join(tree.calls())
    assert "[engines/theirs.fp32.tensorrt_rtx.engine]" in calls and "[outputs/infer/theirs.onnxruntime/0]" in calls


def test_another_file_under_the_known_name_is_exported_anew(tree: Tree):
    bring(tree, "ckpts/nano_e2e.pth")
    tree.done("export", "VARIANT=nano")
    bring(tree, "ckpts/nano_e2e_ep20.pth", "another, newer")
    tree.calls()
    tree.done("export", "VARIANT=nano")
    assert tree.tools() == ["export_onnx"]


def test_a_config_of_ones_own_is_read_with_the_checkpoint(tree: Tree):
    bring(tree, "ckpts/nano_e2e_ep20.pth")
    config = tree.root / "projects/configs/stage2_e2e/mine.py"
    config.write_text('_base_ = ["./nano_e2e.py"]\n')
    tree.done("eval", "export", "visualize", "VARIANT=nano", "CONFIG=projects/configs/stage2_e2e/mine.py")
    calls = tree.calls()
    for name in ("test.py", "tools/export_onnx.py", "tools/visualize.py"):
        (line,) = (line for line in calls if name in line)
        assert "[projects/configs/stage2_e2e/mine.py] [ckpts/nano_e2e_ep20.pth]" in line
    assert "[outputs/eval/mine.json]" in "\n".join(calls)


def test_the_stage_follows_from_the_known_name(tree: Tree):
    bring(tree, "ckpts/nano_track_map.pth")
    bring(tree, "ckpts/nano_e2e.pth")
    assert "stage1_track_map/nano_track_map.py" in plan(tree, "export", "VARIANT=nano", "CKPT=ckpts/nano_track_map.pth")


@pytest.mark.parametrize("words, message", [
    (["eval", "CKPT=absent.pth"], "CKPT=absent.pth is not there"),
    (["eval", "CONFIG=absent.py"], "CONFIG=absent.py is not there"),
    (["eval", "CKPT=mk"], "CKPT=mk is a folder: name the file"),
    (["train", "CKPT=Makefile"], "CKPT=Makefile says what to read"),
    (["train-stage1", "CONFIG=Makefile"], "name it as a variant"),
])  # fmt: skip
def test_a_file_that_cannot_be_meant_stops_at_once(tree: Tree, words: list[str], message: str):
    result = tree.make(*words, "VARIANT=nano")
    assert result.returncode != 0 and message in result.stderr and tree.tools() == []


def test_variables_of_the_environment_name_no_checkpoint(tree: Tree):
    """CONFIG and CKPT are common names; only who types them here means them."""
    bring(tree, "ckpts/nano_e2e_ep20.pth")
    shown = tree.make("-n", "eval", "VARIANT=nano", CKPT="absent.pth", CONFIG="Release")
    assert shown.returncode == 0 and "absent.pth" not in shown.stdout


SHIPPED = "weights/nano/nano_e2e.pth"


@pytest.fixture
def shipped(tree: Tree) -> Tree:
    bring(tree, SHIPPED)
    bring(tree, "weights/nano/motion_anchor_infos_mode6.pkl")
    return tree


@pytest.mark.parametrize("goal", READERS, ids=" ".join)
def test_the_repositorys_own_model_is_read_where_nobody_trained_one(shipped: Tree, goal: list[str]):
    shown = plan(shipped, *goal, "VARIANT=nano")
    assert not trains(shown) and f"{SHIPPED}'" in shown
    assert "make_motion_anchors" not in shown, "it has anchors of its own"


def test_it_is_that_of_one_variant_and_of_the_synthetic_world(shipped: Tree):
    assert SHIPPED not in plan(shipped, "eval", "VARIANT=tiny")
    assert SHIPPED not in plan(shipped, "eval", "VARIANT=nano", "FROM_SCRATCH=1")
    (shipped.root / "data/nuscenes/v1.0-trainval").mkdir(parents=True)
    (shipped.root / "data/nuscenes/v1.0-trainval/sample.json").write_text("[]")
    assert SHIPPED not in plan(shipped, "eval", "VARIANT=nano", "DATASET=nuscenes")


def test_training_continues_it_unless_told_to_start_from_nothing(shipped: Tree):
    output = shipped.done("train", "VARIANT=nano")
    (line,) = (line for line in shipped.calls() if line.startswith("tools/train.py"))
    assert "stage2_e2e" in line and f"[load_from={SHIPPED}]" in line and SHIPPED in output
    shipped.done("eval", "VARIANT=nano")
    assert "[ckpts/nano_e2e.pth]" in shipped.calls()[-1], "what was trained is read from then on"
    shipped.done("train", "VARIANT=nano", "FROM_SCRATCH=1")
    lines = [line for line in shipped.calls() if line.startswith("tools/train.py")]
    assert len(lines) == 2 and SHIPPED not in "".join(lines) and "[--from-scratch]" in lines[0]


def test_a_first_stage_of_ones_own_comes_before_it(shipped: Tree):
    """Trained by its own goal, it lies in its work directory alone."""
    assert "own model" not in shipped.done("train-stage1", "VARIANT=nano")
    assert "own model" not in shipped.done("train-stage2", "VARIANT=nano")
    (line,) = (line for line in shipped.calls() if line.startswith("tools/train.py") and "stage2" in line)
    assert "load_from" not in line and (shipped.root / "ckpts/nano_track_map.pth").is_file()


def test_both_stages_asked_for_by_name_are_ones_own(shipped: Tree):
    assert "own model" not in shipped.done("train-stage1", "train-stage2", "VARIANT=nano")
    assert "load_from" not in "".join(shipped.calls())


def test_the_demo_continues_it_gently(shipped: Tree):
    shipped.done("demo")
    calls = shipped.calls()
    (line,) = (line for line in calls if line.startswith("tools/train.py"))
    assert f"[load_from={SHIPPED}]" in line and "[optimizer.lr=1e-5]" in line and "[--max-iters] [60]" in line
    (held,) = (line for line in calls if line.startswith("tools/held_loss.py"))
    assert f"[ckpts/demo/nano_e2e.pth] [--start] [{SHIPPED}] [--split] [train] [--clips] [20]" in held
    assert f"[--continued] [{SHIPPED}]" in calls[-1]
    shipped.done("demo")
    assert shipped.tools() == ["demo_summary"]


def test_a_copy_that_was_killed_before_its_record_was_complete_counts_as_made_here(tree: Tree):
    tree.done("train", "VARIANT=nano", "MAX_ITERS=3")
    # as it is between the two writes: the digest is known, the file's mark is not
    for path in (tree.root / ".make/made").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "mark": None}))
    assert "brought" not in tree.done("train", "VARIANT=nano", "MAX_ITERS=4")
    trained = tree.root / "projects/work_dirs/stage2_e2e/nano_e2e/iter_4.pth"
    assert (tree.root / "ckpts/nano_e2e_ep20.pth").read_text() == trained.read_text()


@pytest.mark.parametrize("goal", ["train", "eval", "export"])
@pytest.mark.parametrize("place", [
    "ckpts/tiny_imgx0.25_track_map.pth", "ckpts/tiny_imgx0.25_e2e.pth", "ckpts/tiny_imgx0.25_e2e_ep20.pth",
    "ckpts/bevformer_tiny_epoch_24.pth", "data/others/motion_anchor_infos_mode6.pkl",
    "data/infos/nuscenes_infos_temporal_val.pkl",
])  # fmt: skip
def test_a_link_to_what_is_not_mounted_is_an_error_and_stays(tree: Tree, place: str, goal: str):
    link = tree.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/not/mounted/file")
    result = tree.make(goal, "VARIANT=tiny", "DATASET=nuscenes")
    assert result.returncode != 0 and f"{place} is a link to /not/mounted/file, which is not there" in result.stderr
    assert tree.tools() == [] and link.is_symlink()


def test_promote_copies_what_was_trained_and_trains_nothing(tree: Tree):
    result = tree.make("promote", "VARIANT=nano")
    assert result.returncode != 0 and "nothing was trained yet" in result.stderr and tree.tools() == []
    tree.done("train-stage1", "VARIANT=nano")
    tree.calls()
    tree.done("promote", "VARIANT=nano", "SEED=7")  # another seed would be another training
    assert tree.tools() == [] and (tree.root / "ckpts/nano_track_map.pth").is_file()
    assert not (tree.root / "ckpts/nano_e2e.pth").exists()
    tree.done("train-stage1", "promote", "VARIANT=tiny")
    assert not any("stage2" in line for line in tree.calls())
    assert (tree.root / "ckpts/tiny_imgx0.25_track_map.pth").is_file()
    tree.done("train-stage2", "VARIANT=nano")
    tree.calls()
    tree.done("promote", "VARIANT=nano")
    assert tree.tools() == [] and (tree.root / "ckpts/nano_e2e_ep20.pth").is_file()


@pytest.mark.parametrize("stage, config", [("1", "stage1_track_map/nano_track_map.py"), ("2", "stage2_e2e/nano_e2e.py")])
def test_a_stage_is_evaluated_by_name_from_a_checkpoint_of_ones_own(tree: Tree, stage: str, config: str):
    bring(tree, "theirs.pth")
    shown = plan(tree, f"eval-stage{stage}", "VARIANT=nano", "CKPT=theirs.pth")
    assert not trains(shown) and "not there" not in shown
    assert f"{config} 'theirs.pth'" in shown and "--out 'outputs/eval/theirs.json'" in shown, "the run's own scores stay"
    for words in (["eval-stage1", "eval-stage2"], [f"eval-stage{stage}", f"STAGE={3 - int(stage)}"]):
        assert "are of one stage" in tree.make("-n", *words, "VARIANT=nano", "CKPT=theirs.pth").stderr


def test_promote_in_the_upstream_stack_trains_nothing(tree: Tree):
    words = ("promote", "VARIANT=full", *UPSTREAM)
    assert "nothing was trained yet (UniAD_train/UniAD/projects" in tree.make("-n", *words).stderr
    bring(tree, "UniAD_train/UniAD/projects/work_dirs/stage1_track_map/full_track_map/epoch_6.pth")
    shown = plan(tree, *words)
    assert not trains(shown) and "compile" not in shown and "full_e2e" not in shown
    assert "mv UniAD_train/UniAD/ckpts/epoch_6.pth UniAD_train/UniAD/ckpts/full_track_map.pth" in shown
    assert "copy 'UniAD_train/UniAD/ckpts/full_track_map.pth' 'ckpts/full_track_map.pth'" in shown


def test_a_stage_that_was_trained_and_not_yet_copied_is_evaluated(tree: Tree):
    tree.done("train-stage1", "VARIANT=nano")
    tree.calls()
    output = tree.done("eval", "VARIANT=nano")
    assert "train" not in tree.tools() and "trains it first" not in output
    assert (tree.root / "projects/work_dirs/stage1_track_map/nano_track_map/results.json").exists()


def test_training_is_announced_of_the_stage_that_is_trained_and_only_then(tree: Tree):
    output = plan(tree, "eval-stage1", "VARIANT=nano")
    assert "ckpts/nano_track_map.pth: not there, so `make eval-stage1` trains it first" in output and "nano_e2e" not in output
    assert " --stages 1 --epochs" in output, "preflight counts the days of that stage alone"
    bring(tree, "ckpts/nano_track_map.pth")
    output = plan(tree, "eval-stage1", "VARIANT=nano")
    assert "not there" not in output and "preflight" not in output
    assert " --stages 2 --epochs" in plan(tree, "train", "VARIANT=nano"), "nor those of a stage that was brought"
    bring(tree, "UniAD_train/UniAD/ckpts/full_e2e.pth")
    for goal in ("eval", "export"):
        output = plan(tree, goal, "VARIANT=full", *UPSTREAM)
        assert "trains it first" not in output and "tools/preflight.py" not in output


def test_upstreams_container_refuses_links_that_lead_out_of_it(tree: Tree):
    outside = bring(tree, "weights.pth")
    raw = "ckpts/bevformer_r101_dcn_24ep.pth"
    link = tree.root / "UniAD_train/UniAD" / raw
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    words = ("-n", "train", "VARIANT=full", "DATASET=nuscenes", *UPSTREAM)
    stopped = tree.make(*words)
    assert f"UniAD_train/UniAD/{raw} is a link out of its container, to {outside}: put the link into ckpts/" in stopped.stderr
    (tree.root / "ckpts").mkdir()
    link.rename(tree.root / raw)
    assert f"cp {raw} UniAD_train/UniAD/{raw}.partial" in tree.make(*words).stdout


def test_a_native_container_reads_initial_weights_where_their_links_lead(tree: Tree):
    outside = bring(tree, "../somewhere/weights.pth").resolve()
    link = tree.root / "ckpts/bevformer_r101_dcn_24ep.pth"
    link.parent.mkdir()
    link.symlink_to(outside)
    words = ("-n", "train-stage1", "VARIANT=full", "DATASET=nuscenes", "FROM_SCRATCH=0")
    shown = tree.make(*words, "RUNTIME=docker").stdout
    assert f"'load_from={outside}'" in shown and f"--volume '{outside.parent}:{outside.parent}'" in shown
    assert "load_from" not in tree.make(*words, "RUNTIME=host").stdout


def test_a_backbone_that_is_not_there_is_told_unless_make_fetches_it(tree: Tree) -> None:
    words = ("-n", "train-stage0", "VARIANT=nano", "STACK=native", "DATASET=synthetic")
    (tree.root / "folder.pth").mkdir()
    for name, told in (("none.pth", "is not there"), ("folder.pth", "is a folder: name the file")):
        done = tree.make(*words, f"BACKBONE={name}")
        assert done.returncode == 2 and f"BACKBONE={name} {told}" in done.stderr, done.stderr
    assert tree.make(*words, "BACKBONE=ckpts/resnet50-0676ba61.pth").returncode == 0


@pytest.mark.parametrize("name", ["CKPT", "CONFIG", "BACKBONE"])
def test_what_is_no_file_is_told_before_anything_waits_for_it(tree: Tree, name: str) -> None:
    os.mkfifo(tree.root / "pipe")
    (tree.root / "circle").symlink_to("circle")
    (tree.root / "dangling").symlink_to("nowhere")
    device, link = "a pipe or a device", "a link that leads to none"
    for value, told in (("pipe", device), ("/dev/null", device), ("circle", link), ("dangling", link)):
        goal = ("train-stage0", "STACK=native", "DATASET=synthetic") if name == "BACKBONE" else ("eval",)
        done = tree.make("-n", *goal, "VARIANT=nano", f"{name}={value}")
        assert done.returncode == 2 and f"{name}={value} is no file, but {told}: name the file" in done.stderr, done.stderr
        assert "No rule" not in done.stderr and done.stderr.count("\n") <= 2
