"""What makes two trainings one run: all that its numbers depend on, and nothing else.

make asks before it trains, for both stacks, and long before there is an environment: standard library only. A run's record
(``run.json``) lies in its work directory. An interrupted run of the same identity goes on; another one's directory is set aside,
so that nothing is resumed that was trained on something else, and nothing is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uniad.config.file import load_config
from uniad.config.presets import CONVENTIONS, V1, convention_of
from uniad.files import atomic_path, sha256
from uniad.training.arguments import parser

RECORD = "run.json"
FORMAT = 2

# Parts of a config that a training reads. Other top-level keys are variables (the values made of them count), logging,
# evaluation, or a place.
_READ = ("model", "optimizer", "optimizer_config", "lr_config", "momentum_config", "runner", "total_epochs", "fp16", "native",
         "cudnn_benchmark", "custom_hooks", "data.samples_per_gpu", "data.train", "data.shuffler_sampler")  # fmt: skip
# Options of the command line that change a training; --samples-per-gpu is a value of the config
_OPTIONS = ("seed", "precision", "max_epochs", "max_iters", "from_scratch", "no_regularisation", "dense_bev", "shared_history",
            "packs", "reduce_bf16", "compile")  # fmt: skip
_PICKED = ("precision", "compile")  # of them, what the machine decides where nobody names it
# What changes no number, by its name in a config, wherever it stands -> as a spec spells it. A checkpoint that differs in these
# alone goes on without a difference.
_HARMLESS: dict[str, tuple[str, ...]] = {
    # Where things lie and how they are read
    "data_root": ("data.data_root",),
    "info_root": (),
    "anchor_root": (),
    "ann_file": ("data.ann_file_train", "data.ann_file_val"),
    "img_root": (),
    "anchor_info_path": ("model.motion.anchor_path",),
    "file_client_args": (),
    "pretrained": (),
    "image_cache_dir": ("data.image_cache_dir",),
    "image_pack": ("data.image_pack",),
    "decode_threads": ("data.decode_threads",),
    # Read by a model that has learnt, never by one that learns
    "score_thresh": ("model.track.score_thresh",),
    "filter_score_thresh": ("model.track.filter_score_thresh",),
    "miss_tolerance": ("model.track.miss_tolerance",),
    "test_cfg": ("model.map.top_k",),
    "test_seg_thresh": ("model.occ.test_seg_thresh",),
    "test_with_track_score": ("model.occ.test_with_track_score",),
    "pan_eval": (),
    "planning_eval": (),
    "use_col_optim": ("model.plan.use_col_optim",),
    "collision_solver": ("model.plan.col_solver",),
    "collision_optimiser": ("model.plan.col_moves",),
    "video_test_mode": (),
    "quality_threshold_things": ("model.map.quality_threshold_things",),
    "quality_threshold_stuff": (),
    "overlap_threshold_things": ("model.map.overlap_threshold_things",),
    "overlap_threshold_stuff": (),
    "merge_rounds": ("model.map.merge_rounds",),
    "collision_pixels": ("model.compat.collision_pixels", "data.compat.collision_pixels"),
    "planning_metric": ("model.compat.planning_metric", "data.compat.planning_metric"),
    "motion_metric": ("model.compat.motion_metric", "data.compat.motion_metric"),
    "box_sizes": ("model.compat.box_sizes", "data.compat.box_sizes"),
}
# Those, and what stands in parts of a config that are not ``_READ``
HARMLESS_SPEC_KEYS = frozenset({
    "path", "train.load_from", "train.log_interval", "train.checkpoint_interval",
    "data.workers_per_gpu", "data.eval_mod",
    *(key for keys in _HARMLESS.values() for key in keys),
})  # fmt: skip
# Checkpoints of earlier versions lack them, and mean UniAD v1's way
_CONVENTIONS = tuple(
    f"{part}.{key}"
    for keys, parts in (
        (CONVENTIONS, ("model.compat", "data.compat")),
        (("box_code",), ("model.decoder",)),
        (("shift_rule",), ("model.bev",)),
        (("smoother_start",), ("model.motion",)),
    )
    for key in keys
    for part in parts
)
# Checkpoints of earlier versions hold them; nothing read them
_GONE = frozenset({
    "model.map.quality_threshold_stuff", "model.map.overlap_threshold_stuff", "data.occ_filter_invalid_sample",
    "data.image.pad_divisor", "train.find_unused_parameters",
})  # fmt: skip


def without_harmless(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Of a flat spec (``state.flatten``) what numbers depend on."""
    kept = {key: value for key, value in spec.items() if key not in HARMLESS_SPEC_KEYS and key not in _GONE}
    kept = {key: value for key, value in kept.items() if key not in _CONVENTIONS or convention_of(value) != V1}
    return _kept_pixels(kept, "data")


def _kept_pixels(found: dict[str, Any], part: str) -> dict[str, Any]:
    """Without a cache that keeps pixels exactly, and JPEGs decoded as upstream does: pixels are those of the files."""
    for key, same in (("image_cache", ("off", "exact")), ("jpeg", ("exact",))):
        if found.get(f"{part}.{key}") in same:
            del found[f"{part}.{key}"]
    return found


