"""Clips for stage 0: a keyframe to learn from, and those before it with one left out at random, as BEVFormer was trained."""

from __future__ import annotations

import numpy as np
import torch

from uniad.config.spec import UPSTREAM
from uniad.data.dataset import ClipDataset, frame_meta, pose_tensors, raw_images, scene_starts
from uniad.data.pixels import RawClip
from uniad.interface.types import Clip, Frame


class DetectionClips(ClipDataset):
    """``queue_length`` frames each, of which the last is named by the index, and targets of that one alone.

    Frames of the scene before may stand among the earlier ones: ``scene_start`` tells where the past ends.
    """

    def _fits(self, last: int) -> bool:
        window = range(max(0, last - self.spec.queue_length), last + 1)
        return not self.training or all(self.labeller.has_objects(frame) for frame in window)

    def chosen(self, last: int, rng: np.random.Generator) -> list[int]:
        """The clip's frames: of the ``queue_length`` before ``last`` all but one, drawn. The split's first repeats."""
        before = list(range(last - self.spec.queue_length, last))
        if self.training:
            before.pop(int(rng.integers(len(before))))
        else:
            before = before[1:]
        return [max(0, frame) for frame in before] + [last]

    def clip(self, last: int, rng: np.random.Generator, img: torch.Tensor | None = None) -> Clip:
        frames = self.chosen(last, rng)
        if img is None:
            img = torch.empty(len(frames), len(self.table.cameras), 3, self.spec.image.height, self.spec.image.width)
        for number, frame in enumerate(frames):
            self.images.load(frame, rng if self.training else None, img[number].numpy())
        return Clip(
            self._joined(img, frames), self.targets.clip(range(last, last + 1)),
            [frame_meta(frame, self.table, self.images) for frame in frames],
        )  # fmt: skip

    def raw_clip(self, last: int, rng: np.random.Generator, img: torch.Tensor | None = None) -> RawClip:
        frames = self.chosen(last, rng)
        img, drawn = raw_images(frames, self.images, rng if self.training and self.spec.image.photometric else None, img)
        clip = Clip(self._joined(img, frames), self.targets.clip(range(last, last + 1)), [])
        return RawClip(clip, drawn)

    @property
    def _rounded(self) -> bool:
        return self.training and self.spec.compat.timestamps == UPSTREAM

    def _joined(self, img: torch.Tensor, frames: list[int]) -> Frame:
        """Images of frames [T, ...] as a clip's, with a mark where the scene is another than that of the frame before."""
        poses = [pose_tensors(range(frame, frame + 1), self.labeller, self._rounded) for frame in frames]
        joined = {key: torch.cat([pose[key] for pose in poses]) for key in poses[0]}
        return Frame(img=img, scene_start=scene_starts(frames, self.table), **joined)
