"""A ``tensorrt`` that refits as the real package says it does, without a GPU. Its plan is an ONNX, which onnxruntime runs.

As there: an engine knows whether it may be refitted; a weight of a name or size that the engine lacks is refused; of weights that
the builder combined all are missing as long as some are; a refit that fails may have changed some weights already; what is
serialised may be refitted again only where that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLAGS = "stand-in"


def plan(onnx_path: Path, *, refittable: bool = True, combined: tuple[str, ...] = ()) -> bytes:
    """An engine of that ONNX. combined: weights that the builder made one of."""
    model = onnx.load(str(onnx_path))
    helper.set_model_props(model, {FLAGS: " ".join([str(int(refittable)), *combined])})
    return model.SerializeToString(deterministic=True)


class Engine:
    def __init__(self, content: bytes) -> None:
        self.model = onnx.load_from_string(content)
        flag, *self.combined = {p.key: p.value for p in self.model.metadata_props}[FLAGS].split()
        self.refittable = flag == "1"

    def create_serialization_config(self) -> SimpleNamespace:
        asked: set[str] = set()
        return SimpleNamespace(asked=asked, set_flag=asked.add)

    def serialize_with_config(self, settings: SimpleNamespace) -> bytes:
        kept = int("INCLUDE_REFIT" in settings.asked)
        helper.set_model_props(self.model, {FLAGS: " ".join([str(kept), *self.combined])})
        return self.model.SerializeToString(deterministic=True)


class Refitter:
    def __init__(self, engine: Engine, logger: object) -> None:
        self.engine, self.given = engine, {}
        self.held = {i.name: i for i in engine.model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}

    def set_named_weights(self, name: str, value: np.ndarray) -> bool:
        if name not in self.held or list(value.shape) != list(self.held[name].dims):
            return False
        self.given[name] = value
        return True

    def get_missing_weights(self) -> list[str]:
        missing = [name for name in self.engine.combined if name not in self.given]
        return missing if len(missing) < len(self.engine.combined) else []

    def refit_cuda_engine(self) -> bool:
        if self.get_missing_weights():
            return False
        for name, value in self.given.items():
            self.held[name].CopyFrom(numpy_helper.from_array(value, name))
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: object) -> None:
        self.refitter, self.errors = refitter, []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(desc=lambda: self.errors[number])

    def refit_from_file(self, path: str) -> bool:
        for tensor in onnx.load(path).graph.initializer:
            if tensor.name in self.refitter.held:
                if not self.refitter.set_named_weights(tensor.name, numpy_helper.to_array(tensor)):
                    self.errors.append(f"{tensor.name} was rejected\nby the refitter")
                    return False
        return True


@dataclass
class StandIn:
    """The package; a test may replace its parts."""

    __version__: str = "10.9.0"
    Logger: object = field(default_factory=lambda: type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None}))
    SerializationFlag: object = field(default_factory=lambda: SimpleNamespace(INCLUDE_REFIT="INCLUDE_REFIT"))
    Refitter: type = Refitter
    OnnxParserRefitter: type = OnnxParserRefitter

    def init_libnvinfer_plugins(self, logger: object, namespace: str) -> bool:
        return True

    def Runtime(self, logger: object) -> SimpleNamespace:  # noqa: N802  named as there
        return SimpleNamespace(deserialize_cuda_engine=lambda content: Engine(content) if content else None)
