#!/usr/bin/env python3
"""Trains a model of the synthetic world by its recipe: makes the worlds, packs them, and runs phase after phase.

    tools/train_recipe.py projects/configs/recipes/nano.py                  # both stages, on the GPU if there is one
    tools/train_recipe.py projects/configs/recipes/nano.py --plan           # what it would do, and how long that takes

Run the same command again to continue: finished worlds and phases are left alone. Words after -- go to every tools/train.py.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import _environment

from uniad.data.synthetic.params import DRIVEN_FORMAT
from uniad.errors import UserError, run_cli
from uniad.training.recipe import LAST_SEED, Phase, Recipe, read_recipe

TOOLS = Path(_environment.TOOLS)
DIGESTS = Path(".make/digests.json")  # those of large files, by place, size and time: shared with make
AT_ONCE = 4  # worlds that are made at the same time
WORLD_FRAME_GB = 0.0012  # of a world while it is being made: six images, lidar, tables
# Folders of packs; what such a version's scenes are is part of the name
DRIVEN, LEARNER = f"driven.{DRIVEN_FORMAT}", f"learner.{DRIVEN_FORMAT}"
KINDS = {"": "recorded", DRIVEN: "driven", LEARNER: "learner's"}
LABELS = 1.3  # of a pack's images: what its labels add


def parse_args() -> argparse.Namespace:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("recipe", help="recipe, e.g. projects/configs/recipes/nano.py")
    p.add_argument("--stage", type=int, choices=(1, 2), help="the phases of this stage only (default: all)")
    p.add_argument("--work-dir", type=Path, help="a folder for each phase goes here (default: projects/work_dirs/recipes/NAME)")
    p.add_argument("--packs", type=Path, help="folder of the packed worlds (default: data/synthetic/packs/NAME)")
    p.add_argument("--load-from", help="checkpoint that the first phase continues (default: nothing; of stage 2, stage 1's last)")
    p.add_argument("--out", type=Path, help="put a copy of the last phase's checkpoint here")
    p.add_argument("--gpus", type=int, default=1, metavar="N", help="processes; the clips of a step are divided among them")
    p.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    p.add_argument("--precision", choices=("fp32", "tf32", "bf16", "fp16"), help="default: what tools/train.py picks")
    p.add_argument("--seed", type=int, default=0, help="of the training (default 0)")
    p.add_argument("--jobs", type=int, metavar="N", help="processes that make worlds (default: as many as there are cores)")
    p.add_argument("--pace", type=float, nargs=2, default=[], metavar=("S1", "S2"),
                   help="seconds that a clip of the config's length takes on this CPU, in each stage: for the time told ahead")
    p.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="config values on top")
    p.add_argument("--plan", action="store_true", help="say what would be done; do nothing")
    args = p.parse_args(words[:at])
    args.train_args = words[at + 1 :]
    return args


def main() -> int:
    args = parse_args()
    recipe = read_recipe(args.recipe)
    name = Path(args.recipe).stem
    args.work_dir = args.work_dir or Path("projects/work_dirs/recipes") / name
    # Worlds of other sizes are other packs.
    args.packs = (args.packs or Path("data/synthetic/packs") / name) / f"{recipe.scenes}x{recipe.world_frames}"
    phases = [phase for phase in recipe.phases if args.stage in (None, phase.stage)]
    if not phases:
        raise UserError(f"{args.recipe} has no phase of stage {args.stage}")
    if args.gpus < 1 or recipe.clips % args.gpus:
        raise UserError(f"--gpus {args.gpus}: the recipe's {recipe.clips} clips a step do not divide among so many processes")
    if not phases[0].stage == recipe.phases[0].stage and not args.load_from:
        raise UserError(f"--stage {args.stage} continues what stage 1 learnt: name that checkpoint with --load-from")
    check_arguments(args)
    on_gpu = _on_gpu(args.device)
    for line in announcement(recipe, phases, on_gpu, args.pace):
        print(line, flush=True)
    if args.plan:
        return 0
    check_configs(recipe, phases, args.cfg_options)
    check_room(recipe, phases, args.packs)
    before = args.load_from
    for phase in phases:
        packs = make_packs(recipe, phase, args, before)
        words = train_words(recipe, phase, args, packs, before)
        done = args.work_dir / phase.name / f"iter_{phase.steps}.pth"
        if claim(args.work_dir / phase.name, words, packs, before, args.gpus) and done.is_file():
            print(f"{phase.name}: done before, {done}", flush=True)
        elif code := run(words if args.gpus == 1 else ["tools/uniad_dist_train.sh", words[2], str(args.gpus), *words[3:]]):
            return code
        if not done.is_file():
            raise UserError(f"{phase.name} ended without {done}; its log lies beside it")
        before = str(done)
    if args.out:
        place(Path(before), args.out)
    print(f"{args.out or before}: trained by {args.recipe}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """What would be found out only after worlds were made, or at the end of a training."""
    from uniad.files import try_place

    if not 0 <= args.seed <= LAST_SEED:
        raise UserError(f"--seed {args.seed}: choose one from 0 to {LAST_SEED}")
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give 1 or more")
    if not all(0 < pace < math.inf for pace in args.pace):
        raise UserError(f"--pace {' '.join(map(str, args.pace))}: give seconds above 0")
    if args.load_from and not Path(args.load_from).is_file():
        raise UserError(f"--load-from {args.load_from}: no such file")
    if not args.plan:
        for place in (args.out, args.work_dir / "x", args.packs / "x"):
            if place is not None:
                try_place(place)


def check_configs(recipe: Recipe, phases: list[Phase], options: list[str]) -> None:
    """Each phase's config takes its values."""
    from uniad.config.read import load_spec

    for phase in phases:
        spec = load_spec(recipe.configs[phase.stage], [*recipe.config_values(phase), *options])
        if spec.stage != phase.stage:
            raise UserError(f"{recipe.path}: phase {phase.name} is of stage {phase.stage}, {spec.path} of stage {spec.stage}")


