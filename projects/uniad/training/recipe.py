"""Recipes: how a model of the synthetic world is made of nothing, as data. Phases of training that continue each other.

A recipe is a file in the language of configs (``projects/configs/recipes``), read and never run. Standard library only: make asks
how long one takes before there is an environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from uniad.config.file import ConfigError, load_config, nearest

FIRST_TRAINING_SEED = 11  # those below are for evaluation and the demo, whoever trains
LAST_SEED = 2**31 - 1  # as of every command that takes a seed
STAGES = (1, 2)


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
    learner: tuple[int, ...] = ()  # and of driven worlds in which the model of the phase before has the wheel
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
            length: Any = load_config(self.configs[phase.stage]).get("queue_length")
            _whole(length, f"{self.configs[phase.stage]}: queue_length")
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
    worlds = _mapping(content["worlds"], f"{path}: worlds", "dict(scenes=..., frames=...)")
    _only(worlds, {"scenes", "frames"}, f"{path}, worlds")
    _need(isinstance(content["phases"], (list, tuple)), f"{path}: phases", content["phases"], "a list of dict(name=..., ...)")
    phases = tuple(_phase(entry, f"{path}, phase {number}") for number, entry in enumerate(content["phases"], 1))
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"{path}: phases need names of their own, and there must be one at least; they are {names}")
    if [phase.stage for phase in phases] != sorted(phase.stage for phase in phases):
        raise ConfigError(f"{path}: phases of stage 1 come before those of stage 2")
    for before, phase in zip((None, *phases), phases):
        if phase.learner and (before is None or before.stage != 2):
            raise ConfigError(f"{path}: in phase {phase.name} a learner has the wheel: a phase of stage 2 has to come before it")
    configs = _mapping(content["configs"], f"{path}: configs", "a mapping from stage to config file")
    for stage, config in configs.items():
        _need(type(stage) is int and stage in STAGES, f"{path}: a stage of configs", stage, "1 or 2")
        _need(isinstance(config, str) and config != "", f"{path}: the config of stage {stage}", config, "a file's path")
    for stage in {phase.stage for phase in phases} - set(configs):
        raise ConfigError(f"{path}: configs names none for stage {stage}")
    numbers = {"scenes": worlds.get("scenes"), "frames": worlds.get("frames"), "clips": content["clips"]}
    for key, value in numbers.items():
        _whole(value, f"{path}: {key}")
    for phase in phases:
        if phase.frames > worlds["frames"]:
            raise ConfigError(
                f"{path}: phase {phase.name} has clips of {phase.frames} frames; scenes of its worlds have {worlds['frames']}"
            )
    options = _options(content.get("options"), f"{path}: options")
    return Recipe(str(path), configs, worlds["scenes"], worlds["frames"], content["clips"], phases, options)


def _phase(entry: Any, where: str) -> Phase:
    needed = {f.name for f in fields(Phase) if f.default is MISSING and f.default_factory is MISSING}
    _mapping(entry, where, "dict(name=..., stage=..., ...)")
    _only(entry, {f.name for f in fields(Phase)}, where)
    if missing := sorted(needed - set(entry)):
        raise ConfigError(f"{where}: {', '.join(missing)} is missing")
    for key in ("seeds", "driven", "learner"):
        _need(isinstance(entry.get(key, ()), (list, tuple)), f"{where}: {key}", entry.get(key), "a list of whole numbers")
    seeds, driven, learner = tuple(entry["seeds"]), tuple(entry.get("driven", ())), tuple(entry.get("learner", ()))
    options = _options(entry.get("options"), f"{where}: options")
    values: dict[str, Any] = {**entry, "seeds": seeds, "driven": driven, "learner": learner, "options": options}
    phase = Phase(**values)
    # It becomes a folder's name, beside those of the other phases.
    named = isinstance(phase.name, str) and re.fullmatch(r"\w[\w.-]*", phase.name, re.ASCII) is not None
    _need(named, f"{where}: name", phase.name, "a folder's name: letters, digits, . _ -")
    _need(type(phase.stage) is int and phase.stage in STAGES, f"{where}: stage", phase.stage, "1 or 2")
    for key in ("frames", "steps"):
        _whole(getattr(phase, key), f"{where}: {key}")
    _need(type(phase.warmup) is int and phase.warmup >= 0, f"{where}: warmup", phase.warmup, "a whole number of steps, 0 or more")
    _need(isinstance(phase.dense_bev, bool), f"{where}: dense_bev", phase.dense_bev, "True or False")
    if not seeds + driven + learner:
        raise ConfigError(f"{where}: seeds names no world")
    for seed in seeds + driven + learner:
        if type(seed) is not int or not FIRST_TRAINING_SEED <= seed <= LAST_SEED:
            raise ConfigError(
                f"{where}: seed {seed!r} is none to train on; {FIRST_TRAINING_SEED} and above (to {LAST_SEED}) are, "
                "those below are evaluated on"
            )
    for key, worlds in (("seeds", seeds), ("driven", driven), ("learner", learner)):
        if len(set(worlds)) < len(worlds):
            raise ConfigError(f"{where}: {key} names a world twice; its clips would count twice")
    _need(_finite(phase.lr) and phase.lr > 0, f"{where}: lr", phase.lr, "a number above 0")
    _need(_finite(phase.least_lr) and 0 <= phase.least_lr <= 1, f"{where}: least_lr", phase.least_lr, "a share of lr from 0 to 1")
    timed = phase.minutes is None or (_finite(phase.minutes) and phase.minutes >= 0)
    _need(timed, f"{where}: minutes", phase.minutes, "minutes of one H200, or None")
    return phase


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _need(good: bool, where: str, value: Any, wanted: str) -> None:
    if not good:
        raise ConfigError(f"{where} is {value!r}; give {wanted}")


def _mapping(value: Any, where: str, wanted: str) -> Mapping[Any, Any]:
    _need(isinstance(value, Mapping), where, value, wanted)
    return value


def _options(value: Any, where: str) -> Mapping[str, Any]:
    """Config values by key; each becomes KEY=VALUE on a command line."""
    options = _mapping({} if value is None else value, where, "dict() or a mapping from config key to value")
    for key in options:
        _need(isinstance(key, str) and re.fullmatch(r"\w[\w.]*", key) is not None, f"{where}: a key", key, "a config key, a.b.c")
    return options


def _whole(value: Any, where: str) -> None:
    _need(type(value) is int and value >= 1, where, value, "a whole number above 0")


def _only(content: Mapping[Any, Any], known: set[str], where: str) -> None:
    for key in content:
        name = str(key)
        if key not in known and not (name.startswith("_") and name.endswith("_")):
            raise ConfigError(f"{where}: nothing reads {key!r}{nearest(name, known)}")
