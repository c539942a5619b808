"""Which device and which builder an engine belongs to: an engine runs with those, and with no other."""

from __future__ import annotations

from pathlib import Path

from uniad.backends import cuda
from uniad.errors import UserError


def this_device() -> dict | None:
    """Name and compute capability of the GPU here, or None without one."""
    return cuda.device()


def check_identity(engine: str | Path, card: dict, version: str, device: dict | None) -> None:
    """Raises UserError when the engine of ``card`` is for another TensorRT than ``version`` or another GPU than ``device``."""
    again = "build it again here with `make engine`"
    if not _same_release(card["builder_version"], version):
        raise UserError(f"{engine}: built for {card['builder']} {card['builder_version']}, here is {version}; {again}")
    if not device:
        return
    listed = [c for c in card.get("compute_capabilities") or () if c != "default"]
    here = device.get("compute_capability")
    if listed and here and here not in listed:
        raise UserError(f"{engine}: compiled for GPUs of compute capability {', '.join(listed)}, this one has {here}; {again}")
    built_on = card.get("device")
    if not listed and built_on and built_on.get("model") != device["model"]:
        raise UserError(f"{engine}: built on {built_on.get('model')}, this is {device['model']}; {again}")


def _same_release(built: str, here: str) -> bool:
    """trtexec and the package tell the same version with more or fewer numbers: 10.3 and 10.3.0."""
    one, two = built.split("."), here.split(".")
    shared = min(len(one), len(two))
    return one == two or (shared > 1 and one[:shared] == two[:shared])