def _on_gpu(device: str) -> bool:
    import torch

    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise UserError("--device cuda: PyTorch finds no GPU here; --device cpu trains without one")
    return found and device != "cpu"


def announcement(recipe: Recipe, phases: list[Phase], on_gpu: bool, pace: list[float]) -> list[str]:
    """What comes, and how long it takes where that is known."""
    worlds = worlds_of(phases)
    frames = len(worlds) * recipe.scenes * recipe.world_frames
    lines = [f"{recipe.path}: {_of(phases, 'phase')} on {_of(worlds, 'world')} of {recipe.scenes} scenes, {frames:,} frames"]
    for phase in phases:
        clips, own = f"{recipe.clips} clips of {_of(range(phase.frames), 'frame')}", _of(worlds_of([phase]), "world")
        lines.append(f"  {phase.name}: stage {phase.stage}, {own}, {phase.steps:,} steps of {clips}, lr {phase.lr:g}")
    time = recipe.time(phases, on_gpu, pace)
    return [*lines, *([f"  {time}"] if time else [])]


def worlds_of(phases: Sequence[Phase]) -> list[tuple[str, int]]:
    """(folder below the packs, seed) of every world; those of driven scenes have a folder of their own."""
    return sorted({(kind, seed) for phase in phases for kind, seeds in kinds_of(phase) for seed in seeds})


def kinds_of(phase: Phase) -> list[tuple[str, tuple[int, ...]]]:
    """The kinds of ``KINDS`` and a phase's seeds of each."""
    return [("", phase.seeds), (DRIVEN, phase.driven), (LEARNER, phase.learner)]


def _of(things: Sequence, what: str) -> str:
    return f"{len(things)} {what}{'s' * (len(things) != 1)}"


