"""From model to a static ONNX graph that every supported TensorRT parses without a plugin."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from uniad.errors import UserError
from uniad.export.audit import audit
from uniad.export.groups import name_nodes
from uniad.export.passes import decompose_layer_norm, downgrade_opset, fix_casts, keep_int32_indices
from uniad.export.weights import make_record, named_weights, record_path, trace, untraced_of, write_record
from uniad.export.wrapper import ExportStep
from uniad.files import atomic_path
from uniad.interface.contract import Contract
from uniad.models.uniad import UniAD

EXPORTER_OPSET = 18  # the oldest that PyTorch's exporter writes; downgrade_opset goes down from here
SAMPLINGS = ("gridsample", "gather", "plugin")


@dataclass(frozen=True)
class Target:
    """What a TensorRT release takes. ``plain_layer_norm``: its parser lacks LayerNormalization."""

    opset: int
    sampling: str
    plain_layer_norm: bool
    why: str


# 8.5 has no LayerNormalization; 10.13 to 11.1 miscompile GridSample in deformable attention on some GPUs, where pad and gather is
# right (docs/export.md).
TARGETS = {
    "8.5": Target(16, "gridsample", True, "JetPack 5.1"),
    "8.6": Target(17, "gridsample", False, "JetPack 6.0"),
    "10.3": Target(17, "gridsample", False, "JetPack 6.1 and 6.2"),
    "10.13": Target(17, "gather", False, "JetPack 7.0 and 7.1; GridSample can be miscompiled"),
    "10.16": Target(17, "gather", False, "JetPack 7.2; GridSample can be miscompiled"),
    "11": Target(17, "gather", False, "GridSample can be miscompiled"),
    "rtx": Target(17, "gridsample", False, "TensorRT-RTX"),
}


def example_tensors(contract: Contract) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shape and dtype for tracing; values do not matter, the graph has no branch on them."""
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for port in contract.input_ports().values():
        dtype = getattr(torch, port.dtype)
        value = torch.zeros(port.shape, dtype=dtype)
        if port.dtype == "float32":
            value = torch.rand(port.shape, generator=generator)
        tensors.append(value)
    return tuple(tensors)


def export_onnx(
    model: UniAD,
    contract: Contract,
    path: str | Path,
    *,
    opset: int = 17,
    sampling: str = "gridsample",
    plain_layer_norm: bool = False,
) -> onnx.ModelProto:
    """Write ``model.step`` as one ONNX file and, beside it, the record of its weights (``export.weights``).

    Raises UserError, and leaves no file, when the graph fails its audit.
    """
    from uniad.ops.deformable_attention import sampling_as

    step = ExportStep(model, contract).eval()
    with torch.no_grad(), sampling_as(sampling), _quiet_exporter():
        program = torch.onnx.export(
            step,
            example_tensors(contract),
            input_names=contract.input_names, output_names=contract.output_names, opset_version=EXPORTER_OPSET,
            dynamo=True, optimize=False, verbose=False,
        )  # fmt: skip
        assert program is not None  # what dynamo=True gives
        traced = trace(program.model)
        _simplify(program.model)
    record = make_record(traced, {i.name: i for i in program.model_proto.graph.initializer}, named_weights(model))
    graph = keep_int32_indices(fix_casts(name_nodes(program.model_proto)))
    if plain_layer_norm and opset >= 17:
        graph = decompose_layer_norm(graph)
    graph = downgrade_opset(graph, opset)
    graph.doc_string = ""
    for node in graph.graph.node:  # exporter metadata carries the paths of the machine that exported
        del node.metadata_props[:]
        node.doc_string = ""
    for value in graph.graph.value_info:
        del value.metadata_props[:]
    faults = audit(graph, contract, allow_plugin=sampling == "plugin")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"{path}: the graph is not deployable: {faults[0]}{more}")
    onnx.checker.check_model(graph, full_check=sampling != "plugin")
    record_path(path).unlink(missing_ok=True)  # an earlier graph's
    with atomic_path(path) as temporary:
        onnx.save(graph, str(temporary))
    write_record(path, record)
    if untraced := untraced_of(record):
        print(f"{path}: takes no other weights later (REFIT=1): where these come from is unknown: {', '.join(untraced)}")
    return graph


def _simplify(model) -> None:
    """Fold constants and drop what nothing reads. The exporter's own optimiser also matches fusion patterns node by node, which
    takes longer than all the rest of the export and finds nothing in these graphs that TensorRT does not fuse itself."""
    import onnx_ir.passes.common as common
    from onnxscript import optimizer

    optimizer.fold_constants(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


@contextlib.contextmanager
def _quiet_exporter():
    """The exporter prints its progress and warns about its own internals; a person exporting wants neither."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
