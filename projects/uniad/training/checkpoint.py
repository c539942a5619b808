"""Checkpoint files: written whole or not at all, read without running code, loaded with a report.

Format: ``{"meta": {...}, "state_dict": ..., "optimizer": ..., "native": {...}}``. The first three are what the upstream stack
writes and reads; ``native`` is what an identical continuation needs besides.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.core import multiarray
from torch import Tensor, nn

from uniad.config.file import ConfigError
from uniad.config.read import load_spec
from uniad.config.variants import config_files
from uniad.errors import UserError, tell_refusal
from uniad.files import atomic_path
from uniad.training.integrity import check_archive, check_meta, check_plain, refuse_nonfinite, without_checksum

BEV_EMBEDDING = "pts_bbox_head.bev_embedding.weight"

# What stage 2 adds to stage 1
STAGE2_HEADS = ("motion_head.", "occ_head.", "planning_head.")

# What ``meta.uniad.weights`` says of a checkpoint that nobody trained
RANDOM = "random"

# Constants and counters: a model has them from its construction, and files differ in whether they carry them.
CONSTANTS = ("*.num_batches_tracked", "criterion.code_weights", "pts_bbox_head.code_weights")

# The auxiliary head (training/dense.py). Files of runs with it and models without it go together, and the reverse.
DENSE_BEV = "dense_bev"

# Numpy scalars sit in the metadata of files that the upstream stack wrote; building them runs no foreign code.
_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    (vars(multiarray)["scalar"], "numpy.core.multiarray.scalar"),
    *(type(np.dtype(t)) for t in ("float64", "float32", "int64", "int32", "bool")),
]


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint gave to a model. ``str()`` is the line for the log."""

    path: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...] = field(default=())  # "name [old] -> [new]", and renames

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded"]
        for label, names in (("missing (allowed)", self.missing), ("unexpected (ignored)", self.unexpected)):
            parts.append(f"{len(names)} {label}" + (f": {_summary(names)}" if names else ""))
        parts.append(f"{len(self.reshaped)} reshaped" + (f": {'; '.join(self.reshaped)}" if self.reshaped else ""))
        return f"{self.path}: " + ", ".join(parts)


def _summary(names: Iterable[str], limit: int = 6) -> str:
    """Names grouped by their module: ``seg_head.* 589, query_interact.* 18``."""
    counts = Counter(n.split(".")[0] + (".*" if "." in n else "") for n in names)
    shown = [f"{k} {v}" for k, v in counts.most_common(limit)]
    return ", ".join(shown + ([f"{len(counts) - limit} more"] if len(counts) > limit else []))


# --- files ---------------------------------------------------------------------------------------------------------


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot; the rename is atomic all the same
    finally:
        os.close(handle)


