"""What int8 has to hold: magnitudes of activations while the fp32 graph drives along recorded scenes, its state fed back.

A frame without a past has no tracks, no memory and no previous BEV; layers that read them would be calibrated on zeros. So the
graph runs frame after frame, as in a car. Memory is bounded by watching as many tensors at a time as fit; the others take
another drive.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from uniad.backends.base import Feeds
from uniad.backends.onnxruntime import OrtRunner
from uniad.config.spec import Spec
from uniad.data.dataset import SceneStream, Split
from uniad.errors import UserError
from uniad.interface.contract import Contract, pack_frame
from uniad.precision.int8.candidates import Layer, tensor_shapes
from uniad.precision.int8.histogram import Magnitudes

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class CalibrationSet:
    """Scenes of a split to calibrate on: ``scenes`` of them, spread over it, the first ``frames`` of each."""

    spec: Spec
    split: Split = "train"
    scenes: int = 4
    frames: int = 20

    def open(self) -> tuple[SceneStream, list[int]]:
        """The stream and the numbers of the scenes. Raises UserError where there is none."""
        try:
            stream = SceneStream(self.spec.data, self.split, stage=1, workers=0)  # frames alone
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: no such file; `make data` prepares the data that int8 is calibrated on") from None
        there = len(stream.scenes)
        if self.scenes < 1 or self.frames < 1 or not there:
            raise UserError(
                f"the calibration set is empty: {self.scenes} scenes of {self.frames} frames asked for, {there} scenes in the "
                f"{self.split} split; choose CALIB_SCENES and CALIB_FRAMES from 1 on"
            )
        if self.scenes > there:
            raise UserError(f"CALIB_SCENES {self.scenes}: the {self.split} split has {there} scenes")
        return stream, [int(i) for i in np.linspace(0, there - 1, self.scenes).round()]


def scene_feeds(stream: SceneStream, scene: int, frames: int, contract: Contract) -> Iterator[Feed]:
    """Frame inputs of a scene's first frames, by their names in the graph."""
    for i, sample in enumerate(stream.scene(scene)):
        if i >= frames:
            return
        yield {p.name: t.numpy() for p, t in zip(contract.frame, pack_frame(contract, sample.frame))}


class Watcher(OrtRunner):
    """The graph with some of its inner tensors shown after each step."""

    def __init__(self, contract: Contract, path: Path, tensors: list[str], threads: int = 0) -> None:
        super().__init__(contract, path, threads)
        fed = set(contract.input_names)
        self.inner = [name for name in tensors if name not in fed and name not in contract.output_names]
        self.graph_io = [name for name in tensors if name not in self.inner]
        self.seen: Feed = {}

    def _infer(self, feeds: Feeds) -> Feed:
        values = self.session.run([*self.contract.output_names, *self.inner], dict(feeds))
        outputs = dict(zip(self.contract.output_names, values))
        everything = {**feeds, **outputs}
        self.seen = dict(zip(self.inner, values[len(outputs) :])) | {name: everything[name] for name in self.graph_io}
        return outputs


@dataclass
class Calibration:
    """Magnitudes by activation tensor, and what they were taken from."""

    magnitudes: dict[str, Magnitudes]
    digest: str  # of every input fed, so that two calibrations can be told apart
    scenes: list[str]
    frames: int
    active: int  # tracks reported over all frames: none means that nothing with a past was seen

    def limits(self, method: str, percentile: float) -> dict[str, float]:
        """Largest magnitude that int8 keeps, by tensor."""
        return {name: found.limit(method, percentile) for name, found in self.magnitudes.items()}


def calibrate(
    model: onnx.ModelProto,
    layers: Iterable[Layer],
    contract: Contract,
    chosen: CalibrationSet,
    memory_mib: int = 1024,
    threads: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Drive along the scenes and count. memory_mib: what the watched tensors of one frame may take together."""
    stream, scenes = chosen.open()
    magnitudes = {name: Magnitudes() for name in dict.fromkeys(layer.activation for layer in layers)}
    parts = _portions(list(magnitudes), model, memory_mib)
    digest, frames, active = hashlib.sha256(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number, tensors in enumerate(parts):
            path = Path(folder) / "watched.onnx"
            onnx.save(_showing(model, tensors), str(path))
            with Watcher(contract, path, tensors, threads) as runner:
                for scene in scenes:
                    runner.reset()
                    for feed in scene_feeds(stream, scene, chosen.frames, contract):
                        outputs = runner.step(feed)
                        for name, values in runner.seen.items():
                            try:
                                magnitudes[name].add(values)
                            except UserError as error:
                                where = f"frame {frames} of the calibration set: {name}"
                                raise UserError(f"{where}: {error}; `make verify` and `make data` find out why") from None
                        if not number:
                            frames += 1
                            active += int((outputs["active"] != 0).sum())
                            for name in contract.input_names:
                                if name in feed:
                                    digest.update(name.encode() + np.ascontiguousarray(feed[name]).tobytes())
                    if not number:
                        progress(f"calibrated on {frames} frames of {scenes.index(scene) + 1} of {len(scenes)} scenes")
    if not frames:
        raise UserError(f"the calibration set is empty: the scenes of the {chosen.split} split that were chosen hold no frame")
    names = [str(stream.table.scene_token[stream.scenes[scene]]) for scene in scenes]
    return Calibration(magnitudes, digest.hexdigest(), names, frames, active)


def _portions(tensors: list[str], model: onnx.ModelProto, memory_mib: int) -> list[list[str]]:
    """Tensors in portions that stay within the memory, each of at least one."""
    shapes, room = tensor_shapes(model), memory_mib * 2**20
    parts: list[list[str]] = []
    left = 0
    for name in tensors:
        size = 4 * int(np.prod(shapes[name]))
        if not parts or size > left:
            parts.append([])
            left = room
        parts[-1].append(name)
        left -= size
    return parts or [[]]


def _showing(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """A copy with inner tensors among its outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    graph_io = {v.name for v in (*shown.graph.input, *shown.graph.output)}
    values = {v.name: v for v in shown.graph.value_info}
    shown.graph.output.extend(values[name] for name in tensors if name not in graph_io)
    return shown
