"""Training clips from packs: joined on the GPU where all frames fit there, on the host otherwise."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniad.config.spec import Spec
from uniad.data.dataset import draw_last
from uniad.data.packs import Record, clip_ends, clip_step, join, read_packs, take_clips
from uniad.data.sampler import TrainSampler
from uniad.errors import UserError
from uniad.interface.types import Clip
from uniad.training.distributed import World
from uniad.training.loader import Batches, Position, home, map_tensors, size_of, to_device


class PackedLoader:
    """Batches of clips for one process, the same as ``ClipLoader`` draws from one data set with images rounded to bytes."""

    workers = 0

    on_device = staticmethod(to_device)

    def __init__(self, parts: Sequence[Record], spec: Spec, world: World, seed: int, source: str) -> None:
        data = spec.data
        self.length, self.image, self.seed, self.source = data.queue_length, data.image, seed, source
        self.device, self.batch_size = world.device, data.samples_per_gpu
        self.record = join(parts, home(size_of(parts), world.device))
        self.step = clip_step(data, source)
        self.fits = clip_ends(self.record, self.length, self.step)
        sampler = TrainSampler(len(self.fits), self.batch_size, world.rank, world.size, seed)
        self.epoch_len = -(-len(sampler) // self.batch_size)
        self.batches = Batches(sampler, self.batch_size, self.epoch_len)

    def stream(self, start: int = 0) -> Generator[Clip, None, None]:
        """Clips of iteration ``start``, ``start`` + 1, ... without end; on the device where the frames are there."""
        self.batches.start = start
        where, pin = self.record.img.device, self.device.type == "cuda"
        for positions in self.batches:
            last = torch.tensor([self.last_frame(p) for p in positions])
            frames, targets = take_clips(self.record, last.to(where, non_blocking=True), self.length, self.image, self.step)
            clip = Clip(frames, targets, [])
            # in memory that a GPU can read while the host goes on
            yield clip if where == self.device or not pin else map_tensors(Tensor.pin_memory, clip)

    def last_frame(self, position: Position) -> int:
        """The last frame of a sample's clip, drawn as ``ClipDataset`` draws it."""
        rng = np.random.default_rng((self.seed, *position))
        return draw_last(position.index, self.fits.__getitem__, len(self.fits), self.length, rng, self.source)


def packed_loader(packs: Sequence[Path]) -> Callable[[Spec, World, int], PackedLoader]:
    """What ``training.run.train`` makes its clips with, from these packs."""

    def make(spec: Spec, world: World, seed: int) -> PackedLoader:
        if spec.data.image.photometric:
            raise UserError(
                f"packs hold scaled bytes and {spec.name} distorts whole images: leave --packs out, or train with "
                "--no-regularisation"
            )
        return PackedLoader(read_packs(packs, spec), spec, world, seed, ", ".join(map(str, packs)))

    return make
