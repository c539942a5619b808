"""What the network and the labels say, as the motion metric takes it; and constant velocity, which forecasts must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uniad.config.spec import UPSTREAM, CompatChoice
from uniad.evaluation.motion import Predictions, Truth
from uniad.geometry.nuscenes import STEP_S
from uniad.postprocess.submission import ATTRIBUTES, TRACKING_NAMES, class_ranges

# Classes that the motion protocol scores together; anything else it ignores.
GROUPS = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "bus", "trailer", "motorcycle", "bicycle", "van"), "car"),
    "pedestrian": "pedestrian",
    **dict.fromkeys(("traffic_cone", "barrier"), "barrier"),
}
IGNORED = -1


def motion_labels(
    labels: ArrayLike,
    class_names: Sequence[str],
    motion_names: Sequence[str],
    predicted: bool,
    compat: CompatChoice = UPSTREAM,
    distance: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Class labels [n] of the config as indices of ``motion_names``, -1 for what is not scored.

    Upstream: predictions go through a tracking submission first. Those of classes that it lacks never reach the metric, so
    construction vehicles count as missed cars; nor do those farther from the ego car (``distance`` [n] in metres) than their own
    class's range, a motorcycle's say, though it is scored among the cars. ``fixed`` lets both in.
    """
    table = np.full(len(class_names) + 1, IGNORED, np.int64)  # the last for labels of padding
    for i, name in enumerate(class_names):
        group = GROUPS.get(name)
        dropped = predicted and compat == UPSTREAM and name in ATTRIBUTES and name not in TRACKING_NAMES
        if group is not None and group in motion_names and not dropped:
            table[i] = list(motion_names).index(group)
    labels = np.asarray(labels, np.int64)
    labels = np.where((labels >= 0) & (labels < len(class_names)), labels, len(class_names))
    found = table[labels]
    if predicted and compat == UPSTREAM and distance is not None:
        limits = class_ranges()
        limit = np.array([*(limits.get(name, np.inf) for name in class_names), 0.0])
        found = np.where(np.asarray(distance) > limit[labels], IGNORED, found)
    return found


def predictions(
    boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, traj: ArrayLike, motion_names: Sequence[str],
    ego_xy: ArrayLike = (0.0, 0.0),
) -> Predictions:  # fmt: skip
    """Tracks of one frame: boxes [n, 9] box9; scores [n]; labels [n] from ``motion_labels``; traj [n, K, F, >=2] offsets from the
    centre, lidar axes. Beyond its class's range of the ego car (``ego_xy`` in the lidar frame) an object is ignored."""
    boxes, offsets = np.asarray(boxes, np.float64), np.asarray(traj, np.float64)[..., :2]
    centre = boxes[:, :2]
    return Predictions(
        centre, boxes[:, 3:6], boxes[:, 6], boxes[:, 7:9], _in_range(centre, labels, motion_names, ego_xy),
        np.asarray(scores, np.float64), centre[:, None, None] + offsets,
    )  # fmt: skip


def truth(
    boxes: ArrayLike, labels: ArrayLike, fut_traj: ArrayLike, fut_mask: ArrayLike, motion_names: Sequence[str],
    absolute: bool = True, ego_xy: ArrayLike = (0.0, 0.0),
) -> Truth:  # fmt: skip
    """Objects of one frame: boxes [m, 9]; labels [m] from ``motion_labels``; fut_traj [m, F, 2] lidar frame, positions where
    ``absolute`` (labels for the trajectory smoother), else offsets from the centre; fut_mask [m, F] or [m, F, 2].

    A future ends where it is first unknown: the protocol knows no gaps.
    """
    boxes, traj = np.asarray(boxes, np.float64), np.asarray(fut_traj, np.float64)
    mask = np.asarray(fut_mask)
    known = (mask if mask.ndim == 2 else mask.all(-1)) != 0
    steps = np.cumprod(known, axis=1).sum(1)
    centre = boxes[:, :2]
    traj = np.where(known[..., None], traj if absolute else traj + centre[:, None], 0.0)
    label = _in_range(centre, labels, motion_names, ego_xy)
    return Truth(centre, boxes[:, 3:6], boxes[:, 6], boxes[:, 7:9], label, traj, steps.astype(np.int64))


def constant_velocity(objects: Predictions | Truth, steps: int = 12) -> Predictions:
    """The same objects with a single mode in which they keep their velocity; an unknown one counts as standing.

    Of predictions: what the detector alone can forecast. Of the truth: perfect detection, no forecast.
    """
    times = np.arange(1, steps + 1) * STEP_S
    velocity = np.nan_to_num(objects.velocity)
    traj = objects.centre[:, None, None] + velocity[:, None, None] * times[None, None, :, None]
    score = objects.score if isinstance(objects, Predictions) else np.ones(len(objects.label))
    return Predictions(
        objects.centre, objects.size, objects.yaw, objects.velocity, objects.label, score, traj
    )


def _in_range(
    centre: NDArray[np.float64], labels: ArrayLike, motion_names: Sequence[str], ego_xy: ArrayLike
) -> NDArray[np.int64]:
    labels = np.asarray(labels, np.int64)
    ranges = class_ranges()
    limit = np.array([*(ranges[name] for name in motion_names), 0.0])  # the last for the ignored
    distance = np.linalg.norm(centre - np.asarray(ego_xy, np.float64), axis=1)
    return np.where(distance < limit[labels], labels, IGNORED)
