"""The graph's interface: the one place that spells the name, shape, dtype and meaning of every input, output and state tensor.

The graph is the pure step with its state as inputs and outputs: it takes ``frame`` tensors and ``state_*`` tensors, and returns
outputs and ``next_*`` tensors. Feed each ``next_x`` back as ``state_x``; start from the ``initial`` values. Masks travel as int32
(0 or 1), because not every runtime takes boolean bindings. The batch is 1: a car has one world.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from uniad.config.spec import BENCH2DRIVE, NUSCENES_WORDS, Spec
from uniad.errors import UserError
from uniad.geometry.grid import BevGrid
from uniad.geometry.nuscenes import STEP_S
from uniad.interface.types import Frame, FrameArrays, Past, State, StepOutputs, Tracks

if TYPE_CHECKING:  # a car packs arrays, without PyTorch
    from torch import Tensor

CONTRACT_VERSION = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Port:
    """One input or output of the graph. ``path`` is where it lives in Frame, State or StepOutputs."""

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: str  # numpy name of the dtype in the graph
    meaning: str
    is_mask: bool = False  # bool inside, int32 in the graph
    initial: float = 0.0  # state ports only: value of every element before the first frame


@dataclass(frozen=True)
class MapMerge:
    """The rule by which map elements make ``map_lanes``, for a host that has to apply it anew: see port ``map_settled``.

    Elements are painted in their order. One is left out if its score is below ``quality_threshold``, if it is nowhere above
    ``mask_threshold``, or if more than ``overlap_threshold`` of its cells are painted already. Cells of class 0 stay open.
    """

    num_classes: int
    quality_threshold: float
    overlap_threshold: float
    mask_threshold: float = 0.5


@dataclass(frozen=True)
class OccGrid:
    """Where the cells of ``occ_seg`` and ``occ_ids`` lie: lidar frame, metres, (from, to, step) of columns and of rows."""

    xbound: tuple[float, float, float]
    ybound: tuple[float, float, float]
    step_s: float = STEP_S


@dataclass(frozen=True)
class Contract:
    frame: tuple[Port, ...]
    state: tuple[Port, ...]  # named state_x at the input and next_x at the output
    outputs: tuple[Port, ...]
    map_merge: MapMerge
    commands: tuple[str, ...] = NUSCENES_WORDS.commands  # by number
    occ_grid: OccGrid | None = None  # None: the step of stage 1, which tracks and maps and looks no further

    @property
    def has_stage2(self) -> bool:
        """Whether the graph is the end-to-end step, with motion, occupancy and planning."""
        return self.occ_grid is not None

    @property
    def input_names(self) -> list[str]:
        return [p.name for p in self.frame] + [f"state_{p.name}" for p in self.state]

    @property
    def output_names(self) -> list[str]:
        return [p.name for p in self.outputs] + [f"next_{p.name}" for p in self.state]

    def input_ports(self) -> dict[str, Port]:
        return dict(zip(self.input_names, (*self.frame, *self.state)))

    def output_ports(self) -> dict[str, Port]:
        return dict(zip(self.output_names, (*self.outputs, *self.state)))

    def initial_state(self) -> dict[str, np.ndarray]:
        """State to feed at the first frame, by input name."""
        return {f"state_{p.name}": np.full(p.shape, p.initial, p.dtype) for p in self.state}

    def carry(self, outputs: Mapping[str, T]) -> dict[str, T]:
        """The next frame's state inputs, from this frame's outputs."""
        return {f"state_{p.name}": outputs[f"next_{p.name}"] for p in self.state}

    def check_inputs(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError naming every tensor that is missing, unknown or of another shape or dtype."""
        _check(feeds, self.input_ports())

    def check_frame(self, feeds: Mapping[str, np.ndarray]) -> None:
        """As ``check_inputs``, for a frame without its state."""
        _check(feeds, {p.name: p for p in self.frame})

    def to_json(self) -> dict:
        """The card's ``inputs`` and ``outputs`` entries."""

        def row(name: str, port: Port, initial: bool) -> dict:
            entry = {"name": name, "shape": list(port.shape), "dtype": port.dtype, "meaning": port.meaning}
            return entry | ({"initial": port.initial} if initial else {})

        frame_names = {p.name for p in self.frame}
        return {
            "version": CONTRACT_VERSION,
            "inputs": [row(n, p, n not in frame_names) for n, p in self.input_ports().items()],
            "outputs": [row(n, p, False) for n, p in self.output_ports().items()],
            "feedback": {f"next_{p.name}": f"state_{p.name}" for p in self.state},
            "map_merge": asdict(self.map_merge),
            **({"occ_grid": asdict(self.occ_grid)} if self.occ_grid else {}),
        }


