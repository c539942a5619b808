"""A model, a data set and a loss small enough to train in milliseconds, with everything that makes training hard to repeat:
dropout, batch norm, random augmentation, a frozen part and a part that gets no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from helpers.specs import edit, nano_spec
from uniad.config.spec import Spec
from uniad.training.distributed import World
from uniad.training.loader import ClipLoader, Position
from uniad.training.options import Outcome, TrainOptions
from uniad.training.run_log import RunLog
from uniad.training.trainer import Trainer

SAMPLES = 12


class ToyFrames(NamedTuple):
    x: Tensor


class ToyClip(NamedTuple):
    frames: ToyFrames
    y: Tensor
    meta: list


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.img_neck = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 1)
        self.unused = nn.Linear(2, 2)
        self.img_neck.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.img_neck(self.img_backbone(x)))))


class ToyData:
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, position: Position) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.random.default_rng(position.index).standard_normal(4).astype(np.float32))
        return x + 0.1 * torch.randn(4) + 0.1 * float(np.random.rand()), x.sum()  # augmentation draws from global generators


class ToySampler:
    """A different order every epoch, strided over processes."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size, self.epoch = rank, size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return SAMPLES // self.size

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(SAMPLES).tolist()
        return iter(order[self.rank :: self.size])


def collate(samples: list) -> ToyClip:
    return ToyClip(ToyFrames(torch.stack([s[0] for s in samples])), torch.stack([s[1] for s in samples]), [{}] * len(samples))


def toy_loss(model: nn.Module, clip: ToyClip, generator: torch.Generator) -> dict[str, Tensor]:
    noise = 0.01 * torch.randn(clip.y.shape, generator=generator)
    error = model(clip.frames.x)[:, 0] - clip.y - noise
    return {"loss_square": error.square().mean(), "loss_abs": error.abs().mean(), "bias": error.mean()}


def toy_spec(**changes: object) -> Spec:
    values = dict(
        lr=2e-4, weight_decay=0.01, backbone_lr_mult=1.0, clip_norm=35.0, warmup_iters=4, warmup_ratio=1 / 3, min_lr_ratio=1e-3,
        lr_by_epoch=True, total_epochs=2, log_interval=1, checkpoint_interval=1,
    )  # fmt: skip
    return edit(nano_spec(), **{**{f"train__{k}": v for k, v in values.items()}, **changes})


def toy_trainer(work_dir: Path, *, world: World | None = None, batch: int = 2, workers: int = 0, loss=toy_loss, model=None,
                data=None, **options: object) -> Trainer:  # fmt: skip
    world = world or World(0, 1, 0, torch.device("cpu"))
    torch.manual_seed(7)
    model = model or ToyModel()
    loader = ClipLoader(
        data or ToyData(), ToySampler(world.rank, world.size), batch_size=batch, workers=workers, collate=collate, seed=3
    )
    spec = toy_spec(**{k: options.pop(k) for k in list(options) if "__" in k})
    settings = TrainOptions(work_dir, **{"tensorboard": False, "save_every_s": None, **options})
    return Trainer(spec, model, loss, loader, world, settings)


def run(trainer: Trainer, resume: str = "none") -> tuple[Outcome, list[str]]:
    """Trains; returns the outcome and the messages."""
    output: list[str] = []
    found = trainer.store.resume_from(resume, output.append)
    if found:
        trainer.resume(*found, output.append)
    log = RunLog(trainer.options.work_dir, active=trainer.world.is_main, total=trainer.max_iters, start=trainer.iteration,
                 tensorboard=trainer.options.tensorboard)  # fmt: skip
    if log.active:
        log.say = output.append  # type: ignore[method-assign]
    try:
        return trainer.fit(log), output
    finally:
        log.close()
