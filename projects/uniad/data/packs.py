"""Packs: all that training reads of a data set, frame by frame in fixed slots, images as scaled bytes, in one file.

Decoding images and drawing labels costs a hundred milliseconds a frame and comes out the same every time. A pack is made once
and read by both stages; its frames are joined to clips where they lie, in the memory of the GPU if they fit. Several packs are
one training set: worlds of other seeds, each with maps of its own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from uniad.config.spec import BENCH2DRIVE, UPSTREAM, DataSpec, ImageSpec, Spec
from uniad.data.dataset import ClipDataset, pose_tensors
from uniad.errors import UserError
from uniad.files import atomic_path, open_outside
from uniad.interface.types import Frame, Stage2Targets, Targets

FORMAT = 1
# Of a clip's targets, those of every frame; the others belong to its last frame.
PER_FRAME = ("boxes", "labels", "ids", "valid", "past_traj", "past_traj_mask", "sdc_box", "sdc_label")
# What a pack does not depend on.
ELSEWHERE = (
    "data_root", "ann_file_train", "ann_file_val", "queue_length", "samples_per_gpu", "workers_per_gpu", "eval_mod",
    "decode_threads", "image_cache", "image_cache_dir", "image_pack",
)  # fmt: skip
BATCH = 8  # frames that a worker hands over at once


class Record(NamedTuple):
    """One frame of a pack, or all of them with an axis in front."""

    img: Tensor  # [N, h, w, 3] uint8, scaled, BGR as decoded, not padded
    frame: dict[str, Tensor]  # the other fields of Frame but scene_start
    targets: dict[str, Tensor]  # fields of Targets and Stage2Targets, of this frame
    first: Tensor  # [] int64, number of the first frame of its scene
    has_objects: Tensor  # [] bool


class FrameRecords(Dataset):
    """Every frame of a training set as a ``Record``."""

    def __init__(self, spec: DataSpec) -> None:
        image = replace(spec.image, photometric=False)
        self.clips = ClipDataset(replace(spec, queue_length=1, image=image), "train", stage=2)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Record | str:
        try:
            return self.make(index)
        except UserError as error:  # on its way out of a worker
            return str(error)

    def make(self, number: int) -> Record:
        clips, span = self.clips, range(number, number + 1)
        labeller, table = clips.labeller, clips.table
        poses = pose_tensors(span, labeller, clips.spec.compat.timestamps == UPSTREAM)
        targets = clips.targets.clip(span)._asdict()
        targets |= targets.pop("stage2")._asdict()
        return Record(
            torch.from_numpy(clips.images.scaled_bytes(number)),
            {name: value[0] for name, value in poses.items()},
            {name: value[0] if name in PER_FRAME else value for name, value in targets.items()},
            torch.tensor(table.frames_of(int(table.scene[number])).start),
            torch.tensor(labeller.has_objects(number)),
        )


def identity(spec: DataSpec) -> str:
    """What the numbers of a pack follow from beside the data set itself, as text."""
    facts = {name: value for name, value in asdict(spec).items() if name not in ELSEWHERE}
    if facts["jpeg"] != "reduced":  # packs of earlier versions know no other; they are decoded here, whatever trains
        del facts["jpeg"]
    facts["image"] = {name: value for name, value in facts["image"].items() if name != "photometric"}
    return json.dumps({"format": FORMAT, **facts}, sort_keys=True)


def write_pack(spec: Spec, path: Path, workers: int, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Packs the training split of ``spec.data``. Returns the number of frames."""
    records = FrameRecords(spec.data)
    loader = DataLoader(
        records, BATCH, num_workers=workers, collate_fn=_stack, worker_init_fn=_one_thread, prefetch_factor=2 if workers else None
    )
    whole, done = None, 0
    for part in loader:
        if isinstance(part, str):
            raise UserError(part)
        if whole is None:
            whole = _map([part], lambda x: x[0].new_empty(len(records), *x[0].shape[1:]))
        count = len(part.first)
        _map([whole, part], lambda x, first=done, last=done + count: x[0][first:last].copy_(x[1]))
        done += count
        progress(done, len(records))
    if whole is None:
        raise UserError(f"{records.clips.table.path}: no frames to pack")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save({"identity": identity(spec.data), "record": _plain(whole)}, temporary)
    return done


def read_packs(paths: Sequence[Path], spec: Spec) -> list[Record]:
    """Packs, in memory that is shared with the files. What a stage does not need is left out."""
    parts, wanted = [], identity(spec.data)
    for path in paths:
        try:
            open_outside(path).close()  # a pipe would be waited for
            with warnings.catch_warnings():  # of a pickle's protocol: what is wrong is said below
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            found, record = content["identity"], Record(**content["record"])
        except FileNotFoundError:
            raise UserError(f"pack {path} does not exist: make it with tools/pack_clips.py") from None
        except UserError:
            raise
        except Exception as error:
            why = str(error).splitlines()[0][:100]
            raise UserError(f"{path} is not a pack ({why}): make it with tools/pack_clips.py") from None
        if found != wanted:
            raise UserError(f"pack {path} was made for other settings ({_difference(found, wanted)}): make it anew")
        if spec.stage == 1:
            early = {name: value for name, value in record.targets.items() if name not in Stage2Targets._fields}
            record = record._replace(targets=early)
        parts.append(record)
    return parts


