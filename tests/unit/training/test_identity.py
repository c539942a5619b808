"""What makes two trainings one run, and what does not."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO
from uniad.config.read import load_spec
from uniad.files import sha256
from uniad.training import identity
from uniad.training.arguments import parser
from uniad.training.state import differences, flatten

CONFIGS = REPO / "projects/configs"
STAGE1 = str(CONFIGS / "stage1_track_map/nano_track_map.py")
STAGE2 = str(CONFIGS / "stage2_e2e/nano_e2e.py")


def settings(*words: str) -> dict:
    return identity.settings(parser().parse_args(words))


@pytest.mark.parametrize("words", [
    "--workers 0", "--recompute", "--no-tensorboard", "--save-every 5m", "--device cpu", "--launcher pytorch", "--stop-after 3",
    "--work-dir /elsewhere --data-root /mnt --info-root /mnt",
    "--cfg-options data.workers_per_gpu=0", "--cfg-options model.score_thresh=0.1 model.filter_score_thresh=0.05",
    "--cfg-options data_root=/mnt/nuscenes/ info_root=/mnt/infos/ anchor_root=/mnt/others/",
    "--cfg-options native.image_cache=exact native.image_cache_dir=/dev/shm/cache",
    "--cfg-options log_config.interval=1 checkpoint_config.interval=2 evaluation.interval=3",
    "--cfg-options load_from=/elsewhere/stage1.pth work_dir=/elsewhere",
    "--cfg-options model.planning_head.use_col_optim=False model.occ_head.test_seg_thresh=0.2",
    "--cfg-options native.collision_optimiser=points",
])  # fmt: skip
def test_what_changes_no_number_is_the_same_run(words: str):
    assert settings(STAGE2, *words.split()) == settings(STAGE2)


@pytest.mark.parametrize("words, key", [
    ("--seed 1", "seed"), ("--precision bf16", "precision"), ("--max-iters 10", "max_iters"), ("--max-epochs 3", "max_epochs"),
    ("--from-scratch", "from_scratch"), ("--shared-history", "shared_history"), ("--dense-bev", "dense_bev"),
    ("--no-regularisation", "no_regularisation"), ("--samples-per-gpu 4", "data.samples_per_gpu"),
    ("--cfg-options optimizer.lr=1e-3", "optimizer.lr"), ("--cfg-options total_epochs=3", "total_epochs"),
    ("--cfg-options queue_length=3", "model.queue_length"), ("--cfg-options data.samples_per_gpu=4", "data.samples_per_gpu"),
    ("--cfg-options native.image_cache=scaled", "native.image_cache"),
    ("--cfg-options native.track_capacity=32", "native.track_capacity"),
    ("--cfg-options model.gt_iou_threshold=0.5", "model.gt_iou_threshold"),
])  # fmt: skip
def test_what_numbers_depend_on_is_another_run(words: str, key: str):
    found = identity.differences(settings(STAGE2), settings(STAGE2, *words.split()))
    assert any(line.startswith(key) for line in found), found


def test_clips_a_process_are_the_same_however_they_are_said():
    assert settings(STAGE1, "--samples-per-gpu", "4") == settings(STAGE1, "--cfg-options", "data.samples_per_gpu=4")


def test_comments_order_and_other_files_are_not_read(tmp_path: Path):
    for folder in CONFIGS.rglob("*.py"):
        target = tmp_path / folder.relative_to(CONFIGS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("# a comment\n" + folder.read_text())
    (tmp_path / "stage1_track_map/mine.py").write_text('_base_ = ["./nano_track_map.py"]\noptimizer = dict(lr=1.0)\n')
    assert settings(str(tmp_path / "stage2_e2e/nano_e2e.py")) == settings(STAGE2)
    assert settings(str(tmp_path / "stage1_track_map/mine.py")) != settings(STAGE1)


@pytest.mark.parametrize("words", [
    "model.score_thresh=0.1", "model.filter_score_thresh=0.05", "data.workers_per_gpu=0", "native.image_cache_dir=/x",
    "model.occ_head.test_seg_thresh=0.2", "model.planning_head.use_col_optim=False", "info_root=/mnt/", "log_config.interval=1",
    "evaluation.interval=9", "load_from=x.pth", "model.occ_head.test_with_track_score=False", "native.image_cache=exact",
    "native.collision_optimiser=points",
])  # fmt: skip
def test_a_checkpoint_says_no_difference_where_the_run_is_the_same(words: str):
    """The two spellings, config keys before training and spec keys in a checkpoint, stand for the same list."""
    assert settings(STAGE2, "--cfg-options", words) == settings(STAGE2)
    assert differences(load_spec(STAGE2, [words]), json.dumps(flatten(load_spec(STAGE2)))) == []


def test_keys_that_an_earlier_version_kept_unread_are_no_difference():
    saved = flatten(load_spec(STAGE2)) | {"model.map.quality_threshold_stuff": 0.25, "data.occ_filter_invalid_sample": False}
    assert differences(load_spec(STAGE2), json.dumps(saved)) == []


def test_checkpoints_name_the_parts_of_stage_2_as_ever():
    """What a checkpoint holds and what it is compared with: names of its parts stand beside those of stage 1, empty there."""
    one, two = (flatten(load_spec(config)) for config in (STAGE1, STAGE2))
    empty = {"model.motion": None, "model.occ": None, "model.plan": None, "model.agent_capacity": 0}
    assert {key: one[key] for key in empty} == empty
    assert two["model.agent_capacity"] == 64 and two["model.motion.predict_modes"] == 6 and "model.plan.use_col_optim" in two
    assert not [key for key in (*one, *two) if "stage2" in key]


def test_harmless_keys_are_keys_of_a_spec():
    known = set(flatten(load_spec(STAGE2)))
    assert identity.HARMLESS_SPEC_KEYS <= known, identity.HARMLESS_SPEC_KEYS - known
    assert dataclasses.is_dataclass(load_spec(STAGE2))


def test_the_same_run_goes_on_in_its_directory(tmp_path: Path):
    work, wanted = tmp_path / "run", settings(STAGE1)
    assert identity.claim(work, wanted) is None
    (work / "epoch_1.pth").write_text("weights")
    assert identity.claim(work, settings(STAGE1, "--workers", "3")) is None
    assert (work / "epoch_1.pth").exists()


@pytest.mark.parametrize("what, other", [
    ("seed", {"seed": 1}), ("optimizer.lr: 0.0008 -> 1.0", {"optimizer.lr": 1.0}),
    ("content of infos.pkl", {"sha256 infos.pkl": "b"}),
])  # fmt: skip
def test_another_run_gets_a_fresh_directory_and_nothing_is_lost(tmp_path: Path, what: str, other: dict):
    work, wanted = tmp_path / "run", {**settings(STAGE1), "sha256 infos.pkl": "a"}
    identity.claim(work, wanted)
    (work / "epoch_1.pth").write_text("weights")
    output = identity.claim(work, {**wanted, **other})
    assert output is not None and what in output and len(output.splitlines()) == 1
    assert not list(work.glob("*.pth"))
    (aside,) = [p for p in tmp_path.iterdir() if p.name.startswith("run.")]
    assert (aside / "epoch_1.pth").read_text() == "weights" and str(aside) in output


def test_a_run_that_make_did_not_start_or_an_earlier_version_did_is_taken_over(tmp_path: Path):
    for name, record in (("none", None), ("old", '{"config": "x", "options": "--seed 0 --save-every 5m", "data": "y"}'),
                         ("other", '{"options": "--no-such"}'), ("list", "[]"), ("broken", "{")):  # fmt: skip
        work = tmp_path / name
        work.mkdir()
        (work / "epoch_1.pth").write_text("weights")
        if record is not None:
            (work / identity.RECORD).write_text(record)
        assert identity.claim(work, settings(STAGE1)) is None
        assert (work / "epoch_1.pth").exists() and identity.record_of(work, {}) == settings(STAGE1)


def test_of_an_earlier_version_s_record_the_command_line_counts(tmp_path: Path):
    work = tmp_path / "run"
    work.mkdir()
    (work / identity.RECORD).write_text('{"config": "x", "options": "--seed 0 --max-iters 65 --shared-history", "data": "y"}')
    output = identity.claim(work, settings(STAGE1, "--max-iters", "6", "--shared-history"))
    assert output is not None and "max_iters: 65 -> 6" in output


def test_a_digest_is_read_once_and_again_when_the_file_changed(tmp_path: Path):
    infos, cache = tmp_path / "infos.pkl", tmp_path / "digests.json"
    infos.write_bytes(b"one")
    assert identity.known_digest(infos, cache) is None
    assert identity.file_digest(infos, cache) == sha256(infos) == identity.known_digest(infos, cache)
    infos.write_bytes(b"other")
    assert identity.known_digest(infos, cache) is None and identity.file_digest(infos, cache) == sha256(infos)
    assert identity.known_digest(tmp_path / "absent", cache) is None


def test_make_can_ask_with_nothing_installed(tmp_path: Path):
    asked = [sys.executable, "-I", "-S", str(REPO / "mk/lib/claim_work_dir.py"), "state", str(tmp_path / "run"), "--", STAGE1]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout == "new\n", done.stderr
