"""Config files as upstream's stack resolves them: mmcv 1.5 runs a file, puts values of its bases in place, and merges."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

REFERENCE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")


def resolve(path: Path) -> dict[str, Any]:
    """Only for files of this repository: they are run."""
    names: dict[str, str] = {}

    def placeholder(found: re.Match) -> str:
        names[f"<{found[1]}>"] = found[1]
        return repr(f"<{found[1]}>")

    scope: dict[str, Any] = {}
    exec(compile(REFERENCE.sub(placeholder, path.read_text()), str(path), "exec"), scope)
    own = {key: value for key, value in scope.items() if not key.startswith("__")}
    bases = own.pop("_base_", [])
    inherited: dict[str, Any] = {}
    for name in bases if isinstance(bases, list) else [bases]:
        more = resolve(path.parent / name)
        assert not inherited.keys() & more.keys(), f"{path}: {inherited.keys() & more.keys()} in two bases"
        inherited |= more
    return _merge(_put(own, names, inherited), inherited) if bases else own


def _put(value: Any, names: dict[str, str], base: dict[str, Any]) -> Any:
    if isinstance(value, str) and value in names:
        found: Any = base
        for part in names[value].split("."):
            found = found[part]
        return copy.deepcopy(found)
    if isinstance(value, dict):
        return {key: _put(part, names, base) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_put(part, names, base) for part in value)
    return value


def _merge(child: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in child.items():
        dropped = isinstance(value, dict) and key in out and value.pop("_delete_", False)
        out[key] = _merge(value, out[key]) if isinstance(value, dict) and key in base and not dropped else value
    return out
