"""Which scenes belong to which split: the devkit's own lists, or a ``splits.json`` beside the tables for scenes of one's own."""

from __future__ import annotations

from pathlib import Path

from uniad.config.file import nearest
from uniad.errors import UserError
from uniad.files import read_json
from uniad.formats.fields import Each, Text

SPLITS = {"v1.0-trainval": ("train", "val"), "v1.0-mini": ("mini_train", "mini_val"), "v1.0-test": ("test", None)}
OWN = "splits.json"  # as the devkit (1.1.11 and later) names it: {"train": [scene names], "val": [...]}


def splits_of(root: Path, version: str, scene_names: set[str]) -> dict[str, set[str]]:
    """Info file suffix (train, val, test) -> names of its scenes.

    UserError where ``splits.json`` is damaged, lacks a split, names a scene that is not there, or puts one in two splits.
    """
    first, second = SPLITS[version]
    suffixes = {"test": "test"} if second is None else {"train": first, "val": second}
    path = root / version / OWN
    if not path.exists():
        from nuscenes.utils.splits import create_splits_scenes

        official = create_splits_scenes()
        return {suffix: set(official[name]) for suffix, name in suffixes.items()}
    try:
        own = read_json(path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); needed is {{split: [scene names]}}") from None
    if not isinstance(own, dict):
        raise UserError(f"{path} is no mapping; needed is {{split: [scene names]}}")
    splits: dict[str, set[str]] = {}
    for suffix, name in suffixes.items():
        # In a mini version, mini_train is meant by train as well.
        key = name if name in own else suffix
        if key not in own:
            raise UserError(f"{path} has no {suffix!r}{nearest(suffix, own)}; needed are the names of its scenes, maybe none")
        names = Each(Text("a scene's name", empty=False), "a list of scene names").check(own[key], f"{path}: {key}")
        unknown = [scene for scene in names if scene not in scene_names]
        if unknown:
            raise UserError(f"{path}: {key} names {unknown[0]!r}, which scene.json has not{nearest(unknown[0], scene_names)}")
        splits[suffix] = set(names)
    both = set.intersection(*splits.values()) if len(splits) > 1 else set()
    if both:
        raise UserError(f"{path} has {min(both)!r} in train and in val; a scene belongs to one split")
    return splits
