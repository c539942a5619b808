"""A recorded sequence is held against its contract and its card before anything is said about a model."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers.specs import nano_spec
from uniad.artifacts import sequence as recorded
from uniad.errors import UserError
from uniad.files import sha256
from uniad.interface.contract import Contract, contract_for

FRAMES = 2


@pytest.fixture(scope="module")
def contract() -> Contract:
    return contract_for(nano_spec(1))


@pytest.fixture(scope="module")
def whole(contract: Contract) -> dict[str, np.ndarray]:
    wanted = recorded._expected_arrays(contract, range(FRAMES))
    return {name: np.ones(shape, dtype) for name, (shape, dtype) in wanted.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sequence.npz"


def without(arrays: dict[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if not name.startswith(start)}


SPOILT = {
    "no frames": (lambda a: without(a, "f"), "holds no frame"),
    "the first frame lost": (lambda a: without(a, "f0/"), "f0/img_u8 is missing"),
    "the last frame cut": (lambda a: without(a, "f1/out/"), "f1/out/boxes is missing"),
    "no end": (lambda a: without(a, "end/"), "end/bev is missing"),
    "no mean": (lambda a: without(a, "mean"), "mean is missing"),
    "boxes cut to one row": (lambda a: a | {"f0/out/boxes": a["f0/out/boxes"][:, :1]}, "f0/out/boxes is float32"),
    "boxes of the second frame cut": (lambda a: a | {"f1/out/boxes": a["f1/out/boxes"][:1, :1]}, "f1/out/boxes is float32"),
    "images of another size": (lambda a: a | {"f1/img_u8": a["f1/img_u8"][:, ::2]}, "f1/img_u8 is uint8"),
    "doubles": (lambda a: a | {"f0/can_bus": a["f0/can_bus"].astype(np.float64)}, "f0/can_bus is float64"),
    "NaN expected": (lambda a: a | {"f1/out/score": a["f1/out/score"] * np.nan}, "f1/out/score holds a value that is not finite"),
    "something else": (lambda a: a | {"f0/out/secret": np.ones(3)}, "has an array 'f0/out/secret'"),
    "objects": (lambda a: a | {"mean": np.array([{}, {}, {}], object)}, "mean is object[3]"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_missing_or_of_another_shape_is_named(path: Path, contract: Contract, whole: dict, case: str) -> None:
    spoil, message = SPOILT[case]
    np.savez(path, **spoil(dict(whole)))
    with pytest.raises(UserError) as error:
        recorded.load(path, contract)
    assert message in str(error.value) and "m.sequence.npz" in str(error.value) and "make export" in str(error.value)


def test_the_cards_claims_are_compared(path: Path, contract: Contract, whole: dict) -> None:
    np.savez_compressed(path, **whole)
    card = {"sequence_frames": FRAMES, "sequence_sha256": sha256(path)}
    assert len(recorded.load(path, contract, card)) == FRAMES
    with pytest.raises(UserError, match="has 2 frames, its card says 3"):
        recorded.load(path, contract, card | {"sequence_frames": 3})
    np.savez_compressed(path, **whole | {"f1/out/boxes": whole["f1/out/boxes"] * 2})
    with pytest.raises(UserError, match="digest differs"):
        recorded.load(path, contract, card)
    assert len(recorded.load(path, contract, {})) == FRAMES, "cards from before there were digests"


def test_a_damaged_archive_and_one_that_claims_too_much_are_one_line(path: Path, contract: Contract, whole: dict) -> None:
    np.savez(path, **whole)
    data = path.read_bytes()
    place = data.index(np.ones(64, np.float32).tobytes())
    for damaged in (data[:-30], data[:200], b"", b"PK\3\4" + data[4:100], data[:place] + b"\x7f" + data[place + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a recorded sequence|is missing"):
            recorded.load(path, contract)
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(claim, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in whole.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, value)
            archive.writestr(f"{name}.npy", claim.getvalue() if name == "mean" else member.getvalue())
    with pytest.raises(UserError, match="mean is float32.1125899906842624."):
        recorded.load(path, contract)
