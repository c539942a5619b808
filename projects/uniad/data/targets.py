"""Ground truth of a clip in fixed slots: what losses and metrics read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from uniad.data.bench2drive import RouteLabeller
from uniad.data.collate import choose_slots, fill
from uniad.data.images import FrameCache
from uniad.data.labels import OCC_FRAMES, Labeller, Objects
from uniad.data.maps import NUM_CLASSES, MapLabels, draw_map, map_file, map_labels, vector_map
from uniad.data.occupancy import occupancy_labels, vehicle_labels
from uniad.geometry import transforms as tf
from uniad.geometry.grid import BevGrid
from uniad.interface.types import Stage2Targets, Targets

MAP_DRAWING = 1  # another number where maps are drawn otherwise: caches are made anew


class TargetMaker:
    """Makes ``Targets`` without a batch axis. Stage 1 leaves those of stage 2 out, which takes half the time, stage 0 the map."""

    def __init__(self, labeller: Labeller, need_stage2: bool, need_map: bool = True) -> None:
        self.labeller, self.need_stage2, self.need_map = labeller, need_stage2, need_map
        spec = labeller.spec
        self.grid = BevGrid.from_bounds(spec.occ_xbound, spec.occ_ybound)
        self.vehicles = vehicle_labels(spec.class_names, spec.vocabulary.vehicles)
        self.routes = labeller if isinstance(labeller, RouteLabeller) else None
        self.drawn = map_cache(labeller) if need_map and spec.image_cache != "off" and not self.routes else None

    def clip(self, frames: Sequence[int]) -> Targets:
        """Targets of the frames of a clip; what belongs to one instant is that of the last."""
        spec, last = self.labeller.spec, frames[-1]
        objects = [self._slots(self.labeller.objects(frame)) for frame in frames]

        def stack(field: str, padding: float = 0) -> torch.Tensor:
            return torch.from_numpy(np.stack([fill(getattr(o, field), spec.max_objects, padding) for o in objects]))

        valid = np.stack([np.arange(spec.max_objects) < len(o.labels) for o in objects])
        return Targets(
            boxes=stack("boxes"),
            labels=stack("labels"),
            ids=stack("ids", -1),
            valid=torch.from_numpy(valid),
            past_traj=stack("past_traj"),
            past_traj_mask=stack("past_traj_mask"),
            sdc_box=torch.from_numpy(np.stack([self.labeller.ego_box(frame) for frame in frames])),
            sdc_label=torch.full((len(frames),), self.labeller.ego_label, dtype=torch.int64),
            **self._map(last),
            stage2=self._stage2(last, objects[-1]) if self.need_stage2 else None,
        )

    def _slots(self, objects: Objects) -> Objects:
        distance = np.linalg.norm(objects.boxes[:, :2], axis=1)
        chosen = choose_slots(distance, self.labeller.spec.max_objects, "objects", "max_objects")
        return objects if len(chosen) == len(distance) else Objects._make(array[chosen] for array in objects)

    def _map(self, frame: int) -> dict[str, torch.Tensor]:
        spec = self.labeller.spec
        found = self.map_labels(frame) if self.need_map else map_labels(np.zeros((NUM_CLASSES + 1, *spec.canvas_hw), np.uint8))
        rows, columns = spec.canvas_hw
        middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 - (columns / 2, rows / 2)
        chosen = choose_slots(np.linalg.norm(middle, axis=1), spec.max_lanes, "map elements", "max_lanes")
        return {
            "lane_labels": torch.from_numpy(fill(found.labels[chosen], spec.max_lanes)),
            "lane_boxes": torch.from_numpy(fill(found.boxes[chosen], spec.max_lanes)),
            "lane_masks": torch.from_numpy(fill(found.masks[chosen], spec.max_lanes)),
            "lane_valid": torch.arange(spec.max_lanes) < len(chosen),
            "drivable": torch.from_numpy(found.drivable),
        }

    def map_labels(self, frame: int) -> MapLabels:
        """Map ground truth of a frame, all of it. Drawn once, where there is a cache."""
        if self.routes is not None:
            return self.routes.map_labels(frame)
        drawn = self.drawn.read(frame) if self.drawn else None
        if drawn is None:
            drawn = self._draw_map(frame)
            if self.drawn:
                self.drawn.write(frame, drawn)
        return map_labels(drawn)

    def _draw_map(self, frame: int) -> NDArray[np.uint8]:
        spec, table = self.labeller.spec, self.labeller.table
        location = str(table.location[table.scene[frame]])
        ego, lidar = table.global_from_ego[frame], table.global_from_lidar[frame]
        return draw_map(
            vector_map(str(spec.data_root), location),
            (float(ego[0, 3]), float(ego[1, 3])),
            float(np.degrees(tf.heading(ego))),
            (float(lidar[0, 3]), float(lidar[1, 3])),
            # The angle by which the y axis is turned, as in upstream; on a slope it differs a little from x's.
            float(np.degrees(np.arctan2(-lidar[0, 1], lidar[0, 0]))),
            spec.patch_size,
            spec.canvas_hw,
            spec.lane_thickness,
        )

    def _stage2(self, frame: int, objects: Objects) -> Stage2Targets:
        spec = self.labeller.spec
        ego, future = self.labeller.ego_future(frame), self.labeller.future_frames(frame)
        segmentation, instance = occupancy_labels(
            self.grid, future.boxes[:OCC_FRAMES], future.labels[:OCC_FRAMES], future.ids[:OCC_FRAMES], self.vehicles
        )
        boxes = np.zeros((OCC_FRAMES, spec.max_objects, 9), dtype=np.float32)
        valid = np.zeros((OCC_FRAMES, spec.max_objects), dtype=bool)
        for step, found in enumerate(future.boxes[:OCC_FRAMES]):
            if found is None:
                continue
            chosen = choose_slots(np.linalg.norm(found[:, :2], axis=1), spec.max_objects, "future objects", "max_objects")
            boxes[step, : len(chosen)], valid[step, : len(chosen)] = found[chosen], True
        return Stage2Targets(
            fut_traj=torch.from_numpy(fill(objects.fut_traj, spec.max_objects)),
            fut_traj_mask=torch.from_numpy(fill(objects.fut_traj_mask, spec.max_objects)),
            sdc_fut_traj=torch.from_numpy(ego.traj),
            sdc_fut_traj_mask=torch.from_numpy(ego.traj_mask),
            segmentation=torch.from_numpy(segmentation),
            instance=torch.from_numpy(instance),
            occ_img_is_valid=torch.from_numpy(future.is_valid),
            future_boxes=torch.from_numpy(boxes),
            future_boxes_valid=torch.from_numpy(valid),
            sdc_planning=torch.from_numpy(ego.planning),
            sdc_planning_mask=torch.from_numpy(ego.planning_mask),
        )


def map_cache(labeller: Labeller) -> FrameCache:
    """Drawn maps beside the image cache, for the poses, map files and sizes that they were drawn from."""
    spec, table = labeller.spec, labeller.table
    drawing = (MAP_DRAWING, spec.patch_size, spec.canvas_hw, spec.lane_thickness)
    digest = hashlib.sha256(json.dumps(drawing).encode())
    for poses in (table.global_from_ego, table.global_from_lidar):
        digest.update(np.ascontiguousarray(poses).tobytes())
    digest.update(" ".join(map(str, table.location[table.scene])).encode())
    for location in np.unique(table.location):
        stat = map_file(spec.data_root, str(location)).stat()
        digest.update(f"{stat.st_size}:{stat.st_mtime_ns};".encode())
    return FrameCache(
        Path(spec.image_cache_dir), f"drawn_{digest.hexdigest()[:16]}", (len(table), NUM_CLASSES + 1, *spec.canvas_hw), "maps"
    )
