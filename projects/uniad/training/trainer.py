"""The training loop: one clip in, one update out, and a way back from every interruption.

Nothing in an iteration waits for the device. Losses, gradient norm and health travel in one small vector that is averaged over
all processes and read one iteration late; an update whose loss or gradient is not finite is suppressed on the device, and so is
every later one, so the weights still are those of the failing iteration when the host learns of it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uniad.config.spec import Spec
from uniad.errors import UserError, out_of_memory
from uniad.interrupt import Interrupt
from uniad.losses.criterion import total_loss
from uniad.models.precision import to_channels_last
from uniad.training import distributed, optim
from uniad.training.capture import EagerStep, RecordedStep, Step
from uniad.training.carried import carried, check_anchors
from uniad.training.checkpoint import WEIGHTS_DIGEST, load_state, state_dict_of, weights_digest
from uniad.training.compiled import Compiled
from uniad.training.distributed import World
from uniad.training.fast import ROUNDING
from uniad.training.integrity import check_resume_state, first_nonfinite, tensors_of_run
from uniad.training.loader import Loader, prefetch
from uniad.training.nonfinite import bad_from_the_start, locate
from uniad.training.options import Outcome, TrainOptions, check_graph, check_precision, run_length
from uniad.training.run_log import RunLog, Window
from uniad.training.seeding import seed_iteration
from uniad.training.state import differences, meta_of
from uniad.training.store import INTERVAL, CheckpointStore
from uniad.training.telemetry import Telemetry
from uniad.training.writer import CheckpointWriter, Copies

# model, clip on the device, generator for this iteration's draws -> unweighted-or-weighted loss terms by name; those whose name
# contains "loss" are added up, the others are logged only.
LossFunction = Callable[[Any, Any, torch.Generator], dict[str, Tensor]]

# Below this an fp16 loss scale has halved thirty times in a row: the gradients are not finite at any scale.
SMALLEST_LOSS_SCALE = 1e-4


class ClipLoss(nn.Module):
    """The model with its loss, as one module that data-parallel wrappers and compilers can take hold of."""

    def __init__(self, model: nn.Module, loss_function: LossFunction, precision: str):
        super().__init__()
        self.model = model
        self.loss_function = loss_function
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.names: list[str] = []

    def forward(self, clip: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss to differentiate, and all terms as one vector [K] in the order of ``names``."""
        losses = self.losses(clip, generator)
        self.names = list(losses)
        total = total_loss(losses)
        return total, torch.stack([v.detach().float().reshape(()) for v in losses.values()])

    def losses(self, clip: Any, generator: torch.Generator) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
            return self.loss_function(self.model, clip, generator)