def _check(feeds: Mapping[str, np.ndarray], ports: Mapping[str, Port]) -> None:
    faults = [f"{name} is missing" for name in ports.keys() - feeds.keys()]
    faults += [f"{name} is no input of this graph" for name in feeds.keys() - ports.keys()]
    for name, port in ports.items():
        if name in feeds:
            got = feeds[name]
            if tuple(got.shape) != port.shape or str(got.dtype).removeprefix("torch.") != port.dtype:
                faults.append(f"{name} is {got.dtype}{list(got.shape)}, expected {port.dtype}{list(port.shape)}")
    if faults:
        raise ValueError("; ".join(sorted(faults)))


class _Row(NamedTuple):
    """A port of any model; ``dims`` are numbers and names of ``_dims``."""

    name: str
    path: str
    dims: str
    dtype: str
    meaning: str
    is_mask: bool = False
    initial: float = 0.0

    def port(self, sizes: Mapping[str, int]) -> Port:
        shape = tuple(math.prod(int(sizes.get(f, f)) for f in dim.split("*")) for dim in self.dims.split())
        return Port(self.name, self.path, shape, self.dtype, self.meaning, self.is_mask, self.initial)


_FRAME = (
    _Row("img", "img", "1 cameras 3 img_h img_w", "float32",
         "camera images in upstream's order, normalised by the config's mean and std, padded on the right and below"),
    _Row("lidar2img", "lidar2img", "1 cameras 4 4", "float32", "lidar frame (m) to pixels of img"),
    _Row("can_bus", "can_bus", "1 18", "float32",
         "0:3 global position (m), 3:7 quaternion, 7:10 acceleration, 10:13 angular rate, 13:16 velocity, 16 heading "
         "(rad), 17 heading (degrees); absolute pose"),
    _Row("l2g_r", "l2g_r", "1 3 3", "float32", "rotation lidar to global, transposed: p_global = p_lidar @ l2g_r + l2g_t"),
    _Row("l2g_t", "l2g_t", "1 3", "float32", "translation lidar to global, m"),
    _Row("time_s", "time_s", "1", "float32", "seconds since the scene began"),
    _Row("scene_start", "scene_start", "1", "int32",
         "1 on the first frame of a scene: tracks and previous BEV are dropped", is_mask=True),
)  # fmt: skip
_COMMAND = _Row("command", "command", "1", "int32", "where the navigation wants to go")
CAN_BUS_OF_BENCH2DRIVE = (
    "0:3 global position (m), 3:7 quaternion, 7:10 velocity, 10:13 acceleration, 13:16 angular rate, 16 heading (rad), "
    "17 heading (degrees); absolute pose"
)
_STATE = (
    _Row("bev", "prev_bev", "1 cells dims", "float32", "BEV features of the frame before, row-major from behind left"),
    _Row("has_bev", "has_prev_bev", "1", "int32", "1 once a BEV has been stored", is_mask=True),
    _Row("track_query", "tracks.query", "1 slots 2*dims", "float32", "track queries: position half, feature half"),
    _Row("track_ref_pts", "tracks.ref_pts", "1 slots 3", "float32", "reference points, inverse sigmoid of the range"),
    _Row("track_boxes", "tracks.boxes", "1 slots 10", "float32",
         "cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy of the frame before"),
    _Row("track_id", "tracks.obj_id", "1 slots", "int32", "track id, -1 for an empty slot", initial=-1),
    _Row("track_disappear_time", "tracks.disappear_time", "1 slots", "int32", "frames below the filter threshold"),
    _Row("track_mem_bank", "tracks.mem_bank", "1 slots memory dims", "float32", "past embeddings, oldest first"),
    _Row("track_mem_padding", "tracks.mem_padding", "1 slots memory", "int32",
         "1 where the memory is empty", is_mask=True, initial=1),
    _Row("track_save_period", "tracks.save_period", "1 slots", "float32", "frames until the next memory is saved"),
    _Row("pos", "prev_pos", "1 3", "float32", "can_bus[0:3] of the frame before"),
    _Row("angle", "prev_angle", "1", "float32", "can_bus[17] of the frame before"),
    _Row("l2g_r", "prev_l2g_r", "1 3 3", "float32", "l2g_r of the frame before"),
    _Row("l2g_t", "prev_l2g_t", "1 3", "float32", "l2g_t of the frame before"),
    _Row("time_s", "prev_time_s", "1", "float32", "time_s of the frame before"),
    _Row("track_next_id", "next_id", "1", "int32", "the next unused track id"),
)  # fmt: skip
# Of a model that looks further back than one frame (``ModelSpec.prev_frame_num``)
_PAST = (
    _Row("past_bev", "past.bev", "1 past cells dims", "float32", "BEV features of the frames after state_bev's, in their order"),
    _Row("past_has_bev", "past.has_bev", "1 past", "int32", "1 where past_bev holds one of this scene", is_mask=True),
    _Row("past_pos", "past.pos", "1 past 3", "float32", "can_bus[0:3] of those frames"),
    _Row("past_angle", "past.angle", "1 past", "float32", "can_bus[17] of those frames"),
)
_OUTPUTS = (
    _Row("boxes", "track.boxes", "1 rows 9", "float32",
         "one box a row, lidar frame: x, y, z of the bottom centre, w, l, h (m), yaw (rad), vx, vy (m/s)"),
    _Row("cls_logits", "track.cls_logits", "1 rows classes", "float32", "class logits"),
    _Row("score", "track.score", "1 rows", "float32", "largest class probability"),
    _Row("label", "track.label", "1 rows", "int32", "class index"),
    _Row("obj_id", "track.obj_id", "1 rows", "int32", "track id; -1 none, -2 the ego query"),
    _Row("valid", "track.valid", "1 rows", "int32", "0 for an empty carried slot", is_mask=True),
    _Row("active", "track.active", "1 rows", "int32", "1 for a track to report", is_mask=True),
    _Row("dropped", "track.dropped", "1", "int32", "tracks lost this frame because all slots were taken"),
    _Row("map_score", "map.score", "1 elements", "float32", "score of a map element"),
    _Row("map_label", "map.label", "1 elements", "int32", "class of a map element"),
    _Row("map_box", "map.box", "1 elements 4", "float32", "x0, y0, x1, y1 on the canvas, 0..1"),
    _Row("map_mask", "map.mask", "1 elements map_h map_w", "float32", "mask value of a map element"),
    _Row("map_kept", "map.kept", "1 elements", "int32", "1 where the element passes the quality thresholds", is_mask=True),
    _Row("map_lanes", "map.lanes", "1 things map_h map_w", "float32", "merged masks"),
    _Row("map_settled", "map.settled", "1", "int32",
         "1: map_lanes is exactly what painting the elements one after the other gives; 0: they overlap in chains longer "
         "than the graph follows, and the host paints map_mask anew by map_merge", is_mask=True),
    _Row("map_drivable", "map.drivable", "1 map_h map_w", "float32", "drivable area"),
)  # fmt: skip
# What stage 2 adds. Agents carry no boxes of their own: ``agent_row`` says which row of ``boxes`` is theirs.
_FUTURE = (
    _Row("agent_row", "stage2.agents.row", "1 agents", "int32",
         "row of boxes, score and label that an agent slot holds: reported tracks, best score first; the ego car is the "
         "last"),
    _Row("agent_id", "stage2.agents.obj_id", "1 agents", "int32", "track id; -1 an empty slot, -2 the ego car"),
    _Row("agent_valid", "stage2.agents.valid", "1 agents", "int32", "0 for an empty slot", is_mask=True),
    _Row("agents_dropped", "stage2.agents.dropped", "1", "int32",
         "reported tracks in range that found no slot, so have no future"),
    _Row("motion_traj", "stage2.motion.traj.-1", "1 agents modes steps 5", "float32",
         "futures, 0.5 s steps: x, y as offsets from the agent's centre in lidar axes (m), inverse deviations along x and "
         "y, correlation"),
    _Row("motion_score", "stage2.motion.score.-1", "1 agents modes", "float32", "log probability of each future"),
    _Row("occ_seg", "stage2.occ.seg", "1 occ_frames occ_h occ_w", "int32",
         "1 where a vehicle is, now and in 0.5 s steps; row 0 behind, column 0 left"),
    _Row("occ_ids", "stage2.occ.ids", "1 occ_frames occ_h occ_w", "int32",
         "0 free, else 1 + the agent slot that claims the cell"),
    _Row("plan_traj", "stage2.plan.traj", "1 plan_steps 2", "float32",
         "planned path, 0.5 s steps: x, y in the lidar frame of now (m), before any collision optimisation"),
)  # fmt: skip


