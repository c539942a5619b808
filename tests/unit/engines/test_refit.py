"""A TensorRT engine takes other weights whole and verified, or stays as it was."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import build_engine as tool
from helpers import refit_stand_in as stand_in
from helpers.toy_graph import write_toy
from uniad.artifacts.card import card_path, read_card, write_card
from uniad.backends.open import open_onnx
from uniad.engines import refit
from uniad.engines.base import BuildOptions, Built
from uniad.engines.build import build_engine
from uniad.engines.tensorrt import PythonBackend
from uniad.errors import UserError

DEVICE = {"model": "stand-in", "compute_capability": "8.9"}


def export(path: Path, shift: float, **more: object) -> Path:
    """An export of a checkpoint of its own."""
    card = read_card(write_toy(path, shift=shift, **more))
    write_card(path, {**card, "checkpoint": f"{shift}.pth", "checkpoint_sha256": f"{shift}"})
    return path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same graph with the weights of two trainings."""
    folder = tmp_path_factory.mktemp("graphs")
    return export(folder / "old.onnx", 0.0), export(folder / "new.onnx", 0.5)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> stand_in.StandIn:
    """The stand-in, as if it were TensorRT on a GPU."""
    trt = stand_in.StandIn()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(refit, "this_device", lambda: DEVICE)
    monkeypatch.setattr("uniad.verify.run.open_engine", lambda card, contract, path, backend: open_onnx(contract, path))
    return trt


@pytest.fixture
def engine(package: stand_in.StandIn, graphs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return build(tmp_path / "engines" / "e.engine", graphs[0], monkeypatch)


def build(out: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, refittable: bool = True, **more: object) -> Path:
    def write(self: object, onnx_path: Path, source: dict, part: Path, options: BuildOptions) -> Built:
        part.write_bytes(stand_in.plan(onnx_path, refittable=refittable, **more))
        return Built("10.9.0", ["default"], "strong")

    monkeypatch.setattr(PythonBackend, "build", write)
    build_engine(graph, out, BuildOptions(backend="tensorrt", refittable=refittable))
    return out


def put_in(engine: Path, graph: Path, backend: str = "tensorrt", precision: str = "fp32") -> None:
    """`make engine REFIT=1`."""
    tool.refit(Namespace(onnx=graph, out=engine, backend=backend, precision=precision))


def weights(plan: Path) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(str(plan)).graph.initializer}


def test_a_refitted_engine_is_one_built_of_the_new_weights_and_its_card_says_whose(engine, graphs, tmp_path, monkeypatch) -> None:
    before = read_card(engine)
    assert (before["refittable"], before["checkpoint"], before["verified"]) == (True, "0.0.pth", None)
    put_in(engine, graphs[1])
    fresh = build(tmp_path / "fresh.engine", graphs[1], monkeypatch)
    assert engine.read_bytes() == fresh.read_bytes()
    card, wanted = read_card(engine), read_card(fresh)
    assert card["verified"]["ok"] and card["verified"]["frames"] == 2
    assert {k: v for k, v in card.items() if k not in ("verified", "build_seconds", "file")} == {
        k: v for k, v in wanted.items() if k not in ("verified", "build_seconds", "file")
    }
    put_in(engine, graphs[0])  # it may be refitted again
    assert read_card(engine)["checkpoint"] == "0.0.pth"


def refused(engine: Path, graph: Path, words: str, **asked: str) -> None:
    held = {path.name: path.read_bytes() for path in engine.parent.iterdir()}
    with pytest.raises(UserError, match=words) as raised:
        put_in(engine, graph, **asked)
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in engine.parent.iterdir()} == held, "it stays as it was"


def test_an_engine_that_cannot_take_these_weights_says_why(engine, graphs, tmp_path, monkeypatch) -> None:
    new = graphs[1]
    refused(engine, new, "built with builder tensorrt, asked for is tensorrt_rtx", backend="tensorrt_rtx")
    refused(engine, new, "built with precision fp32, asked for is fp16", precision="fp16")
    refused(engine, new, "int8 is measured with the weights", precision="int8")
    more = export(tmp_path / "onnx" / "more.onnx", 0.5, quantised=True)
    refused(engine, more, "a graph with other nodes or shapes than")
    wide = onnx.load(str(new))
    base = next(i for i in wide.graph.initializer if i.name == "base_boxes")
    base.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(base)[..., :1], base.name))
    onnx.save(wide, str(tmp_path / "onnx" / "wide.onnx"))
    write_card(tmp_path / "onnx" / "wide.onnx", read_card(new))
    refused(engine, tmp_path / "onnx" / "wide.onnx", "a graph with other nodes or shapes than")
    fixed = build(tmp_path / "fixed" / "e.engine", graphs[0], monkeypatch, refittable=False)
    refused(fixed, new, "ENGINE_REFITTABLE=1")
    write_card(fixed, {**read_card(engine), "checkpoint": "0.0.pth"})
    refused(fixed, new, "says that it takes no other weights")
    write_card(engine, {**read_card(engine), "device": {"model": "another"}})
    refused(engine, new, "built on another, this is stand-in")
    monkeypatch.setattr(refit, "this_device", lambda: None)
    refused(engine, new, "this machine has none")


