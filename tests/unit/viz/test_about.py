"""What a caption says of a model is what a file says of it: scores of this very checkpoint, or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.command_line import ran, refused
from uniad.errors import UserError
from uniad.files import sha256
from uniad.training.checkpoint import save_checkpoint
from uniad.viz.about import about_checkpoint, about_run, figures_of

RESULTS = {
    "samples": 40,
    "detection": {"mAP": 0.353, "AP": {"car": {"2.0": 0.6585}}},
    "planning": {"model": {"L2_3s": 3.64}, "constant_velocity": {"L2_3s": 9.18}},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "nano.pth"
    save_checkpoint(path, {"meta": {"iter": 1620, "seed": 3, "uniad": {"stage": 2}}, "state_dict": {"a": torch.zeros(1)}})
    return path


def write(path: Path, value: dict) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_training_comes_from_the_checkpoint_and_scores_only_from_results_of_that_file(checkpoint: Path, tmp_path: Path):
    (line,) = about_checkpoint(checkpoint)
    assert line == f"{checkpoint}: trained, stage 2, 1,620 steps in its last run, seed 3"
    scores = write(tmp_path / "results.json", {**RESULTS, "checkpoint_sha256": sha256(checkpoint)})
    assert about_checkpoint(checkpoint, scores)[1] == figures_of(RESULTS)
    assert "0.66" in figures_of(RESULTS) and "3.64 m off (constant velocity 9.18)" in figures_of(RESULTS)
    other = write(tmp_path / "other.json", {**RESULTS, "checkpoint_sha256": "0" * 64})
    assert len(about_checkpoint(checkpoint, other)) == len(about_checkpoint(checkpoint, tmp_path / "absent.json")) == 1


def test_a_card_beside_the_checkpoint_tells_both_if_it_is_of_this_file(checkpoint: Path):
    card = {"sha256": sha256(checkpoint), "training": "trained on 16 synthetic worlds", "results": RESULTS}
    write(checkpoint.with_suffix(".json"), card)
    assert about_checkpoint(checkpoint) == [f"{checkpoint}: trained on 16 synthetic worlds", figures_of(RESULTS)]
    write(checkpoint.with_suffix(".json"), {**card, "sha256": "0" * 64})
    assert len(about_checkpoint(checkpoint)) == 1


def test_random_weights_are_untrained_and_a_file_that_says_nothing_is_not_called_so(tmp_path: Path):
    for name, meta in (("random", {"seed": 0, "uniad": {"stage": 2, "weights": "random"}}), ("bare", {})):
        save_checkpoint(tmp_path / f"{name}.pth", {"meta": meta, "state_dict": {"a": torch.zeros(1)}})
    assert "untrained" in about_checkpoint(tmp_path / "random.pth")[0]
    assert "nothing known" in about_checkpoint(tmp_path / "bare.pth")[0]


def test_an_exported_model_is_described_by_the_checkpoint_that_its_card_names(checkpoint: Path, tmp_path: Path):
    onnx = tmp_path / "nano.onnx"
    write(Path(f"{onnx}.json"), {"checkpoint": str(checkpoint), "checkpoint_sha256": sha256(checkpoint)})
    scores = write(tmp_path / "results.json", {**RESULTS, "checkpoint_sha256": sha256(checkpoint)})
    output = about_run({"model": str(onnx)}, scores)
    assert output[0].startswith(f"{onnx} of {checkpoint}: trained") and output[1] == figures_of(RESULTS)
    checkpoint.unlink()
    assert about_run({"model": str(onnx)}, scores) == [str(onnx), figures_of(RESULTS)]
    assert about_run({}) == []


def test_a_file_that_is_no_evaluation_gets_one_line(checkpoint: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no results of an evaluation"):
        about_checkpoint(checkpoint, write(tmp_path / "x.json", {"samples": 1}))


def test_the_card_that_a_release_writes_is_what_pictures_read(checkpoint: Path, tmp_path: Path):
    scores = write(tmp_path / "results.json", {**RESULTS, "checkpoint_sha256": sha256(checkpoint)})
    words = ("tools/release_weights.py", "--card", checkpoint, "--training", "16 towns")
    code, output, err = ran(*words, "--results", scores)
    assert code == 0 and "3.64 m off" in output, err
    assert about_checkpoint(checkpoint) == [f"{checkpoint}: 16 towns", figures_of(RESULTS)]
    other = write(tmp_path / "other.json", {**RESULTS, "checkpoint_sha256": "0" * 64})
    assert "is of another checkpoint" in refused(*words, "--results", other)
    assert "--training TEXT" in refused(*words[:3]) and "--card FILE" in refused("tools/release_weights.py")


@pytest.mark.parametrize("changed, output", [
    ({"results": [1]}, "results is [1]"), ({"results": "x"}, "results is 'x'"), ({"training": {"a": 1}}, "training is a mapping"),
    ({"training": "a\nb"}, "training is"), ({"training": "\x1b[31m"}, "training is"),
    ({"trainnig": "x"}, "did you mean 'training'?"),
    ({"bytes": "many"}, "bytes is 'many'"), ({"results": {**RESULTS, "checkpoint_sha256": "0" * 64}}, "of another checkpoint"),
])  # fmt: skip
def test_a_card_of_these_weights_that_was_altered_is_one_line(checkpoint: Path, changed: dict, output: str):
    card = write(checkpoint.with_suffix(".json"), {"sha256": sha256(checkpoint), "training": "16 towns", **changed})
    with pytest.raises(UserError) as error:
        about_checkpoint(checkpoint)
    assert output in str(error.value) and str(card) in str(error.value)


@pytest.mark.parametrize("text", ['{"sha256": "0', "[" * 100_000, '{"sha256": "a", "sha256": "b"}'])
def test_a_card_that_is_damaged_is_told_not_left_out(checkpoint: Path, text: str):
    checkpoint.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match="damaged or cut short"):
        about_checkpoint(checkpoint)


@pytest.mark.parametrize("value", ["[1]", '{"a": 1}', "5"])
def test_an_exports_card_that_names_no_checkpoint_is_one_line(tmp_path: Path, value: str):
    (tmp_path / "nano.onnx.json").write_text(f'{{"checkpoint": {value}, "checkpoint_sha256": "x"}}')
    with pytest.raises(UserError, match="nano.onnx.json: checkpoint is"):
        about_run({"model": str(tmp_path / "nano.onnx")})


@pytest.mark.parametrize("value", ["x", True, float("inf"), float("nan"), 10**400, None, [1]])
def test_a_score_that_is_no_number_is_not_shown(value):
    assert figures_of({"samples": {"a": 1}, "detection": {"mAP": value}, "planning": {"model": {"L2_3s": 2.0}}}) == (
        "plan after 3 s 2.00 m off"
    )
