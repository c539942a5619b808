"""Trains the toy as a process of its own: ``toy_run.py WORK_DIR [--slow] [--nan-on RANK] [--stop-after N] [--workers N]
[--epochs N] [--hang-in-write N]``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from helpers.toy_training import ToyModel, toy_loss, toy_trainer
from uniad.errors import UserError, run_cli
from uniad.training import distributed
from uniad.training.run_log import RunLog


def main() -> int:
    with distributed.report_once():
        return train()


def hang_in_write(number: int) -> None:
    write, seen = torch.save, []

    def save(payload: object, path: Path) -> None:
        write(payload, path)
        seen.append(path)
        if len(seen) == number:
            os.truncate(path, path.stat().st_size // 2)
            print("hangs", flush=True)
            time.sleep(600)

    torch.save = save


def train() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("work_dir", type=Path)
    p.add_argument("--launcher", default="none")
    p.add_argument("--slow", action="store_true")
    p.add_argument("--nan-on", type=int, default=-1)
    p.add_argument("--fail-on", type=int, default=-1)
    p.add_argument("--stop-after", type=int)
    p.add_argument("--workers", type=int, default=0)
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--hang-in-write", type=int, default=0, help="the N-th checkpoint stays half-written, for good")
    args = p.parse_args()
    if args.hang_in_write:
        hang_in_write(args.hang_in_write)
    world = distributed.start(args.launcher, "cpu")

    def loss(model, clip, generator):
        if args.slow:
            time.sleep(0.15)
        if args.fail_on == world.rank:
            raise UserError("data/y.jpg is truncated")
        return toy_loss(model, clip, generator)

    class Broken(torch.nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x / 0.0 if world.rank == args.nan_on and self.calls >= 3 else x

    torch.manual_seed(7)
    model = ToyModel()
    model.img_backbone.append(Broken())
    trainer = toy_trainer(args.work_dir, world=world, model=model, loss=loss, save_every_iters=3, stop_after=args.stop_after,
                          workers=args.workers, train__total_epochs=args.epochs)  # fmt: skip
    if world.is_main:
        trainer.store.prepare()
    distributed.barrier(world)
    found = trainer.store.resume_from("auto", print)
    if found:
        trainer.resume(*found, print)
    log = RunLog(args.work_dir, active=world.is_main, total=trainer.max_iters, start=trainer.iteration, tensorboard=False)
    outcome = trainer.fit(log)
    log.close()
    distributed.stop(world)
    distributed.leave(world, outcome.exit_code)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(run_cli(main))