def test_an_engine_of_another_release_is_refused_before_it_is_loaded(engine, graphs, package) -> None:
    package.__version__ = "10.3.0"
    refused(engine, graphs[1], "built for tensorrt 10.9.0, here is 10.3.0")
    package.__version__ = "10.9.0"
    package.Runtime = lambda logger: Namespace(deserialize_cuda_engine=lambda content: None)
    refused(engine, graphs[1], "cannot load it on this machine")


def test_a_release_that_cannot_read_weights_from_an_onnx_says_so(engine, graphs, package, monkeypatch) -> None:
    class Old(stand_in.StandIn):
        def __getattribute__(self, name: str) -> object:
            if name == "OnnxParserRefitter":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setitem(sys.modules, "tensorrt", Old())
    refused(engine, graphs[1], "TensorRT 10 and newer can")


def test_what_tensorrt_refuses_lacks_or_leaves_half_done_replaces_nothing(engine, graphs, package, tmp_path, monkeypatch) -> None:
    class Rejecting(stand_in.Refitter):
        def set_named_weights(self, name: str, value: np.ndarray) -> bool:
            return False

    class HalfDone(stand_in.Refitter):
        def refit_cuda_engine(self) -> bool:
            name, value = next(iter(self.given.items()))
            self.held[name].CopyFrom(numpy_helper.from_array(value, name))
            return False

    class Forgetful(stand_in.Refitter):
        """Of two weights that the builder combined it is told one."""

        def set_named_weights(self, name: str, value: np.ndarray) -> bool:
            return name == self.engine.combined[-1] or super().set_named_weights(name, value)

    for kind, words in ((Rejecting, r"refused the weights of .*was rejected;"), (HalfDone, "could not put the weights")):
        package.Refitter = kind
        refused(engine, graphs[1], words)
    package.Refitter = Forgetful
    both = ("base_boxes", "base_bev")
    combined = build(tmp_path / "combined" / "e.engine", graphs[0], monkeypatch, combined=both)
    refused(combined, graphs[1], r"lacks 1 weights that the engine needs \(base_bev\)")


def test_a_refitted_engine_that_is_wrong_takes_no_place(engine, graphs, package) -> None:
    class Wrong(stand_in.Refitter):
        """Says that all is done, and has left one weight as it was."""

        def refit_cuda_engine(self) -> bool:
            self.given.pop("base_boxes")
            return super().refit_cuda_engine()

    package.Refitter = Wrong
    refused(engine, graphs[1], "wrong with the weights of .* so it stays as it was: .*boxes")


def test_the_flag_reaches_the_builder_where_it_can_be_kept(graphs, tmp_path, monkeypatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: make env installs it")
    asked = []

    def build_nothing(self: object, network: object, config: object) -> bytes:
        asked.append(config.get_flag(trt.BuilderFlag.REFIT))
        return b"plan"

    # A refittable engine of this package is compiled on a GPU alone.
    monkeypatch.setattr(trt.Builder, "build_serialized_network", build_nothing)
    for refittable in (False, True):
        build_engine(graphs[0], tmp_path / "e.engine", BuildOptions(refittable=refittable))
        assert ("graph_sha256" in read_card(tmp_path / "e.engine")) == refittable
    assert asked == [False, True]
    for options, words in (
        (BuildOptions(backend="trtexec", refittable=True), "trtexec builds none that can be refitted"),
        (BuildOptions(backend="tensorrt", refittable=True), "cannot refit"),
    ):
        monkeypatch.setitem(sys.modules, "tensorrt", Namespace(__version__="8.6.1"))
        with pytest.raises(UserError, match=words):
            build_engine(graphs[0], tmp_path / "f.engine", options)
    assert not card_path(tmp_path / "f.engine").exists()


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_on_a_gpu_an_engine_takes_the_weights_of_another_graph(graphs, tmp_path, backend) -> None:
    pytest.importorskip(backend)
    engine = tmp_path / "e.engine"
    build_engine(graphs[0], engine, BuildOptions(backend=backend, refittable=True))
    for graph in (graphs[1], graphs[0]):
        put_in(engine, graph, backend=backend)
        assert read_card(engine)["verified"]["ok"]