def save_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """Writes ``payload`` to ``path`` atomically. A full disk is a UserError, and the file that was there stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    need, free = _tensor_bytes(payload), shutil.disk_usage(path.parent).free
    kept = f"the last good checkpoint, {path}, is kept" if path.exists() else "nothing was written"
    if need > free:
        raise UserError(
            f"disk full: {path} needs {need / 1e6:.0f} MB, {path.parent} has {free / 1e6:.0f} MB free; "
            f"{kept}; free some space and run again"
        )
    try:
        with atomic_path(path) as temporary:
            torch.save(payload, temporary)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None) or getattr(error.__context__, "errno", None)
        if number == errno.ENOSPC or "No space left" in str(error):
            raise UserError(f"disk full while writing {path}: {kept}; free some space and run again") from None
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or error}; {kept}") from None
        raise


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(_tensor_bytes(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_tensor_bytes(v) for v in value)
    return 0


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. Never runs code from the file; anything but tensors and plain data is refused.

    So is a file that does not match its own checksums, or that holds a number that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} not found")
    check_archive(path)
    try:
        # PyTorch warns of a pickle of another protocol, which is then refused or read; the one line that says so is ours.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY_SCALARS):
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise UserError(
                f"checkpoint {path} holds Python objects, not only tensors ({foreign.group(1)}), and loading those could run "
                'foreign code. If you trust it, convert it once: python -c "import torch; '
                f"c = torch.load('{path}', weights_only=False); "
                f"torch.save({{'state_dict': c.get('state_dict', c)}}, '{path.with_suffix('.weights.pth')}')\""
            ) from None
        raise UserError(f"checkpoint {path} is not a PyTorch checkpoint: {_first_line(error)}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        tell_refusal(error, path)
        raise UserError(
            f"checkpoint {path} cannot be read, it is truncated or damaged ({_first_line(error)}): "
            "delete it and download or train it again"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, expected a dictionary with 'state_dict'")
    check_meta(content, path)
    check_plain(content, path)
    refuse_nonfinite(content, path)
    check_weights_digest(content, path)
    return content


WEIGHTS_DIGEST = "weights_sha256"


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Digest of names, types, shapes and values of a state dictionary."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_weights_digest(content: Mapping[str, Any], path: str | Path) -> None:
    """Stops at weights that are not those which were saved. A checkpoint without a digest, upstream's or an older one, passes."""
    native = content.get("native")
    recorded = native.get(WEIGHTS_DIGEST) if isinstance(native, Mapping) else None
    if recorded is not None and weights_digest(state_dict_of(content, path)) != recorded:
        raise UserError(
            f"checkpoint {path} holds other weights than were saved: its digest differs, so it was damaged or edited; "
            "take a good copy, or train it again (weights that you changed on purpose: save them without the key 'native')"
        )


def _first_line(error: BaseException) -> str:
    # PyTorch's advice on the arguments of torch.load stands before its reason.
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    line = (text.splitlines() or [type(error).__name__])[0]
    # ... and after it, what it takes for advice: the first sentence is the reason.
    return line.split(". ")[0].rstrip(".")[:160]


def state_dict_of(content: Mapping[str, Any], path: str | Path) -> OrderedDict[str, Tensor]:
    """The weights of a checkpoint's content, without the ``module.`` prefix that a data-parallel wrapper adds."""
    state = content.get("state_dict", content)
    named = isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        raise UserError(f"checkpoint {path} has no 'state_dict' of tensors; its keys are {', '.join(map(str, content))[:160]}")
    return OrderedDict((k.removeprefix("module."), v) for k, v in state.items())


