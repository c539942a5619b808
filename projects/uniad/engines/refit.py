"""Another checkpoint's weights in a TensorRT engine that was built to take them, without building again.

TensorRT does the work: its parser finds in the refitted ONNX the weights that the engine holds (``OnnxParserRefitter`` of
TensorRT 10 and newer, and of TensorRT-RTX). Needs the GPU that the engine is for. Not run on one yet: tests use a stand-in.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from uniad.artifacts.card import read_card
from uniad.artifacts.graph import load_graph
from uniad.backends.identity import check_identity, this_device
from uniad.backends.tensorrt import load_package
from uniad.errors import UserError
from uniad.files import atomic_path
from uniad.formats.card import Card

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
BUILD = "build it again: `make engine` without REFIT"


def graph_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph without the numbers of its float initialisers: equal where an engine of one takes the other's."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if tensor.data_type in _FLOATS:
            shape = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(shape)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def of_weights(source: Card) -> dict:
    """What an engine's card says of the weights in it; source: its ONNX's card."""
    return {key: source[key] for key in ("checkpoint", "checkpoint_sha256", "weights") if key in source}


def check_refit(engine: str | Path, onnx_path: str | Path, backend: str, precision: str) -> tuple[Card, Card]:
    """Cards of both, after making sure that the engine can take the weights of that ONNX here. Raises UserError."""
    card, source = read_card(engine), read_card(onnx_path)
    if precision == "int8":
        raise UserError(f"{engine}: int8 is measured with the weights, so other weights are quantised and built anew; {BUILD}")
    if not card.get("refittable"):
        raise UserError(f"{engine}: was not built to take other weights; `make engine ENGINE_REFITTABLE=1` builds one that is")
    for what, built, asked in (("builder", card["builder"], backend), ("precision", card["precision"], precision)):
        if built != asked:
            raise UserError(f"{engine}: was built with {what} {built}, asked for is {asked}; {BUILD}")
    if card["graph_sha256"] != graph_digest(load_graph(onnx_path)):
        raise UserError(f"{engine}: was built from a graph with other nodes or shapes than {onnx_path}; {BUILD}")
    here = this_device()
    if not here:
        raise UserError(f"{engine}: is refitted on the GPU that runs it, and this machine has none: do it there")
    check_identity(engine, card, load_package(backend).__version__, here)
    return card, source


def refit_engine(engine: str | Path, onnx_path: str | Path, backend: str, out: str | Path) -> None:
    """Write ``engine`` with the weights of ``onnx_path``, which ``check_refit`` has passed, to ``out``.

    Raises UserError, and writes nothing, where TensorRT refuses a weight or lacks one: what it has changed by then is a copy in
    memory.
    """
    trt = load_package(backend)
    name = f"{backend} {trt.__version__}"
    if not hasattr(trt, "OnnxParserRefitter"):
        raise UserError(f"{engine}: {name} cannot read weights from an ONNX (TensorRT 10 and newer can); {BUILD}")
    logger = trt.Logger(trt.Logger.ERROR)
    trt.init_libnvinfer_plugins(logger, "")
    loaded = trt.Runtime(logger).deserialize_cuda_engine(Path(engine).read_bytes())
    if loaded is None:
        raise UserError(f"{engine}: {name} cannot load it on this machine; {BUILD}")
    if not loaded.refittable:
        raise UserError(f"{engine}: {name} says that it takes no other weights, whatever its card says; {BUILD}")
    refitter = trt.Refitter(loaded, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(onnx_path)):
        why = parser.get_error(0).desc().splitlines()[0] if parser.num_errors else "no reason given"
        raise UserError(f"{engine}: {name} refused the weights of {onnx_path}: {why}; {BUILD}")
    if missing := refitter.get_missing_weights():
        names = ", ".join(name or "one without a name" for name in missing[:3])
        raise UserError(f"{engine}: {onnx_path} lacks {len(missing)} weights that the engine needs ({names}); {BUILD}")
    if not refitter.refit_cuda_engine():
        raise UserError(f"{engine}: {name} could not put the weights of {onnx_path} in; {BUILD}")
    settings = loaded.create_serialization_config()
    if hasattr(trt.SerializationFlag, "INCLUDE_REFIT"):
        settings.set_flag(trt.SerializationFlag.INCLUDE_REFIT)  # it may be refitted again
    plan = loaded.serialize_with_config(settings)
    if plan is None:
        raise UserError(f"{engine}: {name} could not write the refitted engine; {BUILD}")
    with atomic_path(out) as temporary:
        temporary.write_bytes(memoryview(plan))
