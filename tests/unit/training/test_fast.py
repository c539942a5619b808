"""What is picked for a machine: driven with GPUs that are not here, for each variant and stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.specs import edit, full_spec, nano_spec, tiny_spec
from helpers.toy_training import ToyModel
from uniad.errors import UserError
from uniad.training import fast, identity
from uniad.training.arguments import parser
from uniad.training.distributed import World
from uniad.training.fast import Gpu, Load, Settings, Wish, pick
from uniad.training.options import TrainOptions
from uniad.training.run import RunOptions, settle

H200 = Gpu("NVIDIA H200", (9, 0), 139.0)
A100 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 39.0)
RTX3090 = Gpu("NVIDIA GeForce RTX 3090", (8, 6), 23.4)
RTX2080 = Gpu("NVIDIA GeForce RTX 2080 Ti", (7, 5), 10.6)
T4 = Gpu("Tesla T4", (7, 5), 14.5)
SMALL = Gpu("NVIDIA GeForce RTX 3070", (8, 6), 7.6)
V100 = Gpu("Tesla V100", (7, 0), 31.0)
FULL1, FULL2 = Load("full_track_map", "frozen", 1, 5, 1.0), Load("full_e2e", "frozen", 1, 3, 1.0)
TINY1, TINY2 = Load("tiny_imgx0.25_track_map", "frozen", 1, 5, 0.5), Load("tiny_imgx0.25_e2e", "frozen", 1, 3, 0.5)
TINY_SCRATCH = Load("tiny_imgx0.25_track_map", "all", 8, 3, 0.5)
NANO1, NANO2 = Load("nano_track_map", "all", 2, 2, 0.1), Load("nano_e2e", "frozen", 2, 2, 0.1)
ANY = Wish()


@pytest.mark.parametrize("load", [FULL1, FULL2, TINY1, TINY2, TINY_SCRATCH, NANO1, NANO2], ids=lambda load: load.config)
@pytest.mark.parametrize(
    ("gpu", "precision"),
    [(H200, "bf16"), (A100, "bf16"), (RTX3090, "bf16"), (SMALL, "bf16"), (RTX2080, "fp16"), (T4, "fp16"), (V100, "fp16")],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_gpu_gets_its_halves_and_a_graph_and_one_line_says_so(load: Load, gpu: Gpu, precision: str):
    settings, line = pick(ANY, [gpu], load)
    assert (settings.precision, settings.cuda_graph, settings.channels_last) == (precision, True, True)
    assert settings.compile and settings.fold_norms and "compiled layers and losses" in line and "frozen norms folded" in line
    assert "\n" not in line and gpu.name in line and precision in line and "TRAIN_PRECISION=fp32 FAST=0" in line


@pytest.mark.parametrize(
    ("load", "gpu", "recompute"),
    [
        (FULL1, H200, False), (FULL1, A100, False), (FULL1, RTX3090, True), (FULL1, V100, True), (FULL1, SMALL, True),
        (FULL2, H200, False), (FULL2, RTX3090, False), (FULL2, T4, True), (FULL2, RTX2080, True),
        (TINY1, SMALL, False), (TINY2, SMALL, False), (TINY1, T4, False), (TINY_SCRATCH, RTX3090, True),
        (TINY_SCRATCH, A100, False), (NANO1, SMALL, False),
    ],
)  # fmt: skip
def test_memory_is_saved_only_where_it_is_short(load: Load, gpu: Gpu, recompute: bool):
    assert pick(ANY, [gpu], load).settings.recompute is recompute


def test_what_nobody_measured_is_said():
    assert "was not measured" in pick(ANY, [SMALL], NANO1).line
    settings, line = pick(ANY, [SMALL], FULL1)  # 13.6 GiB with recomputation; fewer frames at once were not measured
    assert settings.frames_at_once == 1 and "not measured" in line and "QUEUE_LENGTH=3" in line


@pytest.mark.parametrize("config", ["a_fork_e2e", "b2d-tiny_e2e"])
def test_where_nothing_was_measured_a_large_model_is_recomputed_unless_memory_is_plenty(config: str):
    load = Load(config, "frozen", 1, 5, 1.0)
    for gpu, recompute, words in ((A100, True, "recomputed, to be safe"), (H200, False, "nothing is saved")):
        settings, line = pick(ANY, [gpu], load)
        assert settings.recompute is recompute
        assert f"memory of 1 clip of 5 frames of {config} was not measured: " in line and words in line and "\n" not in line


def test_need_grows_with_clips_and_frames_but_for_the_weights():
    half = Settings("bf16", True, True)
    assert fast.need_gib(half, FULL1) == pytest.approx(32.5)
    assert fast.need_gib(half, FULL1._replace(frames=3)) == pytest.approx(1.0 + (32.5 - 1.0) * 3 / 5)
    assert fast.need_gib(Settings("fp32"), FULL1) == pytest.approx(44.5)
    assert fast.need_gib(Settings("fp32", recompute=True), FULL1) > 2 * fast.need_gib(Settings("bf16", recompute=True), FULL1) - 2
    assert fast.need_gib(half, NANO1) is None


@pytest.mark.parametrize("gpus", [[H200, SMALL], [RTX2080, H200]])
def test_of_several_gpus_the_weakest_decides(gpus):
    weakest = min(gpus, key=lambda gpu: gpu.capability)
    settings, line = pick(ANY, gpus, FULL1)
    assert weakest.name in line and settings.recompute and settings.precision == ("fp16" if RTX2080 in gpus else "bf16")


def test_a_cpu_computes_as_upstream():
    settings, line = pick(ANY, [], NANO1)
    assert settings == Settings() and "fp32" in line
    assert pick(Wish("bf16"), [], NANO1).settings.precision == "bf16"
    with pytest.raises(UserError, match="--cuda-graph needs a GPU"):
        pick(Wish(cuda_graph=True), [], NANO1)
    with pytest.raises(UserError, match="precision fp16 needs a GPU"):
        pick(Wish("fp16"), [], NANO1)


def test_upstream_s_exact_path_is_two_settings_away():
    assert pick(Wish("fp32", fast=False), [H200], FULL1).settings == Settings()
    assert pick(Wish(fast=False), [H200], FULL1).settings == Settings()
    assert pick(Wish("bf16", True, fast=False), [H200], FULL1).settings == Settings("bf16", True)


def test_what_is_named_is_taken():
    assert pick(Wish("tf32"), [H200], FULL1).settings.precision == "tf32"
    named = pick(Wish(recompute=True, frames_at_once=2), [H200], FULL1).settings
    assert named == Settings("bf16", True, True, True, 2, compile=True, fold_norms=True)
    with pytest.raises(UserError, match="needs a GPU of compute capability 8.0"):
        pick(Wish("bf16"), [T4], FULL1)


def test_a_run_goes_on_as_it_was_begun_or_says_why_not():
    begun = fast.recorded(pick(ANY, [RTX3090], FULL1).settings)
    settings, line = pick(ANY, [H200], FULL1, begun)
    assert settings.recompute and "bf16 as the run was begun" in line and "as in the steps before" in line
    settings, line = pick(ANY, [H200], FULL1, fast.recorded(Settings()))  # on a CPU, or as upstream
    assert settings.precision == "fp32" and settings.cuda_graph and "fp32 as the run was begun" in line
    with pytest.raises(UserError, match="begun in bf16 and Tesla T4 has compute capability 7.5: .*--precision fp16"):
        pick(ANY, [T4], FULL1, begun)
    with pytest.raises(UserError, match="begun in fp16 and a CPU has none"):
        pick(ANY, [], FULL1, {"precision": "fp16"})
    assert pick(Wish("fp32"), [T4], FULL1, begun).settings.precision == "fp32"


def test_a_compiler_is_left_out_on_request_and_by_runs_that_were_begun_without():
    settings, line = pick(Wish(compile=False), [H200], FULL1)
    assert not settings.compile and settings.fold_norms and "compiled" not in line
    assert pick(Wish(fast=False, compile=True), [H200], FULL1).settings.compile
    begun = fast.recorded(pick(ANY, [H200], FULL1).settings)
    assert pick(ANY, [H200], FULL1, begun).settings.compile
    assert not pick(Wish(compile=False), [H200], FULL1, begun).settings.compile
    earlier = {name: value for name, value in begun.items() if name not in fast.ROUNDING}  # of a version that had no compiler
    settings = pick(ANY, [H200], FULL1, earlier).settings
    assert (settings.compile, settings.fold_norms) == (False, False)
    assert pick(Wish(compile=True), [H200], FULL1, earlier).settings.compile


def test_the_table_names_configs_that_exist_and_positive_sizes():
    names = {path.stem for path in fast.TABLE.parent.rglob("*.py")}
    assert all(row.config in names and row.gib > 0 and row.precision in ("fp32", "bf16") for row in fast.table())
    specs = {"full_track_map": full_spec(), "tiny_imgx0.25_track_map": tiny_spec(), "nano_track_map": nano_spec()}
    assert all(spec.name == name for name, spec in specs.items())


@pytest.mark.parametrize(("cores", "processes", "wanted"), [(2, 1, 1), (16, 1, 15), (128, 8, 15), (4, 8, 1), (64, 2, 16)])
def test_loader_processes_are_a_share_of_the_cores(cores: int, processes: int, wanted: int):
    assert fast.workers(cores, processes) == wanted


def test_what_was_picked_is_in_the_record_and_the_options(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fast, "gpu_of", lambda device: RTX3090)
    wanted = identity.settings(parser().parse_args([str(nano_spec().path)]))
    identity.claim(tmp_path, wanted)
    output: list[str] = []
    spec = edit(nano_spec(), name="full_track_map", data__samples_per_gpu=1, data__queue_length=5)
    options = RunOptions(train=TrainOptions(tmp_path), wish=ANY)
    found = settle(options, ANY, spec, ToyModel(), World(0, 1, 0, torch.device("cpu")), None, output.append)
    assert found.recompute and found.train.precision == "bf16" and found.train.cuda_graph and len(output) == 1
    record = json.loads((tmp_path / identity.RECORD).read_text())
    assert record["identity"]["precision"] == "bf16" and record["picked"] == found.train.picked
    assert record["identity"]["compile"] is found.train.compile is found.train.fold_norms is True
    # the same command again is the same run; another precision is not
    assert identity.claim(tmp_path, wanted) is None
    plainly = identity.settings(parser().parse_args([str(nano_spec().path), "--no-compile"]))
    assert identity.differences(record["identity"], plainly) == ["compile: True -> False"]
    explicit = identity.settings(parser().parse_args([str(nano_spec().path), "--no-fast"]))
    before = {key: value for key, value in record["identity"].items() if key != "compile"}  # of a version that had no compiler
    assert identity.differences(before, plainly) == [] and len(identity.differences(before, explicit)) == 1
    assert "precision: bf16 -> fp32" in (identity.claim(tmp_path, explicit) or "")
