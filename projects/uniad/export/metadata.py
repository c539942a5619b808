"""Inputs of upstream's deployment, in its own names, shapes and types: for an upstream ONNX export and inference program.

    uniad_onnx_input/<name>/<frame>.npy    of the first six frames: inputs and ground truth of upstream's ONNX export
    uniad_trt_input/<name>/<frame>.bin     of every frame: flat float32, without images, which the program reads by
    uniad_trt_input/info.txt               the paths of the six camera files of a frame, each closed by ';', a frame a line

Frames follow each other over the whole split, and so does what upstream's tool carries along: positions and headings are
differences to the frame before even across a scene's border (the very first is absolute), and the program's timestamps count from
the first frame of all. Nothing here feeds our own step, whose recorded sequence lies beside the ONNX.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import Spec
from uniad.data.dataset import SceneStream, Split
from uniad.data.transforms import scaled_projection
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.geometry import transforms as tf

DEFAULT_FRAMES = 69  # the first two scenes of the validation split of nuScenes
ONNX_FRAMES = 6
TOKEN_LENGTH = 32
DRIVABLE_LABEL = 3  # closes the list of map elements
Arrays = dict[str, NDArray]


@dataclass(frozen=True)
class Written:
    """How much was written where."""

    frames: int
    scenes: int
    onnx: Path
    trt: Path


def write_metadata(
    spec: Spec,
    onnx: Path,
    trt: Path,
    frames: int | None = None,
    split: Split = "val",
    progress: Callable[[], None] = lambda: None,
) -> Written:
    """Write both folders, each whole or not at all; earlier ones are replaced.

    frames: None for upstream's number, or all where there are fewer. UserError for fewer than six, and for more than the
    split holds.
    """
    stream = SceneStream(spec.data, split, stage=2, workers=0)
    there = len(stream.table)
    if frames is None:
        frames = min(DEFAULT_FRAMES, there)
    if not ONNX_FRAMES <= frames <= there:
        raise UserError(f"{frames} frames asked for: the export takes {ONNX_FRAMES}, and {stream.table.path} holds {there}")
    fresh = {path: path.with_name(f".{path.name}.partial") for path in (onnx, trt)}
    try:
        for path in fresh.values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        lines = []
        for frame in range(frames):
            own = inference_input(stream, frame, spec)
            for name, value in own.items():
                place = fresh[trt] / name
                place.mkdir(exist_ok=True)
                np.ascontiguousarray(value, np.float32).ravel().tofile(place / f"{frame}.bin")
            if frame < ONNX_FRAMES:
                for name, value in export_input(stream, frame, own).items():
                    place = fresh[onnx] / name
                    place.mkdir(exist_ok=True)
                    np.save(place / f"{frame}.npy", value)
            paths = (Path(spec.data.data_root) / path for path in stream.table.img_path[frame])
            lines.append("".join(f"{path};" for path in paths) + "\n")
            progress()
        (fresh[trt] / "info.txt").write_text("".join(lines))
        for path, partial in fresh.items():
            _replace(path, partial)
    except OSError as error:
        raise UserError(f"{error.filename or onnx}: {error.strerror}; is there room, and may you write there?") from error
    finally:
        for partial in fresh.values():
            shutil.rmtree(partial, ignore_errors=True)
    return Written(frames, len(np.unique(stream.table.scene[:frames])), onnx, trt)


def inference_input(stream: SceneStream, frame: int, spec: Spec) -> Arrays:
    """What the inference program reads of a frame, float32: shapes as its graph has them."""
    table = stream.table
    token = str(table.scene_token[table.scene[frame]])
    if len(token) != TOKEN_LENGTH:
        raise UserError(f"{table.path}: scene token {token!r} has {len(token)} letters, the graph takes {TOKEN_LENGTH}")
    projection = scaled_projection(table.img_from_lidar[frame], spec.data.image.scale)
    global_from_lidar = table.global_from_lidar[frame]
    values = {
        "img_metas_lidar2img": projection[None],
        "img_metas_scene_token": np.array([ord(letter) for letter in token]),
        "l2g_t": global_from_lidar[None, :3, 3],
        # Points are row vectors here: the rotation is stored transposed.
        "l2g_r_mat": global_from_lidar[None, :3, :3].swapaxes(1, 2),
        "timestamp": np.array([(int(table.timestamp_us[frame]) - int(table.timestamp_us[0])) / 1e6]),
        "command": np.array([stream._samples.labeller.command(frame)]),
        "img_metas_can_bus": _moved_can_bus(stream, frame),
    }
    return {name: np.ascontiguousarray(value, np.float32) for name, value in values.items()}


def export_input(stream: SceneStream, frame: int, own: Arrays) -> Arrays:
    """What upstream's export reads of a frame; ``own``: its ``inference_input``.

    n map elements and the drivable area after them: gt_lane_labels [1, n + 1], gt_lane_masks [1, n + 1, h, w].
    """
    if frame >= len(stream.frames) or stream.frames[frame] != frame:
        raise AssertionError("the stream holds a share of the split")
    sample = stream._samples.make(frame)
    gt = sample.targets
    assert gt.stage2 is not None
    kept = gt.lane_valid[0].numpy()
    masks = np.concatenate([gt.lane_masks[0].numpy()[kept], gt.drivable.numpy()])
    labels = np.append(gt.lane_labels[0].numpy()[kept], DRIVABLE_LABEL)
    return {
        **own,
        "timestamp": np.array([int(stream.table.timestamp_us[frame]) / 1e6]),  # float64: as float32 it would be 128 s off
        "img": sample.frame.img.numpy(),
        "gt_segmentation": gt.stage2.segmentation.numpy().astype(np.float32),
        "gt_lane_masks": masks[None].astype(np.float32),
        "gt_lane_labels": labels[None].astype(np.float32),
    }


def _moved_can_bus(stream: SceneStream, frame: int) -> NDArray[np.float64]:
    """[18]: 0:3 moved since the frame before (m), 17 turned since then (degrees), the rest as it is."""
    table = stream.table
    vector = stream._samples.labeller.can_bus(frame).astype(np.float64)

    def pose(number: int) -> tuple[NDArray[np.float64], float]:
        matrix = table.global_from_ego[number]
        return matrix[:3, 3], float(np.degrees(tf.heading(matrix))) % 360.0

    position, angle = pose(frame)
    before, angle_before = pose(frame - 1) if frame else (np.zeros(3), 0.0)
    vector[:3], vector[17] = position - before, angle - angle_before
    return vector


def _replace(path: Path, partial: Path) -> None:
    """Put a finished folder in place of an earlier one."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def shapes(spec: Spec) -> dict[str, tuple[int | None, ...]]:
    """Shape of every array by name, from the config; None where it depends on the frame."""
    image, data = spec.data.image, spec.data
    occ = tuple(round((high - low) / step) for low, high, step in (data.occ_ybound, data.occ_xbound))
    cameras = len(CAMERAS)
    return {
        "img_metas_lidar2img": (1, cameras, 4, 4),
        "img_metas_scene_token": (TOKEN_LENGTH,),
        "l2g_t": (1, 3),
        "l2g_r_mat": (1, 3, 3),
        "timestamp": (1,),
        "command": (1,),
        "img_metas_can_bus": (18,),
        "img": (1, cameras, 3, image.height, image.width),
        "gt_segmentation": (1, 7, *occ),
        "gt_lane_masks": (1, None, *data.canvas_hw),
        "gt_lane_labels": (1, None),
    }
