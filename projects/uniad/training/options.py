"""What may be set for a run beside its config: its length, its precision, where it writes; and how it ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from uniad.config.spec import Spec
from uniad.errors import UserError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class TrainOptions:
    """What a command line may say about a run, beyond the config."""

    work_dir: Path
    seed: int = 0
    precision: Precision = "fp32"
    max_epochs: int | None = None  # None: the config's
    max_iters: int | None = None  # length of the run in iterations; the schedule is laid over it
    stop_after: int | None = None  # stop here as if interrupted; the schedule is not changed
    save_every_iters: int | None = None
    save_every_s: float | None = 600.0
    compile: bool = False  # layers and losses, see ``compiled``
    compiler: str = "inductor"  # back end of torch.compile
    fold_norms: bool = False  # frozen norms, see ``folding``
    cuda_graph: bool = False  # forward and backward recorded once and replayed
    channels_last: bool = True  # image encoder, on a GPU
    reduce_bf16: bool = False  # gradients travel between processes in bf16
    deterministic: bool = False
    tensorboard: bool = True
    picked: dict[str, Any] | None = None  # all of ``fast.Settings``, for the checkpoint


@dataclass(frozen=True)
class Outcome:
    finished: bool  # False: stopped before the end, can be resumed
    interrupted: bool  # by a signal
    iteration: int  # iterations done
    checkpoint: Path | None

    @property
    def exit_code(self) -> int:
        """130 after a signal, as a shell would report it."""
        return 130 if self.interrupted else 0


def run_length(spec: Spec, options: TrainOptions, epoch_len: int) -> tuple[int, int]:
    """(epochs, iterations) of a run."""
    if options.max_iters is not None:
        return max(1, -(-options.max_iters // epoch_len)), options.max_iters
    epochs = options.max_epochs if options.max_epochs is not None else spec.train.total_epochs
    return epochs, epochs * epoch_len


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses a precision that this device does not have, naming one that it has."""
    check_precision_of(precision, torch.cuda.get_device_capability(device) if device.type == "cuda" else None)


def check_precision_of(precision: str, capability: tuple[int, int] | None) -> None:
    """The same for a GPU of a compute capability, or a CPU (None)."""
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}': choose {', '.join(PRECISIONS)}")
    if capability is None and precision in ("fp16", "tf32"):
        raise UserError(f"precision {precision} needs a GPU: choose fp32 or bf16 on a CPU")
    if capability is not None and precision in ("bf16", "tf32") and capability[0] < 8:
        raise UserError(
            f"precision {precision} needs a GPU of compute capability 8.0 or newer, this one has "
            f"{capability[0]}.{capability[1]}: choose fp32 or fp16"
        )


def check_graph(options: TrainOptions, device: torch.device) -> None:
    """Refuses a CUDA graph where there is no GPU."""
    if options.cuda_graph and device.type != "cuda":
        raise UserError("--cuda-graph needs a GPU: leave it out on a CPU")


def prepare_backend(options: TrainOptions) -> None:
    """Sets what must be known before the GPU is first touched, and the numeric modes of this process."""
    if options.deterministic:
        # two workspaces of 4 MB: what cuBLAS needs to add up in the same order every time
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
    tf32 = options.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = options.deterministic
    # a few operators have no deterministic kernel; they warn rather than stop an upstream training run
    torch.use_deterministic_algorithms(options.deterministic, warn_only=True)
