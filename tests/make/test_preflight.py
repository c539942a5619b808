"""Preflight: what is certain to fail is an error before anything else runs, what may work is a note, days are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO
from helpers.make_tree import Tree

sys.path.insert(0, str(REPO / "tools"))
import machine  # noqa: E402
import preflight  # noqa: E402

A40, RTX = machine.Gpu("A40", (8, 6), 45), machine.Gpu("RTX 3090", (8, 6), 24)
FULL = ("--variant", "full", "--shm", "32g", "--shm-size", "32g", "--gpu-gib", "32")
PACE = "native=2.0,1.34 torch1.12=8.2,4.9 torch1.12.cpu=63,29"


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A machine that lacks nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "gpus", lambda: [A40] * 8)
    monkeypatch.setattr(machine, "engines", lambda: {"docker": "answers"})
    monkeypatch.setattr(machine, "engine_has_gpus", lambda name: True)
    monkeypatch.setattr(machine, "shm_gib", lambda: 64.0)
    monkeypatch.setattr(machine, "memory_gib", lambda: 256.0)
    monkeypatch.setattr(machine, "free_gib", lambda path: 500.0)


def inspected(*words: str) -> preflight.Report:
    return preflight.inspect(preflight.parse_args(["--variant", "tiny", *words]))


def test_a_machine_that_lacks_nothing_hears_nothing():
    for stack in ("native", "torch1.12"):
        assert inspected("--stack", stack, "--runtime", "docker", "--gpu-count", "8", *FULL) == preflight.Report()


def test_nuscenes_that_is_not_there_is_an_error(tmp_path: Path):
    report = inspected("--dataset", "nuscenes", "--data", "data/nuscenes")
    assert len(report.errors) == 1
    assert "data/nuscenes holds no nuScenes v1.0-trainval" in report.errors[0] and "DATASET=synthetic" in report.errors[0]
    tables = tmp_path / "data/nuscenes/v1.0-mini"
    tables.mkdir(parents=True)
    (tables / "sample.json").write_text("[]")
    words = ("--dataset", "nuscenes", "--data", "data/nuscenes", "--nusc-version", "v1.0-mini", "--infos", "infos.pkl")
    (error,) = inspected(*words).errors
    assert "no infos can be made of it" in error and "sample_data.json" in error
    (tmp_path / "infos.pkl").touch()
    report = inspected(*words)
    assert not report.errors and "is not complete" in report.notes[0], "who has infos may have what they name"


def test_a_can_bus_that_lies_elsewhere_or_is_absent_holds_nothing_up(tmp_path: Path, tree: Tree):
    data = tmp_path / "drive"
    for name in ("v1.0-trainval/scene.json", "messages/can_bus/scene-0001_pose.json"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("[]")
    (data / "v1.0-trainval/sample.json").write_text("[]")
    words = ("--dataset", "nuscenes", "--data", str(data), "--infos", "absent.pkl")
    assert "CAN bus" in "".join(preflight.dataset_problems(data, "v1.0-trainval"))
    for more in ("--without-canbus", f"--max-sweeps 5 --canbus {data}/messages", f"--canbus={data}/messages"):
        assert "CAN bus" not in "".join(preflight.dataset_problems(data, "v1.0-trainval", more))
        (error,) = inspected(*words, f"--data-args={more}").errors
        assert "CAN bus" not in error, "the tables that are missing, alone"
    planned = tree.make("-n", "preflight", "DATASET=nuscenes", "DATA_ARGS=--without-canbus --max-sweeps 5").stdout
    assert "--data-args='--without-canbus --max-sweeps 5'" in planned


@pytest.mark.parametrize("engine, gpus, hint", [
    ({}, [A40], "neither docker nor podman is installed"),
    ({"docker": "permission denied"}, [A40], "permission denied"),
    ({"docker": "answers"}, [machine.Gpu("B200", (10, 0), 180)], "B200.*STACK=native can"),
])  # fmt: skip
def test_a_container_that_cannot_start_is_an_error(engine, gpus, hint: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "engines", lambda: engine)
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    (error,) = inspected("--stack", "torch1.12", "--runtime", "docker", "--gpu-count", "1").errors
    assert re.search(hint, error)


def test_shared_memory(monkeypatch: pytest.MonkeyPatch):
    small = ("--runtime", "docker", "--variant", "full", "--shm", "32g", "--shm-size", "512m")
    (error,) = inspected("--stack", "torch1.12", *small).errors
    assert error == "SHM_SIZE=512m: data loading of full needs 32 GiB: SHM_SIZE=32g, or none"
    report = inspected("--stack", "native", *small)
    assert not report.errors and report.notes, "the native image starts, and may do"
    assert inspected("--stack", "torch1.12", *small, "--no-workers").errors, "upstream's asks all the same"
    assert not inspected("--stack", "native", *small, "--no-workers").notes
    monkeypatch.setattr(machine, "shm_gib", lambda: 0.0625)
    (note,) = inspected("--variant", "tiny", "--shm", "8g").notes
    assert "/dev/shm has 0.1 GiB" in note and "workers_per_gpu=0" in note
    assert inspected("--variant", "tiny", "--shm", "8g", "--no-workers") == preflight.Report()


def test_little_gpu_memory_is_a_note_with_the_workflow_s_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda: [A40, RTX])
    words = ("--stack", "torch1.12", "--runtime", "docker", "--gpu-count", "2", *FULL)
    report = inspected(*words)
    (note,) = report.notes
    assert not report.errors and "RTX 3090" in note and "32 GB" in note and "QUEUE_LENGTH=3" in note and "48 GB" in note
    assert "QUEUE_LENGTH=3" not in inspected(*words, "--queue-length", "3").notes[0]
    monkeypatch.setattr(machine, "gpus", lambda: [machine.Gpu("V100-32GB", (7, 0), 31.7)])
    assert inspected(*words) == preflight.Report(), "a 32 GB GPU shows a little less"


@pytest.mark.parametrize("words, days", [
    (("--stack", "torch1.12", "--runtime", "docker", "--gpu-count", "8"), "2.0 + 4.0 days on 8 GPUs"),  # as upstream says
    (("--stack", "torch1.12", "--runtime", "docker", "--gpu-count", "8", "--nodes", "4"), "0.5 + 1.0 days on 32 GPUs"),
    (("--gpu-count", "1"), "3.9 + 8.7 days on 1 GPU "),
    (("--gpu-count", "1", "--stages", "1"), "3.9 days"),
    (("--stack", "torch1.12", "--gpu-count", "0", "--iterations", "3000", "1000"), "2.2 + 0.3 days on two CPU cores"),
])  # fmt: skip
def test_what_takes_more_than_a_day_is_told_with_what_is_quicker(words: tuple[str, ...], days: str):
    (note,) = inspected("--variant", "full", "--pace", PACE, *words).notes
    assert f"takes about {days}" in note and "Quicker: " in note and "time left" in note


def test_what_takes_less_is_not(tmp_path: Path):
    assert inspected("--gpu-count", "1", "--frames", "800", "--pace", PACE) == preflight.Report()
    assert inspected("--gpu-count", "1", "--iterations", "500", "--pace", PACE) == preflight.Report()
    # 0: this stage's length is in epochs
    epochs = ("--gpu-count", "0", "--stack", "torch1.12", "--frames", "1000", "--epochs", "3", "20", "--pace", PACE)
    (note,) = inspected(*epochs, "--iterations", "0", "1000").notes
    assert "2.2 + 0.3 days on two CPU cores" in note
    assert inspected("--gpu-count", "1", "--variant", "mine") == preflight.Report(), "a variant that nobody timed"


def test_the_driver_is_asked_and_the_answer_is_one_line_each(tmp_path: Path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3090, 8.6, 24576'\n")
    smi.chmod(0o755)
    done = subprocess.run(
        [sys.executable, REPO / "tools/preflight.py", "--gpu-count", "1", *FULL, "--dataset", "nuscenes"], cwd=tmp_path,
        text=True, capture_output=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: data/nuscenes holds no")
    assert "note: NVIDIA GeForce RTX 3090 (sm_86, 24 GiB): upstream names 32 GB" in done.stdout


# --- in the build graph -----------------------------------------------------------------------------------------------------
def test_it_comes_before_everything_that_takes_long(tree: Tree):
    native = tree.done("-n", "train", "VARIANT=tiny", "DATASET=synthetic", "STACK=native", "RUNTIME=host")
    lines = [line for line in native.splitlines() if "tools/" in line]
    assert "tools/preflight.py" in lines[0] and "--shm 8g" in lines[0].replace("'", "")
    for goals in (("clone",), ("data",), ("export", "CKPT=ckpts/mine.pth")):
        (tree.root / "ckpts").mkdir(exist_ok=True)
        (tree.root / "ckpts/mine.pth").touch()
        assert "preflight" not in tree.done("-n", *goals, "DATASET=synthetic", "STACK=native", "RUNTIME=host"), goals


def test_it_is_asked_while_something_is_to_be_trained(tree: Tree):
    goals = ("train", "VARIANT=nano", "DATASET=synthetic", "STACK=native", "RUNTIME=host", "GPUS=0", "SYNTH_TRAIN_SCENES=900")
    tree.calls()
    text = tree.done(*goals)
    assert text.count("note: training nano takes about") == 1, text
    assert "note:" not in tree.done(*goals)
    (tree.root / "data/nuscenes").mkdir(parents=True)
    tree.calls()
    failed = tree.make("train", "VARIANT=tiny", "DATASET=nuscenes", "STACK=native", "RUNTIME=host", "-j8")
    assert failed.returncode != 0 and "data/nuscenes holds no nuScenes" in failed.stderr
    assert not any("fetch" in call or "create_data" in call for call in tree.calls())
    assert not (tree.root / "ckpts/bevformer_tiny_epoch_24.pth").exists()


def test_an_engine_that_nothing_runs_in_is_not_asked(tree: Tree):
    line = tree.done("-n", "preflight", "STACK=native", "RUNTIME=docker", "TOOLS_RUNTIME=host", "DATASET=synthetic")
    assert "--runtime host" in line
    assert "--runtime docker" in tree.done("-n", "preflight", "STACK=torch1.12", "RUNTIME=docker", "TOOLS_RUNTIME=host", "GPUS=0")


def test_every_variant_s_row_can_be_read():
    text = (REPO / "mk/variants.mk").read_text()
    for pace in re.findall(r"^PACE\.\w+ := (.*)$", text, re.M):
        assert all(len(seconds) == 2 for seconds in preflight.paces(pace).values()), pace
    assert json.dumps(preflight.paces("native=1,2")) == '{"native": [1.0, 2.0]}'


def test_a_reader_says_that_a_run_of_another_length_is_there(tree: Tree):
    """`make train-stage1 MAX_ITERS=2` and then `make eval-stage1`, which would train six epochs."""
    words = ("VARIANT=nano", "STACK=native", "RUNTIME=host", "DATASET=synthetic", "GPUS=0", "RECIPE=0", "FROM_SCRATCH=1")
    assert "trains it first; CKPT=FILE takes one that you have\n" in tree.done("-n", "eval-stage1", *words)
    tree.done("train-stage1", "MAX_ITERS=2", *words)
    told = "stage1_track_map/nano_track_map/ has iter_2.pth: give that run's MAX_ITERS or EPOCHS too, or its file as CKPT"
    assert told in tree.done("-n", "eval-stage1", *words)
    said = tree.done("-n", "eval-stage1", "MAX_ITERS=2", *words)
    assert told not in said and "tools/train.py" not in said


def test_stage_0_is_looked_at_where_it_is_trained_and_its_log_drawn(tree: Tree):
    def stages(*words: str) -> str:
        shown = tree.done("-n", *words, "VARIANT=nano", "DATASET=synthetic")
        (line,) = [line for line in shown.splitlines() if "preflight" in line]
        return line.partition("--stages ")[2].partition(" --epochs ")[0]

    assert stages("train-stage0") == "0" and stages("eval-stage0") == "0"
    assert stages("train", "STAGE0=1") == "0 1 2" and stages("train-stage1", "STAGE0=1") == "0 1"
    assert stages("train", "MAX_ITERS=2") == "1 2"
    (note,) = inspected("--stages", "0", "--gpu-count", "1", "--pace", PACE).notes
    assert "stage 0 of tiny takes 24 epochs, 675,120 iterations of one clip; nobody has timed one" in note
    assert not inspected("--stages", "0", "--gpu-count", "1", "--pace", PACE, "--iterations0", "9").notes
    both = inspected("--stages", "0", "1", "--gpu-count", "1", "--pace", PACE).notes
    assert "stage 0" in both[0] and "3.9 days" in both[1]
    for stage in ("bevformer/nano_bevformer", "stage1_track_map/nano_track_map"):
        (tree.root / "projects/work_dirs" / stage).mkdir(parents=True)
        (tree.root / "projects/work_dirs" / stage / "train.jsonl").touch()
    drawn = tree.done("-n", "plot", "VARIANT=nano", "DATASET=synthetic")
    assert drawn.index("bevformer/nano_bevformer") < drawn.index("stage1_track_map/nano_track_map")
