#!/usr/bin/env python3
"""How many clips a second the loader makes, and where the time of one goes.

    benchmarks/data_loading.py projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py --workers 0 2 --clips 40

``--upstream`` also times upstream's order of image work (whole images distorted and normalised, then scaled), which the
native loader's result equals, and ``--floats`` hands clips over as finished tensors through PyTorch's own queues, as upstream's
loader does. Times are of a loader that runs: processes are started, and their first batches taken, before.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import _tools  # noqa: F401

import cv2
import numpy as np
import torch

from uniad.config.read import load_spec
from uniad.config.spec import DataSpec
from uniad.data.collate import collate
from uniad.data.dataset import ClipDataset
from uniad.data.pixels import collate_raw
from uniad.data.sampler import TrainSampler
from uniad.data.transforms import Distortion, decode, normalise, resampler
from uniad.data.workers import PREFETCH, TAKEN
from uniad.errors import run_cli
from uniad.training.loader import ClipLoader, size_of
from uniad.training.regularisation import plain_images


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--workers", type=int, nargs="*", default=[0, os.cpu_count() or 1], help="numbers of loader processes")
    p.add_argument("--clips", type=int, default=40, help="clips to time")
    p.add_argument("--cache", default="off", choices=("off", "exact", "scaled"), help="image cache; filled before timing")
    p.add_argument("--cache-dir", default="data/cache")
    p.add_argument("--split", default="train", choices=("train", "val"))
    p.add_argument("--batch", type=int, default=1, help="clips of a batch")
    p.add_argument("--floats", action="store_true", help="also time clips that are handed over as finished tensors")
    p.add_argument("--upstream", action="store_true", help="also time upstream's order of image work")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    spec = load_spec(args.config, args.cfg_options)
    spec = spec if spec.train.regularise else plain_images(spec)  # what is distorted in training
    data = replace(spec.data, image_cache=args.cache, image_cache_dir=args.cache_dir)
    started = time.perf_counter()
    dataset = ClipDataset(data, args.split, spec.stage)
    print(f"{spec.name}: {len(dataset)} frames, opened in {time.perf_counter() - started:.1f} s, image cache {args.cache}")
    if args.cache != "off":
        print(f"cache filled in {timed(lambda: fill_cache(dataset)):.1f} s")
    parts(dataset, data)
    if args.upstream:
        print(f"  upstream order of image work: {1e3 * timed(lambda: upstream_images(dataset, data, 1)):.0f} ms a frame")
    for raw in (True, False) if args.floats else (True,):
        dataset = ClipDataset(data, args.split, spec.stage, raw=raw)
        print(f"{'bytes' if raw else 'floats'}: {processor_ms(dataset):.1f} ms of a processor a clip, from the second epoch on")
        for workers in args.workers:
            clips = loader(dataset, workers, args.batch)
            rate, size = steady(clips, args.clips)
            print(f"{'bytes' if raw else 'floats'}, {workers} workers: {rate:.2f} clips/s ({rate * data.queue_length:.1f} "
                  f"frames/s), {size / 1e6 / args.batch:.2f} MB a clip handed over")  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def loader(dataset: ClipDataset, workers: int, batch: int) -> ClipLoader:
    """Batches in training order."""
    sampler = TrainSampler(len(dataset), batch)
    return ClipLoader(
        dataset, sampler, batch_size=batch, workers=workers, collate=collate_raw if dataset.raw else collate, seed=0,
        in_slots=dataset.raw,
    )  # fmt: skip


def steady(clips: ClipLoader, count: int) -> tuple[float, int]:
    """Clips a second, and bytes of a batch."""
    with closing(clips.stream()) as stream:
        batch = next(stream)
        for _ in range(2 * (clips.workers * PREFETCH + TAKEN) - 1):
            batch = next(stream)
        seconds = timed(lambda: [next(stream) for _ in range(-(-count // clips.batch_size))])
        return -(-count // clips.batch_size) * clips.batch_size / seconds, size_of(batch)


def processor_ms(dataset: ClipDataset, count: int = 160) -> float:
    """Of one clip, when everything that is kept has been made; whatever else runs on the machine."""
    chosen = range(min(count, len(dataset)))
    for index in chosen:
        dataset[0, index]
    started = time.process_time()
    for index in chosen:
        dataset[1, index]
    return (time.process_time() - started) / len(chosen) * 1e3


def fill_cache(dataset: ClipDataset) -> None:
    out = np.empty((dataset.table.img_path.shape[1], 3, dataset.spec.image.height, dataset.spec.image.width), np.float32)
    for frame in range(len(dataset)):
        dataset.images.load(frame, None, out)
        dataset.targets.map_labels(frame)


def parts(dataset: ClipDataset, data: DataSpec, frames: int = 8) -> None:
    """Milliseconds a frame or clip of each part of the work, one process."""
    rng = np.random.default_rng(0)
    last = dataset.last_frame(len(dataset) - 1, rng)
    clip = dataset.clip_frames(last)
    chosen = [int(f) for f in rng.integers(len(dataset), size=frames)]
    out = np.empty((dataset.table.img_path.shape[1], 3, data.image.height, data.image.width), np.float32)
    read = [path for frame in chosen for path in dataset.images.paths(frame)]
    decoded = timed(lambda: [decode(path) for path in read]) / frames
    plain = timed(lambda: [dataset.images.load(f, None, out) for f in chosen]) / frames
    distorted = timed(lambda: [dataset.images.load(f, rng, out) for f in chosen]) / frames
    objects = timed(lambda: [dataset.labeller.objects(f) for f in chosen]) / frames
    maps = timed(lambda: [dataset.targets.map_labels(f) for f in chosen]) / frames
    targets = timed(lambda: dataset.targets.clip(clip))
    print(f"  ms a frame: decode {1e3 * decoded:.1f}, images {1e3 * plain:.1f}, with distortion {1e3 * distorted:.1f}, "
          f"objects {1e3 * objects:.1f}, map {1e3 * maps:.1f}; all targets of a clip {1e3 * targets:.1f}")  # fmt: skip


def upstream_images(dataset: ClipDataset, data: DataSpec, frames: int) -> None:
    rng = np.random.default_rng(0)
    for frame in range(frames):
        for path in dataset.images.paths(frame):
            image = normalise(Distortion.draw(rng).apply(decode(path).astype(np.float32)), data.image)
            height, width = resampler(image.shape[:2], data.image.scale).hw
            cv2.resize(image, (width, height))


if __name__ == "__main__":
    run_cli(main)
