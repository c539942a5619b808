"""The node's parameters: name, default, what it means, and what it may be."""

from __future__ import annotations

from typing import NamedTuple

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor


class Parameter(NamedTuple):
    default: bool | int | float | str
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """Read when the node is configured: a change needs a cleanup first."""
        described = ParameterDescriptor(description=self.description)
        if self.choices:
            described.additional_constraints = f"one of {', '.join(self.choices)}"
        if isinstance(self.default, float):
            described.floating_point_range = [FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)]
        elif isinstance(self.default, int) and not isinstance(self.default, bool):
            described.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return described


PARAMETERS: dict[str, Parameter] = {
    "model": Parameter("", "ONNX or TensorRT engine with its card beside it, or a checkpoint"),
    "config": Parameter("", "config file of a checkpoint; empty otherwise"),
    "backend": Parameter(
        "auto", "what runs the model",
        choices=("auto", "torch", "compiled", "onnxruntime", "tensorrt", "tensorrt_rtx", "trtexec"),
    ),
    "device": Parameter("auto", "where it runs", choices=("auto", "cpu", "cuda")),
    "threads": Parameter(0, "threads of onnxruntime; 0: its own choice", 0, 256),
    "verify": Parameter(
        "auto", "replay the recorded sequence beside the model before it is used: where there is one, always, or never",
        choices=("auto", "always", "never"),
    ),
    "topics_file": Parameter("", "JSON file that says which topic is what; empty: found by their names"),
    "calibration_file": Parameter("", "JSON file with lidar2ego and cameras; empty: CameraInfo and TF"),
    "every": Parameter(1, "take each so many-th instant of the reference, as 5 at 10 Hz: the model takes 2 a second", 1, 100),
    "tolerance_s": Parameter(0.06, "seconds by which an image may miss its instant", 0.0, 0.5),
    "patience_s": Parameter(0.3, "seconds that an instant waits for what is late", 0.0, 5.0),
    "limits": Parameter("", "what a frame may hold, as 'most_step_s=5 speed_mps=60'; empty: the runtime's own"),
}  # fmt: skip
