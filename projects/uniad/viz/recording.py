"""A drive as a Rerun recording: images, boxes with ids, map, forecasts, plan and occupancy on one timeline, in three dimensions.

Everything lies in the lidar frame of its instant (x right, y forward, z up), below the entity ``car``, which its pose moves
through the scene. Timelines: ``frame``, the number in the scene, and ``time``, seconds since its first frame.

    car/camera/CAM_FRONT          pinhole camera with its image file
    car/tracks, car/annotated     boxes with class and id; ``track_id``, ``class`` and ``score`` of each
    car/forecasts                 a line for each mode; ``track_id`` and ``probability`` of each
    car/plan, car/ego             the path after the collision optimiser, with its command, and the car itself
    car/map/NAME                  drivable area, divider, crossing, contour: filled cells on the ground
    car/occupancy/in_0.5_s        cells that vehicles take, now (in_0.0_s) and later
    car/above                     a camera that looks down on the scene, for the view from above
    car/footprints                outlines of the boxes for that view, with a stroke to the front
    about                         what was drawn, in words
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import Spec
from uniad.deploy.records import read_frame
from uniad.errors import UserError
from uniad.files import atomic_path
from uniad.geometry.nuscenes import EGO_SIZE, IMAGE_HW, STEP_S
from uniad.postprocess.result import Forecasts, Objects, Result
from uniad.viz.page import Content, Future, command_words, occupancy_range, title_of
from uniad.viz.palette import DRIVABLE, EGO, GROUND, GROUND_TRUTH, PLAN, class_colour, map_colour, occupied
from uniad.viz.replay import Replay

APPLICATION = "uniad-drive"  # the viewer keeps a layout by this name: another one where the layout is another
LIFT_M = 0.03  # between what lies on the ground, so that the upper one is seen
ROOT = "car"
FOOTPRINTS_M = 5.0  # height of what is drawn for the view from above alone: over all boxes
ABOVE_M, ABOVE_PX = 1000.0, 1024  # height of the camera from above, so far that what is tall leans little, and its picture's side


def rerun() -> Any:
    """The package, which is not needed by anything else."""
    try:
        import rerun as package
    except ImportError as error:
        raise UserError(
            f"rerun-sdk is not installed here ({error}): `make env` installs it, or pip install 'rerun-sdk' in the version that "
            "pyproject.toml pins"
        ) from None
    return package


def write_recording(path: Path, replay: Replay, scene: str) -> int:
    """One scene of a folder of results; returns the number of frames. The file is whole or absent."""
    rr = rerun()
    with atomic_path(path) as temporary:
        stream = rr.new_recording(APPLICATION, recording_id=f"{replay.title} {scene}")
        rr.save(temporary, default_blueprint=_layout(rr, _camera_sizes(replay, scene)), recording=stream)
        try:
            count = _log_scene(_Log(rr, stream), replay, scene)
        finally:
            rr.disconnect(recording=stream)
    return count


def _log_scene(log: _Log, replay: Replay, scene: str) -> int:
    rr, spec, count, first = log.rr, replay.spec, 0, None
    log("", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    _log_above(log, spec.data.pc_range)
    for content, result, info in replay.frames_and_contents(scene):
        first = info if first is None else first
        log.at(int(info["frame"]), float(info["time_s"]) - float(first["time_s"]))
        _log_frame(log, content, result, info, first, spec)
        count += 1
    if not count:
        raise UserError(f"{replay.folder}: {scene} has no frame to show")
    return count


class _Log:
    """A recording's ``log`` and its time."""

    def __init__(self, rr: Any, stream: Any) -> None:
        self.rr, self.stream = rr, stream

    def at(self, frame: int, seconds: float) -> None:
        self.rr.set_time_sequence("frame", frame, recording=self.stream)
        self.rr.set_time_seconds("time", seconds, recording=self.stream)

    def __call__(self, where: str, *what: Any, static: bool = False) -> None:
        self.rr.log(f"{ROOT}/{where}" if where else ROOT, *what, static=static, recording=self.stream)

    def beside(self, where: str, *what: Any) -> None:
        self.rr.log(where, *what, recording=self.stream)


