"""Motion anchors: for each group of classes, the few trajectories that stand best for all that its objects drove or walked.

The file has upstream's structure: a pickle of ``{"anchors_all": [one [K, F, 2] array a group], "grouped_classes": [names]}``.
An anchor is a path of offsets from the agent in metres, one step each 0.5 s, with the agent facing +y and +x to its right; in
files of UniAD v2.0 it faces +x (``formats.conventions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from uniad.config.spec import DataSpec, MotionSpec
from uniad.data import unpickle
from uniad.data.dataset import labeller_of, open_table
from uniad.errors import UserError
from uniad.formats.conventions import anchor_convention, check_convention, convert_anchors
from uniad.formats.published import UNIAD_V1, UNIAD_V2
from uniad.geometry import transforms as tf

F64 = NDArray[np.float64]
MAX_SAMPLES = 100_000  # of a group; more change no centre by more than the noise of starting elsewhere
STARTS = 4  # clusterings that are tried; the tightest is kept
ITERATIONS = 100


class Futures(NamedTuple):
    """Trajectories of objects that were seen to the end of the horizon."""

    paths: F64  # [n, F, 2] in the agent's axes
    labels: NDArray[np.int64]  # [n]


def load_motion_anchors(path: str | Path, spec: MotionSpec) -> Tensor:
    """Anchors [groups, K, F, 2] float32 of a file made here or published."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"motion anchors {path} are missing: `make anchors` makes them from the training infos")
    data = unpickle.load(path)
    want = (spec.predict_modes, spec.predict_steps, 2)
    remedy = "take the file that belongs to this config, or remove it and let `make anchors` make it"
    if not isinstance(data, dict) or "anchors_all" not in data:
        found = f"a dict of {', '.join(map(repr, data)) or 'nothing'}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise UserError(f"{path} holds {found}, not motion anchors (a dict with 'anchors_all'): {remedy}")
    groups = data["anchors_all"]
    if not isinstance(groups, (list, tuple)) or len(groups) != len(spec.group_ids):
        found = f"{len(groups)} groups" if isinstance(groups, (list, tuple)) else f"one {type(groups).__name__}"
        raise UserError(f"{path} has {found} of anchors, the config has {len(spec.group_ids)} groups: {remedy}")
    for number, group in enumerate(groups):
        shape = getattr(group, "shape", None)
        if not isinstance(group, np.ndarray) or shape != want or group.dtype.kind != "f":
            found = f"{shape} of {group.dtype}" if isinstance(group, np.ndarray) else type(group).__name__
            raise UserError(
                f"{path}: anchors of group {number} are {found}, the config wants {want} (modes, steps, xy): {remedy}"
            )
        if not np.isfinite(group).all():
            raise UserError(f"{path}: anchors of group {number} are not all finite: {remedy}")
    wanted = anchors_of(spec)
    remedy = (
        f"take the file of {wanted}, or turn this one: tools/convert.py {path} --to {wanted} --out FILE; weights of the other "
        "generation are run with native.compat (make: GENERATION)"
    )
    check_convention(anchor_convention(groups), wanted, str(path), "motion anchors", remedy)
    return torch.from_numpy(np.stack(groups)).float()


def anchors_of(spec: MotionSpec) -> str:
    """The convention of the anchors that a motion head is made for."""
    return UNIAD_V2 if spec.anchor_rotation == UNIAD_V2 else UNIAD_V1


def save_motion_anchors(path: str | Path, anchors: Sequence[F64], spec: MotionSpec, class_names: Sequence[str]) -> None:
    """Write anchors, one [K, F, 2] array a group with agents that face +y, in upstream's structure and the spec's convention."""
    if anchors_of(spec) == UNIAD_V2:
        anchors = [convert_anchors(group, UNIAD_V2) for group in anchors]
    content = {
        "anchors_all": [np.ascontiguousarray(group, dtype=np.float64) for group in anchors],
        "grouped_classes": [[class_names[number] for number in group] for group in spec.group_ids],
    }
    unpickle.save(path, content)


def training_futures(spec: DataSpec) -> Futures:
    """Whole futures of the training split's objects, each in the axes of its object."""
    table = open_table(spec, "train")
    labeller = labeller_of(table, spec)
    paths, labels = [], []
    for frame in range(len(table)):
        objects = labeller.objects(frame)
        whole = (objects.fut_traj_mask > 0).all((1, 2))
        boxes = objects.boxes[whole].astype(np.float64)
        offsets = objects.fut_traj[whole].astype(np.float64)
        if spec.use_nonlinear_optimizer:  # positions then, see labels
            offsets = offsets - boxes[:, None, :2]
        # An object heads for -pi/2 - yaw (see geometry.boxes); this turns its heading to +y.
        paths.append(tf.rotate_2d(np.pi + boxes[:, 6], offsets))
        labels.append(objects.labels[whole])
    if not any(len(label) for label in labels):
        raise UserError(
            f"{table.path}: no object is seen for {spec.predict_steps} steps ({spec.predict_steps / 2:g} s) on end, "
            "so there is nothing to make motion anchors from; use longer scenes"
        )
    return Futures(np.concatenate(paths), np.concatenate(labels))


def cluster_futures(futures: Futures, spec: MotionSpec, seed: int = 0) -> list[F64]:
    """Anchors [K, F, 2] of each group, those that go least far first. A group of which nothing was seen takes all groups'."""
    anchors = []
    for number, group in enumerate(spec.group_ids):
        paths = futures.paths[np.isin(futures.labels, group)]
        anchors.append(cluster(paths if len(paths) else futures.paths, spec.predict_modes, np.random.default_rng((seed, number))))
    return anchors


def cluster(paths: F64, count: int, rng: np.random.Generator) -> F64:
    """``count`` paths [count, F, 2] that stand for paths [n, F, 2], by k-means. Fewer different ones are repeated."""
    if len(paths) > MAX_SAMPLES:
        paths = paths[np.sort(rng.choice(len(paths), MAX_SAMPLES, replace=False))]
    flat = paths.reshape(len(paths), -1)
    distinct = np.unique(flat.round(6), axis=0)
    if len(distinct) <= count:
        centres = distinct[np.arange(count) % len(distinct)]
    else:
        tries = [kmeans2(flat, start, iter=ITERATIONS, minit="matrix", missing="warn")[0] for start in
                 (_spread_out(distinct, count, rng) for _ in range(STARTS))]  # fmt: skip
        centres = min(tries, key=lambda centre: float(np.square(vq(flat, centre)[1]).sum()))
    centres = centres.reshape(count, *paths.shape[1:])
    return centres[np.argsort(np.linalg.norm(centres[:, -1], axis=-1), kind="stable")]


def _spread_out(points: F64, count: int, rng: np.random.Generator) -> F64:
    """Starting centres, each drawn with a chance that grows with its distance from those before (k-means++)."""
    chosen = [points[rng.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.square(points - chosen[-1]).sum(1))
        chosen.append(points[rng.choice(len(points), p=distance / distance.sum())])
    return np.stack(chosen)
