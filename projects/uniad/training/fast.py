"""What an expert would pick on this machine: precision, a CUDA graph, memory layout, and what saves memory where it is short.

Whoever names a value gets it; the rest is picked here, once, before the first step. A run that goes on keeps what it was begun
with. The table of memory (``projects/configs/train_memory.json``) holds peaks that were measured; ``benchmarks/train_memory.py``
measures more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from uniad.errors import UserError
from uniad.training.options import Precision, check_precision_of

TABLE = Path(__file__).resolve().parents[2] / "configs/train_memory.json"
MARGIN = 1.1  # of a measured peak: fragments, another driver
# A peak that was not measured is taken for no more than so many times what weights, gradients and the optimizer take; of those
# that were, 45 is the most.
MOST_OF_STATIC = 50
MAX_WORKERS = 16  # loader processes of a training process: more never found work
HALVES = ("bf16", "fp16")


class Gpu(NamedTuple):
    """What a GPU tells of itself."""

    name: str
    capability: tuple[int, int]
    free_gib: float


@dataclass(frozen=True)
class Settings:
    """How an iteration is computed: by default upstream's own way, kernel by kernel in fp32. What it computes is the config's."""

    precision: Precision = "fp32"
    cuda_graph: bool = False
    channels_last: bool = False  # image encoder
    recompute: bool = False
    frames_at_once: int | None = None
    compile: bool = False  # layers and losses, see ``compiled``
    fold_norms: bool = False  # frozen norms into the convolutions before them, see ``folding``


# Settings that change the rounding of every step. Checkpoints of earlier versions lack them: they were off.
ROUNDING = ("compile", "fold_norms")


class Wish(NamedTuple):
    """What the command line says of it. None and False leave the pick open."""

    precision: Precision | None = None
    cuda_graph: bool = False
    recompute: bool = False
    frames_at_once: int | None = None
    fast: bool = True  # False: whatever is not named is upstream's
    compile: bool | None = None


class Load(NamedTuple):
    """What memory depends on beside settings."""

    config: str
    learns: Literal["frozen", "all"]  # what the config freezes is frozen, or nothing is
    clips: int
    frames: int
    static_gib: float  # weights, gradients, optimizer


class Peak(NamedTuple):
    """A row of the table: memory that PyTorch reserved, measured."""

    config: str
    learns: str
    precision: Precision
    clips: int
    frames: int
    recompute: bool
    at_once: int | None
    gib: float
    compile: bool = False  # with frozen norms folded, too


class Pick(NamedTuple):
    settings: Settings
    line: str  # what was picked and why, and how to get something else


def pick(wish: Wish, gpus: Sequence[Gpu], load: Load, begun: Mapping[str, Any] | None = None) -> Pick:
    """The settings of a run.

    Args:
        gpus: those of all processes; empty on a CPU. The weakest decides: all processes compute alike.
        begun: the settings in the checkpoint that the run goes on from.

    Raises UserError where a wish, or what the run was begun with, does not work here.
    """
    if not gpus:
        return _on_cpu(wish, begun)
    gpu = min(gpus, key=lambda g: (g.capability, g.free_gib))._replace(free_gib=min(g.free_gib for g in gpus))
    precision, why = _precision(wish, gpu, begun)
    if not wish.fast:
        settings = Settings(precision, wish.cuda_graph, False, wish.recompute, wish.frames_at_once, bool(wish.compile))
        return Pick(settings, f"as upstream computes: {_said(settings)} (FAST=0, --no-fast)")
    before = begun or {}
    compiled, folded = (True, True) if begun is None else (bool(before.get(name)) for name in ROUNDING)
    if wish.compile is not None:
        compiled = wish.compile
    settings = Settings(precision, True, True, wish.recompute, wish.frames_at_once, compiled, folded)
    kept = [name for name in ("recompute", "frames_at_once") if before.get("cuda_graph") and before.get(name)]
    if kept and not (wish.recompute or wish.frames_at_once):
        settings = replace(settings, **{name: before[name] for name in kept})
        why += "; memory is saved as in the steps before"
    elif not (wish.recompute or wish.frames_at_once):
        settings, reason = _within(settings, load, gpu)
        why += f"; {reason}"
    exact = "TRAIN_PRECISION=fp32 FAST=0 (--precision fp32 --no-fast) is upstream's exact path"
    return Pick(settings, f"picked for {gpu.name}: {_said(settings)} ({why}); {exact}")


def _on_cpu(wish: Wish, begun: Mapping[str, Any] | None) -> Pick:
    before = (begun or {}).get("precision")
    precision = wish.precision or before or "fp32"
    if precision in ("fp16", "tf32") and wish.precision is None:
        raise _cannot_go_on(precision, "a CPU has none", "bf16 or fp32")
    check_precision_of(precision, None)
    if wish.cuda_graph:
        raise UserError("--cuda-graph needs a GPU: leave it out on a CPU")
    settings = Settings(precision, False, False, wish.recompute, wish.frames_at_once, bool(wish.compile))
    why = "named" if wish.precision else "as the run was begun" if before else "a CPU gains nothing from less"
    return Pick(settings, f"on the CPU: {_said(settings)} ({why})")


def _precision(wish: Wish, gpu: Gpu, begun: Mapping[str, Any] | None) -> tuple[Precision, str]:
    """Precision, and why it."""
    if wish.precision is not None:
        check_precision_of(wish.precision, gpu.capability)
        return wish.precision, f"{wish.precision} was named"
    before = (begun or {}).get("precision")
    if before:
        if before in ("bf16", "tf32") and gpu.capability < (8, 0):
            raise _cannot_go_on(before, f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}", "fp16")
        return before, f"{before} as the run was begun"
    if not wish.fast:
        return "fp32", "upstream's"
    if gpu.capability >= (8, 0):
        return "bf16", "this GPU has bf16"
    if gpu.capability >= (7, 0):
        return "fp16", "fp16 with a loss scale, for this GPU has no bf16"
    return "fp32", "this GPU computes halves no faster"


def _cannot_go_on(precision: str, why: str, other: str) -> UserError:
    return UserError(
        f"the run was begun in {precision} and {why}: go on where it was begun, or name another precision (--precision {other}, "
        "TRAIN_PRECISION), with which its losses will differ"
    )


def _within(settings: Settings, load: Load, gpu: Gpu) -> tuple[Settings, str]:
    """The fastest way of saving memory, or none, that fits; and the reason."""
    ways = [settings, replace(settings, recompute=True), replace(settings, recompute=True, frames_at_once=1)]
    needs = [(way, need_gib(way, load)) for way in ways]
    clips = f"{load.clips} clip{'s' * (load.clips != 1)} of {load.frames} frame{'s' * (load.frames != 1)}"
    if needs[0][1] is None:
        safe = load.static_gib * MOST_OF_STATIC > gpu.free_gib
        saved = "encoder layers are recomputed, to be safe" if safe else "nothing is saved"
        return replace(settings, recompute=safe), f"memory of {clips} of {load.config} was not measured: {saved}"
    known = [(way, need) for way, need in needs if need is not None]
    for way, need in known:
        if need * MARGIN <= gpu.free_gib:
            return way, f"{clips} take about {need:.0f} GiB of {gpu.free_gib:.0f} free"
    # A way that was never measured may still fit; the last one saves most.
    unknown = [way for way, need in needs if need is None]
    way, need = (unknown[-1], None) if unknown else known[-1]
    about = f"take about {known[-1][1]:.0f} GiB and {gpu.free_gib:.0f} are free"
    hope = "what is saved beyond was not measured" if need is None else "this may run out of memory"
    return way, f"{clips} {about}: {hope}; fewer frames (QUEUE_LENGTH=3) or clips take less"


def need_gib(settings: Settings, load: Load) -> float | None:
    """Memory of an iteration, from the measured row that is nearest; None where none is.

    Activations grow with clips x frames; weights and the optimizer do not.
    """
    at_once = settings.frames_at_once
    half = settings.precision in HALVES
    rows = [
        row for row in table()
        if (row.config, row.learns, row.recompute, row.at_once) == (load.config, load.learns, settings.recompute, at_once)
    ]  # fmt: skip
    # halves where they were measured; fp32 takes more and is a bound. Of halves alone fp32 is told as twice as much.
    same = [row for row in rows if (row.precision in HALVES) == half]
    # compiled where that was measured; plainly a step keeps more for its gradient, which is a bound
    same = [row for row in same if row.compile == settings.compile] or same
    if not rows:
        return None
    count = load.clips * load.frames
    row = min(same or rows, key=lambda r: abs(r.clips * r.frames - count))
    static = min(load.static_gib, row.gib / 2)
    per_frame = (row.gib - static) / (row.clips * row.frames)
    return static + per_frame * count * (2.0 if not half and row.precision in HALVES else 1.0)


@lru_cache
def table() -> tuple[Peak, ...]:
    """Measured peaks."""
    return tuple(Peak(**row) for row in json.loads(TABLE.read_text()))


def _said(settings: Settings) -> str:
    parts = [settings.precision, "CUDA graph" if settings.cuda_graph else "kernel by kernel"]
    parts += ["compiled layers and losses"] if settings.compile else []
    parts += ["channels last"] if settings.channels_last else []
    parts += ["frozen norms folded"] if settings.fold_norms else []
    parts += ["encoder layers recomputed"] if settings.recompute else []
    parts += [f"{settings.frames_at_once} frame(s) at once"] if settings.frames_at_once else []
    return ", ".join(parts)


def static_gib(model: torch.nn.Module) -> float:
    """Weights in fp32, and of those that learn a gradient and two moments."""
    return sum(p.numel() * (16 if p.requires_grad else 4) for p in model.parameters()) / 2**30


def gpu_of(device: torch.device) -> Gpu | None:
    """This process's GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    free = torch.cuda.mem_get_info(device)[0] / 2**30
    return Gpu(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device), free)


def workers(cores: int, processes_here: int) -> int:
    """Loader processes of each training process: its share of the cores but the one that it computes on itself."""
    return min(MAX_WORKERS, max(1, cores // processes_here - 1))


def recorded(settings: Settings) -> dict[str, Any]:
    """What a checkpoint and the record of a run say of it."""
    return asdict(settings)
