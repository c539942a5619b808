"""Clips to train on and scenes to evaluate on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from uniad.config.spec import BENCH2DRIVE, MOST_FRAMES_BACK, UPSTREAM, DataSpec
from uniad.data.bench2drive import RouteLabeller, RouteTable, load_routes, town_maps, towns_of
from uniad.data.collate import collate
from uniad.data.images import ImageSource
from uniad.data.labels import Labeller
from uniad.data.maps import vector_map
from uniad.data.pixels import Finish, RawClip
from uniad.data.sampler import scenes_of_rank
from uniad.data.table import InfoTable, load_table
from uniad.data.targets import TargetMaker
from uniad.data.transforms import Distortion, scaled_projection
from uniad.data.workers import Failure, batches, guarded_loader
from uniad.errors import UserError
from uniad.formats.conventions import check_convention
from uniad.formats.published import UNIAD_V1, UNIAD_V2
from uniad.interface.command import check_command
from uniad.interface.types import Clip, Frame, Targets

Split = Literal["train", "val"]
# A draw may meet a clip that a scene border or an empty frame forbids; so many in a row mean that there are no others.
MAX_DRAWS = 1000


class ClipDataset(Dataset):
    """Clips of ``queue_length`` consecutive keyframes of a scene, each named by its last keyframe.

    Where the clip would begin before its scene, or a frame of it has no object, another is drawn at random, as in upstream.
    A sample follows from its key and ``seed`` alone: the key is ``(epoch, index)``, or an index; then numpy's global generator,
    which a loader seeds, is asked for a seed.
    """

    def __init__(
        self, spec: DataSpec, split: Split = "train", stage: int = 1, training: bool = True, seed: int = 0, raw: bool = False
    ) -> None:
        """raw: samples are ``RawClip``, with images as bytes, for ``finish``."""
        self.raw = raw
        self.spec, self.stage, self.training, self.seed = spec, stage, training, seed
        self.table = open_table(spec, split)
        self.labeller = labeller_of(self.table, spec)
        self.images = ImageSource(self.table, spec)
        self.targets = TargetMaker(self.labeller, need_stage2=stage >= 2, need_map=stage >= 1)
        self.version = self.table.version
        longest, needed = int(np.diff(self.table.scene_frames).max()), (spec.queue_length - 1) * self.labeller.step + 1
        if longest < needed:
            raise UserError(f"{self.table.path}: a clip takes {needed} frames, the longest scene has {longest}")
        if stage:  # a detector needs none
            load_maps(self.table, spec)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int | tuple[int, int]) -> Clip | RawClip:
        return self._make(index)

    def write(self, index: int | tuple[int, int], place: Clip | RawClip) -> Clip | RawClip:
        """The same with its images in ``place``'s memory; the rest of ``place`` is left alone."""
        return self._make(index, (place.clip if isinstance(place, RawClip) else place).frames.img)

    def _make(self, index: int | tuple[int, int], img: torch.Tensor | None = None) -> Clip | RawClip:
        if isinstance(index, tuple):
            rng = np.random.default_rng((self.seed, *index))
            number = index[1]
        else:
            rng = np.random.default_rng(np.random.randint(0, 2**31, size=4))
            number = index
        last = self.last_frame(int(number), rng)
        return self.raw_clip(last, rng, img) if self.raw else self.clip(last, rng, img)

    @property
    def finish(self) -> Finish:
        """What makes a clip of a raw one."""
        return Finish(self.spec.image, self.images.scaler)

    @property
    def decode(self) -> Callable[[RawClip, RawClip], RawClip] | None:
        """What decodes the files of a raw batch on a device, where its images are files."""
        if not self.images.as_files:
            return None
        from uniad.data.jpeg_gpu import DecodeOnGpu  # needs a library that else nothing needs

        return DecodeOnGpu(self.images)

    def last_frame(self, index: int, rng: np.random.Generator) -> int:
        """``index`` if a clip can end there, else another frame, drawn until one fits."""
        return draw_last(index, self._fits, len(self.table), self.spec.queue_length, rng, self.table.path)

    def _fits(self, last: int) -> bool:
        """Whether a clip may end at ``last``; which of the earlier frames a draw takes, it must be able to take any."""
        frames = self.labeller.clip_candidates(last)
        if not self.labeller.clips_cross_scenes and frames[0] < self.table.frames_of(int(self.table.scene[last])).start:
            return False
        return not self.training or all(self.labeller.has_objects(frame) for frame in frames)

    def clip_frames(self, last: int, rng: np.random.Generator | None = None) -> Sequence[int]:
        """The frames of a clip that ends at ``last``."""
        return self.labeller.clip_frames(last, rng or np.random.default_rng(last))

    def clip(self, last: int, rng: np.random.Generator, img: torch.Tensor | None = None) -> Clip:
        """The clip that ends at frame ``last``, without a batch axis; its images in ``img`` where that is given."""
        frames = self.clip_frames(last, rng)
        distort = rng if self.training else None
        rounded = self.training and self.spec.compat.timestamps == UPSTREAM
        return Clip(
            frame_tensors(frames, self.labeller, self.images, distort, rounded, img),
            self.targets.clip(frames),
            [frame_meta(frame, self.table, self.images) for frame in frames],
        )

    def raw_clip(self, last: int, rng: np.random.Generator, img: torch.Tensor | None = None) -> RawClip:
        """The same with images as bytes, and the draws of their distortion."""
        frames = self.clip_frames(last, rng)
        rounded = self.training and self.spec.compat.timestamps == UPSTREAM
        img, drawn = raw_images(frames, self.images, rng if self.training and self.spec.image.photometric else None, img)
        start = scene_starts(frames, self.table)
        tensors = Frame(img=img, scene_start=start, **pose_tensors(frames, self.labeller, rounded))
        return RawClip(Clip(tensors, self.targets.clip(frames), []), drawn)


