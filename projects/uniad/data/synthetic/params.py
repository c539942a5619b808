"""What a synthetic world is asked to be, and the names, seeds and tokens that follow from it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from uniad.errors import UserError

DRIVEN_FORMAT = 2  # of driven scenes alone, likewise
FORMAT = 3  # raise when the same parameters would give other files: a data set of an older format is made anew
# Usable scene names, train and val: stated here because importing the devkit takes longer than finding nothing to do.
SCENES = {"v1.0-trainval": (685, 150), "v1.0-mini": (8, 2)}
VERSIONS = tuple(SCENES)
LOCATIONS = ("singapore-onenorth", "boston-seaport", "singapore-queenstown", "singapore-hollandvillage")
KEYFRAME_S = 0.5
# Scenes of the genuine set whose CAN messages do not exist; the devkit refuses their names.
NO_CAN_BUS = frozenset((*range(161, 169), *range(170, 177), *range(309, 315)))

Manoeuvre = Literal["left", "right", "straight"]
MANOEUVRES: tuple[Manoeuvre, ...] = ("left", "right", "straight")


@dataclass(frozen=True)
class WorldParams:
    """Everything that decides the bytes of a data set."""

    version: str = "v1.0-trainval"
    train_scenes: int = 4
    val_scenes: int = 2
    frames: int = 40  # keyframes a scene, at 2 Hz
    seed: int = 0
    sweeps: Literal["none", "lidar", "all"] = "none"  # what lies between keyframes: lidar at 20 Hz, cameras at 12 Hz
    jpeg_quality: int = 80
    lidar_columns: int = 1080  # azimuth steps a turn, for each of 32 beams
    # Scenes for learning to drive (``simulation.driven``): the car is off its way and steers back, signals show their state.
    driven: bool = False
    learner: str = ""  # digest of the model that has the wheel in driven scenes; empty: the expert

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise UserError(f"version {self.version!r} is unknown; choose one of {', '.join(VERSIONS)}")
        if self.sweeps not in ("none", "lidar", "all"):
            raise UserError(f"sweeps {self.sweeps!r} is unknown; choose none, lidar or all")
        if not 2 <= self.frames <= 400:
            raise UserError(f"frames is {self.frames}; a scene needs between 2 and 400 keyframes")
        if not 30 <= self.jpeg_quality <= 100:
            raise UserError(f"jpeg_quality is {self.jpeg_quality}; choose 30 to 100")
        if self.lidar_columns < 90:
            raise UserError(f"lidar_columns is {self.lidar_columns}; choose at least 90")
        if self.train_scenes + self.val_scenes < 1:
            raise UserError("train_scenes and val_scenes are both 0; ask for at least one scene")
        for split, asked, have in zip(("train", "val"), (self.train_scenes, self.val_scenes), SCENES[self.version]):
            if not 0 <= asked <= have:
                more = "" if self.version == "v1.0-trainval" else " (v1.0-trainval has more)"
                raise UserError(f"{split}_scenes is {asked}; the devkit has {have} usable {split} names for {self.version}{more}")

    def as_dict(self) -> dict:
        facts = {"format": FORMAT, **asdict(self)}
        if self.driven:
            facts["driven"] = DRIVEN_FORMAT
        for choice in ("driven", "learner"):  # worlds that were made before there was a choice keep their stamp
            if not facts[choice]:
                del facts[choice]
        return facts


@dataclass(frozen=True)
class SceneSpec:
    """One scene to make. ``index`` counts train scenes, then validation scenes, each from 0."""

    name: str
    split: str
    index: int
    location: str
    manoeuvre: Manoeuvre  # what the car does at the first junction
    start_us: int


def scene_names(params: WorldParams) -> dict[str, list[str]]:
    """Scene names for train and val, taken from the devkit's own splits so that its tools find them."""
    from nuscenes.utils.splits import create_splits_scenes

    splits = create_splits_scenes()
    keys = ("train", "val") if params.version == "v1.0-trainval" else ("mini_train", "mini_val")
    names = {}
    for split, key, count in zip(("train", "val"), keys, (params.train_scenes, params.val_scenes)):
        names[split] = [name for name in splits[key] if int(name[-4:]) not in NO_CAN_BUS][:count]
    return names


def scene_specs(params: WorldParams) -> list[SceneSpec]:
    """All scenes in writing order. Locations and first manoeuvres go round, so that a small set has all of them."""
    specs = []
    for split, names in scene_names(params).items():
        for index, name in enumerate(names):
            shift = index + (1 if split == "val" else 0)  # small sets: validation in another town than training starts
            specs.append(
                SceneSpec(
                    name=name,
                    split=split,
                    index=index,
                    location=LOCATIONS[shift % len(LOCATIONS)],
                    manoeuvre=MANOEUVRES[index % 3],
                    # A quarter of an hour apart, so that no two scenes overlap whatever their length.
                    start_us=1_532_402_900_000_000 + int(name[-4:]) * 900_000_000 + 647_951,
                )
            )
    return specs


def number_of(*words: object) -> int:
    """A 64-bit number from any words; equal on every machine, unlike hash()."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "little")


def rng_for(seed: int, *words: object) -> np.random.Generator:
    """A generator that depends on the seed and the words only, never on which process asks, or when."""
    return np.random.default_rng([seed & 0xFFFFFFFF, number_of(*words)])


def token(seed: int, *words: object) -> str:
    """A 32-digit hexadecimal record token, as the genuine tables have."""
    return hashlib.md5(f"synthetic/{seed}/{'/'.join(map(str, words))}".encode()).hexdigest()
