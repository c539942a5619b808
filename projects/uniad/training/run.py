"""Puts a run together: config and options in, trained checkpoint out. Everything that a run is made of is named here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from uniad.config.spec import Spec, from_scratch
from uniad.errors import UserError
from uniad.losses.criterion import Criterion
from uniad.models.uniad import UniAD
from uniad.processes import cores_here
from uniad.training import distributed, fast, identity
from uniad.training.build import build_for_training
from uniad.training.checkpoint import DENSE_BEV
from uniad.training.clip import ClipOptions, forward_clip
from uniad.training.compiled import Compiled, compile_parts
from uniad.training.dense import add_dense_bev
from uniad.training.detection import forward_detection
from uniad.training.distributed import World
from uniad.training.fast import Wish
from uniad.training.folding import fold_norms
from uniad.training.frozen import FrozenClip, FrozenLoader, can_freeze, compute_results, frozen_losses
from uniad.training.initial import load_initial
from uniad.training.loader import ClipLoader, Loader
from uniad.training.options import Outcome, TrainOptions, prepare_backend
from uniad.training.packed import PackedLoader
from uniad.training.recompute import recompute_layers
from uniad.training.regularisation import plain_images, without_dropout
from uniad.training.run_log import RunLog, duration
from uniad.training.seeding import mix, seed_all
from uniad.training.store import CheckpointStore
from uniad.training.trainer import LossFunction, Trainer

SAID_EVERY_S = 30.0  # while a frozen stage 1 is computed


@dataclass(frozen=True)
class RunOptions:
    """What the command line says beside the trainer's own options."""

    train: TrainOptions
    resume: str = "auto"
    launcher: Literal["none", "pytorch"] = "none"
    device: str = "auto"
    from_scratch: bool = False
    regularise: bool = True  # with dropout, grid mask and photometric distortion, as far as the config has them
    dense_bev: bool = False  # an auxiliary head on the BEV, see training/dense.py
    recompute: bool = False  # activations of transformer layers, to save memory
    wish: Wish | None = None  # what is to be picked for the machine; None: everything is as the other options say
    auto_workers: bool = False  # on a GPU: as many loader processes as there are cores for
    loader_timeout_s: float | None = None  # None: the loader's own
    clip: ClipOptions = ClipOptions()


def criterion_of(spec: Spec, world: World) -> Criterion | None:
    """What a clip of stage 1 or 2 is measured by, normalised over all processes."""
    if spec.stage == 0:
        return None
    return Criterion(spec.model, partial(distributed.mean_over_ranks, world)).to(world.device)


def clip_loss(spec: Spec, world: World, options: ClipOptions, criterion: Criterion | None = None) -> LossFunction:
    """The stage's losses of a clip, normalised over all processes. criterion: ``criterion_of``, made here if None."""
    reduce_mean = partial(distributed.mean_over_ranks, world)
    criterion = criterion or criterion_of(spec, world)
    if criterion is None:
        return lambda model, clip, generator: forward_detection(model, clip, reduce_mean, generator, options)[0]

    def losses(model: UniAD, clip: Any, generator: torch.Generator) -> dict[str, Tensor]:
        if isinstance(clip, FrozenClip):
            return frozen_losses(model, clip, criterion)
        terms, out = forward_clip(model, clip, criterion, generator, options)
        dense = getattr(model, DENSE_BEV, None)
        return terms if dense is None else terms | dense(out.bev, clip.targets, reduce_mean)

    return losses


def build_loader(spec: Spec, world: World, seed: int) -> ClipLoader:
    """Training clips of this process."""
    # imported here: reading annotations needs libraries that a caller with clips of its own does not
    from uniad.data.collate import collate
    from uniad.data.dataset import ClipDataset
    from uniad.data.detection import DetectionClips
    from uniad.data.pixels import collate_raw
    from uniad.data.rig import check_dataset_rigs
    from uniad.data.sampler import TrainSampler

    # A CPU distorts as upstream does, to the digit, in its loader processes; all else is done on the device.
    raw = world.device.type == "cuda" or not spec.data.image.photometric
    if spec.data.jpeg == "gpu" and world.device.type != "cuda":
        raise UserError("native.jpeg='gpu' decodes on the GPU that trains, and this training runs on a CPU: leave it at 'exact'")
    clips = DetectionClips if spec.stage == 0 else ClipDataset
    dataset = clips(spec.data, "train", spec.stage, training=True, seed=seed, raw=raw)
    check_dataset_rigs(spec, dataset.table)
    return ClipLoader(
        dataset,
        TrainSampler(len(dataset), spec.data.samples_per_gpu, world.rank, world.size, seed),
        batch_size=spec.data.samples_per_gpu,
        workers=loader_processes(spec.data.workers_per_gpu),
        collate=collate_raw if raw else collate,
        finish=dataset.finish if raw else lambda clip: clip,
        decode=dataset.decode,
        in_slots=True,
        seed=seed,
        pin_memory=world.device.type == "cuda",
    )