def _dims(spec: Spec) -> dict[str, int]:
    """Every size that a shape is made of."""
    m, image = spec.model, spec.data.image
    sizes = {
        "cameras": m.bev.num_cams, "img_h": image.height, "img_w": image.width,
        "cells": m.bev.height * m.bev.width, "dims": m.bev.embed_dims,
        "slots": m.track.capacity, "memory": m.track.mem_len, "rows": m.track.num_query + 1 + m.track.capacity,
        "classes": m.track.num_classes, "elements": m.map.top_k, "map_h": m.map.canvas_hw[0], "map_w": m.map.canvas_hw[1],
        "things": m.map.num_things, "past": m.prev_frame_num - 1,
    }  # fmt: skip
    if (s := m.stage2) is not None:
        occ_h, occ_w = BevGrid.from_bounds(s.occ.xbound, s.occ.ybound).shape
        sizes |= {
            "agents": s.agent_capacity + 1, "modes": s.motion.predict_modes, "steps": s.motion.predict_steps,
            "occ_frames": s.occ.n_future + 1, "occ_h": occ_h, "occ_w": occ_w, "plan_steps": s.plan.steps,
        }  # fmt: skip
    return sizes


def contract_for(spec: Spec) -> Contract:
    """The contract of a config: every size follows from the spec, so none is typed twice. UserError for stage 0: it has none."""
    if spec.stage == 0:
        raise UserError(f"{spec.path} is of stage 0, a detector, only trained and evaluated: take stage 1 or 2 (make: STAGE)")
    m, sizes = spec.model, _dims(spec)

    words = spec.data.vocabulary
    commands, things = (", ".join(f"{i} {name}" for i, name in enumerate(names)) for names in (words.commands, words.map_things))
    said = {
        "command": f"where the navigation wants to go: {commands}",
        "map_label": things,
        "map_lanes": f"merged masks: {', '.join(words.map_things)}",
    }
    if m.prev_frame_num > 1:
        ago = f"of {m.prev_frame_num} frames before"
        said |= {
            "bev": f"BEV features {ago}, row-major from behind left", "pos": f"can_bus[0:3] {ago}", "angle": f"can_bus[17] {ago}"
        }  # fmt: skip
    if spec.data.compat.can_bus_order == BENCH2DRIVE:
        said["can_bus"] = CAN_BUS_OF_BENCH2DRIVE
    state = (*_STATE, *(_PAST if m.prev_frame_num > 1 else ()))
    outputs = tuple(row for row in _OUTPUTS if m.map.num_stuff or row.name != "map_drivable")

    def ports(*rows: _Row) -> tuple[Port, ...]:
        return tuple(row._replace(meaning=said.get(row.name, row.meaning)).port(sizes) for row in rows)

    merge = MapMerge(m.map.num_things, m.map.quality_threshold_things, m.map.overlap_threshold_things)
    if m.stage2 is None:
        return Contract(ports(*_FRAME), ports(*state), ports(*outputs), merge, words.commands)
    grid = OccGrid(m.stage2.occ.xbound, m.stage2.occ.ybound)
    return Contract(ports(*_FRAME, _COMMAND), ports(*state), ports(*outputs, *_FUTURE), merge, words.commands, grid)


