#!/usr/bin/env python3
"""How many clips a second the loader makes, and where the time of one goes.

    benchmarks/data_loading.py projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py --workers 0 2 --clips 40

Beside the loader, ``--floats`` times clips that are handed over as finished fp32 tensors through PyTorch's own queues, and
``--upstream`` also does upstream's image work for them: every file decoded in every epoch, whole images distorted and normalised,
then scaled. A table at the end has all of them side by side; ``--json`` writes it. Times are of a loader that runs: processes are
started, and their first batches taken, before. ``--repeats`` takes turns among the ways and numbers of processes and keeps the
fastest of each.

Beside the rate stands what a clip takes of a processor, in the main process and in all loader processes: on a machine that others
use too, that is what can be compared. The last lines say what these times allow where the cores are free.

``--upstream-python PYTHON --upstream-root FOLDER`` takes upstream's own loader into the turns, on the same files: its data set,
pipeline and build_dataloader, in an interpreter that has its packages (docs/training.md). Our loader then runs one more way,
"same work": finished tensors made of the files, nothing kept from one epoch to the next. Images of one clip of both are compared
first.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import _tools  # noqa: F401

import cv2
import numpy as np
import torch

from _loading import Rate, rate
from _upstream import UpstreamLoader, image_difference
from uniad.config.read import load_spec
from uniad.config.spec import DataSpec
from uniad.data.collate import collate
from uniad.data.dataset import ClipDataset
from uniad.data.pixels import collate_raw
from uniad.data.sampler import TrainSampler
from uniad.data.transforms import Distortion, decode, normalise, resampler
from uniad.data.workers import PREFETCH, TAKEN
from uniad.errors import UserError, run_cli
from uniad.processes import cores_here
from uniad.training.loader import ClipLoader, size_of
from uniad.training.regularisation import plain_images


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--workers", type=int, nargs="*", default=[0, os.cpu_count() or 1], help="numbers of loader processes")
    p.add_argument("--clips", type=int, default=40, help="clips to time, or more")
    p.add_argument("--seconds", type=float, default=2.0, help="time to go on for at least")
    p.add_argument("--cache", default="off", choices=("off", "exact", "scaled"), help="image cache; filled before timing")
    p.add_argument("--cache-dir", default="data/cache")
    p.add_argument("--split", default="train", choices=("train", "val"))
    p.add_argument("--batch", type=int, default=1, help="clips of a batch")
    p.add_argument("--repeats", type=int, default=1, help="times that each is timed, in turns; the fastest counts")
    p.add_argument("--floats", action="store_true", help="also time clips that are handed over as finished tensors")
    p.add_argument("--upstream", action="store_true", help="also time upstream's way of loading")
    p.add_argument("--upstream-python", metavar="PYTHON", help="also time upstream's own loader, in this interpreter")
    p.add_argument("--upstream-root", metavar="FOLDER", help="UniAD at 02fa68c5, for --upstream-python")
    p.add_argument("--json", metavar="FILE", help="write the table, too")
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
    if not args.upstream_python:
        parts(dataset, data)
    if args.upstream:
        print(f"  upstream order of image work: {1e3 * timed(lambda: upstream_images(dataset, data, 1)):.0f} ms a frame")
    with ExitStack() as running:
        upstream = None
        if args.upstream_python:
            upstream = running.enter_context(opened_upstream(args, data))
            compare_images(upstream, data, spec.stage)
        ways = [
            "bytes", *(["floats"] if args.floats else []), *(["upstream"] if args.upstream else []),
            *(["same work"] if upstream else []),
        ]  # fmt: skip
        rates: dict[str, Callable[[int], Rate]] = {}
        for way in ways:
            used = replace(data, image_cache="off") if way in ("upstream", "same work") else data
            dataset = ClipDataset(used, args.split, spec.stage, raw=way == "bytes")
            if way == "upstream":
                vars(dataset.images)["load"] = partial(upstream_load, dataset)
            elif not upstream:
                print(f"{way}: {processor_ms(dataset):.1f} ms of a processor a clip, from the second epoch on")
            # Upstream's clips take seconds: both it and what does the same work warm up as briefly as possible
            rates[way] = partial(our_rate, dataset, args, brief=way == "same work")
        if upstream:
            rates[THEIRS] = partial(upstream.rate, clips=args.clips, seconds=args.seconds)
        found: dict[tuple[str, int], list[Rate]] = {}
        for _ in range(args.repeats):
            for workers in args.workers:
                for way, measure in rates.items():
                    found.setdefault((way, workers), []).append(measure(workers))
                    if upstream:
                        last = found[way, workers][-1]
                        spent = f"{last.main_ms:.1f} + {last.workers_ms:.1f} ms of a processor a clip"
                        print(f"  {workers} workers, {way}: {spent}", flush=True)
    rows = []
    for way, workers in ((way, workers) for way in rates for workers in args.workers):
        measured = found[way, workers]
        size = max(rate.bytes for rate in measured) / args.batch if workers else 0
        row = {
            "way": way, "workers": workers, "clips_s": max(rate.clips_s for rate in measured), "shared_bytes": size,
            "main_ms": min(rate.main_ms for rate in measured), "workers_ms": min(rate.workers_ms for rate in measured),
        }  # fmt: skip
        row["frames_s"] = row["clips_s"] * data.queue_length
        rows.append(row)
        print(f"{way}, {workers} workers: {row['clips_s']:.2f} clips/s ({row['frames_s']:.1f} frames/s), "
              f"{size / 1e6:.2f} MB of a clip through shared memory; ms of a processor a clip: "
              f"main process {row['main_ms']:.2f}, loader processes {row['workers_ms']:.2f}")  # fmt: skip
    print(beside_upstream(rows) if upstream else table(rows))
    cores, digits = cores_here(), 2 if upstream else 0
    for way in rates:
        chosen = {row["workers"]: allowed(row, cores) for row in rows if row["way"] == way}
        rated = (f"{workers} workers {rate:.{digits}f} ({rate / chosen.get(1, rate):.2f})" for workers, rate in chosen.items())
        print(f"{way}: clips/s that these processor times allow on {cores} free cores (of one worker's): {', '.join(rated)}")
    if args.json:
        made = {"config": spec.name, "image_cache": args.cache, "batch": args.batch, "cores": cores}
        Path(args.json).write_text(json.dumps(made | {"repeats": args.repeats, "rows": rows}, indent=1) + "\n")


THEIRS = "upstream's loader"


def opened_upstream(args: argparse.Namespace, data: DataSpec) -> UpstreamLoader:
    """Upstream's loader on the files that ``data`` names; says what runs there."""
    if not args.upstream_root:
        raise UserError("--upstream-python needs --upstream-root, a clone of UniAD at 02fa68c5")
    if args.split != "train":
        raise UserError("--upstream-python times the training split: leave --split out")
    upstream = UpstreamLoader(args.upstream_python, args.upstream_root, args.config, data, args.batch)
    versions = ", ".join(f"{name} {version}" for name, version in upstream.opened["versions"].items())
    print(f"upstream's loader: {upstream.opened['samples']} frames; {versions}")
    if upstream.opened["stood_in_for"]:
        print(f"  compiled modules that are absent, and that loading does not call: {', '.join(upstream.opened['stood_in_for'])}")
    return upstream


