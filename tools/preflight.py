#!/usr/bin/env python3
"""What a training would stop at here, and how long it would take, before anything is cloned, built or downloaded.

Both stacks ask it. An error is what is certain to fail: no dataset, no container engine, a GPU that this torch cannot use, a
/dev/shm that the image refuses. What may work is a note. Standard library only, a second or two, and it changes nothing.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import configure  # it also finds mk/lib
import machine

ROOT = Path(__file__).resolve().parent.parent
# Frames with labels, each of which starts a clip
TRAINING_FRAMES = {"v1.0-trainval": 28130, "v1.0-mini": 323}
DISK_GIB = 8  # a small world and a short run
DAY_S = 86400.0
UNITS = {"b": 2**-30, "k": 2**-20, "m": 2**-10, "g": 1.0, "t": 2.0**10}


@dataclass
class Report:
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gib(size: str) -> float | None:
    """``32g``, ``512m`` or bytes, as container engines take them; None for anything else."""
    found = re.fullmatch(r"([\d.]+)\s*([bkmgt]?)b?", size.strip().lower())
    return float(found.group(1)) * UNITS[found.group(2) or "b"] if found else None


def dataset_problems(root: Path, version: str, data_args: str = "") -> list[str]:
    """What a nuScenes folder lacks, by the same check that makes infos (projects/uniad/data/check.py needs nothing installed).

    data_args: what tools/create_data.py will be given besides; a CAN bus may lie elsewhere, or be absent.
    """
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--canbus")
    words.add_argument("--without-canbus", action="store_true")
    asked = words.parse_known_args(data_args.split())[0]
    sys.path.insert(0, str(ROOT / "projects"))
    try:
        from uniad.data import check
    except ImportError:  # tools without the package
        return [] if (root / version / "sample.json").is_file() else [f"no {version}/sample.json"]
    return check.dataset_problems(root, version, asked.canbus, need_can_bus=not asked.without_canbus)


def check_dataset(args: argparse.Namespace, report: Report) -> None:
    if args.dataset != "nuscenes":
        return
    problems = dataset_problems(args.data, args.nusc_version, args.data_args)
    if not problems:
        return
    shown = "; ".join(problems[:3]) + (f"; {len(problems) - 3} more" if problems[3:] else "")
    advice = f"put nuScenes there (ln -s /where/nuscenes/is {args.data}), or use DATASET=synthetic; docs/data.md"
    if not (args.data / args.nusc_version / "sample.json").is_file():
        report.errors.append(f"{args.data} holds no nuScenes {args.nusc_version} ({shown}): {advice}")
    elif not args.infos.is_file():
        report.errors.append(f"{args.data} is not complete, and no infos can be made of it ({shown}): {advice}")
    else:
        report.notes.append(f"{args.data} is not complete: {shown}; what {args.infos} names must be there (docs/data.md)")


def check_engine(args: argparse.Namespace, gpus: list[machine.Gpu], report: Report) -> None:
    """Whether the container engine answers, and whether this stack's torch knows the GPUs."""
    if args.runtime == "host":
        return
    try:
        configure.place({"STACK": args.stack, "RUNTIME": args.runtime}, gpus, has_python=True)
    except configure.Refused as error:
        report.errors.append(str(error))
        return
    if gpus and not machine.engine_has_gpus(args.runtime):
        report.notes.append(
            f"nothing says that {args.runtime} can give GPUs to containers here: if not, install the NVIDIA Container Toolkit"
        )


def check_shared_memory(args: argparse.Namespace, report: Report) -> None:
    need = gib(args.shm)
    image_asks = args.runtime != "host" and args.stack == "torch1.12"  # that image starts only with what it needs
    if need is None or (args.no_workers and not image_asks):
        return
    if args.runtime == "host":
        have = machine.shm_gib()
        if have is not None and have < need:
            report.notes.append(
                f"/dev/shm has {have:.1f} GiB, in a container loader processes of {args.variant} get {need:g}: if they die, "
                "CFG_OPTIONS=data.workers_per_gpu=0, or a larger /dev/shm (docs/faq.md)"
            )
        return
    given = gib(args.shm_size)
    if given is not None and given < need:
        line = f"SHM_SIZE={args.shm_size}: data loading of {args.variant} needs {need:g} GiB: SHM_SIZE={args.shm}, or none"
        (report.errors if image_asks else report.notes).append(line)
    memory = machine.memory_gib()
    if memory is not None and memory < need and not args.no_workers:
        report.notes.append(
            f"{memory:.0f} GiB of memory are free, and a /dev/shm of {need:g} GiB counts towards them: if a loader is killed, "
            "CFG_OPTIONS=data.workers_per_gpu=1"
        )


def check_gpu_memory(args: argparse.Namespace, gpus: list[machine.Gpu], report: Report) -> None:
    known = [gpu for gpu in gpus if gpu.memory_gib > 0]
    # What a GPU is sold as and what its driver shows differ by a few per cent.
    small = [gpu for gpu in known if gpu.memory_gib < 0.95 * args.gpu_gib]
    if not small:
        return
    less = "QUEUE_LENGTH=3, which costs some tracking" if not args.queue_length else "another GPU"
    other = ", or STACK=native, which saves memory where it is short" if args.stack == "torch1.12" else ""
    report.notes.append(
        f"{small[0]}: upstream names {args.gpu_gib:g} GB a GPU for {args.variant}, and one clip a GPU even on 48 GB; if it runs "
        f"out of memory: {less}{other} (docs/results.md)"
    )


