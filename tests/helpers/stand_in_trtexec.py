#!/usr/bin/env python3
"""Stands for trtexec: notes its arguments, refuses those that its release has not, and answers as the real one does, with numbers
that onnxruntime computes. An "engine" is the ONNX behind a line that says for which release and device it was made.

``stand_in.json`` beside it: version (number of the banner), wrong (spoil the boxes), delay_s and fail (of a build), nearest (of a
GridSample whose grid is computed, as 10.14 has it), crash (a graph that ends a build).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

HERE = Path(sys.argv[0]).resolve().parent
SETTINGS = json.loads((HERE / "stand_in.json").read_text())
VERSION = SETTINGS["version"]
KNOWN = set(
    "help onnx saveEngine loadEngine memPoolSize timingCacheFile loadInputs exportOutput iterations warmUp duration avgRuns "
    "noTF32 percentile skipInference minShapes optShapes maxShapes shapes".split()
)
if VERSION < 8600:
    KNOWN = KNOWN - {"skipInference"} | {"buildOnly"}
else:
    KNOWN |= {"dumpRawBindingsToFile"}
if VERSION < 110000:
    KNOWN |= {"fp16", "int8", "best", "precisionConstraints", "layerPrecisions"}
if VERSION >= 100000:
    KNOWN |= {"stronglyTyped"}


def fail(reason: str) -> None:
    print(f"[11/22/2026-12:00:00] [E] {reason}\n&&&& FAILED TensorRT.trtexec [TensorRT v{VERSION}]")
    sys.exit(1)


def main() -> None:
    with open(HERE / "calls.log", "a") as log:
        log.write(json.dumps(sys.argv[1:]) + "\n")
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{VERSION}] # {' '.join(sys.argv)}")
    options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
    unknown = set(options) - KNOWN
    if unknown:
        fail(f"Unknown option: --{unknown.pop()}")
    if "help" in options:
        print("\n".join(f"  --{name}" for name in sorted(KNOWN)))
    elif "onnx" in options:
        build(options)
    else:
        run(options)
    print(f"&&&& PASSED TensorRT.trtexec [TensorRT v{VERSION}]")


def build(options: dict) -> None:
    if not options["onnx"] or not options["memPoolSize"].startswith("workspace:"):
        fail("bad build options")
    deadline = time.monotonic() + SETTINGS.get("delay_s", 0)
    while time.monotonic() < deadline:
        time.sleep(0.05)
    if SETTINGS.get("fail"):
        fail(SETTINGS["fail"])
    if Path(options["onnx"]).stem == SETTINGS.get("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    graph = Path(options["onnx"]).read_bytes()
    if b"ModulatedDeformConv2d" in graph or b"MultiscaleDeformableAttnPlugin_TRT" in graph:  # onnxruntime has neither
        fail("onnxOpImporters.cpp:6521 In function importFallbackPluginImporter: [8] Assertion failed: plugin: Plugin not found")
    if b"QuantizeLinear" in graph:  # weights of a byte each
        graph = zlib.compress(graph)
    Path(options["saveEngine"]).write_bytes(f"engine {VERSION}\n".encode() + graph)
    if options.get("timingCacheFile"):
        Path(options["timingCacheFile"]).write_text("times")


def with_nearest(graph: bytes) -> bytes:
    import onnx

    model = onnx.load_from_string(graph)
    given = {v.name for v in model.graph.input}
    for node in model.graph.node:
        if node.op_type == "GridSample" and node.input[1] not in given:
            next(a for a in node.attribute if a.name == "mode").s = b"nearest"
    return model.SerializeToString()


def run(options: dict) -> None:
    import numpy as np
    import onnxruntime

    line, _, graph = Path(options["loadEngine"]).read_bytes().partition(b"\n")
    if line != f"engine {VERSION}".encode():
        fail("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (stdVersionRead == serializationVersion)")
    graph = zlib.decompress(graph) if graph[:1] == b"x" else graph
    if SETTINGS.get("nearest") and b"GridSample" in graph:
        graph = with_nearest(graph)
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(graph, settings)
    given = dict(pair.split(":") for pair in options.get("shapes", "").split(",") if pair)
    files = dict(pair.split(":") for pair in options["loadInputs"].split(","))
    types = {"tensor(float)": np.float32, "tensor(int32)": np.int32}
    feeds = {}
    for value in session.get_inputs():
        shape = [int(n) for n in given[value.name].split("x")] if value.name in given else value.shape
        feeds[value.name] = np.fromfile(files[value.name], types[value.type]).reshape(shape)
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))
    if SETTINGS.get("wrong") and "boxes" in outputs:
        outputs["boxes"] = outputs["boxes"] + 0.01
    for name, value in outputs.items() if "dumpRawBindingsToFile" in options else ():
        kind = {"float32": "fp32", "int32": "int32"}[value.dtype.name]
        value.tofile(f"{name}.output.{'.'.join(map(str, value.shape))}.{kind}.raw")
    if "exportOutput" in options:
        entries = (
            f'{{ "name" : "{name}"\n  , "dimensions" : "{"x".join(map(str, value.shape))}"\n  , "values" : [ '
            + ", ".join(f"{v:.6g}" for v in value.ravel().tolist()) + " ]\n}"
            for name, value in outputs.items()
        )
        Path(options["exportOutput"]).write_text("[\n  " + "\n, ".join(entries) + "\n]\n")
    print(
        "[11/22/2026-12:00:00] [I] GPU Compute Time: min = 40.1 ms, max = 44.2 ms, mean = 41 ms, median = 40.9 ms, "
        "percentile(99%) = 43.7 ms"
    )


main()