def loader_processes(wanted: int) -> int:
    """At most this process's share of the cores: more would only take turns. The number does not change what is trained on."""
    return min(wanted, max(1, cores_here() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def default_work_dir(config: str | Path) -> Path:
    """``projects/configs/<stage>/<name>.py`` -> ``projects/work_dirs/<stage>/<name>``, as in upstream."""
    path = Path(config).with_suffix("")
    if "configs" in path.parts:
        at = len(path.parts) - 1 - path.parts[::-1].index("configs")
        return Path(*path.parts[:at], "work_dirs", *path.parts[at + 1 :])
    return Path("projects/work_dirs") / path.name


def train(spec: Spec, options: RunOptions, loader_of: Callable[[Spec, World, int], Loader] = build_loader) -> Outcome:
    """Trains one stage. Call it in every process; of several, none returns: they exit with the outcome's status.

    Args:
        loader_of: makes the training clips of a process; tests put their own here.
    """
    world = distributed.start(options.launcher, options.device)
    try:
        outcome = _train(spec, options, world, loader_of)
    finally:
        distributed.stop(world)
    distributed.leave(world, outcome.exit_code)
    return outcome


def _train(spec: Spec, options: RunOptions, world: World, loader_of: Callable[[Spec, World, int], Loader]) -> Outcome:
    if options.dense_bev and spec.stage == 0:
        raise UserError(f"--dense-bev goes along with stage 1 or 2, {spec.name} is of stage 0: leave it out")
    if options.dense_bev and spec.model.freeze.bev_encoder and not options.from_scratch:
        raise UserError(f"--dense-bev teaches the BEV encoder, which {spec.name} freezes: leave it out, or use it in stage 1")
    lines: list[str] = []

    def announce(line: str) -> None:
        if world.is_main:
            lines.append(line)
            print(line, file=sys.stderr, flush=True)

    if options.from_scratch:
        spec = from_scratch(spec)
        of_stage1 = ", not even stage 1's" if spec.stage == 2 else ""
        announce(f"from scratch: no weights are loaded{of_stage1}; backbone and norms of {spec.name} are trained, not frozen")

    regularise = options.regularise and spec.train.regularise
    if not regularise:
        spec = plain_images(spec)
        announce("no dropout, no grid mask, no photometric distortion")
    # every process builds the same model, so they need not be told apart afterwards
    seed_all(mix("weights", options.train.seed))
    model = build_for_training(spec)
    if not regularise:
        without_dropout(model)
    if options.dense_bev:
        add_dense_bev(model, spec.model)
        announce("auxiliary head: a heat map of objects on the BEV")
    if options.auto_workers and world.device.type == "cuda":
        chosen = fast.workers(cores_here(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        spec = replace(spec, data=replace(spec.data, workers_per_gpu=chosen))
    loader = loader_of(spec, world, options.train.seed)
    store = CheckpointStore(options.train.work_dir)
    if world.is_main:
        store.prepare()
    distributed.barrier(world)
    found = store.resume_from(options.resume, announce)
    if options.wish is not None:
        options = settle(options, options.wish, spec, model, world, found and found[1], announce)
    prepare_backend(options.train)
    compiled = Compiled(options.train.compiler) if options.train.compile else None
    folded = fold_norms(model.img_backbone) if options.train.fold_norms else []
    if options.recompute:
        count = recompute_layers(model, options.train.cuda_graph, compiled)
        announce(f"recomputing the activations of {count} layers: less memory, about a third more time")
    criterion = criterion_of(spec, world)
    if compiled is not None:
        compile_parts(model, criterion, compiled, alone=world.size == 1)
    if options.loader_timeout_s is not None and isinstance(loader, ClipLoader):
        loader.timeout_s = options.loader_timeout_s
    clip = replace(options.clip, history_features="shared") if spec.train.shared_history else options.clip
    trainer = Trainer(spec, model, clip_loss(spec, world, clip, criterion), loader, world, options.train, compiled)
    if found is not None:
        trainer.resume(*found, announce)
    else:
        load_initial(model, spec, announce)
    for pair in folded:
        pair.keep(trainer.clip_loss.dtype)
    may_freeze = isinstance(model, UniAD) and trainer.iteration < trainer.max_iters
    if may_freeze and isinstance(loader, PackedLoader) and can_freeze(spec, loader, regularise):
        # the name too: it holds the images
        loader = trainer.loader = freeze_stage1(model, loader, spec, clip, trainer.clip_loss.dtype, announce)
    log = RunLog(
        options.train.work_dir, active=world.is_main, total=trainer.max_iters, start=trainer.iteration,
        tensorboard=options.train.tensorboard, lines_before=lines,
    )  # fmt: skip
    try:
        log.say(_summary(spec, trainer, world, options))
        return trainer.fit(log)
    finally:
        log.close()


def settle(
    options: RunOptions,
    wish: Wish,
    spec: Spec,
    model: nn.Module,
    world: World,
    checkpoint: dict[str, Any] | None,
    announce: Callable[[str], None],
) -> RunOptions:
    """The options with what is picked for this machine, which all processes agree on and the run's record holds.

    checkpoint: what the run goes on from.
    """
    gpus = [gpu for gpu in distributed.gather_objects(world, fast.gpu_of(world.device)) if gpu is not None]
    load = fast.Load(
        spec.name, "all" if options.from_scratch else "frozen", spec.data.samples_per_gpu, spec.data.queue_length,
        fast.static_gib(model),
    )  # fmt: skip
    ours = ((checkpoint or {}).get("meta") or {}).get("uniad") or {}
    begun = ours.get("picked") or ({"precision": ours["precision"]} if "precision" in ours else None)
    settings, line = fast.pick(wish, gpus, load, begun)
    announce(line)
    if world.is_main:
        identity.note_picked(options.train.work_dir, fast.recorded(settings))
    return replace(
        options,
        recompute=settings.recompute,
        clip=replace(options.clip, frames_at_once=settings.frames_at_once),
        train=replace(
            options.train,
            precision=settings.precision,
            cuda_graph=settings.cuda_graph,
            channels_last=settings.channels_last,
            compile=settings.compile,
            fold_norms=settings.fold_norms,
            picked=fast.recorded(settings),
        ),
    )


def freeze_stage1(
    model: UniAD,
    packed: PackedLoader,
    spec: Spec,
    clip: ClipOptions,
    dtype: torch.dtype | None,
    announce: Callable[[str], None],
) -> FrozenLoader:
    """Runs the frozen stage 1 over every clip once; the loader that trains the heads on its results."""
    begun = said = time.monotonic()

    def progress(done: int, count: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SAID_EVERY_S and done < count:  # without a GPU this takes hours
            left = (now - begun) / done * (count - done)
            announce(f"stage 1 is frozen: {done} of {count} clips, {duration(left)} left")
            said = now

    results = compute_results(model, packed, Criterion(spec.model).to(packed.device), clip, dtype, progress)
    count = len(results.bev)
    announce(f"stage 1 is frozen: its results for {count} clips are computed once ({time.monotonic() - begun:.0f} s)")
    return FrozenLoader(packed, results)


def _summary(spec: Spec, trainer: Trainer, world: World, options: RunOptions) -> str:
    device = (
        torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    learnt = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    return (
        f"{spec.name}: {learnt / 1e6:.1f} of {total / 1e6:.1f} million parameters learn; {world.size} process(es) x "
        f"{trainer.loader.batch_size} clip(s) of {spec.model.queue_length} frames on {device}, {options.train.precision}, "
        f"{trainer.loader.workers} loader process(es) each; "
        f"{trainer.epoch_len} steps an epoch, {trainer.max_iters} in all; writing to {options.train.work_dir}"
    )
