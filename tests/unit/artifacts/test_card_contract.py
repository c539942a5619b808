"""A card of an earlier export is held to the graph's interface, not to how it is worded."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from helpers.specs import edit, nano_spec
from uniad.artifacts.card import check_contract, read_card
from uniad.errors import UserError
from uniad.interface.contract import contract_for


@pytest.fixture
def card() -> dict:
    return {"kind": "onnx", "config": "nano_e2e.py", "contract": json.loads(json.dumps(contract_for(nano_spec(2)).to_json()))}


def test_another_wording_is_the_same_interface(card: dict) -> None:
    contract = contract_for(nano_spec(2))
    for row in (*card["contract"]["inputs"], *card["contract"]["outputs"]):
        row["meaning"] = "said in other words"
    assert check_contract(card, contract, "a.onnx") is contract


@pytest.mark.parametrize("part, index, change", [
    ("inputs", 0, {"shape": [1, 2]}), ("inputs", 3, {"dtype": "float16"}), ("outputs", 1, {"name": "other"}),
    ("inputs", -1, {"initial": 7.0}),
])  # fmt: skip
def test_another_name_shape_dtype_or_start_is_another_interface(card: dict, part: str, index: int, change: dict) -> None:
    spoilt = copy.deepcopy(card)
    spoilt["contract"][part][index] |= change
    with pytest.raises(UserError, match="another interface"):
        check_contract(spoilt, contract_for(nano_spec(2)), "a.onnx")


def test_a_config_of_other_sizes_and_one_without_stage_2_are_told_apart(card: dict) -> None:
    check_contract(card, contract_for(edit(nano_spec(2), model__stage2__plan__dropout=0.5)), "a.onnx")  # inside the graph
    for spec in (edit(nano_spec(2), model__stage2__agent_capacity=7), nano_spec(1)):
        with pytest.raises(UserError, match="another interface"):
            check_contract(card, contract_for(spec), "a.onnx")


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut short", b"not a checkpoint at all", b""])
@pytest.mark.parametrize("name", ["somebody.pth", "somebody.pt"])
def test_a_checkpoint_in_place_of_a_graph_is_told_what_is_needed(tmp_path: Path, name: str, content: bytes) -> None:
    """It has no card that could be made again, as was said of one that tools/locate.py was given."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/{name} is a checkpoint; needed is a graph, as `make export` writes it"):
        read_card(tmp_path / name)