def _lookup(owner: Any, path: str) -> Tensor:
    """The tensor at ``path``: names of fields, or numbers that index a leading axis (``-1``: the last layer)."""
    for part in path.split("."):
        owner = owner[int(part)] if part.lstrip("-").isdigit() else getattr(owner, part)
    return owner


def _to_graph(port: Port, value: Tensor) -> Tensor:
    import torch

    return value.to(torch.int32 if port.is_mask else getattr(torch, port.dtype))


def _from_graph(port: Port, value: Tensor) -> Tensor:
    return value != 0 if port.is_mask else value


def as_array(value: Tensor | np.ndarray) -> np.ndarray:
    """A tensor of any device, or an array, as an array; PyTorch need not be there."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def frame_feeds(contract: Contract, frame: Frame | FrameArrays, resident: Collection[str] = ()) -> dict[str, Any]:
    """A frame of tensors or of arrays as named arrays, in the dtypes of the graph inputs. Tensors of the inputs that are
    ``resident`` stay where they lie."""
    found = {p.name: (_lookup(frame, p.path), p.dtype) for p in contract.frame}
    return {n: value if n in resident else as_array(value).astype(dtype, copy=False) for n, (value, dtype) in found.items()}


def pack_frame(contract: Contract, frame: Frame) -> tuple[Tensor, ...]:
    """Graph inputs of a frame, in the contract's order."""
    return tuple(_to_graph(p, _lookup(frame, p.path)) for p in contract.frame)


