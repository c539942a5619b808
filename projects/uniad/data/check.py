"""Is the dataset complete? Names what is missing before anything is read for long."""

from __future__ import annotations

import json
from pathlib import Path

from uniad.formats.layout import CAMERAS, CAN_BUS, LIDAR, TABLES, VERSIONS

EXPANSION = "CAN bus expansion; for a recording that has none, DATA_ARGS=--without-canbus"


def dataset_problems(
    root: str | Path, version: str, can_bus_root: str | Path | None = None, need_can_bus: bool = True
) -> list[str]:
    """What a nuScenes folder lacks, one phrase each; empty when all of it is there. Takes milliseconds.

    ``can_bus_root`` is the folder that holds ``can_bus/``, by default ``root``. A partial download (some blobs only) has no
    problem here: scenes whose files are absent are left out, and counted, when infos are made.
    """
    root = Path(root)
    if version not in VERSIONS:
        return [f"unknown version {version!r} (nuScenes has {', '.join(VERSIONS)})"]
    if not root.is_dir():
        return [f"folder {root} does not exist"]
    problems = _table_problems(root / version)
    folders = [sensor for sensor in (*CAMERAS, LIDAR) if not _has_files(root / "samples" / sensor)]
    if folders:
        problems.append(f"no files in samples/{{{','.join(folders)}}}")
    problems += _map_problems(root, version)
    return problems + (_can_bus_problems(Path(can_bus_root or root) / CAN_BUS) if need_can_bus else [])


def _can_bus_problems(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"folder {folder} is missing ({EXPANSION})"]
    if any(folder.glob("*_pose.json")):
        return []
    nested = next((path.parent for path in folder.glob("*/*_pose.json")), None)
    if nested is not None and nested.name == CAN_BUS:
        return [f"{folder} holds no messages, {nested} does: move them up, or point at them (--canbus {folder})"]
    if nested is not None:
        return [f"{folder} holds no messages, {nested} does: move them up"]
    return [f"{folder} holds no *_pose.json ({EXPANSION})"]


def _table_problems(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"tables folder {folder} is missing"]
    missing = [table for table in TABLES if not (folder / f"{table}.json").is_file()]
    problems = [f"tables {', '.join(f'{folder.name}/{table}.json' for table in missing)} missing"] if missing else []
    cut = [table for table in TABLES if table not in missing and not _ends_like_json(folder / f"{table}.json")]
    return problems + [f"table {folder.name}/{table}.json is cut short" for table in cut]


def _ends_like_json(path: Path) -> bool:
    with open(path, "rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 64))
        return handle.read().rstrip().endswith(b"]")


def _map_problems(root: Path, version: str) -> list[str]:
    """The devkit opens every base map image that the tables name; labels need the vector maps of the logs' locations."""
    try:
        maps = json.loads((root / version / "map.json").read_bytes())
        logs = json.loads((root / version / "log.json").read_bytes())
    except (OSError, ValueError):
        return []  # reported with the tables
    # Tables written on Windows name folders by backslashes.
    names = [record["filename"].replace("\\", "/") for record in maps]
    images = [name for name in names if not (root / name).is_file()]
    problems = [f"map images {', '.join(images)} missing"] if images else []
    vector = [f"maps/expansion/{place}.json" for place in sorted({log["location"] for log in logs})]
    absent = [name for name in vector if not (root / name).is_file()]
    if absent:
        problems.append(f"vector maps {', '.join(absent)} missing (map expansion v1.3)")
    return problems


def _has_files(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
