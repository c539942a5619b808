"""What the name of a config file says: ``<stem>_<kind>.py``, with ``_trt_p`` behind it for an export.

A variant is the stem without the image scale and the ``uniad_`` that upstream writes into names: ``tiny_imgx0.25_e2e_trt_p`` is
of stem ``tiny_imgx0.25`` and of variant ``tiny``, ``uniad_base_e2e`` of variant ``base``. Nothing else knows variants; what
depends on a model's size asks its spec for the size.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KINDS = {0: ("bevformer", "bevformer"), 1: ("stage1_track_map", "track_map"), 2: ("stage2_e2e", "e2e")}
_KIND = re.compile(r"_(bevformer|track_map|e2e)(_trt_p)?$")
_SCALE = re.compile(r"_imgx[\d.]+$")


def stem_of(name: str) -> str:
    """``tiny_imgx0.25_e2e_trt_p`` -> ``tiny_imgx0.25``. name: a config file's, without ``.py``."""
    return _KIND.sub("", name)


def variant_of_name(name: str) -> str:
    """``tiny_imgx0.25_e2e_trt_p`` -> ``tiny``."""
    return _SCALE.sub("", re.sub("^uniad_", "", stem_of(name)))


def config_files(stage: int) -> dict[str, Path]:
    """The variants that have a config file of this stage here. Bases, which variants build upon, are none."""
    folder, kind = KINDS[stage]
    files = sorted((CONFIGS / folder).glob(f"*_{kind}.py"))
    return {variant_of_name(f.stem): f for f in files if not f.stem.startswith("base_")}
