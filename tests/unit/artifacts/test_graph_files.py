"""What stands for an ONNX graph may be anything; and so may the number of threads that is to run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers.specs import nano_spec
from uniad.artifacts.card import card_path, sequence_path
from uniad.artifacts.derived import write_derived
from uniad.artifacts.graph import is_quantised, load_graph
from uniad.backends.onnxruntime import OrtRunner
from uniad.errors import UserError
from uniad.interface.contract import contract_for

HALF = onnx.helper.make_model(
    onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(np.ones(999, np.float32), "weights")])
).SerializeToString()


@pytest.mark.parametrize("data", [b"\0", HALF[:10], HALF[:2000], b"text, not a graph", bytes(range(256)) * 9])
def test_what_is_no_graph_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    for read in (load_graph, is_quantised):
        with pytest.raises(UserError, match="a.onnx: not a readable ONNX graph") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_weights_beside_a_graph_stay_beside_it(tmp_path: Path) -> None:
    """The place of external data is a file name in the graph: one that leaves its folder reads nothing."""
    model = onnx.load_model_from_string(HALF)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "secret").write_bytes(b"s" * 4000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="a.onnx: not a readable ONNX graph"):
        load_graph(tmp_path / "in/a.onnx")


@pytest.mark.parametrize("threads", [-1, 100_000, 10**20])
def test_a_number_of_threads_that_no_machine_has_is_refused(threads: int) -> None:
    with pytest.raises(UserError, match=rf"{threads} threads of onnxruntime: give 0 \(its own choice\) to \d+"):
        OrtRunner(contract_for(nano_spec(1)), "a.onnx", threads)


def test_a_graph_made_of_another_has_no_card_until_all_of_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the card of an earlier one would stand beside the new sequence."""
    source, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    sequence_path(source).write_bytes(b"recorded")
    for path in (out, card_path(out)):
        path.write_bytes(b"earlier")
    model = onnx.ModelProto.FromString(HALF)

    def full(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(onnx, "save", full)
        with pytest.raises(OSError, match="no room"):
            write_derived(model, source, out)
    assert not card_path(out).exists() and out.read_bytes() == b"earlier"
    write_derived(model, source, out)
    assert not card_path(out).exists() and sequence_path(out).read_bytes() == b"recorded"
    assert load_graph(out) == model and sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