def raw_images(
    frames: Sequence[int], images: ImageSource, distort: np.random.Generator | None, img: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images of frames as bytes, in ``img`` where that is given, and the draws of their distortion; None without ``distort``."""
    if img is None:
        img = torch.empty(len(frames), *images.raw_shape, dtype=torch.uint8)
    drawn = []
    for number, frame in enumerate(frames):
        if distort is not None:
            drawn.append([Distortion.draw(distort).row() for _ in range(img.shape[1])])
        images.raw(frame, img[number].numpy())
    return img, torch.tensor(drawn) if drawn else None


def draw_last(
    index: int, fits: Callable[[int], bool], count: int, length: int, rng: np.random.Generator, source: object
) -> int:
    """``index`` if a clip of ``length`` frames may end there, else another of ``count`` frames, drawn until one fits."""
    for _ in range(MAX_DRAWS):
        if fits(index):
            return index
        index = int(rng.integers(count))
    raise UserError(f"{source}: of {MAX_DRAWS} clips drawn none has objects of the config's classes in all its {length} frames")


class SceneSample(NamedTuple):
    """One keyframe for evaluation; tensors have a batch axis of 1, targets also a time axis of 1."""

    frame: Frame
    targets: Targets
    info: dict[str, Any]  # token, scene_token, timestamp, poses, camera files and original projections
    previous_can_bus: NDArray[np.float32] | None  # see ``can_bus_before``

    @property
    def begins(self) -> bool:
        """Whether it is the first of its scene."""
        return bool(self.frame.scene_start[0])

    @property
    def name(self) -> str:
        return f"sample {self.info['token']}"


class SceneStream:
    """Whole scenes, frame by frame in time order: all of a split's, or one process's share.

    stage: whose targets are made; frames are the same. Frames are prepared ahead by ``workers`` processes.
    """

    def __init__(
        self, spec: DataSpec, split: Split, *, stage: int, rank: int = 0, world_size: int = 1, workers: int | None = None
    ) -> None:
        self.table = open_table(spec, split)
        self.version = self.table.version
        self.scenes = scenes_of_rank(self.table, rank, world_size)
        self.frames = [frame for scene in self.scenes for frame in self.table.frames_of(scene)]
        self.workers = min(spec.workers_per_gpu, os.cpu_count() or 1) if workers is None else workers
        self._samples = _SceneSamples(self.table, spec, stage, self.frames)
        if stage:
            load_maps(self.table, spec)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def __iter__(self) -> Iterator[SceneSample]:
        yield from batches(guarded_loader(self._samples, workers=self.workers, batch_size=None))

    def scene(self, number: int) -> Iterator[SceneSample]:
        """The frames of one of this process's scenes, prepared here."""
        for position, frame in enumerate(self.frames):
            if self.table.scene[frame] == self.scenes[number]:
                yield self.sample(position)

    def sample(self, position: int) -> SceneSample:
        """The frame at this place of ``frames``, prepared here."""
        return self._samples.make(position)


class _SceneSamples(Dataset):
    def __init__(self, table: InfoTable, spec: DataSpec, stage: int, frames: list[int]) -> None:
        self.table, self.frames = table, frames
        self.labeller = labeller_of(table, spec)
        self.images = ImageSource(table, spec)
        self.targets = TargetMaker(self.labeller, need_stage2=stage >= 2, need_map=stage >= 1)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> SceneSample | Failure:
        try:
            return self.make(index)
        except UserError as error:
            return Failure(str(error))

    def make(self, position: int) -> SceneSample:
        frame = self.frames[position]
        clip = collate(
            [
                Clip(
                    frame_tensors(range(frame, frame + 1), self.labeller, self.images, None, False),
                    self.targets.clip(range(frame, frame + 1)),
                    [frame_meta(frame, self.table, self.images)],
                )
            ]
        )
        begins = frame == self.table.frames_of(int(self.table.scene[frame])).start
        one = Frame(*(tensor[:, 0] for tensor in clip.frames))._replace(scene_start=torch.tensor([begins]))
        return SceneSample(one, clip.targets, clip.meta[0][0], can_bus_before(self.labeller, frame))


def can_bus_before(labeller: Labeller, frame: int) -> NDArray[np.float32] | None:
    """[P, 18] of the frames before this one in the split, whatever their scenes, oldest first; None for the very first frame.

    As many as a model may look back: ``Runtime.reset`` takes those that its model wants.
    """
    frames = range(max(0, frame - MOST_FRAMES_BACK), frame)
    return np.stack([labeller.can_bus(before) for before in frames]) if frames else None


def open_table(spec: DataSpec, split: Split) -> InfoTable:
    """The info table of a split. UserError where it is another generation's than those that the config computes with."""
    path = spec.ann_file_train if split == "train" else spec.ann_file_val
    if spec.vocabulary.dataset == "Bench2Drive":
        return load_routes(spec, path)
    table = load_table(path, spec.data_root)
    wanted = UNIAD_V2 if spec.compat.box_code == UNIAD_V2 else UNIAD_V1
    remedy = (
        f"take infos of {wanted} (make data CONVENTION={wanted}), or turn these into them: tools/convert.py {table.path} "
        f"--to {wanted} --out FILE; weights of {table.convention} are run with native.compat (make: GENERATION)"
    )
    check_convention(table.convention, wanted, table.path, "boxes", remedy)
    return table


def labeller_of(table: InfoTable, spec: DataSpec) -> Labeller:
    """Who answers for the frames of a table."""
    return RouteLabeller(table, spec) if isinstance(table, RouteTable) else Labeller(table, spec)


def load_maps(table: InfoTable, spec: DataSpec) -> None:
    """Read the maps that a table needs, before workers are forked that then share them."""
    if isinstance(table, RouteTable):
        town_maps(spec.map_file, towns_of(table))
        return
    for location in np.unique(table.location):
        vector_map(str(spec.data_root), str(location))


def scene_starts(frames: Sequence[int], table: InfoTable) -> torch.Tensor:
    """Which of a clip's frames [T] have no frame before them there: the first, and the first of another scene. bool"""
    scene = table.scene[np.asarray(frames)]
    return torch.from_numpy(np.concatenate(([True], scene[1:] != scene[:-1])))


def frame_tensors(
    frames: Sequence[int], labeller: Labeller, images: ImageSource, distort: np.random.Generator | None, rounded_time: bool,
    img: torch.Tensor | None = None,
) -> Frame:
    """Model input of consecutive frames [T, ...]; the first one starts afresh. img: memory for the images."""
    spec = labeller.spec
    if img is None:
        img = torch.empty(len(frames), len(labeller.table.cameras), 3, spec.image.height, spec.image.width)
    for number, frame in enumerate(frames):
        images.load(frame, distort, img[number].numpy())
    start = scene_starts(frames, labeller.table)
    return Frame(img=img, scene_start=start, **pose_tensors(frames, labeller, rounded_time))


def pose_tensors(frames: Sequence[int], labeller: Labeller, rounded_time: bool) -> dict[str, torch.Tensor]:
    """What consecutive frames [T, ...] tell the model beside images, by field of ``Frame``; none depends on the others."""
    table, spec = labeller.table, labeller.spec
    chosen = np.asarray(frames)
    words = spec.vocabulary.commands
    commands = check_command([labeller.command(int(frame)) for frame in frames], f"{table.path}: a command", words)
    projection = scaled_projection(table.img_from_lidar[chosen], spec.image.scale)
    global_from_lidar = table.global_from_lidar[chosen]
    start = table.frames_of(int(table.scene[chosen[0]])).start
    # Points are row vectors here: the rotation is stored transposed. Bench2Drive's own code forgets that.
    rotation = global_from_lidar[:, :3, :3]
    if spec.compat.track_pose != BENCH2DRIVE:
        rotation = np.swapaxes(rotation, 1, 2)
    return dict(
        lidar2img=torch.from_numpy(projection.astype(np.float32)),
        can_bus=torch.from_numpy(np.stack([labeller.can_bus(int(frame)) for frame in frames])),
        l2g_r=torch.from_numpy(np.ascontiguousarray(rotation, dtype=np.float32)),
        l2g_t=torch.from_numpy(global_from_lidar[:, :3, 3].astype(np.float32)),
        time_s=torch.from_numpy(scene_time(table.timestamp_us[chosen], int(table.timestamp_us[start]), rounded_time)),
        command=torch.from_numpy(commands.astype(np.int32)),
    )


def scene_time(timestamp_us: NDArray[np.int64], start_us: int, rounded: bool) -> NDArray[np.float32]:
    """Seconds since the scene's first frame [T].

    ``rounded``: as upstream's training sees it, where each time was stored as float32 seconds since 1970 first. Steps of
    0.5 s then read as 0, or 128 now and again.
    """
    if rounded:
        seconds = (timestamp_us / 1e6).astype(np.float32) - np.float32(start_us / 1e6)
        return seconds.astype(np.float32)
    return ((timestamp_us - start_us) / 1e6).astype(np.float32)


def frame_meta(frame: int, table: InfoTable, images: ImageSource) -> dict[str, Any]:
    """What is known of a frame beside tensors; for evaluation, drawing and messages, never for the model."""
    known = {"ego_velocity": [0.0, float(table.ego_velocity[frame, 0])]} if isinstance(table, RouteTable) else {}
    return known | {
        "token": str(table.token[frame]),
        "scene_token": str(table.scene_token[table.scene[frame]]),
        "frame_idx": int(table.frame_idx[frame]),
        "timestamp": int(table.timestamp_us[frame]),
        "location": str(table.location[table.scene[frame]]),
        "lidar2ego_translation": table.ego_from_lidar[frame, :3, 3].tolist(),
        "lidar2ego_rotation": table.lidar_quaternion[frame].tolist(),
        "ego2global_translation": table.global_from_ego[frame, :3, 3].tolist(),
        "ego2global_rotation": table.ego_quaternion[frame].tolist(),
        "cams": dict(zip(table.cameras, images.paths(frame))),
        "lidar2img": dict(zip(table.cameras, table.img_from_lidar[frame].astype(np.float32))),  # pixels of the original images
    }
