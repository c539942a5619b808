"""Ready specs for tests: the three variants, as their config files give them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers import REPO
from uniad.config.read import load_spec
from uniad.config.spec import Spec

CONFIGS = REPO / "projects" / "configs"
STEM = {"tiny": "tiny_imgx0.25", "full": "full", "nano": "nano"}


def config_path(variant: str, stage: int = 1) -> Path:
    """The config file of a variant and stage."""
    folder, kind = ("stage1_track_map", "track_map") if stage == 1 else ("stage2_e2e", "e2e")
    return CONFIGS / folder / f"{STEM[variant]}_{kind}.py"


@lru_cache
def _load(variant: str, stage: int) -> Spec:
    return load_spec(config_path(variant, stage))


def edit(spec: Any, **changes: Any) -> Any:
    """A copy of a spec with nested fields replaced: ``edit(spec, model__bev__num_layers=1)``."""
    for path, value in changes.items():
        head, _, rest = path.partition("__")
        spec = replace(spec, **{head: edit(getattr(spec, head), **{rest: value}) if rest else value})
    return spec


def tiny_spec(stage: int = 1, **changes: Any) -> Spec:
    """UniAD-tiny as in upstream."""
    return edit(_load("tiny", stage), **changes)


def full_spec(stage: int = 1, **changes: Any) -> Spec:
    """UniAD-full, which upstream calls base."""
    return edit(_load("full", stage), **changes)


base_spec = full_spec


def nano_spec(stage: int = 1, **changes: Any) -> Spec:
    """The smallest model that still learns; trains from scratch."""
    return edit(_load("nano", stage), **changes)
