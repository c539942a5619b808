"""Motion metrics: minADE, minFDE, miss rate and end-to-end prediction accuracy (EPA) of predicted objects.

Predictions are matched to ground truth of their class by the distance of centres, best score first, each object once. Errors of
the matches are averaged over the recall curve from 10 % on, as nuScenes does for its true-positive errors; a class whose recall
stays below has the error 1. ``standard`` matching looks at the present only, ``motion_map`` also wants the best mode to end
within 2 m of the object (for mAP-f, the average precision of forecasts, and EPA).

Every frame is matched when it is added, so processes may each add some frames and ``merge``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from nuscenes.eval.common.utils import cummean
from nuscenes.eval.detection.algo import calc_ap, calc_tp

from uniad.config.spec import UPSTREAM, CompatChoice

Array = NDArray[np.float64]

ERRORS = ("trans_err", "vel_err", "scale_err", "orient_err", "min_ade_err", "min_fde_err", "miss_rate_err")
MISS_M = 2.0  # a mode that strays further anywhere misses; a forecast that ends further off is no match
DIST_THS = (0.5, 1.0, 2.0, 4.0)
TP_DIST = 2.0  # of errors and EPA
FORECAST_DIST = 1.0  # of mAP-f
MIN_RECALL = MIN_PRECISION = 0.1
RECALLS = np.linspace(0, 1, 101)


class Predictions(NamedTuple):
    """Predicted objects of one frame, in any frame of reference that the ground truth shares."""

    centre: Array  # [n, 2] metres
    size: Array  # [n, 3] metres, w l h
    yaw: Array  # [n] radians
    velocity: Array  # [n, 2] m/s
    label: NDArray[np.int64]  # [n] index of the metric's class_names; others are ignored
    score: Array  # [n]
    traj: Array  # [n, K, F, 2] metres, positions (not offsets) of each mode, 0.5 s steps


class Truth(NamedTuple):
    """Objects of one frame."""

    centre: Array  # [m, 2]
    size: Array  # [m, 3]
    yaw: Array  # [m]
    velocity: Array  # [m, 2], NaN where unknown
    label: NDArray[np.int64]  # [m]
    traj: Array  # [m, F, 2] positions
    steps: NDArray[np.int64]  # [m] how many steps of traj are known, from the first on


Objects = TypeVar("Objects", Predictions, Truth)


class Forecast(NamedTuple):
    """Errors of a forecast; ``missed`` where every mode strays more than 2 m."""

    min_ade: Array
    min_fde: Array
    missed: NDArray[np.bool_]


def forecast_errors(traj: ArrayLike, gt: ArrayLike, steps: ArrayLike) -> Forecast:
    """traj [..., K, F, 2], gt [..., F, 2], steps [...] known steps -> arrays [...]; all zero where no step is known.

    Each error is that of the mode where it is smallest, so two errors may be of different modes.
    """
    traj, gt, steps = np.asarray(traj, np.float64), np.asarray(gt, np.float64), np.asarray(steps)
    apart = np.linalg.norm(traj - gt[..., None, :, :], axis=-1)  # [..., K, F]
    known = np.arange(gt.shape[-2]) < steps[..., None, None]
    apart = np.where(known, apart, 0.0)
    ade = apart.sum(-1) / np.maximum(steps, 1)[..., None]
    last = np.maximum(steps - 1, 0)[..., None, None]
    fde = np.take_along_axis(apart, np.broadcast_to(last, (*apart.shape[:-1], 1)), -1)[..., 0]
    return Forecast(ade.min(-1), fde.min(-1), apart.max(-1).min(-1) > MISS_M)


class _Matches(NamedTuple):
    """Predictions of one class in one frame, by descending score."""

    score: Array  # [n]
    hit: NDArray[np.bool_]  # [n]
    errors: Array  # [n, errors], NaN where not hit


class MotionMetric:
    """Adds up frames by token; ``merge`` joins processes. The result does not depend on who saw which frame.

    compat: ``UPSTREAM`` leaves a class without any match at EPA 0, forgiving its false positives; ``fixed`` counts them.
    """

    def __init__(
        self,
        class_names: tuple[str, ...] = ("car", "pedestrian"),
        dist_ths: tuple[float, ...] = DIST_THS,
        compat: CompatChoice = UPSTREAM,
    ) -> None:
        self.class_names, self.dist_ths, self.compat = class_names, dist_ths, compat
        forecast_dists = {*dist_ths, FORECAST_DIST, TP_DIST}
        self.kinds = [("standard", d) for d in sorted({*dist_ths, TP_DIST})]
        self.kinds += [("motion_map", d) for d in sorted(forecast_dists)]
        self.frames: dict[str, dict[tuple[str, str, float], _Matches]] = {}
        self.truths: dict[str, NDArray[np.int64]] = {}

    def update(self, token: str, predictions: Predictions, truth: Truth) -> None:
        """One frame; a token that was there before is replaced."""
        found: dict[tuple[str, str, float], _Matches] = {}
        counts = np.zeros(len(self.class_names), np.int64)
        for c, name in enumerate(self.class_names):
            pred = _chosen(predictions, np.asarray(predictions.label) == c)
            gt = _chosen(truth, np.asarray(truth.label) == c)
            # Equal scores: the later one first, as in upstream
            pred = _chosen(pred, np.lexsort((np.arange(len(pred.score)), pred.score))[::-1])
            counts[c] = len(gt.label)
            pairs = _pair_errors(pred, gt, half_turns=name == "barrier")
            distance, final = _distances(pred, gt)
            for kind, dist in self.kinds:
                match = _match(distance, final if kind == "motion_map" else None, dist)
                errors = np.full((len(match), len(ERRORS)), np.nan)
                errors[match >= 0] = pairs[np.flatnonzero(match >= 0), match[match >= 0]]
                found[name, kind, dist] = _Matches(np.asarray(pred.score, np.float64), match >= 0, errors)
        self.frames[token], self.truths[token] = found, counts

    def merge(self, other: MotionMetric) -> None:
        self.frames |= other.frames
        self.truths |= other.truths

    def curve(self, name: str, kind: str, dist: float) -> tuple[SimpleNamespace, dict[str, int]]:
        """A class's curves over recall (101 points: ``precision``, ``confidence`` and ``ERRORS``), and the counts ``N_tp``,
        ``N_fp``, ``N_gt``. All counts are 0 where nothing matched, as in upstream."""
        parts, num_gt = self._parts(name, kind, dist), self._objects(name)
        score, hit, errors = (
            np.concatenate([p[i] for p in parts]) if parts else empty
            for i, empty in enumerate((np.zeros(0), np.zeros(0, bool), np.zeros((0, len(ERRORS)))))
        )
        if not num_gt or not hit.any():
            flat = {key: np.ones(101) for key in ERRORS}
            zero = np.zeros(101)
            return SimpleNamespace(recall=RECALLS, precision=zero, confidence=zero, max_recall_ind=0, **flat), dict(
                N_tp=0, N_fp=0, N_gt=0
            )
        order = np.lexsort((np.arange(len(score)), score))[::-1]
        score, hit, errors = score[order], hit[order], errors[order]
        tp, fp = hit.cumsum(), (~hit).cumsum()
        recall = tp / num_gt
        confidence = np.interp(RECALLS, recall, score, right=0)
        curves = {
            key: np.interp(confidence[::-1], score[hit][::-1], cummean(errors[hit, i])[::-1])[::-1]
            for i, key in enumerate(ERRORS)
        }
        reached = np.flatnonzero(confidence)
        return SimpleNamespace(
            recall=RECALLS,
            precision=np.interp(RECALLS, recall, tp / (tp + fp), right=0),
            confidence=confidence,
            max_recall_ind=int(reached[-1]) if len(reached) else 0,
            **curves,
        ), dict(N_tp=int(tp[-1]), N_fp=int(fp[-1]), N_gt=num_gt)

    def average_precision(self, name: str, kind: str, dist: float) -> float:
        return calc_ap(self.curve(name, kind, dist)[0], MIN_RECALL, MIN_PRECISION)

    def epa(self, name: str, dist: float = TP_DIST) -> float:
        """(forecasts that end within 2 m - half of the false detections) / objects."""
        detected, forecast = (self.curve(name, kind, dist)[1] for kind in ("standard", "motion_map"))
        false, objects = detected["N_fp"], detected["N_gt"]
        if self.compat == "fixed":
            false = sum(int((~part.hit).sum()) for part in self._parts(name, "standard", dist))
            objects = self._objects(name)
        return (forecast["N_tp"] - 0.5 * false) / (objects + 1e-5)

    def compute(self) -> dict[str, float]:
        """By ``{class}/{metric}``: ``min_ade_err``, ``min_fde_err`` (metres), ``miss_rate_err`` along the recall curve of
        standard matches within 2 m; ``min_ade_mean``, .. over those matches, each counting once (NaN without any); ``EPA``;
        ``mAP`` and ``mAP_f``; ``N_gt`` and ``N_tp``."""
        out: dict[str, float] = {}
        for name in self.class_names:
            curves, counts = self.curve(name, "standard", TP_DIST)
            hits = [part.errors[part.hit] for part in self._parts(name, "standard", TP_DIST)]
            errors = np.concatenate([*hits, np.zeros((0, len(ERRORS)))])
            for key in ("min_ade_err", "min_fde_err", "miss_rate_err"):
                out[f"{name}/{key}"] = calc_tp(curves, MIN_RECALL, key)
                mean = errors[:, ERRORS.index(key)].mean() if len(errors) else np.nan
                out[f"{name}/{key.replace('_err', '_mean')}"] = float(mean)
            out[f"{name}/EPA"] = self.epa(name)
            out[f"{name}/mAP"] = float(np.mean([self.average_precision(name, "standard", d) for d in self.dist_ths]))
            out[f"{name}/mAP_f"] = self.average_precision(name, "motion_map", FORECAST_DIST)
            out[f"{name}/N_gt"] = float(self._objects(name))
            out[f"{name}/N_tp"] = float(counts["N_tp"])
        return out

    def _parts(self, name: str, kind: str, dist: float) -> list[_Matches]:
        """All frames in an order that does not depend on who added them when."""
        return [self.frames[token][name, kind, dist] for token in sorted(self.frames)]

    def _objects(self, name: str) -> int:
        return int(sum(counts[self.class_names.index(name)] for counts in self.truths.values()))


def _chosen(objects: Objects, index: NDArray) -> Objects:
    """Some rows of a Predictions or a Truth."""
    return type(objects)(*(np.asarray(field)[index] for field in objects))


def _distances(pred: Predictions, gt: Truth) -> tuple[Array, Array]:
    """[n, m] metres between centres, and between where the best mode and the object end (infinite without a future)."""
    distance = np.linalg.norm(pred.centre[:, None] - gt.centre[None], axis=-1)
    if not distance.size:
        return distance, distance
    final = forecast_errors(pred.traj[:, None], gt.traj[None], np.broadcast_to(gt.steps, distance.shape)).min_fde
    return distance, np.where(gt.steps > 0, final, np.inf)


def _match(distance: Array, final: Array | None, dist: float) -> NDArray[np.int64]:
    """For each prediction, best first, the object that it takes, -1 for none. [n]

    It asks for the nearest object that is still free, and only for that one.
    """
    free = distance.copy()
    match = np.full(len(distance), -1, np.int64)
    if not distance.size:
        return match
    for i, row in enumerate(free):
        j = int(row.argmin())
        if row[j] < dist and (final is None or final[i, j] < MISS_M):
            match[i], free[:, j] = j, np.inf
    return match


def _pair_errors(pred: Predictions, gt: Truth, half_turns: bool) -> Array:
    """[n, m, errors] of every prediction and object. half_turns: headings are told apart up to half a turn only."""
    n, m = len(pred.label), len(gt.label)
    if not n or not m:
        return np.zeros((n, m, len(ERRORS)))
    forecast = forecast_errors(pred.traj[:, None], gt.traj[None], np.broadcast_to(gt.steps, (n, m)))
    shared = np.minimum(pred.size[:, None], gt.size[None]).prod(-1)
    union = pred.size.prod(-1)[:, None] + gt.size.prod(-1)[None] - shared
    period = np.pi if half_turns else 2 * np.pi
    turn = (gt.yaw[None] - pred.yaw[:, None] + period / 2) % period - period / 2
    return np.stack(
        [
            np.linalg.norm(pred.centre[:, None] - gt.centre[None], axis=-1),
            np.linalg.norm(pred.velocity[:, None] - gt.velocity[None], axis=-1),
            1 - shared / union,
            np.abs(turn),
            forecast.min_ade,
            forecast.min_fde,
            forecast.missed.astype(np.float64),
        ],
        axis=-1,
    )
