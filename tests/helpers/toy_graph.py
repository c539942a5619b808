"""A step of nano's interface that says little and says it at once: constants, and sums of the state that is fed back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from helpers.command_line import NANO
from helpers.replays import draw_sequence
from helpers.specs import nano_spec
from uniad.artifacts.card import sequence_path, write_card
from uniad.artifacts.sequence import Sequence, normalise_images
from uniad.interface.contract import Contract, contract_for
from uniad.postprocess.map_merge import finish_lanes

TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
MEAN, STD = np.array([103.5, 116.3, 123.7], np.float32), np.ones(3, np.float32)


def contract() -> Contract:
    return contract_for(nano_spec(1))


def write_toy(path: Path, opset: int = 16, frames: int = 2, quantised: bool = False, shift: float = 0.0) -> Path:
    """ONNX, card and recorded sequence. Boxes and BEV depend on the BEV of the frame before and on the images.

    shift: what another training would change: metres that all boxes lie elsewhere.
    """
    io = contract()
    output = draw_sequence(io)
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    nodes.append(helper.make_node("ReduceMean", ["state_bev"], ["old"], keepdims=0))
    nodes.append(helper.make_node("ReduceMean", ["img"], ["seen"], keepdims=0))
    nodes.append(helper.make_node("Add", ["old", "seen"], ["moved"]))
    for port in io.outputs:
        moved_by = np.float32(shift) if port.name == "boxes" else 0
        base = constant(f"base_{port.name}", output.expected[0][port.name] + moved_by)
        if port.name == "boxes":
            nodes.append(helper.make_node("Add", [base, "moved"], [port.name]))
        else:
            nodes.append(helper.make_node("Identity", [base], [port.name]))
    passed = {"l2g_r": "l2g_r", "l2g_t": "l2g_t", "time_s": "time_s"}
    for port in io.state:
        out = f"next_{port.name}"
        if port.name in passed:
            nodes.append(helper.make_node("Identity", [passed[port.name]], [out]))
        elif port.name in ("pos", "angle"):
            first, last = (0, 3) if port.name == "pos" else (17, 18)
            bounds = [constant(f"{port.name}_{i}", np.array([v], np.int64)) for i, v in enumerate((first, last, 1))]
            cut = f"cut_{port.name}" if port.name == "angle" else out
            nodes.append(helper.make_node("Slice", ["can_bus", *bounds], [cut]))
            if port.name == "angle":
                nodes.append(helper.make_node("Reshape", [cut, constant("one", np.array([1], np.int64))], [out]))
        elif port.name == "bev":
            half = constant("half", np.array(0.5, np.float32))
            nodes.append(helper.make_node("Mul", ["state_bev", half], ["less"]))
            nodes.append(helper.make_node("Add", ["less", constant("base_bev", output.end_state["bev"])], ["sum"]))
            nodes.append(helper.make_node("Add", ["sum", "seen"], [out]))
        else:
            nodes.append(helper.make_node("Identity", [constant(f"base_{out}", output.end_state[port.name])], [out]))
    if quantised:
        scale, zero = constant("scale", np.array(1e-3, np.float32)), constant("zero", np.array(0, np.int8))
        nodes.append(helper.make_node("QuantizeLinear", ["old", scale, zero], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", scale, zero], ["dq"]))

    for i, node in enumerate(nodes):  # one layer to lower, the rest of it is the step's own
        node.name = f"{'img_neck' if node.output[0] == 'seen' else 'glue'}/{node.op_type}_{i}"

    def values(ports: dict) -> list:
        return [helper.make_tensor_value_info(name, TYPES[p.dtype], p.shape) for name, p in ports.items()]

    graph = helper.make_graph(nodes, "toy", values(io.input_ports()), values(io.output_ports()), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    _record(path, io, output, frames)
    card = {
        "kind": "onnx", "variant": "nano", "stage": 1, "config": str(NANO), "config_options": [], "opset": opset,
        "sampling": "gridsample", "target": None, "sequence": sequence_path(path).name, "sequence_frames": frames,
        "contract": io.to_json(),
    }  # fmt: skip
    write_card(path, card)
    return path


def _record(path: Path, io: Contract, drawn: Sequence, frames: int) -> None:
    rng, session = np.random.default_rng(1), onnxruntime.InferenceSession(str(path))
    arrays, state, outputs = {"mean": MEAN, "std": STD}, io.initial_state(), {}
    for i in range(frames):
        feed = dict(drawn.feeds[i])
        feed["can_bus"] = feed["can_bus"] + np.float32(1234.56789)  # places on earth have more than six digits
        n, _, h, w = feed["img"].shape[1:]
        pixels = rng.integers(0, 255, (n, h, w, 3), np.uint8)
        feed["img"] = normalise_images(pixels, MEAN, STD)
        outputs = dict(zip(io.output_names, session.run(io.output_names, {**feed, **state})))
        state = io.carry(outputs)
        arrays |= {f"f{i}/{name}": value for name, value in feed.items() if name != "img"} | {f"f{i}/img_u8": pixels}
        output = finish_lanes({p.name: outputs[p.name] for p in io.outputs}, io.map_merge)
        arrays |= {f"f{i}/out/{name}": value for name, value in output.items()}
    arrays |= {f"end/{p.name}": outputs[f"next_{p.name}"] for p in io.state}
    np.savez_compressed(sequence_path(path), **arrays)
