"""Stands for upstream's tools/train.py at 02fa68c5 and its runner: arguments, files that they read, files that they leave."""

import argparse
import os
import re
import sys
import time
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--work-dir")
    parser.add_argument("--resume-from")
    parser.add_argument("--no-validate", action="store_true")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--gpu-ids", type=int, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--cfg-options", nargs="+", default=[])
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", type=int, default=0)
    parser.add_argument("--autoscale-lr", action="store_true")
    return parser.parse_args()


def value(config, name):
    """A top-level value of a config, or of what it is based on."""
    text = config.read_text()
    found = re.search(rf"^{name} = (.+?)(?:  #.*)?$", text, re.M)
    if found:
        return found.group(1).strip("\"'")
    bases = re.search(r"^_base_ = (\[.*?\]|\S+)", text, re.M | re.S)
    for base in re.findall(r"[\"'](\S+?)[\"']", bases.group(1)) if bases else []:
        found = value(config.parent / base, name)
        if found is not None:
            return found
    return None


def main():
    args = arguments()
    config = Path(args.config)
    options = dict(option.split("=", 1) for option in args.cfg_options)
    if args.launcher == "pytorch" and "RANK" not in os.environ:
        raise KeyError("RANK")
    work = Path(args.work_dir or value(config, "work_dir") or f"./work_dirs/{config.stem}")
    work.mkdir(parents=True, exist_ok=True)
    (work / config.name).write_text("resolved")
    (work / f"{time.time_ns()}.log").write_text(f"deterministic: {args.deterministic}\n")
    open("data/infos/nuscenes_infos_temporal_train.pkl").close()
    resumed = args.resume_from if args.resume_from and os.path.isfile(args.resume_from) else None
    load = options.get("load_from", value(config, "load_from"))
    if not resumed and load not in (None, "None") and not os.path.isfile(load):
        raise FileNotFoundError(f"{load} is not a checkpoint file")
    if options.get("runner.type") == "IterBasedRunner":
        unit, end, step = "iter", int(options["runner.max_iters"]), int(options["checkpoint_config.interval"])
    else:
        unit, end, step = "epoch", int(options.get("runner.max_epochs", value(config, "total_epochs"))), 1
    done = int(Path(resumed).read_text().split()[0]) if resumed else 0
    print(f"trains {unit} {done + 1} to {end} in {work}, from {resumed or load}", flush=True)
    if int(os.environ.get("RANK", 0)):
        while not (work / f"{unit}_{end}.pth").exists():  # the processes of a job end together
            time.sleep(0.05)
        return
    for number in range(done + step, end + 1, step):
        (work / f"{unit}_{number}.pth").write_text(f"{number} {unit}s")
        latest = work / "latest.pth"
        if latest.is_symlink():
            latest.unlink()
        latest.symlink_to(f"{unit}_{number}.pth")
        if os.environ.get("STAND_IN_FAILS_AFTER") == str(number):
            sys.exit("CUDA error")


main()
