"""Recipes: how a model of the synthetic world is made of nothing, as data. Phases of training that continue each other.

A recipe is a file in the language of configs (``projects/configs/recipes``), read and never run. Standard library only: make asks
how long one takes before there is an environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from uniad.config.file import ConfigError, load_config, nearest

FIRST_TRAINING_SEED = 11  # those below are for evaluation and the demo, whoever trains


@dataclass(frozen=True)
class Phase:
    """One run of tools/train.py."""

    name: str  # of its work directory
    stage: int
    seeds: tuple[int, ...]  # worlds, all one training set
    frames: int  # of a clip
    steps: int
    lr: float
    warmup: int = 0  # steps
    least_lr: float = 0.01  # of lr, at the end of the cosine
    driven: tuple[int, ...] = ()  # further seeds, of worlds whose scenes teach driving (make_synthetic_nuscenes.py --driven)
    dense_bev: bool = False
    minutes: float | None = None  # measured on one H200, training alone
    options: Mapping[str, Any] = field(default_factory=dict)  # further config values


@dataclass(frozen=True)
class Recipe:
    path: str
    configs: Mapping[int, str]  # by stage
    scenes: int  # of each world
    world_frames: int  # of each scene
    clips: int  # a step, all processes together
    phases: tuple[Phase, ...]
    options: Mapping[str, Any]

    def config_values(self, phase: Phase) -> list[str]:
        """``KEY=VALUE`` texts for --cfg-options."""
        length = (f"{key}={phase.frames}" for key in ("queue_length", "model.queue_length", "data.train.queue_length"))
        own = (f"{key}={value}" for key, value in {**self.options, **phase.options}.items())
        return [
            *own, *length, f"optimizer.lr={phase.lr:g}",
            f"lr_config.warmup_iters={phase.warmup}", f"lr_config.min_lr_ratio={phase.least_lr:g}",
        ]  # fmt: skip

    def time(self, phases: Sequence[Phase], on_gpu: bool, pace_s: Sequence[float] = ()) -> str:
        """How long they take, in a sentence; empty where nobody measured it.

        pace_s: of each stage the seconds that a clip takes on two CPU cores, of the length that the config has.
        """
        if on_gpu:
            known = all(phase.minutes is not None for phase in phases)
            return f"one H200 trained this in {sum(phase.minutes or 0 for phase in phases):.0f} minutes" if known else ""
        if not pace_s:
            return "this is made for a GPU: on a CPU it takes days"
        seconds = 0.0
        for phase in phases:
            length = load_config(self.configs[phase.stage])["queue_length"]
            seconds += phase.steps * self.clips * pace_s[phase.stage - 1] * phase.frames / length
        return f"on two CPU cores this takes about {_span(seconds)}: it is made for a GPU"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds / 60, 1):.0f} minutes"


def read_recipe(path: str | Path) -> Recipe:
    """Raises ConfigError for a key that nobody reads, one that is missing, and a value that cannot be."""
    content = load_config(path)
    known = {"configs", "worlds", "clips", "options", "phases"}
    _only(content, known, f"{path}")
    for key in sorted(known - {"options"}):
        if key not in content:
            raise ConfigError(f"{path}: {key} is missing; those in projects/configs/recipes have all that a recipe needs")
    worlds = content["worlds"]
    _only(worlds, {"scenes", "frames"}, f"{path}, worlds")
    phases = tuple(_phase(entry, f"{path}, phase {number}") for number, entry in enumerate(content["phases"], 1))
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"{path}: phases need names of their own, and there must be one at least; they are {names}")
    if [phase.stage for phase in phases] != sorted(phase.stage for phase in phases):
        raise ConfigError(f"{path}: phases of stage 1 come before those of stage 2")
    configs = {int(stage): str(config) for stage, config in content["configs"].items()}
    for stage in {phase.stage for phase in phases} - set(configs):
        raise ConfigError(f"{path}: configs names none for stage {stage}")
    numbers = {"scenes": worlds.get("scenes"), "frames": worlds.get("frames"), "clips": content["clips"]}
    for key, value in numbers.items():
        _whole(value, f"{path}: {key}")
    return Recipe(str(path), configs, worlds["scenes"], worlds["frames"], content["clips"], phases, content.get("options") or {})


def _phase(entry: Any, where: str) -> Phase:
    needed = {f.name for f in fields(Phase) if f.default is MISSING and f.default_factory is MISSING}
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {entry!r}; a phase is dict(name=..., stage=..., ...)")
    _only(entry, {f.name for f in fields(Phase)}, where)
    if missing := sorted(needed - set(entry)):
        raise ConfigError(f"{where}: {', '.join(missing)} is missing")
    values: dict[str, Any] = {**entry, "seeds": tuple(entry["seeds"]), "driven": tuple(entry.get("driven", ()))}
    phase = Phase(**values)
    if phase.stage not in (1, 2):
        raise ConfigError(f"{where}: stage is {phase.stage!r}; give 1 or 2")
    for key in ("frames", "steps"):
        _whole(getattr(phase, key), f"{where}: {key}")
    if not phase.seeds + phase.driven:
        raise ConfigError(f"{where}: seeds names no world")
    for seed in phase.seeds + phase.driven:
        if not isinstance(seed, int) or seed < FIRST_TRAINING_SEED:
            raise ConfigError(
                f"{where}: seed {seed!r} is none to train on; {FIRST_TRAINING_SEED} and above are, those below are evaluated on"
            )
    if not phase.lr > 0 or not 0 <= phase.least_lr <= 1:
        raise ConfigError(f"{where}: lr must be above 0, and least_lr a share of it from 0 to 1")
    return phase


def _whole(value: Any, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where} is {value!r}; give a whole number above 0")


def _only(content: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known and not (key.startswith("_") and key.endswith("_")):
            raise ConfigError(f"{where}: nothing reads {key!r}{nearest(key, known)}")
