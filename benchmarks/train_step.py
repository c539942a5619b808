#!/usr/bin/env python3
"""Times a training iteration on one GPU in several ways, one after the other, with memory and, if asked, the costliest kernels.

exact: upstream's own way, in fp32, kernel by kernel. eager: kernel by kernel in ``--precision``, channels last. graph: that as a
CUDA graph. fast: that with layers and losses compiled and frozen norms folded, as ``make train`` picks it.

Clips are random but plausible (objects in range that persist over frames and drive on, map elements as rectangles), and so are
motion anchors: nothing is read from disk.

    benchmarks/train_step.py --variant tiny --samples 8 --frames 1 3 [--profile] [--out rows.json]
    benchmarks/train_step.py --variant full --samples 1 --frames 5 --frozen --modes exact graph fast
    benchmarks/train_step.py --variant full --stage 2 --samples 1 --frames 3 --frozen --recompute --modes eager
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _tools import write_rows

import torch
from torch import Tensor

from uniad.config.read import load_spec
from uniad.config.spec import ModelSpec, Spec, from_scratch
from uniad.config.variants import KINDS, config_files
from uniad.geometry.grid import BevGrid
from uniad.interface.types import Clip, Frame, Stage2Targets, Targets
from uniad.models.bev_model import BevModel
from uniad.models.bevformer import BevFormer
from uniad.models.precision import to_channels_last
from uniad.models.uniad import UniAD
from uniad.training import optim
from uniad.training.capture import EagerStep, RecordedStep
from uniad.training.clip import ClipOptions
from uniad.training.compiled import Compiled, compile_parts
from uniad.training.distributed import World
from uniad.training.folding import fold_norms
from uniad.training.recompute import recompute_layers
from uniad.training.run import clip_loss, criterion_of
from uniad.training.trainer import ClipLoss

VARIANTS = sorted(config_files(1))
MODES = {"exact": "upstream's own", "eager": "eager", "graph": "CUDA graph", "fast": "compiled"}


def random_clip(spec: Spec, samples: int, frames: int, device: torch.device, objects: int = 30, lanes: int = 12) -> Clip:
    """A batch of clips at the sizes of ``spec``; the car stands still."""
    rng = torch.Generator(device).manual_seed(0)
    model, image, slots, elements = spec.model, spec.data.image, spec.data.max_objects, spec.data.max_lanes
    lead = (samples, frames)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, device=device)

    # cameras look outwards every 60 degrees with a field of view of 70
    yaw = torch.arange(6, device=device) * (torch.pi / 3)
    focal = image.width / 1.4
    zero, one = torch.zeros(6, device=device), torch.ones(6, device=device)
    axes = torch.stack([torch.stack([yaw.cos(), -yaw.sin(), zero], -1), torch.stack([zero, zero, -one], -1),
                        torch.stack([yaw.sin(), yaw.cos(), zero], -1)], 1)  # fmt: skip
    intrinsic = torch.tensor([[focal, 0, image.width / 2], [0, focal, image.height / 2], [0, 0, 1.0]], device=device)
    lidar2img = torch.eye(4, device=device).repeat(6, 1, 1)
    lidar2img[:, :3, :3] = intrinsic @ axes
    img = torch.randn(*lead, 6, 3, image.height, image.width, generator=rng, device=device)
    clip_frames = Frame(
        img=img,
        lidar2img=lidar2img.expand(*lead, -1, -1, -1),
        can_bus=torch.zeros(*lead, 18, device=device),
        l2g_r=torch.eye(3, device=device).expand(*lead, -1, -1),
        l2g_t=torch.zeros(*lead, 3, device=device),
        time_s=(torch.arange(frames, device=device) * 0.5).float().expand(samples, -1),
        scene_start=(torch.arange(frames, device=device) == 0).expand(samples, -1),
        command=torch.full(lead, 2, dtype=torch.int32, device=device),
    )
    boxes = torch.zeros(samples, 1, slots, 9, device=device)
    boxes[..., :2] = rand(samples, 1, slots, 2) * 90 - 45
    boxes[..., 3:6] = torch.tensor([1.9, 4.6, 1.7], device=device)
    boxes[..., 6] = rand(samples, 1, slots) * 6 - 3
    present = torch.arange(slots, device=device) < objects
    corner = rand(samples, elements, 2) * 0.6
    box = torch.cat([corner, corner + 0.3], -1)
    h, w = model.map.canvas_hw if model.map else (1, 1)  # stage 0 has no map
    row, column = torch.arange(h, device=device)[:, None] / h, torch.arange(w, device=device) / w
    x0, y0, x1, y1 = (v[..., None, None] for v in box.unbind(-1))
    masks = ((column >= x0) & (column < x1) & (row >= y0) & (row < y1)).to(torch.uint8)
    targets = Targets(
        boxes=boxes.expand(-1, frames, -1, -1).contiguous(),
        labels=torch.randint(0, 10, (samples, 1, slots), generator=rng, device=device).expand(-1, frames, -1).contiguous(),
        ids=torch.where(present, torch.arange(1, slots + 1, device=device), -1).expand(*lead, -1).contiguous(),
        valid=present.expand(*lead, -1).contiguous(),
        past_traj=torch.zeros(*lead, slots, 8, 2, device=device),
        past_traj_mask=torch.zeros(*lead, slots, 8, 2, device=device),
        sdc_box=torch.tensor([0, 0, -0.8, 1.73, 4.08, 1.56, -3.14, 0, 0], device=device).expand(*lead, -1).contiguous(),
        sdc_label=torch.zeros(lead, dtype=torch.int64, device=device),
        lane_labels=torch.randint(0, 3, (samples, elements), generator=rng, device=device),
        lane_boxes=(box * torch.tensor([w, h, w, h], device=device)).long(),
        lane_masks=masks,
        lane_valid=(torch.arange(elements, device=device) < lanes).expand(samples, -1).contiguous(),
        drivable=masks[:, 0].contiguous(),
    )
    if not spec.stage:  # of stage 0 the last frame is learnt from alone
        targets = targets._replace(
            boxes=targets.boxes[:, -1:], labels=targets.labels[:, -1:], ids=targets.ids[:, -1:], valid=targets.valid[:, -1:]
        )
    if model.stage2 is not None:
        targets = targets._replace(stage2=future_targets(spec, targets, rng))
    return Clip(Frame(*(x.contiguous() for x in clip_frames)), targets, [[{} for _ in range(frames)] for _ in range(samples)])


def future_targets(spec: Spec, targets: Targets, rng: torch.Generator) -> Stage2Targets:
    """What stage 2 learns from: objects drive straight on, each covers a few cells of the occupancy grid; so does the car."""
    boxes, valid, ids = targets.boxes[:, -1], targets.valid[:, -1], targets.ids[:, -1]
    (samples, slots), device = valid.shape, boxes.device
    steps, plan, cuts = spec.data.predict_steps, spec.data.planning_steps, spec.data.occ_n_future + spec.data.occ_receptive_field
    speed = torch.randn(samples, slots, 1, 2, generator=rng, device=device) * 3
    step = torch.arange(1, steps + 1, device=device)[:, None] * 0.5
    moved = boxes[:, None].repeat(1, plan + 1, 1, 1)
    moved[..., :2] += speed.transpose(1, 2) * 0.5 * torch.arange(plan + 1, device=device)[:, None, None]
    own = torch.cat([torch.zeros_like(step), 4 * step], -1)
    occ = BevGrid.from_bounds(spec.data.occ_xbound, spec.data.occ_ybound)
    height, width = occ.shape
    # the object's cells, as an index that is compared: 4 metres around its centre
    (x0, _, dx), (y0, _, dy) = spec.data.occ_xbound, spec.data.occ_ybound
    x = x0 + dx * (torch.arange(width, device=device) + 0.5)
    y = y0 + dy * (torch.arange(height, device=device) + 0.5)
    near = ((x - moved[..., 0, None]).abs() < 2)[..., None, :] & ((y - moved[..., 1, None]).abs() < 2)[..., :, None]
    instance = torch.where(near & valid[:, None, :, None, None], ids[:, None, :, None, None], 0).amax(2)
    ones = {"device": device, "dtype": torch.float32}
    return Stage2Targets(
        fut_traj=(boxes[:, :, None, :2] + speed * step).contiguous(),
        fut_traj_mask=valid[..., None, None].expand(-1, -1, steps, 2).float(),
        sdc_fut_traj=own.repeat(samples, 1, 1, 1),
        sdc_fut_traj_mask=torch.ones(samples, 1, steps, 2, **ones),
        segmentation=(instance > 0).long(),
        instance=instance,
        occ_img_is_valid=torch.ones(samples, cuts + plan - spec.data.occ_n_future, dtype=torch.bool, device=device),
        future_boxes=moved,
        future_boxes_valid=valid[:, None].repeat(1, plan + 1, 1),
        sdc_planning=torch.nn.functional.pad(own[:plan], (0, 1)).repeat(samples, 1, 1, 1),
        sdc_planning_mask=torch.ones(samples, 1, plan, 2, **ones),
    )


def random_uniad(model: ModelSpec) -> UniAD:
    """UniAD of no files: random weights, and of stage 2 random ways ahead [groups, K, F, 2] in metres."""
    if model.stage2 is None:
        return UniAD(model)
    motion = model.stage2.motion
    heading = torch.randn(len(motion.group_ids), motion.predict_modes, 1, 2, generator=torch.Generator().manual_seed(0))
    return UniAD(model, heading * 2 * torch.arange(1, motion.predict_steps + 1)[:, None])


def random_model(spec: Spec) -> BevModel:
    """The same of any stage."""
    return random_uniad(spec.model) if spec.stage else BevFormer(spec.model)


def with_frames(model: ModelSpec, frames: int) -> ModelSpec:
    return replace(model, queue_length=frames)


def measure(spec: Spec, args: argparse.Namespace, frames: int, mode: str) -> dict[str, Any]:
    """Prints a line and returns its numbers; ``reserved_gib`` is the memory that was reserved at the peak."""
    device, world = torch.device("cuda"), World(0, 1, 0, torch.device("cuda"))
    graph, fast, precision = mode in ("graph", "fast"), mode == "fast", "fp32" if mode == "exact" else args.precision
    spec = replace(spec, model=with_frames(spec.model, frames))
    set_tf32(precision == "tf32")
    torch.manual_seed(0)
    model = random_model(spec).to(device).train()
    compiled = Compiled() if fast else None
    if not args.no_channels_last and mode != "exact":
        to_channels_last(model.img_backbone, model.img_neck)
    for pair in fold_norms(model.img_backbone) if fast else ():
        pair.keep(torch.bfloat16 if precision == "bf16" else None)
    if args.recompute:
        recompute_layers(model, graph, compiled)
    criterion = criterion_of(spec, world)
    if compiled is not None:
        compile_parts(model, criterion, compiled, alone=True)
    options = ClipOptions(history_features="shared" if args.shared_history else "exact", frames_at_once=args.frames_at_once)
    loss = ClipLoss(model, clip_loss(spec, world, options, criterion), precision)
    optimizer = optim.build_optimizer(model, spec.train)
    generator, scale = torch.Generator(device), torch.ones((), device=device)
    clip = random_clip(spec, args.samples, frames, device)
    step = (RecordedStep if graph else EagerStep)(loss, generator, scale, world, None, compiled)
    torch.cuda.reset_peak_memory_stats()

    def iterate() -> Tensor:
        total, _ = step(clip, lambda: generator.manual_seed(0))
        norm = optim.global_norm(optim.gradients(optimizer))
        optim.step(optimizer, optim.clip_divisor(norm, spec.train.clip_norm), torch.zeros((), device=device))
        return total

    started = time.perf_counter()
    for _ in range(3):
        iterate()
    torch.cuda.synchronize()
    ready = time.perf_counter() - started
    total = torch.zeros(())
    started = time.perf_counter()
    for _ in range(args.repeats):
        total = iterate()
    torch.cuda.synchronize()
    each = (time.perf_counter() - started) / args.repeats
    kind = MODES[mode]
    allocated, reserved = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30
    print(f"{spec.name}, {precision}, {args.samples} clip(s) of {frames} frame(s), {kind:14s}: {each * 1e3:8.1f} ms, "
          f"{args.samples / each:7.2f} clips/s, peak {allocated:.1f} GiB ({reserved:.1f} reserved), first three {ready:.1f} s, "
          f"loss {float(total):.2f}", flush=True)  # fmt: skip
    if args.profile and graph:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            iterate()
            torch.cuda.synchronize()
        events = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)
        busy = sum(e.self_device_time_total for e in events)
        print(f"  GPU busy {busy / 1e3:.1f} ms in {sum(e.count for e in events)} kernels")
        for e in events[: args.top]:
            print(f"  {e.self_device_time_total / 1e3:8.2f} ms {e.count:6d} x  {e.key[:150]}", flush=True)
    return {
        "config": spec.name, "mode": mode, "precision": precision, "clips": args.samples, "frames": frames,
        "recompute": bool(args.recompute), "ms": each * 1e3, "peak_gib": allocated, "reserved_gib": reserved, "ready_s": ready,
        "loss": float(total), "not_compiled": dict(compiled.failed) if compiled is not None else {},
        "compiled": compiled is not None and compiled.on,
    }  # fmt: skip


def set_tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--stage", type=int, choices=sorted(KINDS), default=1)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--frames", type=int, nargs="+", default=[5])
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="bf16")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["exact", "eager", "graph", "fast"])
    parser.add_argument("--frozen", action="store_true", help="freeze what the config freezes, instead of training from scratch")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--shared-history", action="store_true")
    parser.add_argument("--frames-at-once", type=int)
    parser.add_argument("--no-channels-last", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--top", type=int, default=25)
    parser.add_argument("--out", type=Path, help="also write the rows here, as JSON, after each")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "error: this benchmark needs a GPU and PyTorch sees none\n")
    spec = load_spec(config_files(args.stage)[args.variant])
    spec = spec if args.frozen else from_scratch(spec)
    rows = []
    for frames in args.frames:
        for mode in args.modes:
            try:
                rows.append(measure(spec, args, frames, mode))
            except torch.OutOfMemoryError:
                print(f"{spec.name}: {args.samples} clip(s) of {frames} frame(s) do not fit: {mode}", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
            write_rows(args.out, rows)


if __name__ == "__main__":
    main()
