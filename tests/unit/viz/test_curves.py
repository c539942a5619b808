"""The loss plot: every logged part is on it, whatever the number of layers, frames and runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.command_line import ran, refused
from uniad.errors import UserError
from uniad.viz.curves import Part, draw, held_series, panels, part_of, read_runs, series

GENERAL = {"mode": "train", "epoch": 1, "iter": 1, "epoch_len": 5, "lr": 1e-3, "memory": 1.0, "data_time": 0.1, "time": 1.0}
KINDS = ("cls", "bbox", "past_trajs")


def entry(step: int, layers: int = 6, frames: int = 2, stage2: bool = False) -> dict:
    line = {**GENERAL, "step": step, "loss": 10.0 / step, "grad_norm": 3.0}
    for layer in range(layers):
        for frame in range(frames):
            line |= {f"track.frame_{frame}_loss_{kind}_{layer}": 1.0 + layer + frame / 10 for kind in KINDS}
    line |= {"map.loss_cls": 0.1, "map.loss_mask_things": 0.4, "map.d0.loss_cls": 0.2, "map.d0.loss_cls_f": 0.0}
    line |= {"map.d3.loss_cls": 0.3}
    if stage2:
        line |= {"motion.loss_traj": -1.0, "motion.min_ade": 0.5, "occ.loss_dice": 0.5, "planning.loss_ade": 1.0}
        line |= {f"planning.loss_collision_{i}": 0.1 * i for i in range(3)}
    return line


def write(work: Path, lines: list[dict], held: list[dict] | None = None) -> Path:
    work.mkdir(parents=True)
    (work / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if held is not None:
        (work / "held.json").write_text(json.dumps({"checkpoints": held}))
    return work


@pytest.mark.parametrize("key, part", [
    ("track.frame_1_loss_cls_2", Part("track.loss_cls", 2, 1)),
    ("track.frame_10_loss_past_trajs_11", Part("track.loss_past_trajs", 11, 10)),
    ("map.d0.loss_iou_f", Part("map.loss_iou_f", 0)), ("map.loss_iou", Part("map.loss_iou")), ("loss", Part("loss")),
    ("planning.loss_collision_2", Part("planning.loss_collision", 2)), ("motion.min_fde", Part("motion.min_fde")),
])  # fmt: skip
def test_a_key_says_its_panel_layer_and_frame(key, part):
    assert part_of(key) == part


@pytest.mark.parametrize("layers, frames", [(1, 1), (3, 2), (6, 5)])
def test_every_logged_number_is_drawn_for_any_number_of_layers(tmp_path: Path, layers, frames):
    lines = [entry(step, layers, frames, stage2=True) for step in (10, 20, 30)]
    (run,) = read_runs([write(tmp_path / "run", lines)])
    names = panels([run])
    assert names[:3] == ["loss", "lr", "grad_norm"]
    drawn = {key: part_of(key) for key in lines[0] if "loss" in key or key.startswith("motion")}
    assert {part.panel for part in drawn.values()} <= set(names)
    for key, part in drawn.items():
        steps, mean, least, most = series(run, part.panel)[part.layer]
        assert steps.tolist() == [10, 20, 30] and least[0] <= lines[0][key] <= most[0], key
    assert sorted(series(run, "track.loss_cls")) == list(range(layers))
    assert series(run, "track.loss_cls")[0][1][0] == pytest.approx(1.0 + np.mean(np.arange(frames)) / 10), "mean over frames"
    assert not {"time", "memory", "eta_s", "step"} & set(names)


def test_runs_stand_one_after_the_other_and_zero_parts_take_no_panel(tmp_path: Path):
    one = write(tmp_path / "one", [entry(step) for step in (10, 20)])
    two = write(tmp_path / "two", [entry(step, stage2=True) for step in (5, 15)])
    runs = read_runs([one, two])
    assert [run.first for run in runs] == [0, 20]
    figure = draw(runs)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert "total loss" in titles and "planning: ade" in titles and "map: cls_f" not in titles
    assert "zero throughout: map.loss_cls_f" in figure.get_suptitle()
    total = figure.axes[0]
    assert max(float(line.get_xdata()[-1]) for line in total.lines if len(line.get_xdata()) > 1) == 35
    beside = draw(runs, overlay=True)
    assert max(float(line.get_xdata()[-1]) for line in beside.axes[0].lines if len(line.get_xdata())) == 20
    assert {text.get_text() for text in beside.axes[0].get_legend().get_texts()} == {"one", "two"}


def test_held_clips_are_points_of_the_same_panels(tmp_path: Path):
    losses = {"map.loss_cls": 0.3, "track.frame_0_loss_cls_0": 1.0}
    held = [{"step": step, "loss": 4.0 - step / 10, "losses": losses} for step in (0, 20)]
    (run,) = read_runs([write(tmp_path / "run", [entry(20)], held)])
    steps, values = held_series(run, "loss")
    assert steps.tolist() == [0, 20] and values.tolist() == [4.0, 2.0]
    assert held_series(run, "map.loss_cls")[1].tolist() == [0.3, 0.3] and not len(held_series(run, "map.loss_mask_things")[0])


def test_a_recipes_folder_is_its_phases_in_order_and_not_what_was_set_aside(tmp_path: Path):
    for age, name in enumerate(("warm", "towns", "towns.20260101-101010")):
        log = write(tmp_path / name, [entry(10)]) / "train.jsonl"
        os.utime(log, (1e9 + age, 1e9 + age))
    assert [run.name for run in read_runs([tmp_path])] == ["warm", "towns"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    runs = read_runs([write(tmp_path / where / "nano", [entry(1)]) for where in ("a", "b")])
    assert [run.name for run in runs] == ["a/nano", "b/nano"]


def test_the_command_writes_a_picture_and_says_what_is_wrong_with_a_log(tmp_path: Path):
    work = write(tmp_path / "run", [entry(step) for step in range(1, 120)])
    code, output, err = ran("tools/plot_training.py", work, "--out", tmp_path / "curve.png")
    assert code == 0 and "curve.png: run" in output, err
    assert cv2.imread(str(tmp_path / "curve.png")).std() > 5
    other = tmp_path / "other.png"
    assert "give the work directory" in refused("tools/plot_training.py", tmp_path / "none", "--out", other)
    (work / "train.jsonl").write_text('{"mode": "train", "step": 1, "lo')
    assert "no log of a training" in refused("tools/plot_training.py", work, "--out", other)
    (work / "train.jsonl").write_text('{"mode": "val", "step": 1}\n')
    assert "no training step yet" in refused("tools/plot_training.py", work, "--out", other)
    (work / "train.jsonl").write_text(json.dumps(entry(1)))
    (work / "held.json").write_text("[]")
    assert "is not what tools/held_loss.py writes" in refused("tools/plot_training.py", work, "--out", other)
    assert not other.exists()


LINE = '{"mode": "train", "step": 1, "loss": 2.0}'


@pytest.mark.parametrize("log, output", [
    *((LINE.replace('"step": 1', f'"step": {step}'), "step is") for step in
      ('"x"', "null", "[1]", "1e999", "NaN", "-5", "1" + "0" * 400, "1e300", "true", "1.5")),
    (LINE + '\n{"mode": "val", "step": "x", "loss": 1}', "step is 'x'"),
    ("[" * 100_000, "no log of a training"), ("[1]", "no log of a training"), (LINE + "\n" + LINE[:20], "no log of a training"),
    (LINE.replace("2.0", "NaN"), "nothing to draw"), (LINE.replace("2.0", "0.0"), "nothing to draw"),
    (LINE.replace("2.0", '"x"'), "nothing to draw"), (LINE.replace("2.0", "1" + "0" * 400), "nothing to draw"),
    (LINE.replace("2.0", "1e308"), "nothing to draw"),
])  # fmt: skip
def test_a_log_that_cannot_be_drawn_is_one_line(tmp_path: Path, log: str, output: str):
    (tmp_path / "train.jsonl").write_text(log)
    with pytest.raises(UserError) as error:
        draw(read_runs([tmp_path]))
    assert output in str(error.value) and str(tmp_path / "train.jsonl") in str(error.value)


@pytest.mark.parametrize("held", [
    '{"checkpoints": [{"step": "x", "loss": 1, "losses": {}}]}', '{"checkpoints": [{"step": 1, "loss": 1, "losses": [1]}]}',
    "[" * 100_000, "null", '{"checkpoints": 5}',
])  # fmt: skip
def test_a_damaged_file_of_fixed_clips_is_one_line(tmp_path: Path, held: str):
    (tmp_path / "train.jsonl").write_text(LINE)
    (tmp_path / "held.json").write_text(held)
    with pytest.raises(UserError, match="not what tools/held_loss.py writes"):
        read_runs([tmp_path])


def test_losses_of_fixed_clips_cannot_name_another_step(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text(LINE)
    (tmp_path / "held.json").write_text('{"checkpoints": [{"step": 4, "loss": 1, "losses": {"step": "y", "map.loss_cls": 3}}]}')
    (run,) = read_runs([tmp_path])
    assert run.last == 4 and held_series(run, "map.loss_cls")[1].tolist() == [3.0]