def pack_state(contract: Contract, state: State) -> tuple[Tensor, ...]:
    return tuple(_to_graph(p, _lookup(state, p.path)) for p in contract.state)


def pack_outputs(contract: Contract, outputs: StepOutputs, state: State) -> tuple[Tensor, ...]:
    return tuple(_to_graph(p, _lookup(outputs, p.path)) for p in contract.outputs) + pack_state(contract, state)


def unpack_inputs(contract: Contract, tensors: Iterable[Tensor]) -> tuple[Frame, State]:
    """Graph inputs (frame ports, then state ports) back to what ``UniAD.step`` takes."""
    import torch

    tensors = list(tensors)
    ports = (*contract.frame, *contract.state)
    if len(tensors) != len(ports):
        raise ValueError(f"{len(tensors)} tensors for {len(ports)} ports")
    values = {p.path: _from_graph(p, t) for p, t in zip(contract.frame, tensors)}
    # Stage 1 has no use for the command; the frame still carries one.
    values.setdefault("command", torch.full((1,), 2, dtype=torch.int32, device=tensors[0].device))
    frame = Frame(**values)
    held = {p.path: _from_graph(p, t) for p, t in zip(contract.state, tensors[len(contract.frame) :])}
    tracks = Tracks(**{path.split(".")[1]: held.pop(path) for path in list(held) if path.startswith("tracks.")})
    past = {path.split(".")[1]: held.pop(path) for path in list(held) if path.startswith("past.")}
    return frame, State(tracks=tracks, past=Past(**past) if past else None, **held)