def compare_images(upstream: UpstreamLoader, data: DataSpec, stage: int) -> None:
    """Of one clip, before anything is timed."""
    plain = replace(data, image_cache="off", image=replace(data.image, photometric=False))
    dataset = ClipDataset(plain, "train", stage)
    last = dataset.last_frame(len(dataset) // 2, np.random.default_rng(0))
    difference = image_difference(upstream, dataset, last)
    print(f"images of the clip that ends at frame {last}, without distortion: {difference:.2g} of 255 grey levels apart at most")


def our_rate(dataset: ClipDataset, args: argparse.Namespace, workers: int, *, brief: bool) -> Rate:
    """How fast our loader runs. brief: of what is warmed up, a batch of each process."""
    return steady(loader(dataset, workers, args.batch), args.clips, args.seconds, max(1, workers) if brief else None)


def beside_upstream(rows: list[dict]) -> str:
    """Each of our ways by the number of workers, and how many times upstream's is more in processor time, rate and bytes."""
    lines = ["workers | way | ms of a processor a clip: main + workers | of upstream's | frames/s (wall clock) | "
             "times upstream's | MB of a clip between processes | of upstream's"]  # fmt: skip
    theirs = {row["workers"]: row for row in rows if row["way"] == THEIRS}
    for row in sorted(rows, key=lambda row: row["workers"]):
        their, moved = theirs[row["workers"]], row["shared_bytes"]
        spent, their_spent = (r["main_ms"] + r["workers_ms"] for r in (row, their))
        lines.append(
            f"{row['workers']} | {row['way']} | {row['main_ms']:.2f} + {row['workers_ms']:.2f} | 1/{their_spent / spent:.1f} | "
            f"{row['frames_s']:.2f} | {row['frames_s'] / their['frames_s']:.1f} | {moved / 1e6:.2f} | "
            + (f"1/{their['shared_bytes'] / moved:.1f}" if moved else "-")
        )
    return "\n".join(lines)


def table(rows: list[dict]) -> str:
    """Frames a second of each way by the number of workers, and how much more than upstream's or the last way there."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    head = (f"{way}: frames/s (MB a clip shared; ms main + workers)" for way in ways)
    lines = [" | ".join(["workers", *head, f"bytes / {ways[-1]}"])]
    for workers in dict.fromkeys(row["workers"] for row in rows):
        chosen = [row for row in rows if row["workers"] == workers]
        cells = [
            f"{row['frames_s']:.1f} ({row['shared_bytes'] / 1e6:.2f}; {row['main_ms']:.2f} + {row['workers_ms']:.2f})"
            for row in chosen
        ]
        lines.append(" | ".join([str(workers), *cells, f"{chosen[0]['frames_s'] / chosen[-1]['frames_s']:.1f}"]))
    return "\n".join(lines)


def allowed(row: dict, cores: int) -> float:
    """Clips a second where nothing else runs: no process has more than a core, nor all of them more than there are."""
    main, workers = row["main_ms"] / 1e3, row["workers_ms"] / 1e3
    return min(1 / main, cores / (main + workers), row["workers"] / workers if row["workers"] else 1 / main)


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


def steady(clips: ClipLoader, count: int, least_s: float, warm: int | None = None) -> Rate:
    """Of a loader that has given ``warm`` batches, or as many as there are slots: all memory has been touched."""
    with closing(clips.stream()) as stream:
        size = size_of if clips.slots else None
        return rate(stream, clips.batch_size, warm or clips.workers * PREFETCH + TAKEN + 1, count, least_s, size)


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


def upstream_load(dataset: ClipDataset, frame: int, rng: np.random.Generator | None, out: np.ndarray) -> None:
    """In place of ``ImageSource.load``: upstream's order of image work."""
    image = dataset.spec.image
    for camera, path in enumerate(dataset.images.paths(frame)):
        pixels = decode(path).astype(np.float32)
        if rng is not None and image.photometric:
            pixels = Distortion.draw(rng).apply(pixels)
        height, width = resampler(pixels.shape[:2], image.scale).hw
        scaled = cv2.resize(normalise(pixels, image), (width, height))
        out[camera] = 0
        out[camera, :, :height, :width] = scaled.transpose(2, 0, 1)


def upstream_images(dataset: ClipDataset, data: DataSpec, frames: int) -> None:
    rng = np.random.default_rng(0)
    for frame in range(frames):
        for path in dataset.images.paths(frame):
            image = normalise(Distortion.draw(rng).apply(decode(path).astype(np.float32)), data.image)
            height, width = resampler(image.shape[:2], data.image.scale).hw
            cv2.resize(image, (width, height))


if __name__ == "__main__":
    run_cli(main)
