"""What people and programs hand to inference: recorded folders and cards. A key that nobody reads is an error."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.changes import put
from uniad.artifacts.card import card_path, read_card, write_card
from uniad.deploy.sources import INDEX, FolderFrames
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS

POSE = {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}
INTRINSIC = [[1000.0, 0, 800], [0, 1000.0, 450], [0, 0, 1]]


def index(frames: int = 5, step: float = 0.5) -> dict[str, Any]:
    images = {camera: f"{camera}/0.jpg" for camera in CAMERAS}
    listed = [{"time_s": 1e9 + n * step, "images": dict(images), "ego2global": copy.deepcopy(POSE)} for n in range(frames)]
    cameras = {camera: {"lidar2img": np.eye(4).tolist()} for camera in CAMERAS}
    return {"lidar2ego": copy.deepcopy(POSE), "cameras": cameras, "frames": listed}


def opened(folder: Path, content: Any, every: int = 1) -> FolderFrames:
    (folder / INDEX).write_text(json.dumps(content))
    return FolderFrames(folder, every=every)


def times(*values: float) -> Callable[[dict], None]:
    def change(data: dict) -> None:
        for frame, value in zip(data["frames"], values):
            frame["time_s"] = value

    return change


FAULTS = {
    "comand": (put("frames", 2, "comand", value=1), "frame 2 has the unknown key 'comand'; did you mean 'command'"),
    "a key for all": (put("comands", value=1), "frames.json has the unknown key 'comands'"),
    "a key in a pose": (put("frames", 1, "ego2global", "rot", value=1), "frame 1: ego2global has the unknown key 'rot'; known"),
    "a key in a camera": (
        put("cameras", "CAM_BACK", "lidar2im", value=1),
        "CAM_BACK has the unknown key 'lidar2im'; did you mean",
    ),
    "a camera": (put("cameras", "CAM_FRNT", value={}), "cameras has the unknown key 'CAM_FRNT'; did you mean 'CAM_FRONT"),
    "an image's camera": (put("frames", 0, "images", "CAM_BAK", value="a"), "images has the unknown key 'CAM_BAK'"),
    "two projections": (
        put("cameras", "CAM_BACK", "intrinsic", value=INTRINSIC),
        "CAM_BACK has no projection beside lidar2img, int",
    ),
    "a command of none": (put("frames", 3, "command", value=3), "frame 3: command is 3; needed is one of 0, 1, 2"),
    "a command that is true": (put("frames", 3, "command", value=True), "frame 3: command is True; needed is one of"),
    "an infinite place": (
        put("frames", 1, "ego2global", "translation", value=[1e999, 0, 0]),
        "frame 1: ego2global: translation is",
    ),
    "a place of text": (
        put("frames", 1, "ego2global", "translation", value=["1", "2", "3"]),
        "frame 1: ego2global: translation is",
    ),
    "NaN in a matrix": (put("cameras", "CAM_BACK", "lidar2img", 0, 0, value=float("nan")), "CAM_BACK: lidar2img .*not finite"),
    "w last": (put("lidar2ego", "rotation", value=[0.7071, 0.7071, 0, 0]), "lidar2ego: rotation is .*w first"),
    "13 of can_bus": (put("frames", 4, "can_bus", value=[0] * 13), r"frame 4: can_bus is \[0, .*18 numbers"),
    "no image's path": (put("frames", 4, "images", "CAM_BACK", value=7), "frame 4: images: CAM_BACK is 7"),
    "one token twice": (lambda d: [f.update(token="a") for f in d["frames"]], "frame 1 has the token of frame 0, 'a'"),
    "microseconds": (
        times(*(1e15 + n * 5e5 for n in range(5))),
        "frame 0: time_s steps by 500000, so it is in microseconds; needed",
    ),
    "nanoseconds": (
        times(*(1e18 + n * 5e8 for n in range(5))),
        "time_s steps by 5e.08, so it is in nanoseconds; needed are seconds",
    ),
    "milliseconds": (times(*(1e12 + n * 500 for n in range(5))), "time_s steps by 500, so it is in milliseconds"),
    "10 Hz": (times(0, 0.1, 0.2, 0.3, 0.4), r"\(10 Hz\); needed is 2 Hz .*infer.py --every 5` takes every 5th"),
    "still": (times(0, 0.5, 0.5, 1.0, 1.5), "frame 2: time_s 0.5 is the same as that of the frame before it"),
    "backwards": (times(0, 0.5, 0.4, 1.0, 1.5), "frame 2: time_s 0.4 is earlier than that of the frame before it"),
    "recorded twice": (times(0, 0.5, 0.51, 1.0, 1.5), "frame 2: time_s is 0.01 s after the frame before it"),
    "a time of text": (
        put("frames", 0, "time_s", value="12:00"),
        "frame 0: time_s is '12:00'; needed is the time of the images in sec",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_is_told_when_the_folder_is_opened(tmp_path: Path, name: str) -> None:
    change, says = FAULTS[name]
    data = index()
    opened(tmp_path, data)
    change(data)
    with pytest.raises(UserError) as error:
        opened(tmp_path, data)
    message = str(error.value)
    assert re.search(says, message) and message.startswith(str(tmp_path / INDEX)) and "\n" not in message, message


def test_denser_frames_are_thinned_by_every(tmp_path: Path) -> None:
    data = index(11, 0.1)
    folder = opened(tmp_path, data, every=5)
    assert [frame["number"] for frame in folder.index["frames"]] == [0, 5, 10]
    assert [frame["time_s"] - 1e9 for frame in folder.index["frames"]] == [0.0, 0.5, 1.0]
    with pytest.raises(UserError, match=r"frame 0: frames follow each other by 0\.2 s \(5 Hz\)"):
        opened(tmp_path, data, every=2)


def test_an_index_that_is_deep_or_no_object_is_one_line(tmp_path: Path) -> None:
    for text, says in (("[" * 100_000, "cannot be read"), ("[1]", "lists no frames"), ("\udcff", "cannot be read")):
        (tmp_path / INDEX).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=f"frames.json {says}") as error:
            FolderFrames(tmp_path)
        assert "\n" not in str(error.value)


CARD = {"kind": "onnx", "variant": "nano", "stage": 1, "config": "a.py", "contract": {"version": 2, "inputs": [], "outputs": []}}


@pytest.mark.parametrize(("change", "says"), [
    ({"config_option": []}, "has the unknown key 'config_option'; did you mean 'config_options'"),
    ({"kind": "onxx"}, "kind is 'onxx'; needed is one of 'onnx', 'engine'; did you mean 'onnx'"),
    ({"stage": "two"}, "stage is 'two'"),
    ({"sequence_frames": -1}, "sequence_frames is -1"),
    ({"contract": [1]}, r"contract is \[1\]"),
    ({"config": 7}, "config is 7; needed is a config's path"),
    ({"config_values": [1]}, "config_values is no object of names"),
    ({"lowering": [1]}, r"lowering is \[1\]; needed is an account"), ({"lowering": {"source": 5}}, "source is 5"),
    ({"quantisation": {"fp32_nodes": 5}}, "fp32_nodes is 5"), ({"quantisation": {"fp32_nodes": [5]}}, r"fp32_nodes\[0\] is 5"),
    ({"compute_capabilities": 8.6}, "compute_capabilities is 8.6"),
    ({"compute_capabilities": [8.6]}, r"compute_capabilities\[0\] is"),
    ({"device": "Orin"}, "device is 'Orin'; needed is a device"), ({"device": {"model": 7}}, "model is 7"),
    ({"verified": "yes"}, "verified is no object of names"), ({"latency": 12.5}, "latency is no object of names"),
])  # fmt: skip
def test_a_card_that_does_not_fit_is_neither_written_nor_read(tmp_path: Path, change: dict, says: str) -> None:
    artefact = tmp_path / "a.onnx"
    artefact.write_bytes(b"graph")
    with pytest.raises(UserError, match=says):
        write_card(artefact, {**CARD, **change})
    assert not card_path(artefact).exists()
    write_card(artefact, CARD)
    card_path(artefact).write_text(json.dumps({**json.loads(card_path(artefact).read_text()), **change}))
    with pytest.raises(UserError, match=says) as error:
        read_card(artefact)
    assert str(error.value).startswith(str(card_path(artefact))) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", "[" * 100_000])
def test_a_card_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    artefact = tmp_path / "a.onnx"
    artefact.write_bytes(b"graph")
    card_path(artefact).write_text(text)
    with pytest.raises(UserError, match=r"a\.onnx\.json: (not a card|kind)"):
        read_card(artefact)


def test_a_card_is_asked_for_what_it_lacks_with_one_line(tmp_path: Path) -> None:
    artefact = tmp_path / "a.onnx"
    artefact.write_bytes(b"graph")
    write_card(artefact, CARD)
    card = read_card(artefact)
    assert card["stage"] == 1 and card.get("checkpoint") is None
    with pytest.raises(UserError, match=r"a\.onnx\.json lacks checkpoint: it is of another version"):
        card["checkpoint"]