class Trainer:
    """One run of one stage."""

    spec: Spec
    options: TrainOptions
    world: World
    model: nn.Module  # bare, what checkpoints hold
    step: Step | None  # what makes gradients, while training goes on
    optimizer: torch.optim.AdamW
    loss_scale: optim.LossScale
    schedule: optim.Schedule
    iteration: int  # iterations done
    recorded_step: type[RecordedStep] = RecordedStep  # tests record where there is no GPU

    def __init__(
        self,
        spec: Spec,
        model: nn.Module,
        loss_function: LossFunction,
        loader: Loader,
        world: World,
        options: TrainOptions,
        compiled: Compiled | None = None,
    ):
        """compiled: parts of the model and its losses that have a compiled twin."""
        self.spec, self.options, self.world, self.loader = spec, options, world, loader
        self.compiled = compiled
        check_precision(options.precision, world.device)
        check_graph(options, world.device)
        self.model = model.to(world.device).train()
        if world.device.type == "cuda" and options.channels_last:
            # what convolutions of half precision want; elsewhere the layout would only cost copies
            parts = dict(self.model.named_children())
            to_channels_last(*(parts[name] for name in ("img_backbone", "img_neck") if name in parts))
        self.clip_loss = ClipLoss(self.model, loss_function, options.precision)
        self.optimizer = optim.build_optimizer(self.model, spec.train)
        self.loss_scale = optim.LossScale(options.precision == "fp16", world.device)
        self.epoch_len = loader.epoch_len
        self.max_epochs, self.max_iters = run_length(spec, options, self.epoch_len)
        self.schedule = optim.Schedule.from_spec(spec.train, self.epoch_len, self.max_epochs, self.max_iters)
        self.store = CheckpointStore(options.work_dir)
        self.writer, self.copies = CheckpointWriter(self.store), Copies(world.device)
        self.window = Window()
        self.telemetry = Telemetry(world.device)
        self.generator = torch.Generator(world.device)
        self.halted = torch.zeros((), device=world.device)  # sticky: 1 from the first non-finite iteration on
        self.iteration = 0
        self.bad_iteration: int | None = None
        self.interrupt = Interrupt("finishing this step, then saving; Ctrl-C again stops without" if world.is_main else "")
        self.stop_seen = False  # anywhere, in numbers that have arrived
        self.stopping = False  # agreed: set at the same iteration by every process

    # --- resuming ----------------------------------------------------------------------------------------------------

    def resume(self, path: Path, content: dict[str, Any], say: Callable[[str], None]) -> None:
        """Continues from a checkpoint's content: exactly from one of ours, from the last whole epoch from an upstream one."""
        meta = content.get("meta") or {}
        ours = meta.get("uniad", {})
        state = state_dict_of(content, path)
        saved_as = (ours.get("variant", self.spec.variant), ours.get("stage", self.spec.stage))
        if saved_as != (self.spec.variant, self.spec.stage):
            raise UserError(
                f"cannot resume {self.spec.name} ({self.spec.variant}, stage {self.spec.stage}) from {path}: it holds "
                f"{saved_as[0]}, stage {saved_as[1]}; choose another --resume or --work-dir"
            )
        native = content.get("native")
        if "optimizer" not in content:
            raise UserError(f"{path} holds no optimizer state: load it as initial weights (load_from), not with --resume")
        check_resume_state(content, path)
        check_anchors(content, self.spec, path)
        load_state(self.model, state, path=path, meta=meta, name=self.spec.name)
        names = native["parameter_names"] if native else None
        optim.load_upstream_state(self.optimizer, self.model, content["optimizer"], names)
        if native is None:
            self.iteration = int(meta.get("epoch", 0)) * self.epoch_len
            say(f"resuming from {path}, written by the upstream stack: epoch {meta.get('epoch', 0)}, with our own random draws")
            return
        self.loss_scale.load_state_dict(native["loss_scale"])
        self.window.load_state_dict(native["window"])
        self.iteration = int(native["iteration"])
        self._explain_changes(ours, native, say)
        say(f"resuming from {path} at step {self.iteration} of {self.max_iters}")

    def _explain_changes(self, ours: dict[str, Any], native: dict[str, Any], say: Callable[[str], None]) -> None:
        """Says what makes the continuation differ from an uninterrupted run, if anything does."""
        changes = differences(self.spec, ours["spec"])
        now = self._run_facts()
        changes += [f"{k}: {ours.get(k)} -> {v}" for k, v in now.items() if ours.get(k) != v]
        picked, before = self.options.picked or {}, ours.get("picked") or {}
        rounding = [(k, before.get(k, False), picked.get(k, False)) for k in ROUNDING]
        changes += [f"{name}: {old} -> {new}" for name, old, new in rounding if old != new]
        if native["epoch_len"] != self.epoch_len:
            # A run of epochs goes on at the same place of its epoch. A run of iterations still owes those that are missing:
            # they are what was promised, whatever an epoch is now.
            if self.options.max_iters is None:
                epoch, inside = divmod(self.iteration, native["epoch_len"])
                self.iteration = epoch * self.epoch_len + inside * self.epoch_len // native["epoch_len"]
            self.window = Window()
        if changes:
            shown = "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")
            say(f"note: this run differs from the one that wrote the checkpoint, so its losses will too ({shown})")

    def _run_facts(self) -> dict[str, Any]:
        return {
            "seed": self.options.seed,
            "precision": self.options.precision,
            "world_size": self.world.size,
            "samples_per_gpu": self.loader.batch_size,
            "max_iters": self.max_iters,
        }

    # --- the loop ----------------------------------------------------------------------------------------------------

    def fit(self, log: RunLog) -> Outcome:
        """Trains from ``iteration`` to the end, or until stopped by a signal."""
        self.log = log
        if self.iteration >= self.max_iters:
            return self._already_complete()
        self.step = self._make_step()
        self._restart_clock()
        self.per_iteration = self.per_fetch = 0.0
        self.recent: deque[tuple[int, Any]] = deque(maxlen=2)
        self.last_save = time.monotonic()
        stop_at = min(self.max_iters, self.options.stop_after or self.max_iters)
        clips = prefetch(self.loader.stream(self.iteration), self.world.device, self.loader.on_device)
        lost = distributed.explain_peer_loss(self.world, lambda: self.interrupt.requested)
        with self.interrupt, lost, ExitStack() as ending:
            try:
                with distributed.ends_in_time(self.world), self._written():
                    while self.iteration < stop_at and not self.stopping:
                        self._iterate(clips)
                        self.writer.check()
                        self._save_if_due()
                # what was trained is saved, even if somebody presses Ctrl-C again meanwhile
                ending.enter_context(self.interrupt.deferred())
                self._flush()
                self._raise_if_halted()
            except torch.OutOfMemoryError:
                raise UserError(self._out_of_memory()) from None
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                raise UserError(self._out_of_memory(of_machine=True)) from None
            finally:
                clips.close()
                self.step = None  # a graph lets go of the process group's collectives before that is taken down
            return self._finish()

    @contextmanager
    def _written(self) -> Generator[None, None, None]:
        """Whatever ends what is done here, the checkpoint that is being written meanwhile is on the disk then."""
        try:
            yield
        finally:
            with self.interrupt.deferred():
                self.writer.settle()

    def _already_complete(self) -> Outcome:
        """Nothing is left to train; the checkpoint that the run promises has its name, whatever was lost or renamed since."""
        last = self.store.last_good
        if self.iteration > self.max_iters:
            raise UserError(
                f"{last} has {self.iteration} iterations, more than the {self.max_iters} of this run: give another --work-dir, "
                "or --resume none to start afresh"
            )
        promised = self.store.work_dir / self._promised()
        if self.world.is_main and not promised.is_file():
            self._save(promised.name)
            self.writer.wait()
        distributed.barrier(self.world)
        self.log.say(f"nothing to do: {promised} has all {self.max_iters} iterations of this run")
        return Outcome(True, False, self.iteration, promised)

    def _promised(self) -> str:
        """The name of the checkpoint that ends this run, as in upstream."""
        return f"iter_{self.max_iters}.pth" if self.options.max_iters is not None else f"epoch_{self.max_epochs}.pth"

    def _iterate(self, clips: Iterator[tuple[Any, Any]]) -> None:
        fetch_started = time.perf_counter()
        host, clip = next(clips)
        self.data_s += time.perf_counter() - fetch_started
        self.recent.append((self.iteration, host))
        optim.set_learning_rate(self.optimizer, self.schedule.factor(self.iteration))
        assert self.step is not None, "fit makes it"
        total, terms = self.step(clip, self._seed)

        stop = torch.full((1,), float(self.interrupt.requested), device=terms.device)
        shared = torch.cat([terms, total.float().reshape(1), stop]) / self.world.size
        shared = distributed.sum_over_ranks(self.world, shared)

        grads = optim.gradients(self.optimizer)
        norm = optim.global_norm(grads) / self.loss_scale.scale
        overflow = 1 - torch.isfinite(norm).float()
        bad = 1 - torch.isfinite(shared).all().float()
        if self.loss_scale.enabled:
            # fp16 gradients may overflow, that is what the scale is for; a scale of nothing may not
            bad = torch.maximum(bad, (self.loss_scale.scale < SMALLEST_LOSS_SCALE).float())
        else:
            bad = torch.maximum(bad, overflow)
        self.halted = torch.maximum(self.halted, bad)
        divisor = self.loss_scale.scale
        if self.spec.train.clip_by_head:
            optim.clip_by_head(self.model, self.loss_scale.scale, self.spec.train.clip_norm)
        else:
            divisor = divisor * optim.clip_divisor(norm, self.spec.train.clip_norm)
        optim.step(self.optimizer, divisor, torch.maximum(self.halted, overflow))
        self.loss_scale.update(overflow)

        self.timed += 1
        # The one place where processes act on what arrived. A process that saves reads its numbers earlier than the others do;
        # if it acted on them at once, it would leave the others waiting in a collective.
        self._account(self.telemetry.pop())
        self._raise_if_halted()
        self.stopping = self.stop_seen
        self.telemetry.push(self.iteration, torch.cat([shared, torch.stack([norm, self.halted])]))
        self.iteration += 1
        self.log.tick()

    def _seed(self) -> None:
        seed_iteration(self.options.seed, self.iteration, self.world.rank, self.generator)

    def _account(self, arrived: tuple[int, list[float]] | None) -> None:
        """Takes in the numbers of a finished iteration."""
        if arrived is None:
            return
        iteration, values = arrived
        *terms, total, stop, norm, halted = values
        if halted:
            if self.bad_iteration is None:
                self.bad_iteration = iteration
            return
        self.stop_seen = self.stop_seen or stop > 0
        self.window.add({**dict(zip(self.clip_loss.names, terms)), "loss": total, "grad_norm": norm})
        done = iteration + 1
        if done % self.spec.train.log_interval == 0 or done == self.max_iters:
            self._log_step(done)

    def _flush(self) -> None:
        """Waits for the iteration queued last and takes in its numbers."""
        self._account(self.telemetry.pop())

    def _log_step(self, done: int) -> None:
        means = self.window.take()
        elapsed = time.perf_counter() - self.clock
        if self.timed:  # none where a save has just fetched the numbers of the iteration logged last
            self.per_iteration, self.per_fetch = elapsed / self.timed, self.data_s / self.timed
        epoch, inside = divmod(done - 1, self.epoch_len)
        entry = {
            "mode": "train",
            "epoch": epoch + 1,
            "iter": inside + 1,
            "epoch_len": self.epoch_len,
            "step": done,
            "lr": self.spec.train.lr * self.schedule.factor(done - 1),
            "memory": self._memory_mb(),
            "data_time": self.per_fetch,
            "time": self.per_iteration,
            "eta_s": self.per_iteration * (self.max_iters - done),
            **means,
        }
        self._restart_clock()
        self.log.record(entry)

    def _restart_clock(self) -> None:
        self.clock, self.data_s, self.timed = time.perf_counter(), 0.0, 0

    def _memory_mb(self) -> float:
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.024e-3 if sys.platform != "darwin" else 1e-6)

    def _make_step(self) -> Step:
        kind = self.recorded_step if self.options.cuda_graph else EagerStep
        dtype = torch.bfloat16 if self.options.reduce_bf16 else None
        return kind(self.clip_loss, self.generator, self.loss_scale.scale, self.world, dtype, self.compiled, self.log.say)

    # --- saving ------------------------------------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        options, done = self.options, self.iteration
        epoch, inside = divmod(done, self.epoch_len)
        if inside == 0 and (epoch % self.spec.train.checkpoint_interval == 0 or epoch == self.max_epochs):
            self._save(f"epoch_{epoch}.pth")
        elif options.save_every_iters and done % options.save_every_iters == 0:
            self._save(INTERVAL)
        elif options.save_every_s and self.world.is_main and time.monotonic() - self.last_save > options.save_every_s:
            if not self.writer.busy:
                self._save(INTERVAL)

    def _save(self, name: str) -> None:
        """Has a checkpoint written by the main process, unless this very iteration turns out not to be finite."""
        if not self.world.is_main:
            return
        self.writer.wait()
        self._flush()
        if self.bad_iteration is not None:
            return
        bad = first_nonfinite(tensors_of_run(self.model, self.optimizer))
        if bad is not None:
            raise UserError(
                f"{bad} is not finite after step {self.iteration}: {self._kept()}, and nothing replaces it. Try a lower learning "
                "rate or --precision fp32"
            )
        with self.interrupt.deferred():
            self.writer.write(name, self.payload())
        self.last_save = time.monotonic()

    def payload(self) -> Callable[[], dict[str, Any]]:
        """Everything an identical continuation needs, as it is now. What is returned gives it, from any thread, once."""
        done = self.iteration
        run = self._run_facts() | {"picked": self.options.picked}
        with self.copies.taking() as (take, arrived):
            # The optimizer first: it asks the device for its counts, before anything is queued there
            optimizer = optim.upstream_state(self.optimizer, self.model, self.spec.train, take)
            state = {k: take(v.contiguous()) for k, v in self.model.state_dict().items()}
        content: dict[str, Any] = {
            "meta": meta_of(self.spec, epoch=done // self.epoch_len, iteration=done, run=run),
            "state_dict": state,
            "optimizer": optimizer,
            "native": {
                WEIGHTS_DIGEST: "",
                **carried(self.model),
                "iteration": done,
                "epoch_len": self.epoch_len,
                "parameter_names": [name for name, _ in optim.upstream_parameters(self.model)],
                "loss_scale": self.loss_scale.state_dict(),
                "window": self.window.state_dict(),
                "random": "every draw follows from (seed, iteration, rank) and (seed, epoch, sample); see training/seeding.py",
            },
        }

        def complete() -> dict[str, Any]:
            arrived()
            content["native"][WEIGHTS_DIGEST] = weights_digest(content["state_dict"])
            return content

        return complete

    def _finish(self) -> Outcome:
        finished = self.iteration >= self.max_iters
        if not finished:
            self._save(INTERVAL)
        elif self.options.max_iters is not None:
            self._save(self._promised())
        self.writer.wait()
        distributed.barrier(self.world)
        path = self.store.last_good
        if finished:
            self.log.say(f"trained {self.iteration} iterations: {path}")
        else:
            self.log.say(
                f"stopped at step {self.iteration} of {self.max_iters}, saved {path}; run the same command again to continue"
            )
        return Outcome(finished, self.stop_seen, self.iteration, path)

    # --- what can go wrong -------------------------------------------------------------------------------------------

    def _raise_if_halted(self) -> None:
        """Stops every process together after a non-finite loss or gradient, naming where it came from."""
        if self.bad_iteration is None:
            return
        iteration = self.bad_iteration
        if self.compiled is not None:
            self.compiled.stop()  # every module is to be looked at
        clip = self.loader.on_device(dict(self.recent)[iteration], self.world.device)

        def losses_of() -> tuple[Tensor, dict[str, Tensor]]:
            seed_iteration(self.options.seed, iteration, self.world.rank, self.generator)
            self.optimizer.zero_grad(set_to_none=True)
            losses = self.clip_loss.losses(clip, self.generator)
            return total_loss(losses), losses

        everyone = distributed.gather_objects(self.world, bad_from_the_start(self.model, clip))
        if not any(everyone):
            # losses are normalised over all processes, so all of them repeat the iteration or none does
            everyone = distributed.gather_objects(self.world, locate(self.model, losses_of))
        where = next((f"{text} (rank {rank})" for rank, text in enumerate(everyone) if text), None)
        origin = f"first in {where}" if where else "repeating the step gave finite values, so it depends on timing or on fp16"
        raise UserError(
            f"loss or gradient not finite at step {iteration + 1}: {origin}; {self._kept()}; the weights of that step were not "
            "saved. Try a lower learning rate or --precision fp32"
        )

    def _kept(self) -> str:
        self.writer.settle()
        return f"last good checkpoint: {self.store.last_good}" if self.store.last_good else "no checkpoint had been written yet"

    def _out_of_memory(self, of_machine: bool = False) -> str:
        if of_machine:
            place, what = "what this machine has left", "Lower --samples-per-gpu or --workers"
        else:
            cuda = self.world.device.type == "cuda"
            total = torch.cuda.get_device_properties(self.world.device).total_memory / 2**30 if cuda else 0
            place, what = f"this GPU's {total:.0f} GiB", "Lower --samples-per-gpu"
        self.writer.settle()
        kept = f"; last good checkpoint: {self.store.last_good}" if self.store.last_good else ""
        return (
            f"out of memory at step {self.iteration + 1}: {self.loader.batch_size} clip(s) of {self.spec.model.queue_length} "
            f"frames in {self.options.precision} do not fit into {place}. {what}, add "
            f"--recompute --frames-at-once 1 or --precision bf16, or shorten clips with --cfg-options queue_length=3{kept}"
        )