def paces(text: str) -> dict[str, tuple[float, ...]]:
    """``native=0.55,0.63 native.cpu=...``: seconds of an iteration of one clip, of stage 1 and stage 2."""
    found = {}
    for word in text.split():
        key, _, values = word.partition("=")
        found[key] = tuple(float(value) for value in values.split(","))
    return found


def iterations(args: argparse.Namespace, stage: int, processes: int) -> int | None:
    if stage == 0:
        if args.iterations0:
            return args.iterations0
        frames = args.frames or TRAINING_FRAMES.get(args.nusc_version)
        return math.ceil(frames / processes) * args.epochs0 if frames else None
    if args.iterations and (count := int(args.iterations[min(stage, len(args.iterations)) - 1])):
        return count
    frames = args.frames or TRAINING_FRAMES.get(args.nusc_version)
    epochs = args.epochs[min(stage, len(args.epochs)) - 1]
    return math.ceil(frames / processes) * int(epochs) if frames else None


def estimate(args: argparse.Namespace, report: Report) -> None:
    """How long, where that is more than a day; of a recipe always."""
    on_cpu = args.gpu_count == 0
    pace = paces(args.pace).get(args.stack + ".cpu" * on_cpu)
    if 0 in args.stages and not args.iterations0:
        count = iterations(args, 0, max(args.gpu_count, 1) * args.nodes)
        length = f"{args.epochs0} epochs" + (f", {count:,} iterations of one clip" if count else "")
        report.notes.append(
            f"stage 0 of {args.variant} takes {length}; nobody has timed one; its log tells the time left"
        )
    if args.stages == [0]:
        return
    if args.recipe:
        sys.path.insert(0, str(ROOT / "projects"))
        from uniad.training.recipe import read_recipe  # standard library only, as all that make itself runs

        recipe = read_recipe(args.recipe)
        time = recipe.time([phase for phase in recipe.phases if phase.stage in args.stages], not on_cpu, pace or ())
        plain = "; MAX_ITERS=N or RECIPE=0 trains on one small world instead" if on_cpu else ""
        report.notes.append(f"{args.variant} is trained by {args.recipe}" + (f": {time}" if time else "") + plain)
        return
    processes = max(args.gpu_count, 1) * args.nodes
    if pace is None:
        return
    days = []
    timed = [stage for stage in args.stages if stage]
    for stage in timed:
        count = iterations(args, stage, processes)
        if count is None:
            return
        days.append(count * pace[stage - 1] / DAY_S)
    if sum(days) <= 1:
        return
    where = "two CPU cores" if on_cpu else f"{processes} GPU{'s' * (processes > 1)} like those that were timed"
    each = " + ".join(f"{day:.1f}" for day in days)
    seconds = " and ".join(f"{pace[stage - 1]:g}" for stage in timed)
    quicker = ["a GPU"] if on_cpu else ["more GPUs (GPUS, NNODES)"]
    if args.stack == "torch1.12":
        quicker.append("STACK=native")
    quicker += ["a smaller VARIANT", "MAX_ITERS=N for a try"]
    report.notes.append(
        f"training {args.variant} takes about {each} days on {where} ({seconds} s an iteration, mk/variants.mk says where from); "
        f"its log tells the time left. Quicker: {', '.join(quicker)}"
    )


def check_disk(report: Report) -> None:
    free = machine.free_gib(".")
    if free < DISK_GIB:
        report.notes.append(f"{free:.1f} GiB of disk are free here: data, checkpoints and an image want more (make doctor)")


def inspect(args: argparse.Namespace) -> Report:
    report = Report()
    gpus = machine.gpus() if args.gpu_count else []
    check_dataset(args, report)
    check_engine(args, gpus, report)
    check_shared_memory(args, report)
    check_gpu_memory(args, gpus, report)
    check_disk(report)
    estimate(args, report)
    return report


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", choices=configure.STACKS, default="native")
    parser.add_argument("--runtime", choices=configure.RUNTIMES, default="host")
    parser.add_argument("--variant", required=True)
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--data", type=Path, default=Path("data/nuscenes"), help="folder of the dataset")
    parser.add_argument("--infos", type=Path, default=Path("data/infos/nuscenes_infos_temporal_train.pkl"))
    parser.add_argument("--nusc-version", default="v1.0-trainval")
    parser.add_argument("--data-args", default="", help="further words for tools/create_data.py: '--without-canbus'")
    parser.add_argument("--frames", type=int, default=0, help="labelled frames to train on (default: nuScenes')")
    parser.add_argument("--gpu-count", type=int, default=0, help="on each machine")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", nargs="+", default=["6", "20"], help="of each stage")
    parser.add_argument("--iterations", nargs="*", default=[], help="of each stage, instead of epochs; 0: by epochs")
    parser.add_argument("--epochs0", type=int, default=24, help="of stage 0")
    parser.add_argument("--iterations0", type=int, default=0, help="of stage 0, instead of epochs")
    parser.add_argument("--recipe", help="recipe that is trained by, instead of a schedule")
    parser.add_argument("--queue-length", default="", help="frames in a clip, where that was asked for")
    parser.add_argument("--shm", default="", help="/dev/shm that the variant needs: 32g")
    parser.add_argument("--shm-size", default="", help="/dev/shm that a container gets")
    parser.add_argument("--no-workers", action="store_true", help="no loader processes")
    parser.add_argument("--gpu-gib", type=float, default=0, help="memory that upstream names for a GPU")
    parser.add_argument("--pace", default="", help="seconds of an iteration: 'native=0.55,0.63 torch1.12.cpu=63,29'")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    report = inspect(parse_args(argv))
    for note in report.notes:
        print(f"note: {note}")
    for error in report.errors:
        print(f"error: {error}", file=sys.stderr)
    return 2 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
