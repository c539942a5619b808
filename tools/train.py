#!/usr/bin/env python3
"""Trains one stage of one variant.

    tools/train.py projects/configs/stage1_track_map/nano_track_map.py --from-scratch

Run the same command again to continue where it stopped. Several GPUs: tools/uniad_dist_train.sh CFG GPUS [these options].
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli
from uniad.training.arguments import parser


def main() -> int:
    args = parser().parse_args()
    if args.max_epochs and args.max_iters:
        raise UserError("--max-epochs and --max-iters both say how long to train: give one")

    # imported after the arguments are known to be right: PyTorch takes seconds
    from uniad.training.distributed import report_once

    with report_once():
        return run(args)


def run(args: argparse.Namespace) -> int:
    from uniad.config.read import load_spec
    from uniad.files import try_place
    from uniad.training.clip import ClipOptions
    from uniad.training.fast import Wish
    from uniad.training.options import TrainOptions
    from uniad.training.packed import packed_loader
    from uniad.training.run import RunOptions, default_work_dir, train

    try_place(Path(args.work_dir or default_work_dir(args.config)) / "iter_latest.pth")
    spec = load_spec(args.config, args.cfg_options)
    data = spec.data
    if args.data_root:
        data = replace(data, data_root=args.data_root)
    if args.info_root:
        def moved(file: str) -> str:
            return str(Path(args.info_root) / Path(file).name)

        data = replace(data, ann_file_train=moved(data.ann_file_train), ann_file_val=moved(data.ann_file_val))
    if args.samples_per_gpu:
        data = replace(data, samples_per_gpu=args.samples_per_gpu)
    if args.workers is not None:
        data = replace(data, workers_per_gpu=args.workers)

    outcome = train(
        replace(spec, data=data),
        RunOptions(
            train=TrainOptions(
                work_dir=args.work_dir or default_work_dir(args.config),
                seed=args.seed, max_epochs=args.max_epochs, max_iters=args.max_iters, stop_after=args.stop_after,
                save_every_iters=args.save_every[0], save_every_s=args.save_every[1], reduce_bf16=args.reduce_bf16,
                deterministic=args.deterministic,
                tensorboard=not args.no_tensorboard,
            ),
            resume=args.resume, launcher=args.launcher, device=args.device, from_scratch=args.from_scratch,
            dense_bev=args.dense_bev, loader_timeout_s=args.loader_timeout,
            wish=Wish(args.precision, args.cuda_graph, args.recompute, args.frames_at_once, not args.no_fast, args.compile),
            auto_workers=not args.no_fast and args.workers is None and "workers_per_gpu" not in " ".join(args.cfg_options),
            regularise=not args.no_regularisation,
            clip=ClipOptions(history_features="shared" if args.shared_history else "exact"),
        ),
        *([packed_loader(args.packs)] if args.packs else []),
    )
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(run_cli(main))
