"""What a step said about a frame, and what the annotations say, gathered for drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uniad.config.spec import Spec
from uniad.data.dataset import SceneSample
from uniad.data.transforms import decode
from uniad.evaluation.results import decode_detections, decode_tracks
from uniad.interface.types import EGO_ID, StepOutputs
from uniad.models.map_select import image_lanes
from uniad.viz.page import Content, Future, command_words

BEST_GUESSES = 15
MOST_TRACKS = 40  # drawn; more boxes than that tell a person nothing
OCCUPIED = 1  # in labels, which say 255 where they know nothing


def content_of(outputs: StepOutputs, sample: SceneSample, spec: Spec, number: int, about: Sequence[str] = ()) -> Content:
    """Content of a picture. ``outputs``: of a batch of one; ``number``: of the frame in its scene; about: lines on the model."""
    track = type(outputs.track)(*(t.cpu() for t in outputs.track))
    found, kind = decode_tracks(track, 0, spec.model.track), "tracks"
    if len(found["boxes_3d"]) == 0:
        # A model that has just begun to learn is sure of nothing; its best guesses still tell how far it is.
        found = decode_detections(track, 0, spec.model.track)
        others = (found["track_ids"] != EGO_ID).nonzero()[:BEST_GUESSES, 0]
        found = {key: found[key][others] for key in ("boxes_3d", "labels", "track_ids")}
        kind = "best guesses, no track yet"
    count = len(found["boxes_3d"])
    if count > MOST_TRACKS:
        found, kind = {k: v[:MOST_TRACKS] for k, v in found.items()}, f"best of {count} tracks"
    truth = truth_of(sample)
    images = {name: read_image(path) for name, path in sample.info["cams"].items()}
    speed = float(np.linalg.norm(sample.frame.can_bus[0, 13:16].numpy()))
    future = _future(outputs, sample, spec) if spec.model.has_stage2 else None
    first = first_line([spec.name], number, speed, future, len(found["boxes_3d"]), kind, len(truth["gt_boxes"]))
    return Content(
        images=images,
        lidar2img=dict(zip(sample.info["cams"], sample.info["lidar2img"])),
        boxes=found["boxes_3d"].numpy(),
        labels=found["labels"].numpy(),
        ids=found["track_ids"].numpy(),
        drivable=outputs.map.drivable[0].cpu().numpy(),
        lanes=image_lanes(outputs.map, 0, spec.model.map),
        caption="\n".join([first, *about]),
        future=future,
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


def truth_of(sample: SceneSample) -> dict[str, np.ndarray]:
    """The fields of ``Content`` that come from the annotations."""
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
            [lanes[kept & (labels == c)].any(0) if kept.any() else np.zeros(lanes.shape[1:]) for c in range(3)]
        ),
    }


def true_future_of(sample: SceneSample, spec: Spec, steps: int) -> dict:
    """The fields of ``Future`` that come from the annotations; ``steps``: frames of occupancy, now included."""
    gt = sample.targets
    seen = gt.valid[0, 0]
    starts = gt.boxes[0, 0][seen][:, :2].numpy()
    future, known = gt.fut_traj[0][seen].numpy(), gt.fut_traj_mask[0][seen].numpy()[..., 0] != 0
    if not spec.data.use_nonlinear_optimizer:  # labels are positions for the smoother, offsets without it
        future = future + starts[:, None]
    driven = gt.sdc_planning_mask[0, 0, :, 0].numpy() != 0
    return {
        "gt_starts": starts,
        "gt_traj": [path[mask] for path, mask in zip(future, known)],
        "gt_plan": gt.sdc_planning[0, 0, :, :2].numpy()[driven],
        "gt_occupancy": gt.segmentation[0, :steps].numpy() == OCCUPIED,
    }


def _future(outputs: StepOutputs, sample: SceneSample, spec: Spec) -> Future:
    from uniad.evaluation.future import driven_plan  # needs the solver, which stage 1 does without

    agents = outputs.agents
    chosen = (agents.valid[0] & (agents.obj_id[0] >= 0)).cpu().numpy().nonzero()[0][:MOST_TRACKS]
    boxes = agents.boxes[0].float().cpu().numpy()[chosen]
    traj = outputs.motion.traj[-1, 0, ..., :2].float().cpu().numpy()[chosen]
    return Future(
        starts=boxes[:, :3],
        traj=boxes[:, None, None, :2] + traj,
        prob=outputs.motion.score[-1, 0].float().exp().cpu().numpy()[chosen],
        labels=agents.label[0].cpu().numpy()[chosen],
        plan=driven_plan(outputs, spec),
        command=int(sample.frame.command[0]),
        occupancy=outputs.occ.seg[0].cpu().numpy(),
        bounds=(spec.data.occ_xbound, spec.data.occ_ybound),
        # The lidar is mounted at a known height over the ground that the ego frame stands on.
        ground_z=-float(sample.info["lidar2ego_translation"][2]),
        **true_future_of(sample, spec, outputs.occ.seg.shape[1]),
    )


def read_image(path: str) -> np.ndarray:
    """A camera's file as RGB."""
    return decode(path)[..., ::-1]
