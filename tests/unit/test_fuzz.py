"""Everything that reads the outside, given what nobody would write: it succeeds or is one UserError, soon and in little memory.

CI tries a few dozen inputs each, the same ones every time. `UNIAD_FUZZ_SECONDS=600 pytest -s tests/unit/test_fuzz.py -k cards`
tries new ones for ten minutes and prints how many; `UNIAD_FUZZ_SEED=1000` tries others.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import pickle
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from helpers.specs import config_path, nano_spec
from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import card_path, read_card, write_card
from uniad.config.file import load_config
from uniad.data import unpickle
from uniad.data.table import load_table
from uniad.deploy.plausible import Limits, check_plausible
from uniad.deploy.sensors import Pose, Sensors, prepare
from uniad.deploy.sources import INDEX, FolderFrames
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.interface.contract import Contract, contract_for

SECONDS = float(os.environ.get("UNIAD_FUZZ_SECONDS", 0))
FIRST_SEED = int(os.environ.get("UNIAD_FUZZ_SEED", 0))  # of the tries by the clock; another one tries other inputs
EXAMPLES = 40
SLOW_S, LARGE_KIB = 30.0, 2 << 20  # CPU time and growth of one input at most

odd_number = st.sampled_from([0, -1, 1e300, -1e300, float("nan"), float("inf"), 10**400, 2**63, 1e-300, True, 1.5e18])
leaf = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), odd_number, st.text(max_size=20), st.sampled_from(["\0", "../x"])
)
junk = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)
# Where, as a share of the length; what: other bits, bytes out, bytes in
edit = st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "put"]), st.binary(min_size=1, max_size=12))


@pytest.fixture
def fuzz(record_property: Callable[[str, object], None]) -> Callable[[st.SearchStrategy, Callable[[Any], object]], None]:
    """``fuzz(strategy, read)`` reads what the strategy thinks of, and records how many inputs that were."""

    def run(strategy: st.SearchStrategy, read: Callable[[Any], object]) -> None:
        tried = 0

        def one(value: Any) -> None:
            nonlocal tried
            tried += 1
            begun, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(value)
            except UserError as error:
                assert "\n" not in str(error)
            assert time.process_time() - begun < SLOW_S
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < LARGE_KIB

        common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
        if not SECONDS:
            settings(max_examples=EXAMPLES, derandomize=True, **common)(given(strategy)(one))()
        else:
            end = time.monotonic() + SECONDS
            for number in itertools.count(FIRST_SEED):
                if time.monotonic() > end:
                    break
                seed(number)(settings(max_examples=200, **common)(given(strategy)(one)))()
            print(f"\n{tried} inputs in {SECONDS:g} s, seeds {FIRST_SEED} to {number - 1}")
        record_property("attacks", tried)

    return run


def edited(data: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    for where, what, part in edits:
        place = int(where * len(data))
        if what == "flip":
            old = data[place : place + len(part)]
            data = data[:place] + bytes(a ^ b for a, b in zip(old, part)) + data[place + len(old) :]
        else:
            data = data[:place] + (part if what == "put" else b"") + data[place + (len(part) if what == "cut" else 0) :]
    return data


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key inside it."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


def changed(value: Any, changes: list[tuple[float, Any]]) -> Any:
    """A copy in which some places hold something else."""
    value = copy.deepcopy(value)
    for where, what in changes:
        found = places(value)
        if not found:
            break
        container, key = found[int(where * (len(found) - 1))]
        if isinstance(container, dict) and isinstance(what, str) and len(what) > 3:
            container[what] = container.pop(key)  # another name
        else:
            container[key] = what
    return value


changes = st.lists(st.tuples(st.floats(0, 1), junk), min_size=1, max_size=3)
edits = st.lists(edit, min_size=1, max_size=4)


def frame(number: int) -> dict[str, Any]:
    pose = {"translation": [1.0 * number, 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
    camera = {"sensor2lidar_rotation": np.eye(3), "sensor2lidar_translation": np.zeros(3), "cam_intrinsic": np.eye(3) * 900}
    info = {
        "token": f"t{number}", "scene_token": "s", "frame_idx": number, "timestamp": 15 * 10**14 + 500_000 * number,
        "cams": {c: {**camera, "data_path": f"samples/{c}/{number}.jpg"} for c in CAMERAS},
        "can_bus": np.zeros(18),
        "gt_boxes": np.ones((2, 7)), "gt_names": np.array(["car", "bus"]), "gt_velocity": np.zeros((2, 2)),
        "gt_inds": np.arange(2),
        "num_lidar_pts": np.ones(2, int), "valid_flag": np.ones(2, bool), "map_location": "boston-seaport",
    }  # fmt: skip
    return info | {f"{name}_{part}": value for name in ("lidar2ego", "ego2global") for part, value in pose.items()}


INFOS = {"infos": [frame(0), frame(1)], "metadata": {"version": "v1.0-trainval"}}


@pytest.mark.parametrize("protocol", [2, 4])
def test_unpickler(tmp_path: Path, fuzz, protocol: int) -> None:
    path, whole = tmp_path / "a.pkl", pickle.dumps(INFOS, protocol)

    def read(how: list) -> None:
        path.write_bytes(edited(whole, how))
        unpickle.load(path)

    fuzz(edits, read)


def test_infos(tmp_path: Path, fuzz) -> None:
    path = tmp_path / "a.pkl"

    def read(how: list) -> None:
        path.write_bytes(pickle.dumps(changed(INFOS, how)))
        load_table(path, tmp_path)

    read([])
    fuzz(changes, read)


def test_configs(tmp_path: Path, fuzz) -> None:
    path, whole = tmp_path / "a.py", Path(config_path("nano")).read_text()
    text = "a = \n [ ] { } ( ) + * - 'x' 9 1e999 dict , : _base_ f'{a}' ** max . if else {{_base_.a}} not < str"
    words = st.sampled_from(text.split(" "))

    def read(text: str | list) -> None:
        if isinstance(text, list):
            text = edited(whole.encode(), text).decode("utf-8", "replace")
        path.write_text(text, encoding="utf-8", errors="replace")
        load_config(path)

    fuzz(
        st.lists(words, max_size=40).map("".join) | st.lists(words, max_size=12).map(lambda w: "a = 1\n" + " ".join(w)) | edits,
        read,
    )


def folder_index() -> dict[str, Any]:
    pose = {"translation": [0.0, 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
    projection = {"intrinsic": [[900.0, 0, 800], [0, 900, 450], [0, 0, 1]], "lidar2cam": np.eye(4).tolist()}
    images = {camera: "no.jpg" for camera in CAMERAS}
    frames = [
        {"time_s": 10 + 0.5 * n, "images": images, "ego2global": pose, "command": 2, "can_bus": [0.0] * 18} for n in range(3)
    ]
    return {"lidar2ego": pose, "cameras": dict.fromkeys(CAMERAS, projection), "frames": frames}


def test_frame_folders_and_their_calibrations(tmp_path: Path, fuzz) -> None:
    whole = copy.deepcopy(folder_index())

    def read(how: tuple[list, list]) -> None:
        text = json.dumps(changed(whole, how[0]))
        (tmp_path / INDEX).write_bytes(edited(text.encode(), how[1]))
        for _ in FolderFrames(tmp_path).scene():  # its images are absent
            pass

    fuzz(st.tuples(changes, st.just([])) | st.tuples(st.just([]), edits), read)


def test_cards(tmp_path: Path, fuzz) -> None:
    graph = tmp_path / "a.onnx"
    graph.write_bytes(b"graph")
    contract = contract_for(nano_spec(2)).to_json()
    write_card(
        graph, {"kind": "onnx", "variant": "nano", "stage": 2, "config": "a.py", "config_options": [], "contract": contract}
    )
    whole = json.loads(card_path(graph).read_text())

    def read(how: tuple[list, list]) -> None:
        card_path(graph).write_bytes(edited(json.dumps(changed(whole, how[0])).encode(), how[1]))
        read_card(graph)

    fuzz(st.tuples(changes, st.just([])) | st.tuples(st.just([]), edits), read)
    card_path(graph).write_text("[" * 100_000)
    with pytest.raises(UserError):
        read_card(graph)


def test_recorded_sequences(tmp_path: Path, fuzz) -> None:
    contract: Contract = contract_for(nano_spec(1))
    arrays = {n: np.ones(s, d) for n, (s, d) in recorded._expected_arrays(contract, range(1)).items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    path, whole = tmp_path / "a.npz", packed.getvalue()

    def read(how: list) -> None:
        path.write_bytes(edited(whole, how))
        recorded.load(path, contract)

    read([])
    fuzz(edits, read)


def test_sensors(tmp_path: Path, fuzz) -> None:
    """What drivers hand to the runtime, up to the step."""
    spec = nano_spec(2).data
    image, matrix = (
        np.zeros((900, 1600, 3), np.uint8),
        np.array([[900.0, 0, 800, 0], [0, 900, 450, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    names = (
        "images",
        "lidar2img",
        "time_s",
        "command",
        "can_bus",
        "ego2global",
        "lidar2ego",
        "a camera",
        "a projection",
        "a pose",
    )
    numbers = st.lists(st.floats() | odd_number, min_size=3, max_size=18)

    def read(how: list[tuple[str, Any]]) -> None:
        pose = Pose([0, 0, 0], [1, 0, 0, 0])
        given = {"images": dict.fromkeys(CAMERAS, image), "lidar2img": dict.fromkeys(CAMERAS, matrix), "ego2global": pose,
                 "lidar2ego": pose, "time_s": 1.0, "command": 2, "can_bus": [0.0] * 18}  # fmt: skip
        for name, value in how:
            if name == "a camera":
                given["images"] = dict.fromkeys(CAMERAS, value)
            elif name == "a projection":
                given["lidar2img"] = dict.fromkeys(CAMERAS, np.resize(np.array(value, object), (4, 4)))
            elif name == "a pose":
                given["ego2global"] = Pose(value, value)
            else:
                given[name] = value
        ready = prepare(Sensors(**given), spec, 0.0, True)
        feed = {name: getattr(ready, name).numpy() for name in ("lidar2img", "can_bus", "l2g_r", "l2g_t", "time_s")}
        check_plausible(feed, 0.0, spec.image.width, spec.image.height, Limits(), None)

    read([])
    fuzz(st.lists(st.tuples(st.sampled_from(names), junk | numbers), min_size=1, max_size=2), read)