def join(parts: Sequence[Record], device: torch.device | str = "cpu") -> Record:
    """Several packs as one, copied to a device. A single one on the host stays in its file: it may be larger than memory."""
    if len(parts) == 1 and torch.device(device).type == "cpu":
        return parts[0]
    counts = [len(part.first) for part in parts]

    def place(values: Sequence[Tensor]) -> Tensor:
        whole = torch.empty(sum(counts), *values[0].shape[1:], dtype=values[0].dtype, device=device)
        for target, part in zip(whole.split(counts), values):
            target.copy_(part)
        return whole

    starts = [sum(counts[:number]) for number in range(len(parts))]
    return _map([part._replace(first=part.first + start) for part, start in zip(parts, starts)], place)


def clip_step(spec: DataSpec, source: object = "these packs") -> int:
    """Frames of a pack from one of a clip to the next: five of Bench2Drive, at 10 Hz. UserError for a config whose clips leave
    frames out at random, or reach back into another route: a pack's do not.
    """
    if spec.compat.clip_frames == BENCH2DRIVE:
        raise UserError(
            f"{source}: with native.compat clip_frames='bench2drive' clips leave frames out and reach into the route before, "
            "those of a pack do not: leave --packs out, or give native.compat clip_frames='fixed'"
        )
    return max(1, spec.sample_interval // spec.every)


def clip_ends(record: Record, length: int, step: int = 1) -> NDArray[np.bool_]:
    """Where a clip of ``length`` frames, ``step`` apart, may end: inside a scene, and with objects in all its frames. [frames]"""
    first, has_objects = record.first.cpu().numpy(), record.has_objects.cpu().numpy()
    number, fits = np.arange(len(first)), has_objects.copy()
    for back in range(step, step * (length - 1) + 1, step):
        fits[back:] &= has_objects[:-back]
    return fits & (number - step * (length - 1) >= first)


def take_clips(record: Record, last: Tensor, length: int, image: ImageSpec, step: int = 1) -> tuple[Frame, Targets]:
    """The clips that end at the frames ``last`` [B] (on the record's device), as ``collate`` makes them."""
    index = _frames_of(last, length, step)
    start = (torch.arange(length, device=last.device) == 0).expand(len(last), -1)
    fields = {name: _take(values, index) for name, values in record.frame.items()}
    frames = Frame(img=network_input(_take(record.img, index), image), scene_start=start, **fields)
    return frames, take_targets(record, last, length, step)


def take_targets(record: Record, last: Tensor, length: int, step: int = 1) -> Targets:
    """Those of ``take_clips`` alone."""
    index = _frames_of(last, length, step)
    fields = {name: _take(values, index if name in PER_FRAME else last) for name, values in record.targets.items()}
    future = {name: fields.pop(name) for name in Stage2Targets._fields if name in fields}
    return Targets(**fields, stage2=Stage2Targets(**future) if future else None)


def _frames_of(last: Tensor, length: int, step: int) -> Tensor:
    """Frames [B, length] of the clips that end at ``last`` [B]."""
    return last[:, None] + step * torch.arange(1 - length, 1, device=last.device)


def _take(values: Tensor, rows: Tensor) -> Tensor:
    return values.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def network_input(img: Tensor, image: ImageSpec) -> Tensor:
    """Scaled bytes [..., h, w, 3] -> normalised and padded [..., 3, H, W] float32, colours last in memory."""
    height, width = img.shape[-3:-1]
    mean, std = (torch.tensor(v, dtype=torch.float32, device=img.device) for v in (image.mean, image.std))
    x = ((img.flip(-1) if image.to_rgb else img).float() - mean) / std
    return torch.nn.functional.pad(x, (0, 0, 0, image.width - width, 0, image.height - height)).movedim(-1, -3)


def _map(records: Sequence[Record], change: Callable[[list[Tensor]], Tensor]) -> Record:
    """A record whose tensors are made of those at the same place of several."""
    first = records[0]
    return Record(
        img=change([record.img for record in records]),
        frame={key: change([record.frame[key] for record in records]) for key in first.frame},
        targets={key: change([record.targets[key] for record in records]) for key in first.targets},
        first=change([record.first for record in records]),
        has_objects=change([record.has_objects for record in records]),
    )


def _stack(records: list[Record | str]) -> Record | str:
    failure = next((r for r in records if isinstance(r, str)), None)
    return failure or _map([r for r in records if not isinstance(r, str)], torch.stack)


def _plain(record: Record) -> dict[str, Any]:
    return record._asdict()


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _difference(found: str, wanted: str) -> str:
    a, b = json.loads(found), json.loads(wanted)
    names = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    return "; ".join(f"{name}: {a.get(name)}, wanted {b.get(name)}" for name in names[:2])[:300]
