"""Conventions of published checkpoints by name: what ``native.compat`` is short for. Standard library only.

Upstream has two generations, and Bench2Drive has conventions of its own. Weights mean something only with the conventions that
they were trained with, so each set of published weights has a preset. The keys are those of ``config.spec.CompatSpec``; what a
preset leaves out is as in v1.
"""

from __future__ import annotations

from collections.abc import Mapping

V1, V2, BENCH2DRIVE = "uniad-v1", "uniad-v2", "bench2drive"
FIXED = "fixed"

# Name -> key -> value. "documented" is how earlier versions spelt "upstream", which has always meant v1.
PRESETS: dict[str, dict[str, str]] = {
    V1: {},
    V2: {
        "can_bus_quaternion": FIXED,
        "timestamps": FIXED,
        "shift_now": FIXED,
        "anchor_rotation": V2,
        "bev_shift": V2,
        "box_code": V2,
        "box_sizes": V2,
        "collision_loss": V2,
        "smoother_start": V2,
    },
    BENCH2DRIVE: {
        "can_bus_quaternion": FIXED,
        "timestamps": FIXED,
        "can_bus_order": BENCH2DRIVE,
        "track_pose": BENCH2DRIVE,
        "occ_steps": BENCH2DRIVE,
        "clip_frames": BENCH2DRIVE,
    },
    "upstream": {},
    "documented": {},
}

# Keys for which "fixed" means v1's way: only other generations differ from it
CONVENTIONS = (
    "bev_shift", "box_code", "box_sizes", "smoother_start", "can_bus_order", "track_pose", "occ_steps", "clip_frames",
)  # fmt: skip

# What weights learnt that v1's did not, and that the data does not show. What evaluation and losses do besides is not among it.
_LEARNT: dict[str, tuple[str, ...]] = {
    V2: ("bev_shift", "anchor_rotation"),
    BENCH2DRIVE: ("can_bus_order", "track_pose"),
}


def generations_of(values: Mapping[str, object]) -> tuple[str, ...]:
    """Whose weights conventions are for, by the ``values`` of their keys: one generation where they are its set.

    Where keys were chosen one by one (``dict(preset='bench2drive',track_pose='fixed')``) all whose ways are among them.
    """
    ways = {name: [values.get(key) == name for key in keys] for name, keys in _LEARNT.items()}
    others = tuple(name for name, has in ways.items() if any(has))
    return others if any(all(has) for has in ways.values()) else (*others, V1)


def convention_of(value: object) -> object:
    """One word for v1's way of a key among ``CONVENTIONS``; None is that of a file of earlier versions, which knew no other."""
    return V1 if value in (None, FIXED, "documented") else value
