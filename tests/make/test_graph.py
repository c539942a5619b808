"""What make promises: the right commands in the right order, once; nothing half-done; one line for a wrong value."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from helpers import REPO
from helpers.make_tree import Tree

DATA = ["make_synthetic_nuscenes", "create_data"]
STAGE1 = ["train"]
STAGE2 = ["train"]
TRAIN = [*DATA, *STAGE1, "make_motion_anchors", *STAGE2]
DEMO = [*TRAIN, "export_onnx", "held_loss", "test", "build_engine", "visualize", "verify", "infer", "make_video", "demo_summary"]
PUBLIC = [
    "demo", "configure", "env", "doctor", "shell", "clean", "help", "data", "train", "train-stage1", "train-stage2",
    "promote", "eval", "eval-stage1", "eval-stage2",
    "export", "verify", "visualize", "engine", "quantize", "infer", "metadata", "test", "lint", "golden", "anchors", "image",
    "clone", "patch", "overlay", "compile", "weights", "init-weights", "slurm",
]  # fmt: skip


def test_help_lists_every_target_in_groups_with_one_line_each(tree: Tree):
    text = tree.done("help")
    for target in PUBLIC:
        assert re.search(rf"^  {re.escape(target)} +\S", text, re.M), target
    declared = set()
    for path in [REPO / "Makefile", *(REPO / "mk").glob("*.mk")]:
        for line in re.findall(r"^\.PHONY: (.*)$", path.read_text(), re.M):
            declared |= set(line.split())
    listed = set(re.findall(r"^  ([a-z0-9-]+) +\S", text, re.M))
    assert declared - listed == {"FORCE", "demo-steps", "train-stage$1"}
    assert max(map(len, text.splitlines())) <= 120
    assert tree.done() == text, "a bare `make` is help"


# promote only copies what was trained: on a bare tree it says that there is nothing
@pytest.mark.parametrize("target", [target for target in PUBLIC if target != "promote"])
def test_a_dry_run_shows_commands_and_writes_nothing(tree: Tree, target: str):
    before = tree.files()
    assert tree.done("-n", target).strip()
    assert tree.files() == before


def test_a_dry_run_shows_the_commands_that_run(tree: Tree):
    shown = tree.done("-n", "train", "VARIANT=nano", "SEED=7")
    tree.done("train", "VARIANT=nano", "SEED=7")
    ran = next(line for line in tree.calls() if line.startswith("tools/train.py"))
    command = next(line for line in shown.splitlines() if "tools/train.py" in line)
    words = [word.strip("'") for word in command.split()[2:]]
    assert re.findall(r"\[([^\]]*)\]", ran) == words


def test_demo_makes_everything_in_order_and_only_once(tree: Tree):
    tree.done("demo", "DEMO_JOBS=1")
    assert tree.tools() == DEMO
    time.sleep(0.01)
    tree.done("demo", "DEMO_JOBS=1")
    assert tree.tools() == ["demo_summary"]
    for product in ("ckpts/demo/nano_track_map.pth", "ckpts/demo/nano_e2e_ep20.pth", "onnx/demo/uniad_nano_cp.onnx",
                    "engines/demo/uniad_nano_cp.fp32.tensorrt_rtx.engine", "outputs/demo/nano_e2e.png"):  # fmt: skip
        assert (tree.root / product).is_file(), product


def test_demo_trains_each_stage_for_its_own_iterations_and_the_second_from_the_demos_first(tree: Tree):
    tree.done("demo", "DEMO_ITERS.nano=7 5")
    first, second = (line for line in tree.calls() if line.startswith("tools/train.py"))
    assert "[--max-iters] [7]" in first and "[--from-scratch]" in first and "load_from" not in first
    assert "[--max-iters] [5]" in second and "[load_from=ckpts/demo/nano_track_map.pth]" in second
    assert "[--from-scratch]" not in second, "stage 2 starts from stage 1"
    assert (tree.root / "projects/work_dirs/demo/stage2_e2e/nano_e2e/iter_5.pth").is_file()


# What a step of the demo reads of another one
READ_BY_THE_DEMO = [
    ("create_data", "train"), ("train", "held_loss"), ("train", "test"), ("train", "export_onnx"), ("test", "visualize"),
    ("export_onnx", "build_engine"), ("export_onnx", "verify"), ("export_onnx", "infer"), ("test", "make_video"),
    ("infer", "make_video"),
]  # fmt: skip


@pytest.mark.parametrize("given", [(), ("-j4",)])
def test_the_demo_makes_two_steps_at_once_each_after_what_it_reads(tree: Tree, given: tuple[str, ...]):
    said = tree.make(*given, "demo")
    assert said.returncode == 0 and "jobserver" not in said.stderr, said.stderr
    ran = tree.tools()
    assert sorted(ran) == sorted(DEMO)
    for before, after in READ_BY_THE_DEMO:
        assert len(ran) - 1 - ran[::-1].index(before) < ran.index(after), (before, after)


def test_the_demo_shares_the_cores(tree: Tree):
    """Half of them for each of two steps; a training, which is alone, has a process for each half. A GPU is not shared so."""
    cores = len(os.sched_getaffinity(0))
    shown = tree.done("-n", "demo")
    assert f"OMP_NUM_THREADS={max(1, cores // 2)} make -j2 demo-steps" in shown
    if cores == 1:
        pytest.skip("one core has no halves")
    assert "CPU_PROCESSES=2" in shown and "data.samples_per_gpu=1" in shown
    trained = [line for line in shown.splitlines() if "nano_e2e.py 2 --device cpu" in line]
    assert trained and all("uniad_dist_train.sh" in line for line in trained), "evaluation is one of two steps"
    for words in (("DEMO_JOBS=1",), ("GPUS=1",)):
        shown = tree.done("-n", "demo", *words)
        assert "OMP_NUM_THREADS" not in shown and "CPU_PROCESSES" not in shown and "samples_per_gpu" not in shown, words
    assert "samples_per_gpu" not in tree.done("-n", "demo", "VARIANT=tiny"), "its config has one clip a batch"


def test_a_world_is_drawn_while_the_environment_is_installed(tree: Tree):
    """Its tool needs no torch; what reads the world waits for all of the environment."""
    shown = tree.done("-n", "data", "DATASET=synthetic").splitlines()
    (begun,) = [n for n, line in enumerate(shown) if "setup_env.py" in line and "--part world" in line]
    (rest,) = [n for n, line in enumerate(shown) if "setup_env.py" in line and "--part world" not in line]
    (world,) = [n for n, line in enumerate(shown) if "tools/make_synthetic_nuscenes.py" in line]
    infos = min(n for n, line in enumerate(shown) if "tools/create_data.py" in line)
    assert begun < world < rest < infos


def test_demo_takes_another_variant(tree: Tree):
    tree.done("demo", "VARIANT=tiny", "DEMO_JOBS=1")
    assert tree.tools() == DEMO
    assert (tree.root / "ckpts/demo/tiny_imgx0.25_track_map.pth").is_file()


def test_train_leaves_upstream_names_and_does_nothing_twice(tree: Tree):
    tree.done("train")
    assert tree.tools() == TRAIN
    work = tree.root / "projects/work_dirs"
    assert (work / "stage1_track_map/tiny_imgx0.25_track_map/epoch_6.pth").is_file()
    assert (work / "stage2_e2e/tiny_imgx0.25_e2e/epoch_20.pth").is_file()
    for name in ("track_map", "e2e", "e2e_ep20"):
        assert (tree.root / f"ckpts/tiny_imgx0.25_{name}.pth").is_file()
    for target in ("train", "promote", "train-stage1", "train-stage2"):
        tree.done(target)
    assert tree.tools() == []
    assert "tools/" not in tree.done("-n", "train")


@pytest.mark.parametrize("stem, variant", [("full", "full"), ("nano", "nano")])
def test_other_variants_have_their_upstream_names(tree: Tree, stem: str, variant: str):
    tree.done("train", f"VARIANT={variant}")
    for name in ("track_map", "e2e", "e2e_ep20"):
        assert (tree.root / f"ckpts/{stem}_{name}.pth").is_file()


def test_a_stage_at_a_time_leaves_the_other_alone(tree: Tree):
    tree.done("train-stage1", "VARIANT=nano")
    assert tree.tools() == [*DATA, *STAGE1]
    assert not (tree.root / "ckpts/nano_track_map.pth").exists(), "not promoted yet"
    tree.done("train-stage2", "VARIANT=nano")
    assert tree.tools() == ["make_motion_anchors", *STAGE2]
    assert (tree.root / "ckpts/nano_track_map.pth").is_file(), "stage 2 starts from it"
    tree.done("train", "VARIANT=nano")
    assert tree.tools() == []


def test_eval_takes_the_second_stage_or_the_only_one_that_is_there_and_says_so(tree: Tree):
    def evaluated() -> str:
        (line,) = (line for line in tree.calls() if line.startswith("tools/uniad_dist_eval") or "/test.py" in line)
        return line

    tree.done("eval-stage1", "VARIANT=nano")
    assert "stage1_track_map/nano_track_map.py" in evaluated()
    assert "stage 1: the only one" in tree.done("eval", "VARIANT=nano", "EVAL_ARGS=--device cpu")
    assert "stage1_track_map/nano_track_map.py" in evaluated()
    assert "stage 1:" not in tree.done("eval", "VARIANT=nano", "STAGE=2")
    assert "stage2_e2e/nano_e2e.py" in evaluated()
    assert "stage 1:" not in tree.done("eval", "VARIANT=nano")
    assert tree.tools() == [], "and nothing twice"


def test_a_bare_tree_is_evaluated_after_both_stages(tree: Tree):
    tree.done("eval", "VARIANT=nano")
    assert tree.tools() == [*TRAIN, "test"]


def test_each_stage_can_have_a_length_of_its_own(tree: Tree):
    tree.done("train", "VARIANT=nano", "MAX_ITERS=9", "MAX_ITERS.2=4")
    first, second = (line for line in tree.calls() if line.startswith("tools/train.py"))
    assert "[--max-iters] [9]" in first and "[--max-iters] [4]" in second
    assert tree.make("train", "EPOCHS=1", "MAX_ITERS.2=4").returncode != 0


def test_a_changed_flag_rebuilds_what_depends_on_it_and_a_repeated_one_does_not(tree: Tree):
    tree.done("eval", "VARIANT=nano", "EPOCHS=2")
    tree.calls()
    tree.done("eval", "VARIANT=nano", "EPOCHS=2")
    assert tree.tools() == []
    tree.done("train", "eval", "VARIANT=nano", "EPOCHS=2", "SEED=1")
    assert tree.tools() == [*STAGE1, *STAGE2, "test"]
    tree.done("eval", "VARIANT=nano", "EPOCHS=2", "SEED=1", "EVAL_ARGS=--device cpu")
    assert tree.tools() == ["test"]
    tree.done("engine", "VARIANT=nano", "EPOCHS=2", "SEED=1")
    assert tree.tools() == ["export_onnx", "build_engine"]
    tree.done("engine", "VARIANT=nano", "EPOCHS=2", "SEED=1", "PRECISION=fp16")
    assert tree.tools() == ["convert_precision", "build_engine"]
    tree.done("engine", "VARIANT=nano", "EPOCHS=2", "SEED=1", "PRECISION=fp16", "COMPUTE_CAPABILITIES=8.6")
    assert tree.tools() == ["build_engine"]


def test_the_demo_and_real_training_do_not_disturb_each_other(tree: Tree):
    tree.done("train", "VARIANT=nano")
    tree.done("demo")
    tree.calls()
    tree.done("train", "VARIANT=nano")
    tree.done("demo")
    assert tree.tools() == ["demo_summary"]


def test_a_bigger_world_is_made_again_with_all_that_follows(tree: Tree):
    tree.done("train", "VARIANT=nano")
    tree.calls()
    tree.done("train", "VARIANT=nano", "SYNTH_TRAIN_SCENES=30")
    ran = tree.tools()
    assert sorted(ran) == sorted(TRAIN) and ran[:2] == DATA


def test_the_length_of_a_clip_is_said_in_all_its_places(tree: Tree):
    tree.done("eval", "VARIANT=nano")
    assert not any("queue_length" in line for line in tree.calls()), "unless asked for, the config's"
    tree.done("train", "eval", "VARIANT=nano", "QUEUE_LENGTH=3")
    calls = tree.calls()
    train, test = (next(line for line in calls if name in line) for name in ("tools/train.py", "test.py"))
    for word in ("queue_length=3", "model.queue_length=3", "data.train.queue_length=3"):
        assert f"[{word}]" in train
    assert "queue_length" not in test, "frames are evaluated one by one"


def test_touched_configs_are_not_changed_configs(tree: Tree):
    tree.done("train", "VARIANT=nano")
    tree.calls()
    base = tree.root / "projects/configs/_base_/default_runtime.py"
    base.touch()
    tree.done("train", "VARIANT=nano")
    assert tree.tools() == []
    base.write_text(base.read_text() + "cudnn_benchmark = True\n")
    tree.done("train", "VARIANT=nano")
    assert "train" in tree.tools()


@pytest.mark.parametrize("tool, product", [
    ("create_data", "data/synthetic/infos/nuscenes_infos_temporal_train.pkl"),
    ("make_motion_anchors", "data/synthetic/others/motion_anchor_infos_mode6.pkl"),
    ("export_onnx", "onnx/uniad_nano_cp.onnx"),
    ("verify", "onnx/uniad_nano_cp.onnx.verify.json"),
    ("build_engine", "engines/uniad_nano_cp.fp32.tensorrt_rtx.engine"),
])  # fmt: skip
def test_a_failed_step_leaves_no_product_and_is_done_again(tree: Tree, tool: str, product: str):
    goals = ("verify", "engine", "VARIANT=nano")
    result = tree.make(*goals, FAIL=tool, LEAVE=product)
    assert result.returncode != 0
    assert not (tree.root / product).exists(), "what a failing recipe wrote must go"
    tree.calls()
    tree.done(*goals)
    assert tool in tree.tools() and (tree.root / product).exists()


def test_a_checkpoint_stays_when_the_training_that_wrote_it_ends_badly(tree: Tree):
    """It is whole or not there: the trainer renames it into place. Days of training must not go with it."""
    product = "projects/work_dirs/stage1_track_map/nano_track_map/epoch_6.pth"
    assert tree.make("train", "VARIANT=nano", FAIL="train", LEAVE=product).returncode != 0
    assert (tree.root / product).exists() and not (tree.root / "ckpts/nano_track_map.pth").exists()


def test_an_interrupted_run_goes_on_by_the_same_command(tree: Tree):
    tree.make("train", "VARIANT=nano", FAIL="train")
    tree.done("train", "VARIANT=nano")
    last = [line for line in tree.calls() if line.startswith("tools/train.py")]
    assert len(last) == 3 and last[0] == last[1] and all("[--resume] [auto]" in line for line in last)


def test_an_engine_asked_for_between_the_stages_is_that_of_the_second(tree: Tree):
    """Else the same command, typed again after an interruption, would make something else."""
    tree.done("train-stage1", "promote", "VARIANT=nano", "STAGE=2")
    tree.calls()
    tree.done("engine", "VARIANT=nano")
    assert (tree.root / "engines/uniad_nano_cp.fp32.tensorrt_rtx.engine").exists()


def test_without_published_weights_training_says_what_to_do(tree: Tree):
    (tree.root / "data/nuscenes/v1.0-trainval").mkdir(parents=True)
    (tree.root / "data/nuscenes/v1.0-trainval/sample.json").write_text("[]")
    result = tree.make("train", "VARIANT=tiny", "DATASET=nuscenes", "BEVFORMER=http://127.0.0.1:9")
    assert result.returncode != 0
    assert "ckpts/bevformer_tiny_epoch_24.pth is missing" in result.stderr and "FROM_SCRATCH=1" in result.stderr
    assert "WEIGHTS_DIR" in result.stderr
    tree.calls()
    tree.done("train", "VARIANT=tiny", "DATASET=nuscenes", "FROM_SCRATCH=1")
    train = next(line for line in tree.calls() if line.startswith("tools/train.py"))
    assert "[--from-scratch]" in train and "data_root" not in train


def test_infos_that_somebody_brought_stay(tree: Tree):
    root = tree.root / "data"
    for path in ("infos/nuscenes_infos_temporal_train.pkl", "infos/nuscenes_infos_temporal_val.pkl",
                 "nuscenes/v1.0-trainval/sample.json"):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("theirs")
        time.sleep(0.01)
    tree.done("data", "DATASET=nuscenes")
    assert tree.tools() == []
    assert (root / "infos/nuscenes_infos_temporal_train.pkl").read_text() == "theirs"


def test_absent_nuscenes_is_one_line(tree: Tree):
    tree.done("configure")
    result = tree.make("data", "DATASET=nuscenes")
    assert result.returncode != 0 and "data/nuscenes/v1.0-trainval/sample.json is missing" in result.stderr
    assert tree.calls() == []


@pytest.mark.parametrize("setting, hint", [
    ("VARIANT=small", "choose full, tiny, nano"),
    ("VARIANT=", "choose full, tiny, nano"),
    ("VARIANT=tiny nano", "choose full, tiny, nano"),
    ("STACK=torch2", "choose native, torch1.12"),
    ("TOOLS_RUNTIME=podman", "choose host"),
    ("RUNTIME=lxc", "choose host, docker, podman"),
    ("DATASET=kitti", "choose synthetic, nuscenes"),
    ("PRECISION=fp8", "choose fp32, fp16, int8"),
    ("TRAIN_PRECISION=half", "choose fp32, tf32, bf16, fp16"),
    ("EXPORT_SAMPLING=nearest", "choose gridsample, gather, plugin"),
    ("ENGINE_BACKEND=tvm", "choose tensorrt_rtx, tensorrt"),
    ("STAGE=3", "choose 0, 1, 2"),
    ("EPOCHS=six", "no whole number"),
    ("QUEUE_LENGTH=3.5", "no whole number"),
    ("SEED=-1", "no whole number"),
    ("GPUS=two", "no whole number"),
    ("FROM_SCRATCH=yes", "choose 0, 1"),
    ("VENV=my env", "no blank"),
    ("DATA_DIR=a b", "no blank"),
    ("HOST_PYTHON=python9", "was not found"),
])  # fmt: skip
def test_a_wrong_value_stops_at_once_with_one_line_and_the_choices(tree: Tree, setting: str, hint: str):
    result = tree.make("train", setting)
    assert result.returncode != 0
    assert tree.calls() == []
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    output = [line for line in lines if setting.split("=")[0] in line]
    assert len(output) == 1 and hint in output[0], result.stderr
    assert len(lines) <= 2, result.stderr


def test_two_lengths_of_training_are_refused(tree: Tree):
    result = tree.make("train", "EPOCHS=1", "MAX_ITERS=3")
    assert result.returncode != 0 and "give one" in result.stderr


def test_no_value_reaches_the_shell_as_anything_but_a_value(tree: Tree):
    nasty = "model.x='\"`:>pwned`;:>pwned2|&><*?~\\"
    tree.done("train", "VARIANT=nano", f"CFG_OPTIONS={nasty}")
    assert not list(tree.root.glob("pwned*"))
    assert f"[{nasty}]" in next(line for line in tree.calls() if line.startswith("tools/train.py"))


@pytest.mark.parametrize("gpus, nodes, launcher", [("0", "1", False), ("1", "1", False), ("4", "1", True), ("8", "2", True)])
def test_more_than_one_process_goes_through_torchrun(tree: Tree, gpus: str, nodes: str, launcher: bool):
    shown = tree.done("-n", "train", "VARIANT=nano", f"GPUS={gpus}", f"NNODES={nodes}", "MASTER_ADDR=first")
    total = int(gpus) * int(nodes)  # the script counts the GPUs of all machines, make those of each
    assert (f"tools/uniad_dist_train.sh projects/configs/stage1_track_map/nano_track_map.py {total} " in shown) == launcher


def test_several_machines_need_to_know_the_first(tree: Tree):
    result = tree.make("train", "NNODES=2", "GPUS=8")
    assert result.returncode != 0 and "NNODES=2 needs MASTER_ADDR" in result.stderr


def test_clean_keeps_what_took_long(tree: Tree):
    tree.done("train", "VARIANT=nano")
    tree.done("demo")
    tree.calls()
    tree.done("clean")
    assert not (tree.root / "ckpts/demo").exists()
    tree.done("train", "VARIANT=nano")
    assert tree.tools() == []


def test_make_works_from_a_folder_with_a_blank_in_its_name(tree: Tree):
    moved = Path(tree.root.parent) / f"{tree.root.name} with blank"
    tree.root.rename(moved)
    Tree(moved).done("train", "VARIANT=nano")
    assert (moved / "ckpts/nano_track_map.pth").is_file()


def test_anchors_lie_beside_their_infos_and_are_made_once(tree: Tree):
    tree.done("anchors", "DATASET=synthetic")
    assert tree.tools() == ["make_synthetic_nuscenes", "create_data", "make_motion_anchors"]
    assert (tree.root / "data/synthetic/others/motion_anchor_infos_mode6.pkl").is_file()
    tree.done("anchors", "DATASET=synthetic")
    assert tree.tools() == []


def test_published_anchors_stay_as_they_are(tree: Tree):
    sample = tree.root / "data/nuscenes/v1.0-trainval/sample.json"
    published = tree.root / "data/others/motion_anchor_infos_mode6.pkl"
    for path in (sample, published):
        path.parent.mkdir(parents=True)
        path.write_text("theirs")
    tree.done("anchors", "DATASET=nuscenes")
    assert "make_motion_anchors" not in tree.tools()
    assert published.read_text() == "theirs"