def _kept(value: Any) -> Any:
    """The value without what is a place or for inference, at any depth."""
    if isinstance(value, Mapping):
        return {str(k): _kept(v) for k, v in value.items() if k not in _HARMLESS}
    if isinstance(value, (list, tuple)):
        return [_kept(v) for v in value]
    return value


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix[:-1]: value}


def _given(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: value for name in _OPTIONS if (value := getattr(args, name)) is not None and value is not False}
    if args.compile is False or (args.no_fast and args.compile is None):
        given["compile"] = False
    if args.no_fast:
        given.setdefault("precision", "fp32")
    return given | ({"packs": sorted(path.name for path in args.packs)} if args.packs else {})  # their folder is a place


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """``{"model.embed_dims": 256, "seed": 0, ...}``: all of the resolved config and of the command line that numbers depend on.

    args: as ``arguments.parser()`` reads them. Raises ConfigError where the config cannot be read.
    """
    config = load_config(args.config, args.cfg_options)
    found: dict[str, Any] = {}
    for name in _READ:
        value: Any = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found.update(_flat(_kept(value), f"{name}."))
    found = _kept_pixels(found, "native")
    # Three words for one value: records of earlier runs have the oldest, as config.spec.UPSTREAM does
    found |= {key: "documented" for key, value in found.items() if key.startswith("native.compat") and value in ("upstream", V1)}
    if args.samples_per_gpu:
        found["data.samples_per_gpu"] = args.samples_per_gpu
    found.update(_given(args))
    return json.loads(json.dumps(found, sort_keys=True, default=str))


def file_digest(path: Path, cache: Path | None) -> str:
    """SHA-256 of a file. cache: a JSON of what was read before, by place, size and time; None: read it."""
    stat = path.stat()
    key, mark = os.path.realpath(path), f"{stat.st_size} {stat.st_mtime_ns}"
    known = _read_json(cache)
    if known.get(key, {}).get("mark") != mark:
        known[key] = {"mark": mark, "sha256": sha256(path)}
        if cache is not None:
            with atomic_path(cache) as temporary:
                temporary.write_text(json.dumps(known, indent=1))
    return known[key]["sha256"]


def known_digest(path: Path, cache: Path) -> str | None:
    """The same if it was read before and the file has not changed since; nothing is read for it."""
    if not path.is_file():
        return None
    stat, entry = path.stat(), _read_json(cache).get(os.path.realpath(path), {})
    return entry.get("sha256") if entry.get("mark") == f"{stat.st_size} {stat.st_mtime_ns}" else None


def _read_json(path: Path | None) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, as ``key: there -> wanted``; long values by their key alone.

    A digest that one side does not know is no difference. A precision that is not named is that of the run that is there; so is
    whether it runs compiled, and a run that does not say so does not.
    """
    lines = []
    for key in sorted({*there, *wanted}):
        old, new = there.get(key), wanted.get(key)
        unknown = None in (old, new) if key.startswith("sha256 ") else key in _PICKED and new is None
        unknown |= key == "compile" and not old and not new
        if old == new or unknown:
            continue
        text = f"{key}: {old} -> {new}"
        lines.append(text if len(text) <= 100 and not key.startswith("sha256 ") else key.replace("sha256 ", "content of "))
    return lines


def record_of(work_dir: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The identity of the run that a work directory holds; None where there is none.

    An earlier version recorded the command line as it was and the rest as digests that mean nothing now: of such a record the
    command line counts, and the rest is taken to be as ``wanted``; the checkpoint itself says what differs.
    """
    record = _read_json(work_dir / RECORD)
    if record.get("format") == FORMAT:
        return record.get("identity")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # argparse's own words about a command line of long ago
            options = parser().parse_args(["config", *shlex.split(record["options"])])
    except (KeyError, ValueError, AttributeError, SystemExit):
        return None
    return {**{k: v for k, v in wanted.items() if k not in _OPTIONS}, **_given(options)}


def claim(work_dir: Path, wanted: Mapping[str, Any]) -> str | None:
    """Makes the directory ready for a run; returns a line about what was set aside, if anything was.

    A directory without a record is continued: its own checkpoint says what differs.
    """
    there = record_of(work_dir, wanted)
    message = None
    if there is not None and (changed := differences(there, wanted)):
        aside = work_dir.with_name(f"{work_dir.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        work_dir.rename(aside)
        shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
        message = f"{work_dir}: an earlier run differs ({shown}); it was set aside as {aside}"
        there = None
    if there is None or set(wanted) != set(there) or _read_json(work_dir / RECORD).get("format") != FORMAT:
        with atomic_path(work_dir / RECORD) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, "identity": {**(there or {}), **wanted}}, indent=2) + "\n")
    return message


def note_picked(work_dir: Path, picked: Mapping[str, Any]) -> None:
    """Adds to the record of a run what was picked for it, if the directory has one. Its precision, and whether it runs compiled,
    are part of what it is."""
    record = _read_json(work_dir / RECORD)
    if record.get("format") != FORMAT:
        return
    record["identity"] |= {key: picked[key] for key in _PICKED}
    record["picked"] = dict(picked)
    with atomic_path(work_dir / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def content(files: Iterable[Path], digest: Any) -> dict[str, Any]:
    """``{"sha256 name": digest}`` of what a run reads: infos, anchors, the weights that it starts from."""
    return {f"sha256 {path.name}": digest(path) for path in files}
