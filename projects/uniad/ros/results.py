"""What the model says of a frame as messages that Foxglove and RViz draw; ``docs/car-logs.md`` has the table of topics.

All are in the frame ``uniad_lidar`` (x right, y ahead), which /tf_static hangs into the car's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import Spec
from uniad.deploy.sensors import Pose
from uniad.deploy.sources import FrameRecord
from uniad.files import read_outside
from uniad.geometry.nuscenes import STEP_S
from uniad.postprocess.result import Objects, Result
from uniad.ros.write import STATIC, BagWriter, Maker

FRAME, PREFIX = "uniad_lidar", "/uniad"
MOST_DETECTIONS = 50
KEPT_S = 0.6  # that a viewer shows a marker: a little more than a step
CUBE, LINE_STRIP, TEXT, ADD, DELETE_ALL = 1, 4, 9, 0, 3  # of visualization_msgs/Marker
# Values of the map's cells, 0 to 100 as an OccupancyGrid has them
MAP_VALUES = {"drivable": 0, "elsewhere": 100, "divider": 25, "crossing": 50, "contour": 75}
RGB = {
    "car": (0.20, 0.55, 0.95), "truck": (0.35, 0.35, 0.85), "bus": (0.55, 0.35, 0.85), "trailer": (0.45, 0.45, 0.70),
    "construction_vehicle": (0.85, 0.65, 0.20), "pedestrian": (0.95, 0.35, 0.35), "motorcycle": (0.95, 0.55, 0.25),
    "bicycle": (0.90, 0.75, 0.25), "traffic_cone": (0.95, 0.50, 0.10), "barrier": (0.60, 0.60, 0.60),
}  # fmt: skip


class ResultMessages:
    """Messages of results. make: a maker of messages by type, from a bag or from rclpy. spec: of the model."""

    def __init__(self, make: Any, spec: Spec) -> None:
        self.maker, self.make = Maker(make), make
        self.names = spec.data.class_names
        self.map_range = spec.data.pc_range
        (x0, x1, _), (y0, y1, _) = spec.data.occ_xbound, spec.data.occ_ybound
        self.occ_range = (x0, y0, 0.0, x1, y1, 0.0)

    def of(self, result: Result, stamp_ns: int, ground_m: float) -> dict[str, Any]:
        """Messages by topic, without the prefix. ground_m: height of the ground in the lidar frame."""
        header = self.maker.header(stamp_ns, FRAME)
        best = Objects(*(values[:MOST_DETECTIONS] for values in vars(result.detections).values()))
        out = {
            "tracks": self._boxes(header, result.tracks, tracked=True),
            "detections": self._boxes(header, best, tracked=False),
            "map": self._grid(header, self._map_values(result), self.map_range, ground_m),
        }
        ahead = result.stage2
        if ahead is not None:
            out["forecasts"] = self._forecasts(header, ahead.forecasts)
            out["plan"] = self._path(stamp_ns, ahead.plan.path, ground_m)
            out["plan_raw"] = self._path(stamp_ns, ahead.plan.raw, ground_m)
            out["occupancy"] = self._grid(header, _occupied(ahead.occupancy), self.occ_range, ground_m)
        return out

    def _boxes(self, header: Any, objects: Objects, tracked: bool) -> Any:
        markers = [self._marker(header, "", 0, CUBE, DELETE_ALL)]
        for number, (box, label, score, which) in enumerate(zip(objects.boxes, objects.labels, objects.scores, objects.ids)):
            name, key = self.names[int(label)], int(which) if tracked else number
            x, y, z, width, length, height, yaw = map(float, box[:7])
            middle = Pose((x, y, z + height / 2), _turn(-yaw - np.pi / 2))
            colour = (*RGB.get(name, (0.7, 0.7, 0.7)), 0.25 + 0.5 * float(score))
            markers.append(self._marker(header, name, key, CUBE, ADD, middle, (length, width, height), colour))
            above = Pose((x, y, z + height + 0.6), _turn(0.0))
            words = f"{name} {key} {float(score):.2f}" if tracked else f"{name} {float(score):.2f}"
            markers.append(
                self._marker(header, f"{name} words", key, TEXT, ADD, above, (0.0, 0.0, 0.6), (1.0, 1.0, 1.0, 0.9), text=words)
            )
        return self.make("visualization_msgs/msg/MarkerArray", markers=markers)

    def _forecasts(self, header: Any, agents: Any) -> Any:
        markers = [self._marker(header, "", 0, CUBE, DELETE_ALL)]
        for which, start, paths, prob, label in zip(agents.ids, agents.starts, agents.traj, agents.prob, agents.labels):
            colour = RGB.get(self.names[int(label)], (0.7, 0.7, 0.7))
            for mode, (path, share) in enumerate(zip(paths, prob)):
                points = [(*start[:2], start[2]), *((x, y, start[2]) for x, y in path[:, :2])]
                faint = (*colour, 0.15 + 0.85 * float(share / max(prob.max(), 1e-6)))
                space, thin = f"mode {mode}", (0.15, 0.0, 0.0)
                line = self._marker(header, space, int(which), LINE_STRIP, ADD, scale=thin, colour=faint, points=points)
                markers.append(line)
        return self.make("visualization_msgs/msg/MarkerArray", markers=markers)

    def _path(self, stamp_ns: int, path: NDArray[np.float32], ground_m: float) -> Any:
        """From where the car is; each pose has the time at which it is to be there, and looks along the path."""
        points = np.concatenate([np.zeros((1, 2)), np.asarray(path, np.float64)])
        ahead = np.diff(points, axis=0, append=points[-1:] + (points[-1:] - points[-2:-1]))
        poses = []
        for step, ((x, y), (dx, dy)) in enumerate(zip(points, ahead)):
            angle = np.arctan2(dy, dx) if np.hypot(dx, dy) > 0.05 else np.pi / 2
            header = self.maker.header(stamp_ns + round(step * STEP_S * 1e9), FRAME)
            pose = self.maker.pose(Pose((x, y, ground_m), _turn(angle)))
            poses.append(self.make("geometry_msgs/msg/PoseStamped", header=header, pose=pose))
        return self.make("nav_msgs/msg/Path", header=self.maker.header(stamp_ns, FRAME), poses=poses)

    def _map_values(self, result: Result) -> NDArray[np.int8]:
        values = np.where(result.drivable, MAP_VALUES["drivable"], MAP_VALUES["elsewhere"]).astype(np.int8)
        for mask, name in zip(result.lanes, ("divider", "crossing", "contour")):
            values[mask] = MAP_VALUES[name]
        return values

    def _grid(self, header: Any, values: NDArray[np.int8], covers: Sequence[float], ground_m: float) -> Any:
        """Rows from behind the car, columns from its left: the order of an OccupancyGrid along y and x of the lidar frame."""
        rows, columns = values.shape
        origin = self.maker.pose(Pose((covers[0], covers[1], ground_m), _turn(0.0)))
        info = self.make(
            "nav_msgs/msg/MapMetaData", map_load_time=header.stamp, resolution=float((covers[3] - covers[0]) / columns),
            width=columns, height=rows, origin=origin,
        )  # fmt: skip
        return self.make("nav_msgs/msg/OccupancyGrid", header=header, info=info, data=np.ascontiguousarray(values.reshape(-1)))

    def _marker(
        self,
        header: Any,
        space: str,
        number: int,
        kind: int,
        action: int,
        pose: Pose | None = None,
        scale: Sequence[float] = (1.0, 1.0, 1.0),
        colour: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        text: str = "",
        points: Sequence[Sequence[float]] = (),
    ) -> Any:
        r, g, b, a = map(float, colour)
        lifetime = self.make("builtin_interfaces/msg/Duration", sec=int(KEPT_S), nanosec=round(KEPT_S % 1 * 1e9))
        picture = self.make(
            "sensor_msgs/msg/CompressedImage", header=self.maker.header(0, ""), format="", data=np.zeros(0, np.uint8)
        )
        return self.make(
            "visualization_msgs/msg/Marker", header=header, ns=space, id=number, type=kind, action=action,
            pose=self.maker.pose(pose or Pose((0.0, 0.0, 0.0), _turn(0.0))), scale=self.maker.vector(scale),
            color=self.make("std_msgs/msg/ColorRGBA", r=r, g=g, b=b, a=a), lifetime=lifetime, frame_locked=False,
            points=[self.maker.point(point) for point in points], colors=[], texture_resource="", texture=picture,
            uv_coordinates=[], text=text, mesh_resource="",
            mesh_file=self.make("visualization_msgs/msg/MeshFile", filename="", data=np.zeros(0, np.uint8)),
            mesh_use_embedded_materials=False,
        )  # fmt: skip


class ResultsBag:
    """Results of one scene and its images as a bag: a context manager; ``add`` takes each frame.

    world, base: frames of the input's TF.
    """

    def __init__(self, path: str | Path, spec: Spec, world: str = "map", base: str = "base_link") -> None:
        self.writer, self.world, self.base = BagWriter(path), world, base
        self.messages = ResultMessages(self.writer.make, spec)
        self._begun = False

    def __enter__(self) -> ResultsBag:
        self.writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.__exit__(*error)

    def add(self, record: FrameRecord, result: Result) -> None:
        stamp, make = stamp_of(record.info), self.messages.maker
        lidar, ego = record.sensors.lidar2ego, record.sensors.ego2global
        if not self._begun:
            self.writer.write(STATIC, stamp, make.transforms(make.transform(stamp, self.base, FRAME, lidar)))
            self._begun = True
        self.writer.write("/tf", stamp, make.transforms(make.transform(stamp, self.world, self.base, ego)))
        ground = -float(np.asarray(lidar.translation)[2])
        for camera, path in record.info["cams"].items():
            if Path(path).is_file():
                self.writer.write(f"{PREFIX}/{camera.lower()}", stamp, self._image(stamp, camera, path))
        for name, message in self.messages.of(result, stamp, ground).items():
            self.writer.write(f"{PREFIX}/{name}", stamp, message)

    def _image(self, stamp: int, camera: str, path: str) -> Any:
        content = np.frombuffer(read_outside(path), np.uint8)
        return self.writer.make(
            "sensor_msgs/msg/CompressedImage", header=self.messages.maker.header(stamp, camera.lower()),
            format=Path(path).suffix.removeprefix(".").replace("jpg", "jpeg"), data=content,
        )  # fmt: skip


def stamp_of(info: Mapping[str, Any]) -> int:
    """A frame's time in ns: the bag's own, else that of its scene."""
    return int(info["bag"]["stamp_ns"]) if "bag" in info else round(info["time_s"] * 1e9)


def _turn(angle: float) -> tuple[float, float, float, float]:
    return float(np.cos(angle / 2)), 0.0, 0.0, float(np.sin(angle / 2))


def _occupied(occupancy: NDArray[np.bool_]) -> NDArray[np.int8]:
    """[F', h, w] as one grid: 100 where somebody is now, less where somebody will be later, 0 where nobody is."""
    steps = len(occupancy)
    values = np.zeros(occupancy.shape[1:], np.int8)
    for step in reversed(range(steps)):
        values[occupancy[step]] = round(100 - 60 * step / max(steps - 1, 1))
    return values
