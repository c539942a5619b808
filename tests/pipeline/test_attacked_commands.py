"""Commands as a person starts them, on what others have damaged: one line, a status that is not 0, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.command_line import NANO, ran, refused, tool
from helpers.toy_graph import write_toy
from uniad.errors import UserError
from uniad.evaluation import run
from uniad.files import alone_in

BASELINES = ("--routes", 1, "--policies", "standing-still", "--jobs", 1, "--traffic", "replay")


def left(folder: Path) -> list[str]:
    """Files by name, but for those of the recorder of what the place was: no half of anything, hidden or not."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drives") / "out"
    code, _, err = ran("tools/drive.py", "--out", out, *BASELINES)
    assert code == 0, err
    return out


ROUTE = "standing-still/seed-0100-route-0.json"
DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "a list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "no text": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("file", [ROUTE, "run.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_drives_of_a_former_run_that_are_damaged(drives: Path, tmp_path: Path, file: str, damage: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(drives, out)
    DAMAGE[damage](out / file)
    (out / "report.json").unlink()
    before = left(out)
    code, _, err = ran("tools/drive.py", "--out", out, *BASELINES)
    if code == 0:  # made anew
        assert json.loads((out / file).read_text()) == json.loads((drives / file).read_text())
    else:
        assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err and left(out) == before, err


def test_a_damaged_drive_is_told_before_others_are_made(drives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(drives, out)
    (out / ROUTE).unlink()
    DAMAGE["cut"](out / ROUTE.replace("standing-still", "expert"))
    assert "expert/seed-0100-route-0.json cannot be read" in refused("tools/drive.py", "--out", out, *BASELINES)
    assert not (out / ROUTE).exists()


def test_two_at_once_do_not_write_into_one_folder(tmp_path: Path, record_property) -> None:
    """Drives of one model beside the identity of another would be taken for its own by the next run."""
    toy, out = write_toy(tmp_path / "toy.onnx"), tmp_path / "out"
    commands = (
        ("tools/drive.py", "--out", out, *BASELINES),
        ("tools/soak.py", toy, "--out", out, "--minutes", "0.01", "--threads", 1),
        ("tools/canary.py", "--backend", "onnxruntime", "--only", "top_k", "--out", out),
    )
    with alone_in(out):
        for command in commands:
            assert f"{out}: another process writes results there: wait for it to end" in refused(*command)
        assert left(out) == []
    record_property("attacks", len(commands))


@pytest.mark.parametrize("full", ["disk", "everywhere"])
def test_an_evaluation_whose_disk_fills_up_loses_nothing(
    world, nano_checkpoint, tmp_path: Path, monkeypatch, capsys, full: str
) -> None:
    """The scores of hours: written elsewhere, or printed with what they are made of."""
    tokens = {"a": [{"sample_token": "a"}]}

    def score(found: run.Collected, spec: object, version: str, folder: Path) -> dict:
        if full == "everywhere" or tmp_path / "disk" in folder.parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "results_nusc_det.json"))
        return {"samples": len(found.detections), "tracks_dropped": 0, "map": {"drivable": 0.5}}

    monkeypatch.setattr(run, "collect", lambda *_: run.Collected(detections=tokens, tracks=tokens))
    monkeypatch.setattr(run, "score", score)
    out = tmp_path / "disk/results.json"
    words = ["test.py", NANO, nano_checkpoint, "--device", "cpu", "--out", out, "--cfg-options", *world.data_options()]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="results_nusc_det.json: No space left on device; make room there") as error:
        tool("test").main()
    shown = capsys.readouterr().out
    if full == "disk":
        (kept,) = (tmp_path / "here").iterdir()
        assert json.loads((kept / "results.json").read_text())["map"] == {"drivable": 0.5}
        assert f"the results are in {kept}, move" in str(error.value) and "drivable" in shown
    else:
        assert "printed above" in str(error.value) and json.dumps([tokens, tokens]) in shown
    assert not out.exists()


def test_a_tensorrt_rtx_engine_for_other_weights_is_refused_before_a_build_that_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    toy, out = write_toy(tmp_path / "toy.onnx"), tmp_path / "engines/e.engine"
    line = refused("tools/build_engine.py", toy, "--out", out, "--refittable", "--no-canary")
    assert f"{out}: tensorrt_rtx builds an engine that takes other weights on a GPU alone" in line and not out.parent.exists()


DAMAGED_LOGS = {
    "cut": lambda text: text[: len(text) // 2],
    "without its begin": lambda text: text[20:],
    "empty": lambda text: "",
    "not finite": lambda text: text.replace("2.0", "NaN"),
    "no numbers": lambda text: text.replace("2.0", '"x"'),
    "lines of lists": lambda text: "[]\n" * 9,
}


@pytest.mark.parametrize("damage", DAMAGED_LOGS)
def test_logs_of_trainings_that_are_damaged_draw_nothing(tmp_path: Path, damage: str) -> None:
    line = '{"mode": "train", "step": 1, "loss": 2.0, "lr": 2.0}'
    (tmp_path / "run").mkdir()
    (tmp_path / "run/train.jsonl").write_text(DAMAGED_LOGS[damage](line))
    before = left(tmp_path)
    assert "train.jsonl" in refused("tools/plot_training.py", tmp_path / "run", "--out", tmp_path / "out/curves.png")
    assert left(tmp_path) == before


def test_what_is_to_be_soaked_is_whole(tmp_path: Path, record_property) -> None:
    """Graph, card and recorded sequence, each damaged in turn; and places where no report can be."""
    tried = 0
    for name in ("toy.onnx", "toy.onnx.json", "toy.sequence.npz"):
        for damage in ("cut", "a folder"):
            folder = tmp_path / str(tried)
            folder.mkdir()
            toy = write_toy(folder / "toy.onnx")
            DAMAGE[damage](folder / name)
            refused("tools/soak.py", toy, "--out", folder / "out", "--minutes", "0.01", "--threads", 1)
            assert not (folder / "out").exists()
            tried += 1
    for minutes in ("nan", "-1"):
        assert "--minutes: above 0" in refused("tools/soak.py", tmp_path / "x", "--out", tmp_path / "out", f"--minutes={minutes}")
        tried += 1
    record_property("attacks", tried)


def test_what_is_to_be_converted_is_whole_and_never_overwritten(tmp_path: Path, nano_checkpoint, record_property) -> None:
    source = tmp_path / "mine.pth"
    shutil.copy(nano_checkpoint, source)
    data = source.read_bytes()
    (tmp_path / "link.pth").symlink_to(source)
    os.mkfifo(tmp_path / "pipe.pth")
    written = {"json.pth": b'{"a": 1}', "cut.pth": data[:5000], "empty.pth": b"", "text.pth": b"hello", "cut.pkl": b"\x80\x04]"}
    for name, held in written.items():
        (tmp_path / name).write_bytes(held)
    before = left(tmp_path)
    attacks = [*((name, "out.pth") for name in ("json.pth", "cut.pth", "empty.pth", "text.pth", "pipe.pth", "none.pth", ".")),
               ("cut.pkl", "out.pkl"), ("mine.pth", "mine.pth"), ("link.pth", "mine.pth"), ("mine.pth", "link.pth"),
               ("mine.pth", "out.pkl")]  # fmt: skip
    for given, out in attacks:
        line = refused("tools/convert.py", tmp_path / given, "--to", "uniad-v2", "--out", tmp_path / out)
        assert "weights_only" not in line, "a library's advice on its own arguments"
    assert left(tmp_path) == before and source.read_bytes() == data
    record_property("attacks", len(attacks))
