"""A frame's result, and what the annotations say, gathered for drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uniad.config.spec import Spec
from uniad.data.dataset import SceneSample
from uniad.data.transforms import decode
from uniad.postprocess.result import Result, Stage2Result
from uniad.viz.page import Content, Future, command_words

BEST_GUESSES = 15
MOST_TRACKS = 40  # drawn; more boxes than that tell a person nothing
OCCUPIED = 1  # in labels, which say 255 where they know nothing


def content_of(
    result: Result,
    info: dict[str, Any],
    sample: SceneSample | None,
    spec: Spec,
    names: Sequence[str],
    about: Sequence[str] = (),
    speed_mps: float | None = None,
) -> Content:
    """Content of a picture, of a result of any back end, fresh or read from a file.

    info: the frame's token, images, projections and poses, and its number as ``frame``; sample: the annotations, None where there
    are none; names: what the caption begins with; about: lines on the model.
    """
    found, kind = result.tracks, "tracks"
    if len(found) == 0:
        # A model that has just begun to learn is sure of nothing; its best guesses still tell how far it is.
        found, kind = result.detections, "best guesses, no track yet"
    elif len(found) > MOST_TRACKS:
        kind = f"best of {len(found)} tracks"
    most = MOST_TRACKS if len(result.tracks) else BEST_GUESSES
    words = spec.data.vocabulary
    truth = truth_of(sample, len(words.map_things)) if sample else _no_truth(result)
    future = _future(result.stage2, info, sample, spec) if result.stage2 is not None else None
    annotated = len(truth["gt_boxes"]) if sample else None
    first = first_line(names, info["frame"], speed_mps, future, min(len(found), most), kind, annotated)
    return Content(
        images={name: read_image(path) for name, path in info["cams"].items()},
        lidar2img={name: np.asarray(matrix, np.float32) for name, matrix in info["lidar2img"].items()},
        boxes=found.boxes[:most],
        labels=found.labels[:most],
        ids=found.ids[:most],
        drivable=result.drivable if result.drivable_value is None else result.drivable_value,  # edges between cells
        lanes=result.lanes,
        caption="\n".join([first, *about]),
        future=future,
        annotated=sample is not None,
        token=info["token"],
        map_things=words.map_things,
        paints_area=bool(words.map_stuff),
        **truth,
    )


def first_line(
    names: Sequence[str], number: int, speed_mps: float | None, future: Future | None, found: int, kind: str,
    annotated: int | None,
) -> str:
    """What a picture shows, in one line."""  # fmt: skip
    parts = [*(name for name in names if name), f"frame {number}"]
    if speed_mps is not None:
        parts.append(f"{speed_mps:.1f} m/s")
    if future:
        parts.append(f"command: {command_words(future)}")
    parts.append(f"{found} {kind}" + ("" if annotated is None else f", {annotated} annotated"))
    return "  |  ".join(parts)


def truth_of(sample: SceneSample, things: int) -> dict[str, np.ndarray]:
    """The fields of ``Content`` that come from the annotations. things: how many kinds the map has."""
    gt = sample.targets
    valid = gt.valid[0, 0]
    lanes = gt.lane_masks[0].numpy()
    labels = gt.lane_labels[0].numpy()
    kept = gt.lane_valid[0].numpy()
    return {
        "gt_boxes": gt.boxes[0, 0][valid].numpy(),
        "gt_labels": gt.labels[0, 0][valid].numpy(),
        "gt_drivable": gt.drivable[0].numpy(),
        "gt_lanes": np.stack(
            [lanes[kept & (labels == c)].any(0) if kept.any() else np.zeros(lanes.shape[1:]) for c in range(things)]
        ),
    }


def true_future_of(sample: SceneSample, spec: Spec, steps: int) -> dict:
    """The fields of ``Future`` that come from the annotations; ``steps``: frames of occupancy, now included."""
    gt, ahead = sample.targets, sample.targets.stage2
    assert ahead is not None
    seen = gt.valid[0, 0]
    starts = gt.boxes[0, 0][seen][:, :2].numpy()
    future, known = ahead.fut_traj[0][seen].numpy(), ahead.fut_traj_mask[0][seen].numpy()[..., 0] != 0
    if not spec.data.use_nonlinear_optimizer:  # labels are positions for the smoother, offsets without it
        future = future + starts[:, None]
    driven = ahead.sdc_planning_mask[0, 0, :, 0].numpy() != 0
    return {
        "gt_starts": starts,
        "gt_traj": [path[mask] for path, mask in zip(future, known)],
        "gt_plan": ahead.sdc_planning[0, 0, :, :2].numpy()[driven],
        "gt_occupancy": ahead.segmentation[0, :steps].numpy() == OCCUPIED,
    }


def _no_truth(result: Result) -> dict[str, np.ndarray]:
    return {
        "gt_boxes": np.zeros((0, 9), np.float32),
        "gt_labels": np.zeros(0, np.int64),
        "gt_drivable": np.zeros_like(result.drivable),
        "gt_lanes": np.zeros_like(result.lanes),
    }


def _future(result: Stage2Result, info: dict[str, Any], sample: SceneSample | None, spec: Spec) -> Future:
    agents, steps = result.forecasts, len(result.occupancy)
    truth = true_future_of(sample, spec, steps) if sample else {
        "gt_starts": np.zeros((0, 2)), "gt_traj": [], "gt_plan": np.zeros((0, 2)),
        "gt_occupancy": np.zeros_like(result.occupancy),
    }  # fmt: skip
    return Future(
        starts=agents.starts[:MOST_TRACKS],
        traj=agents.traj[:MOST_TRACKS],
        prob=agents.prob[:MOST_TRACKS],
        labels=agents.labels[:MOST_TRACKS],
        plan=result.plan.path,
        command=result.plan.command,
        occupancy=result.occupancy,
        bounds=(spec.data.occ_xbound, spec.data.occ_ybound),
        # The lidar is mounted at a known height over the ground that the ego frame stands on.
        ground_z=-float(info["lidar2ego_translation"][2]),
        **truth,
    )


def read_image(path: str) -> np.ndarray:
    """A camera's file as RGB."""
    return decode(path)[..., ::-1]