def _log_frame(log: _Log, content: Content, result: Result, info: dict, first: dict, spec: Spec) -> None:
    rr, names = log.rr, spec.data.class_names
    pose = np.linalg.inv(_global_from_lidar(first)) @ _global_from_lidar(info)
    log("", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    for name, path in info["cams"].items():
        _log_camera(log, name, path, np.asarray(info["lidar2img"][name], float))
    ground = -float(info["lidar2ego_translation"][2])
    layers = [("drivable", content.drivable, DRIVABLE)] if content.paints_area else []
    layers += [(name, mask, map_colour(name)) for name, mask in zip(content.map_things, content.lanes, strict=True)]
    for number, (name, mask, colour) in enumerate(layers):
        cells = _cells(rr, np.asarray(mask) > 0.5, spec.data.pc_range, ground + number * LIFT_M, colour)
        log(f"map/{name.replace(' ', '_')}", cells)
    log("tracks", *_boxes(rr, _drawn(content, result.tracks), names))
    log("footprints", _footprints(rr, _drawn(content, result.tracks), names))
    if content.annotated:
        log("annotated", _outlines(rr, content.gt_boxes, content.gt_labels, names))
    half = [side / 2 for side in EGO_SIZE]
    log("ego", rr.Boxes3D(centers=[[0, 0, ground + half[2]]], half_sizes=[half], colors=[EGO], fill_mode="solid"))
    if content.future and result.forecasts is not None:
        _log_future(log, content.future, result.forecasts, ground, names)
    log.beside("about", rr.TextDocument("\n\n".join(content.caption.splitlines())))


def _log_future(log: _Log, future: Future, agents: Forecasts, ground: float, names: tuple[str, ...]) -> None:
    rr = log.rr
    lines, colours, ids, prob = [], [], [], []
    for which, start, paths, share, label in zip(agents.ids, agents.starts, agents.traj, agents.prob, agents.labels):
        for mode, path in enumerate(paths):
            lines.append(_flat(np.concatenate([start[None, :2], path]), start[2]))
            colours.append((*class_colour(names[int(label)]), int(40 + 215 * share[mode] / share.max())))
            ids.append(int(which))
            prob.append(float(share[mode]))
    log("forecasts", rr.LineStrips3D(lines, colors=colours or None, radii=0.08),
        rr.AnyValues(track_id=np.array(ids, np.int64), probability=np.array(prob, np.float32)))  # fmt: skip
    path = _flat(np.concatenate([np.zeros((1, 2)), future.plan]), ground + 6 * LIFT_M)
    log("plan", rr.LineStrips3D([path], colors=[PLAN], radii=0.3, labels=[f"plan: {command_words(future)}"]))
    steps = len(future.occupancy)
    for step in range(steps):
        z = ground + (5 + (steps - step)) * LIFT_M  # the present covers the future
        grid, colour = future.occupancy[step] != 0, occupied(step, steps)
        log(f"occupancy/in_{step * STEP_S:.1f}_s", _cells(rr, grid, occupancy_range(future), z, colour))


def _drawn(content: Content, tracks: Objects) -> Objects:
    """Those of the picture: the tracks, or best guesses where there are none yet."""
    scores = tracks.scores if len(tracks) >= len(content.boxes) else np.zeros(len(content.boxes), np.float32)
    return Objects(content.boxes, content.labels, scores[: len(content.boxes)], content.ids)


def _boxes(rr: Any, objects: Objects, names: tuple[str, ...]) -> tuple[Any, Any]:
    labels = [names[int(label)] for label in objects.labels]
    words = [f"{name} {int(which)}" if which >= 0 else name for name, which in zip(labels, objects.ids)]
    boxes = rr.Boxes3D(**_places(objects.boxes), colors=[class_colour(name) for name in labels] or None, radii=0.05,
                       labels=words or None, show_labels=True)  # fmt: skip
    facts = {"track_id": np.asarray(objects.ids, np.int64), "score": np.asarray(objects.scores, np.float32)}
    return boxes, rr.AnyValues(**facts, **{"class": np.array(labels, str)})


def _footprints(rr: Any, objects: Objects, names: tuple[str, ...]) -> Any:
    """Boxes from above, in lines that are seen from there, with a stroke to the middle of the front, above all else."""
    places = _places(objects.boxes)
    heading = 2 * np.arctan2(places["quaternions"][:, 2], places["quaternions"][:, 3])
    forward = np.stack([np.cos(heading), np.sin(heading)], -1)
    left = np.stack([-forward[:, 1], forward[:, 0]], -1)
    ahead, aside = (axis * places["half_sizes"][:, n : n + 1] for n, axis in enumerate((forward, left)))
    middle = places["centers"][:, :2]
    corners = [middle + ahead + aside, middle - ahead + aside, middle - ahead - aside, middle + ahead - aside]
    strokes = np.stack([*corners, corners[0], middle + ahead, middle], 1)
    colours = [class_colour(names[int(label)]) for label in objects.labels]
    return rr.LineStrips3D([_flat(stroke, FOOTPRINTS_M) for stroke in strokes], colors=colours or None, radii=0.2)


def _outlines(rr: Any, boxes: NDArray, labels: NDArray, names: tuple[str, ...]) -> Any:
    words = [names[int(label)] for label in labels]
    white = [GROUND_TRUTH] * len(boxes)
    return rr.Boxes3D(**_places(boxes), colors=white or None, radii=0.02, labels=words or None, show_labels=False)


def _places(boxes: NDArray) -> dict[str, NDArray]:
    """[n, 9] box9 -> centres, half sizes and turns. Rerun's box has its length along x, the direction of travel."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 9)
    heading = -boxes[:, 6] - np.pi / 2  # counter-clockwise from x
    half = boxes[:, [4, 3, 5]] / 2
    turn = np.stack([np.zeros_like(heading), np.zeros_like(heading), np.sin(heading / 2), np.cos(heading / 2)], -1)  # x, y, z, w
    return {"centers": boxes[:, :3] + [0, 0, 0.5] * boxes[:, 5:6], "half_sizes": half, "quaternions": turn}


def _cells(rr: Any, mask: NDArray[np.bool_], covers: tuple[float, ...], z: float, colour: tuple[int, int, int]) -> Any:
    """Filled cells [h, w], row 0 behind the car, as a mesh: a rectangle for each run of cells in a row."""
    x0, y0, _, x1, y1, _ = covers
    height, width = mask.shape
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, begins = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    left, right = x0 + begins / width * (x1 - x0), x0 + ends / width * (x1 - x0)
    low, high = y0 + rows / height * (y1 - y0), y0 + (rows + 1) / height * (y1 - y0)
    corners = np.stack([np.stack(c, -1) for c in ((left, low), (right, low), (right, high), (left, high))], 1).reshape(-1, 2)
    if not len(corners):
        return rr.Clear(recursive=False)
    points = np.concatenate([corners, np.full((len(corners), 1), z)], 1)
    triangles = (np.array([[0, 1, 2], [0, 2, 3]])[None] + 4 * np.arange(len(rows))[:, None, None]).reshape(-1, 3)
    return rr.Mesh3D(vertex_positions=points, triangle_indices=triangles, vertex_colors=np.tile(colour, (len(points), 1)))


def _log_camera(log: _Log, name: str, path: str, image_from_lidar: NDArray) -> None:
    """The camera of a projection [4, 4]: what it is made of, intrinsics and a pose, follows from it."""
    from scipy.linalg import rq

    intrinsic, turn = rq(image_from_lidar[:3, :3])
    sign = np.diag(np.sign(np.diag(intrinsic)))
    intrinsic, turn = intrinsic @ sign, sign @ turn  # camera from lidar
    if np.linalg.det(turn) < 0:
        raise UserError(f"{name}: its projection is that of a mirror; run `make infer` again")
    move = np.linalg.solve(intrinsic, image_from_lidar[:3, 3])
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run `make data` or restore the file") from None
    rr, (height, width) = log.rr, _size(path)
    log(f"camera/{name}", rr.Transform3D(translation=-turn.T @ move, mat3x3=turn.T),
        rr.Pinhole(image_from_camera=intrinsic / intrinsic[2, 2], width=width, height=height, image_plane_distance=3.0,
                   camera_xyz=rr.ViewCoordinates.RDF))  # fmt: skip
    log(f"camera/{name}", rr.EncodedImage(contents=contents, media_type="image/png" if path.endswith(".png") else "image/jpeg"))


def _size(path: str) -> tuple[int, int]:
    """Height and width of an image; its header alone is read."""
    from PIL import Image

    with Image.open(path) as image:
        return image.size[1], image.size[0]


def _global_from_lidar(info: dict) -> NDArray:
    return _matrix(info["ego2global_rotation"], info["ego2global_translation"]) @ _matrix(
        info["lidar2ego_rotation"], info["lidar2ego_translation"]
    )


def _matrix(rotation: Any, translation: Any) -> NDArray:
    from pyquaternion import Quaternion

    out = np.eye(4)
    out[:3, :3], out[:3, 3] = Quaternion(rotation).rotation_matrix, translation
    return out


def _flat(path: NDArray, z: float) -> NDArray:
    return np.concatenate([path, np.full((len(path), 1), z)], 1)


def _log_above(log: _Log, covers: tuple[float, ...]) -> None:
    """A camera far above the car that looks down, so that the scene is also seen without turning it: forward is up."""
    rr, side, high = log.rr, ABOVE_PX, ABOVE_M
    x0, y0, _, x1, y1, _ = covers
    focal = high * side / max(x1 - x0, y1 - y0)
    down = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # columns: right, back and down, as a camera's x, y and z
    log("above", rr.Transform3D(translation=[(x0 + x1) / 2, (y0 + y1) / 2, high], mat3x3=down),
        rr.Pinhole(image_from_camera=[[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]], width=side, height=side,
                   image_plane_distance=0.1, camera_xyz=rr.ViewCoordinates.RDF), static=True)  # fmt: skip


def _camera_sizes(replay: Replay, scene: str) -> dict[str, tuple[int, int]]:
    """Height and width of each camera's images, by the first frame; without those that cannot be read, which is told later."""
    sizes: dict[str, tuple[int, int]] = {}
    for path in replay.frames(scene)[:1]:
        for name, image in read_frame(path, replay.spec.data.class_names)[1]["cams"].items():
            with suppress(OSError):
                sizes[name] = _size(image)
    return sizes


def _layout(rr: Any, sizes: dict[str, tuple[int, int]]) -> Any:
    """What the viewer shows first: cameras with boxes over the scene in three dimensions, the scene from above, the words."""
    import rerun.blueprint as rrb

    drawn = [f"/{ROOT}/{name}" for name in ("tracks", "forecasts", "plan")]

    def flat(origin: str, contents: list[str], name: str, height: int, width: int) -> Any:
        # its image alone: boxes that reach beyond would make it a stamp in the middle
        bounds = rrb.VisualBounds2D(x_range=[0, width], y_range=[0, height])
        return rrb.Spatial2DView(origin=origin, contents=contents, name=name, visual_bounds=bounds)

    def camera(name: str) -> Any:
        return flat(f"/{ROOT}/camera/{name}", ["$origin/**", *drawn], title_of(name), *sizes.get(name, IMAGE_HW))

    rows = [[f"CAM_{side}{where}" for where in ("_LEFT", "", "_RIGHT")] for side in ("FRONT", "BACK")]
    cameras = rrb.Vertical(*(rrb.Horizontal(*(camera(name) for name in row)) for row in rows))
    below = [f"/{ROOT}/{name}" for name in ("map/**", "occupancy/**", "ego", "forecasts", "plan", "footprints")]
    above = flat(f"/{ROOT}/above", below, "from above", ABOVE_PX, ABOVE_PX)
    scene = rrb.Spatial3DView(origin=f"/{ROOT}", name="scene", background=[*GROUND, 255],
                              contents=["$origin/**", f"- /{ROOT}/above", f"- /{ROOT}/footprints"])  # fmt: skip
    words = rrb.TextDocumentView(origin="/about", name="about")
    left = rrb.Vertical(cameras, scene, row_shares=[1, 1])
    right = rrb.Vertical(above, words, row_shares=[3, 1])
    return rrb.Blueprint(
        rrb.Horizontal(left, right, column_shares=[3, 2]),
        rrb.TimePanel(state="collapsed"), rrb.SelectionPanel(state="collapsed"), rrb.BlueprintPanel(state="collapsed"),
    )  # fmt: skip


def scenes_of(replay: Replay, wanted: str | None) -> Iterator[str]:
    """Names of the scenes to write."""
    found = replay.scenes
    if wanted is not None:
        replay.frames(wanted)  # says which there are
        found = [wanted]
    if not found:
        raise UserError(f"{replay.folder} holds no finished frame; run `make infer` again")
    yield from found
