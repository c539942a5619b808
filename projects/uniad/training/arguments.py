"""What the command line of a training says. Standard library only: make reads it before there is an environment."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

DESCRIPTION = """Trains one stage of one variant.

    tools/train.py projects/configs/stage1_track_map/nano_track_map.py --from-scratch

Run the same command again to continue where it stopped. Several GPUs: tools/uniad_dist_train.sh CFG GPUS [these options].
"""


def whole(least: int):
    """An argparse type: a whole number of at least ``least``."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def period(text: str) -> tuple[int | None, float | None]:
    """``200`` -> (200 iterations, None); ``90s``, ``10m``, ``2h`` -> (None, seconds); ``0`` -> (None, None)."""
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of iterations (200) nor a time (90s, 10m, 2h)")
    number, unit = int(found[1]), found[2]
    if number == 0:
        return None, None
    return (number, None) if not unit else (None, float(number * {"s": 1, "m": 60, "h": 3600}[unit]))


def parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    # fmt: off
    p = argparse.ArgumentParser(prog="tools/train.py", description=DESCRIPTION, formatter_class=formatter, allow_abbrev=False)
    p.add_argument("config", help="config file, e.g. projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py")

    g = p.add_argument_group("where")
    g.add_argument("--work-dir", type=Path, help="checkpoints and logs (default: projects/work_dirs/<stage>/<config>)")
    g.add_argument("--resume", default="auto", metavar="auto|none|PATH",
                   help="auto: go on from the newest complete checkpoint in the work directory, if there is one (default)")
    g.add_argument("--data-root", help="folder of the dataset, instead of the config's")
    g.add_argument("--info-root", help="folder of nuscenes_infos_temporal_{train,val}.pkl, instead of the config's")
    g.add_argument("--packs", type=Path, nargs="+", metavar="FILE",
                   help="train on these packs of tools/pack_clips.py, one for each world, instead of the config's dataset")
    g.add_argument("--save-every", type=period, default=period("10m"), metavar="N|TIME",
                   help="also keep iter_latest.pth, every N iterations or every 90s, 10m, 2h; 0: never (default: 10m)")

    g = p.add_argument_group("how")
    g.add_argument("--from-scratch", action="store_true",
                   help="load no weights, not even stage 1's; train backbone and norms, which upstream's configs freeze")
    g.add_argument("--no-regularisation", action="store_true",
                   help="no dropout, grid mask or photometric distortion: for trainings of minutes, which underfit")
    g.add_argument("--dense-bev", action="store_true",
                   help="an auxiliary head on the BEV learns where objects are: for trainings of minutes from scratch")
    g.add_argument("--precision", choices=("fp32", "tf32", "bf16", "fp16"),
                   help="default: what the run was begun with; else bf16 on a GPU that has it, fp16 on older ones, fp32 on a CPU")
    g.add_argument("--no-fast", action="store_true",
                   help="pick nothing: fp32 unless --precision says otherwise, kernel by kernel, as upstream computes")
    g.add_argument("--max-epochs", type=whole(1), metavar="N", help="length of the run, instead of the config's")
    g.add_argument("--max-iters", type=whole(1), metavar="N", help="length of the run in iterations, for the schedule too")
    g.add_argument("--stop-after", type=whole(1), metavar="N",
                   help="stop at iteration N as if interrupted; the schedule is not changed")
    g.add_argument("--samples-per-gpu", type=whole(1), metavar="N", help="clips per process and step, instead of the config's")
    g.add_argument("--workers", type=whole(0), metavar="N",
                   help="data-loader processes per process (default: on a GPU what the cores allow, else the config's)")
    g.add_argument("--loader-timeout", type=whole(1), metavar="S",
                   help="give up when no batch has come from the loader processes for so many seconds (default: 600)")
    g.add_argument("--seed", type=whole(0), default=0, metavar="S")
    g.add_argument("--deterministic", action="store_true",
                   help="only deterministic GPU kernels, so that repeated runs agree to the bit (a CPU always does)")
    g.add_argument("--shared-history", action="store_true",
                   help="history BEVs read the learning pass's image features: faster, not quite upstream's numbers")
    g.add_argument("--recompute", action="store_true",
                   help="compute transformer layers again in the backward pass: less memory, same numbers, a third more time")
    g.add_argument("--frames-at-once", type=whole(1), metavar="N",
                   help="image and BEV encoders take so many frames of a step's clips at once: saves memory with --recompute")
    g.add_argument("--cuda-graph", action="store_true",
                   help="record forward and backward once and replay them, in any number of processes; a GPU gets it unasked, "
                        "but with --no-fast")
    g.add_argument("--reduce-bf16", action="store_true",
                   help="gradients travel between processes in bf16: half the traffic, not quite the same numbers")
    g.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None,
                   help="torch.compile layers and losses, each by itself; a GPU gets it unasked, but with --no-fast; "
                        "--no-compile leaves it out")
    g.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                   help="override config values, e.g. data.samples_per_gpu=2 optimizer.lr=1e-4")

    g = p.add_argument_group("machine")
    g.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    g.add_argument("--launcher", choices=("none", "pytorch"), default="none", help="pytorch: this is one of torchrun's processes")
    g.add_argument("--no-tensorboard", action="store_true")
    # fmt: on
    return p
