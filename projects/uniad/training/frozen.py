"""Stage 2 on a frozen stage 1: what stage 1 says of every clip is computed once, and the heads train on that.

With all of stage 1 frozen and nothing random in it (no dropout, grid mask or photometric distortion), its result for a clip never
changes. It is nine tenths of an iteration's work. Two things differ from computing it anew each time: which tracks are dropped
and which false positives are admitted along a clip is drawn once and not each time the clip comes up; and the BEV is kept in the
precision of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from uniad.config.spec import Spec
from uniad.data.packs import take_clips, take_targets
from uniad.interface.types import Clip, Targets
from uniad.losses.criterion import Criterion
from uniad.models.uniad import UniAD
from uniad.training.clip import ClipOptions, Stage1Result, draw, forward_stage1, run_stage2, stage1_result
from uniad.training.loader import home, map_tensors, size_of, to_device
from uniad.training.packed import PackedLoader
from uniad.training.seeding import mix

CLIPS_AT_ONCE = 256  # on a GPU; without gradients they are small, and many kernels are smaller


class FrozenClip(NamedTuple):
    """A batch of clips of which stage 1 has had its say. Targets are those of the last frame, with T = 1."""

    stage1: Stage1Result
    targets: Targets


def can_freeze(spec: Spec, loader: object, regularise: bool) -> bool:
    """Whether stage 1 says the same of a clip every time."""
    return spec.stage == 2 and spec.model.freeze.stage1 and not regularise and isinstance(loader, PackedLoader)


def frozen_losses(model: UniAD, clip: FrozenClip, criterion: Criterion) -> dict[str, Tensor]:
    """Losses of stage 2, under upstream's names and weighted."""
    return criterion.stage2_losses(*run_stage2(model, clip.stage1, clip.targets), clip.targets)


class FrozenLoader:
    """Batches of ``FrozenClip``: the clips that ``PackedLoader`` would draw."""

    workers = 0

    on_device = staticmethod(to_device)

    def __init__(self, packed: PackedLoader, results: Stage1Result) -> None:
        """results: of every clip that fits, in the order of their last frames, see ``compute_results``."""
        self.packed, self.results = copy(packed), results
        self.batch_size, self.epoch_len = packed.batch_size, packed.epoch_len
        # Images are of no more use; a view of them would keep their memory.
        image = packed.record.img
        self.packed.record = self.record = packed.record._replace(img=image.new_empty(0, *image.shape[1:]))
        self.row_of_frame = torch.as_tensor(packed.fits).cumsum(0) - 1

    def stream(self, start: int = 0) -> Generator[FrozenClip, None, None]:
        """Clips of iteration ``start``, ``start`` + 1, ... without end."""
        packed = self.packed
        packed.batches.start = start
        for positions in packed.batches:
            last = torch.tensor([packed.last_frame(p) for p in positions])
            rows = self.row_of_frame[last].to(self.results.bev.device, non_blocking=True)
            stage1 = map_tensors(lambda x, rows=rows: x.index_select(0, rows), self.results)
            last = last.to(self.record.first.device, non_blocking=True)
            yield FrozenClip(stage1, take_targets(self.record, last, 1))


@torch.no_grad()
def compute_results(
    model: UniAD,
    packed: PackedLoader,
    criterion: Criterion,
    options: ClipOptions,
    dtype: torch.dtype | None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Stage1Result:
    """What stage 1 says of every clip of ``packed``, one row each: on the GPU if it fits there, else on the host.

    dtype: of autocast, and of the BEV that is kept; None for neither. progress: told clips done and all, by batch.
    """
    ends = torch.as_tensor(packed.fits).nonzero().squeeze(1)
    device = packed.device
    generator = torch.Generator(device)
    generator.manual_seed(mix("stage 1", packed.seed))
    size = CLIPS_AT_ONCE if device.type == "cuda" else packed.batch_size
    whole: Stage1Result | None = None
    for first in range(0, len(ends), size):
        chosen = ends[first : first + size]
        frames, targets = take_clips(packed.record, chosen.to(packed.record.img.device), packed.length, packed.image, packed.step)
        clip = map_tensors(lambda x: x.to(device), Clip(frames, targets, []))
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            draws = draw(model.spec, *clip.frames.img.shape[:2], generator, clip.frames.img.device)
            _, maps, out = forward_stage1(model, clip, criterion, draws, options)
            part = stage1_result(model, out, maps, clip)
        part = part._replace(bev=part.bev.to(dtype or part.bev.dtype))
        if whole is None:
            place = home(size_of(part) // len(chosen) * len(ends), device)
            whole = map_tensors(lambda x, place=place: torch.empty(len(ends), *x.shape[1:], dtype=x.dtype, device=place), part)
        fill(whole, part, first)
        progress(first + len(chosen), len(ends))
    assert whole is not None, "a loader without clips is refused before"
    return whole


def fill(whole: Any, part: Any, first: int) -> None:
    """Copies the rows of every tensor in ``part`` over those of ``whole`` from ``first`` on."""
    if isinstance(part, Tensor):
        whole[first : first + len(part)].copy_(part)
    elif part is not None:
        for target, source in zip(whole, part):
            fill(target, source, first)