def check_room(recipe: Recipe, phases: list[Phase], packs: Path) -> None:
    """Worlds take a while to make: a full disk should be found out before."""
    from uniad.config.read import load_spec
    from uniad.geometry.nuscenes import IMAGE_HW

    # A learner's have a folder for each learner, which later phases are yet to train.
    place = {"": "", DRIVEN: f"{DRIVEN}/", LEARNER: f"{LEARNER}/*/"}
    missing = {(kind, seed) for kind, seed in worlds_of(phases) if not any(packs.glob(f"{place[kind]}{seed}.pt"))}
    scale = load_spec(recipe.configs[phases[0].stage], recipe.config_values(phases[0])).data.image.scale
    frames = recipe.scenes * recipe.world_frames
    frame_gb = 6 * 3 * math.prod(math.ceil(side * scale) for side in IMAGE_HW) * LABELS / 1e9
    need = frames * (len(missing) * frame_gb + min(AT_ONCE, len(missing)) * WORLD_FRAME_GB)
    existing = next(folder for folder in (packs, *packs.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if need > free:
        raise UserError(
            f"{packs}: {len(missing)} worlds need about {need:.0f} GB, {free:.0f} GB are free: make room, or give --packs FOLDER"
        )


def make_packs(recipe: Recipe, phase: Phase, args: argparse.Namespace, before: str | None) -> list[Path]:
    """The packs of a phase; those that are there stay. before: the checkpoint that has the wheel in a learner's worlds."""
    packs = []
    for kind, seeds in kinds_of(phase):
        if not seeds:
            continue
        learner: list[str] = []
        folder = kind
        if kind == LEARNER:
            assert before is not None  # a recipe whose phase has none is refused
            from uniad.training import identity

            learner = ["--learner", before]
            folder = f"{kind}/{identity.file_digest(Path(before), DIGESTS)[:12]}"  # another model drives elsewhere
        there = [args.packs / folder / f"{seed}.pt" for seed in seeds]
        packs += there
        missing = [str(seed) for seed, pack in zip(seeds, there) if not pack.is_file()]
        if not missing:
            continue
        print(f"{phase.name}: making {_of(missing, 'world')} of {recipe.scenes} {KINDS[kind]} scenes", flush=True)
        words = [
            sys.executable, str(TOOLS / "make_packs.py"), recipe.configs[phase.stage], "--seeds", *missing,
            "--out", str(args.packs / folder), "--scenes", str(recipe.scenes), "--frames", str(recipe.world_frames),
            "--at-once", str(AT_ONCE), *(["--driven"] if kind else []), *learner,
        ]  # fmt: skip
        words += ["--jobs", str(args.jobs)] if args.jobs else []
        if code := run([*words, "--cfg-options", *recipe.config_values(phase), *(args.cfg_options if learner else [])]):
            raise UserError(f"worlds of {phase.name} could not be made (status {code})")
    return packs


def train_words(recipe: Recipe, phase: Phase, args: argparse.Namespace, packs: list[Path], before: str | None) -> list[str]:
    """The command line of a phase."""
    words = [
        sys.executable, str(TOOLS / "train.py"), recipe.configs[phase.stage], "--work-dir", str(args.work_dir / phase.name),
        "--packs", *map(str, packs), "--max-iters", str(phase.steps), "--samples-per-gpu", str(recipe.clips // args.gpus),
        "--seed", str(args.seed), *(["--precision", args.precision] if args.precision else []),
        *(["--device", args.device] if args.device != "auto" else []),
        *(["--dense-bev"] if phase.dense_bev else []),
    ]  # fmt: skip
    values = recipe.config_values(phase)
    if before:
        values.append(f"load_from={before}")
    elif phase is recipe.phases[0]:
        words.append("--from-scratch")
    return [*words, *args.train_args, "--cfg-options", *values, *args.cfg_options]


def claim(work_dir: Path, words: list[str], packs: list[Path], before: str | None, processes: int) -> bool:
    """Whether the folder holds this very run. That of another one is set aside, never continued and never deleted."""
    from uniad.training import identity
    from uniad.training.arguments import parser

    wanted = identity.settings(parser().parse_args(words[2:]))
    reads = [*packs, *([Path(before)] if before else [])]
    wanted["data.samples_per_gpu"] *= processes  # however many share a step, it is the same run
    wanted |= identity.content(reads, lambda path: identity.file_digest(path, DIGESTS))
    same = identity.record_of(work_dir, wanted) is not None
    if message := identity.claim(work_dir, wanted):
        print(message, flush=True)
        return False
    return same


def run(words: list[str]) -> int:
    """A command; signals that come meanwhile go to it, and it says how it ends."""
    process = subprocess.Popen(words)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda which, _: process.send_signal(which))
    try:
        return process.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def place(source: Path, target: Path) -> None:
    from uniad.files import atomic_path

    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


if __name__ == "__main__":
    sys.exit(run_cli(main))