def is_random(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint says of itself that nobody trained it (tools/make_random_weights.py)."""
    about = (content.get("meta") or {}).get("uniad") or {}
    return about.get("weights") == RANDOM


# --- loading -------------------------------------------------------------------------------------------------------


def _unlike(value: Tensor, own: Tensor) -> str:
    """Why a finite value would not be the same once it is copied to ``own``; empty where it is, to its precision."""
    if value.is_floating_point() != own.is_floating_point():
        return f"is {value.dtype}, needed is {own.dtype}"
    if value.dtype == torch.float64 and own.dtype != value.dtype and value.numel():
        if value.abs().max() > torch.finfo(own.dtype).max:
            return f"holds numbers beyond the range of {own.dtype}"
    return ""


@lru_cache
def variants_with(cells: int, width: int) -> tuple[str, ...]:
    """The variants that have a config here and a BEV of so many cells; of several those with as many features, if any has."""
    found = {}
    for variant, path in config_files(1).items():
        try:
            bev = load_spec(path).model.bev
        except ConfigError:
            continue  # somebody's unfinished file
        if bev.height * bev.width == cells:
            found[variant] = bev.embed_dims
    return tuple(variant for variant, dims in found.items() if dims == width) or tuple(found)


def variant_of(state: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> str | None:
    """Which variant the weights belong to, as far as they tell."""
    named = (meta or {}).get("uniad", {}).get("variant")
    if named:
        return named
    # published files lack a name; the size of the BEV tells as much
    return " or ".join(variants_with(*state[BEV_EMBEDDING].shape)) or None if BEV_EMBEDDING in state else None


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in patterns)


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    adapt: Callable[[OrderedDict[str, Tensor]], list[str]] | None = None,
    name: str = "this model",
    say: Callable[[str], None] | None = print,
    check: Callable[[Mapping[str, Any]], object] | None = None,
) -> LoadReport:
    """Loads the weights at ``path`` into ``model``, all of them or none.

    Args:
        allow_missing: shell patterns of parameters that the file may lack (they keep their initial values).
        allow_unexpected: shell patterns of entries that the model has no place for.
        adapt: renames or reshapes the state dictionary in place and returns what it did, a line each.
        name: what to call the model in messages, e.g. its config.
        say: where the report goes; None keeps it silent.
        check: is given the file's content first, and stops at one that does not fit.
    """
    content = read_checkpoint(path)
    if check:
        check(content)
    state = state_dict_of(content, path)
    reshaped = adapt(state) if adapt else []
    report = load_state(
        model, state, path=path, meta=content.get("meta"), name=name, reshaped=reshaped,
        allow_missing=allow_missing, allow_unexpected=allow_unexpected,
    )  # fmt: skip
    if say:
        say(str(report))
        note = without_checksum(path)
        if note:
            say(note)
    return report


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    path: str | Path,
    meta: Mapping[str, Any] | None = None,
    name: str = "this model",
    reshaped: Iterable[str] = (),
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> LoadReport:
    """Loads ``state`` into ``model`` after checking every name and shape; a mismatch raises before anything is copied."""
    own = model.state_dict()
    variant = variant_of(state, meta)
    hint = f"; is this a {variant} checkpoint?" if variant else ""
    for key in (BEV_EMBEDDING, *own):  # the BEV size first: it tells variants apart in words that people know
        if key in own and key in state and state[key].shape != own[key].shape:
            wanted, got = list(own[key].shape), list(state[key].shape)
            what = f"holds {key} of shape {got}, {name} needs {wanted}"
            if key == BEV_EMBEDDING and got[0] != wanted[0]:
                what = f"has {got[0]} BEV cells, {name} needs {wanted[0]}"
            elif key == BEV_EMBEDDING:
                what = f"has BEV features of width {got[1]}, {name} needs {wanted[1]}"
            raise UserError(f"checkpoint {path} {what}{hint}")
    loaded = tuple(k for k in own if k in state)
    missing = tuple(k for k in own if k not in state)
    unexpected = tuple(k for k in state if k not in own)
    learning_along = (f"{DENSE_BEV}.*",)
    bad = [k for k in missing if not matches(k, (*CONSTANTS, *learning_along, *allow_missing))]
    # A fork may lack one of stage 2's heads; a checkpoint of stage 1 lacks all of them
    if bad and all(k.startswith(STAGE2_HEADS) for k in bad) and not any(k.startswith(STAGE2_HEADS) for k in state):
        raise UserError(
            f"checkpoint {path} is of stage 1, {name} is stage 2: choose a stage-2 checkpoint (`make train-stage2 promote` makes "
            "one from it), or a config in stage1_track_map (make: STAGE=1)"
        )
    if bad:
        raise UserError(
            f"checkpoint {path} lacks {len(bad)} of the {len(own)} entries of {name} ({_summary(bad)}; first {bad[0]}){hint}; "
            "choose a checkpoint of this variant and stage"
        )
    extra = [k for k in unexpected if not matches(k, (*CONSTANTS, *learning_along, *allow_unexpected))]
    if extra and all(k.startswith(STAGE2_HEADS) for k in extra):
        raise UserError(
            f"checkpoint {path} is of stage 2, {name} is stage 1 and would lose its motion, occupancy and planning heads: "
            "choose a config in stage2_e2e (make: STAGE=2)"
        )
    if extra:
        raise UserError(
            f"checkpoint {path} holds {len(extra)} entries that {name} has no place for ({_summary(extra)}; first {extra[0]}), "
            f"they would be lost without a word{hint}; choose the config that the checkpoint was trained with"
        )
    for key in loaded:
        if why := _unlike(state[key], own[key]):
            raise UserError(f"checkpoint {path}: {key} {why}{hint}; take a good copy")
    model.load_state_dict({k: state[k] for k in loaded}, strict=False)
    return LoadReport(str(path), loaded, missing, unexpected, tuple(reshaped))
