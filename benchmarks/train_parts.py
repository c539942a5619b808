#!/usr/bin/env python3
"""Where a training iteration spends its time on one GPU: each part as a CUDA graph, plain and, if asked, compiled.

Parts are fed what the parts before them made, cut off from their gradient, so the sum is about one iteration of one frame.

    benchmarks/train_parts.py --variant tiny --samples 8 [--compile images decoder]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import _tools  # noqa: F401

import torch
from torch import Tensor

from gpu_step import milliseconds
from train_step import VARIANTS, random_clip, with_frames
from uniad.config.read import load_spec
from uniad.config.spec import from_scratch
from uniad.config.variants import config_files
from uniad.interface.types import Frame
from uniad.losses.criterion import Criterion
from uniad.losses.matcher import frame_targets
from uniad.models.precision import to_channels_last
from uniad.models.uniad import UniAD
from uniad.ops.recording import record
from uniad.training.clip import no_tracks, pose_deltas
from uniad.training.compiled import Compiled, compile_parts
from uniad.training.folding import fold_norms
from uniad.training.loader import map_tensors
from uniad.training.regularisation import without_dropout


def leaf(tensor: Tensor) -> Tensor:
    """A float tensor as a leaf that takes a gradient; others as they are."""
    return tensor.detach().clone().requires_grad_() if tensor.is_floating_point() else tensor


def summed(value: Any) -> Tensor:
    """A scalar that depends on every tensor with a gradient."""
    if isinstance(value, Tensor):
        return value.float().sum() if value.requires_grad else torch.zeros((), device=value.device)
    values = value.values() if isinstance(value, dict) else value
    return torch.stack([summed(v) for v in values if v is not None]).sum()


def timed(name: str, part: Callable[[], Any], repeats: int, note: str = "") -> None:
    """Prints milliseconds of ``part`` forward and backward, replayed as a graph, with the number of kernels."""

    def both() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            out = part()
        summed(out).backward()

    started = time.perf_counter()
    graph = record(both)
    torch.cuda.synchronize()
    ready = time.perf_counter() - started
    each = milliseconds(graph.replay, repeats, warm_up=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        graph.replay()
        torch.cuda.synchronize()
    kernels = sum(event.count for event in profile.key_averages())
    print(f"{name:24s}{note:10s} {each:8.2f} ms {kernels:6d} kernels, ready after {ready:.1f} s",
          flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", nargs="*", default=[], metavar="PART", help="parts to time again, each as one graph")
    parser.add_argument("--fast", action="store_true",
                        help="time every part again as make train computes it: layers and losses compiled, frozen norms folded")
    parser.add_argument("--frozen", action="store_true", help="freeze what the config freezes, instead of training from scratch")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "error: this benchmark needs a GPU and PyTorch sees none\n")
    spec = load_spec(config_files(1)[args.variant])
    spec = spec if args.frozen else from_scratch(spec)
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = UniAD(with_frames(spec.model, 1)).to(device).train()
    without_dropout(model)
    to_channels_last(model.img_backbone, model.img_neck)
    criterion = Criterion(model.spec).to(device)
    clip = random_clip(spec, args.samples, 1, device)
    frame = Frame(*(x[:, 0] for x in clip.frames))
    delta = pose_deltas(clip.frames.can_bus)[:, 0]
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        feats = model.extract_features(frame.img)
        prev, has_prev = model.init_state(args.samples, device, feats[0].dtype).prev_bev, torch.ones_like(frame.scene_start)
        bev = model.encode_bev(feats, frame, delta, prev, has_prev)
        carried = no_tracks(model, args.samples)
        rows = model.rows(carried.tracks, carried.valid)
        det = model.detect(bev, rows)
        queries = model.seg_head.queries(bev)
    feats, bev, det, queries = (map_tensors(leaf, value) for value in (feats, bev, det, queries))
    iou = torch.zeros(rows.valid.shape, device=device)

    def matching() -> Any:
        _, terms = criterion.frame(det, rows.tracks.obj_id, iou, rows.valid, frame_targets(clip.targets, 0))
        return criterion.track_losses([terms])

    def mapping() -> Any:
        match = criterion.match_map(queries, clip.targets)
        return criterion.map_losses(queries, match, model.seg_head.learnt_masks(queries, match.chosen.clamp(min=0)))

    parts: dict[str, Callable[[], Any]] = {
        "images": lambda: model.extract_features(frame.img),
        "bev": lambda: model.encode_bev(feats, frame, delta, prev, has_prev),
        "decoder": lambda: model.detect(bev, model.rows(carried.tracks, carried.valid)),
        "track_losses": matching,
        "map_queries": lambda: model.seg_head.queries(bev),
        "map_losses": mapping,
    }
    unknown = [name for name in args.compile if name not in parts]
    if unknown:
        parser.exit(2, f"error: no part '{unknown[0]}': choose {', '.join(parts)}\n")
    for name, part in parts.items():
        timed(name, part, args.repeats)
    compiled = Compiled()
    if args.fast:
        for pair in fold_norms(model.img_backbone):
            pair.keep(torch.bfloat16)
        compile_parts(model, criterion, compiled, alone=True)
    for name, part in parts.items():
        if args.fast:
            with torch.autocast("cuda", torch.bfloat16):
                part()  # shows what the parts take
            compiled.on = True
            timed(name, part, args.repeats, "fast")
            compiled.on = False
        if name in args.compile:
            timed(name, torch.compile(part, dynamic=False), args.repeats, "compiled")
    for name, why in compiled.failed.items():
        print(f"{name} runs as it is: {why}")


if __name__ == "__main__":
    main()
