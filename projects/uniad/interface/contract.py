"""The graph's interface: the one place that spells the name, shape, dtype and meaning of every input, output and state tensor.

An engine is the pure step with its state laid open: it takes ``frame`` tensors and ``state_*`` tensors, and returns outputs and
``next_*`` tensors. Feed each ``next_x`` back as ``state_x``; start from the ``initial`` values. Masks travel as int32 (0 or 1),
because not every runtime takes boolean bindings. The batch is 1: a car has one world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from uniad.config.spec import ModelSpec, Spec
from uniad.geometry.grid import BevGrid
from uniad.geometry.nuscenes import STEP_S
from uniad.interface.types import Frame, State, StepOutputs, Tracks

if TYPE_CHECKING:  # a car packs arrays, without PyTorch
    from torch import Tensor

CONTRACT_VERSION = 2


@dataclass(frozen=True)
class Port:
    """One tensor at the graph's border. ``path`` is where it lives in Frame, State or StepOutputs."""

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: str  # numpy name of the border's dtype
    meaning: str
    is_mask: bool = False  # bool inside, int32 at the border
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
    occ_grid: OccGrid | None = None  # None: the step of stage 1, which tracks and maps and looks no further

    @property
    def looks_ahead(self) -> bool:
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

    def carry(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
            if tuple(got.shape) != port.shape or got.dtype != np.dtype(port.dtype):
                faults.append(f"{name} is {got.dtype}{list(got.shape)}, expected {port.dtype}{list(port.shape)}")
    if faults:
        raise ValueError("; ".join(sorted(faults)))


def contract_for(spec: Spec) -> Contract:
    """The contract of a config: every size follows from the spec, so none is typed twice."""
    m, img = spec.model, spec.data.image
    cells, d, cams = m.bev.height * m.bev.width, m.bev.embed_dims, m.bev.num_cams
    slots, mem, classes = m.track.capacity, m.track.mem_len, m.track.num_classes
    rows = m.track.num_query + 1 + slots
    h, w = m.map.canvas_hw
    top = m.map.top_k
    frame = (
        Port(
            "img",
            "img",
            (1, cams, 3, img.height, img.width),
            "float32",
            "camera images in the documented order, normalised by the config's mean and std, padded on the right and below",
        ),
        Port("lidar2img", "lidar2img", (1, cams, 4, 4), "float32", "lidar frame (m) to pixels of img"),
        Port(
            "can_bus",
            "can_bus",
            (1, 18),
            "float32",
            "0:3 global position (m), 3:7 quaternion, 7:10 acceleration, 10:13 angular rate, 13:16 velocity, "
            "16 heading (rad), 17 heading (degrees); absolute pose",
        ),
        Port("l2g_r", "l2g_r", (1, 3, 3), "float32", "rotation lidar to global, transposed: p_global = p_lidar @ l2g_r + l2g_t"),
        Port("l2g_t", "l2g_t", (1, 3), "float32", "translation lidar to global, m"),
        Port("time_s", "time_s", (1,), "float32", "seconds since the scene began"),
        Port(
            "scene_start",
            "scene_start",
            (1,),
            "int32",
            "1 on the first frame of a scene: tracks and previous BEV are dropped",
            is_mask=True,
        ),
    )
    state = (
        Port("bev", "prev_bev", (1, cells, d), "float32", "BEV features of the frame before, row-major from behind left"),
        Port("has_bev", "has_prev_bev", (1,), "int32", "1 once a BEV has been stored", is_mask=True),
        Port("track_query", "tracks.query", (1, slots, 2 * d), "float32", "track queries: position half, feature half"),
        Port("track_ref_pts", "tracks.ref_pts", (1, slots, 3), "float32", "reference points, inverse sigmoid of the range"),
        Port(
            "track_boxes",
            "tracks.boxes",
            (1, slots, 10),
            "float32",
            "cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy of the frame before",
        ),
        Port("track_id", "tracks.obj_id", (1, slots), "int32", "track id, -1 for an empty slot", initial=-1),
        Port("track_disappear_time", "tracks.disappear_time", (1, slots), "int32", "frames below the filter threshold"),
        Port("track_mem_bank", "tracks.mem_bank", (1, slots, mem, d), "float32", "past embeddings, oldest first"),
        Port(
            "track_mem_padding",
            "tracks.mem_padding",
            (1, slots, mem),
            "int32",
            "1 where the memory is empty",
            is_mask=True,
            initial=1,
        ),
        Port("track_save_period", "tracks.save_period", (1, slots), "float32", "frames until the next memory is saved"),
        Port("pos", "prev_pos", (1, 3), "float32", "can_bus[0:3] of the frame before"),
        Port("angle", "prev_angle", (1,), "float32", "can_bus[17] of the frame before"),
        Port("l2g_r", "prev_l2g_r", (1, 3, 3), "float32", "l2g_r of the frame before"),
        Port("l2g_t", "prev_l2g_t", (1, 3), "float32", "l2g_t of the frame before"),
        Port("time_s", "prev_time_s", (1,), "float32", "time_s of the frame before"),
        Port("track_next_id", "next_id", (1,), "int32", "the next unused track id"),
    )
    outputs = (
        Port(
            "boxes",
            "track.boxes",
            (1, rows, 9),
            "float32",
            "one box a row, lidar frame: x, y, z of the bottom centre, w, l, h (m), yaw (rad), vx, vy (m/s)",
        ),
        Port("cls_logits", "track.cls_logits", (1, rows, classes), "float32", "class logits"),
        Port("score", "track.score", (1, rows), "float32", "largest class probability"),
        Port("label", "track.label", (1, rows), "int32", "class index"),
        Port("obj_id", "track.obj_id", (1, rows), "int32", "track id; -1 none, -2 the ego query"),
        Port("valid", "track.valid", (1, rows), "int32", "0 for an empty carried slot", is_mask=True),
        Port("active", "track.active", (1, rows), "int32", "1 for a track to report", is_mask=True),
        Port("dropped", "track.dropped", (1,), "int32", "tracks lost this frame because all slots were taken"),
        Port("map_score", "map.score", (1, top), "float32", "score of a map element"),
        Port("map_label", "map.label", (1, top), "int32", "0 divider, 1 crossing, 2 contour"),
        Port("map_box", "map.box", (1, top, 4), "float32", "x0, y0, x1, y1 on the canvas, 0..1"),
        Port("map_mask", "map.mask", (1, top, h, w), "float32", "mask value of a map element"),
        Port("map_kept", "map.kept", (1, top), "int32", "1 where the element passes the quality thresholds", is_mask=True),
        Port("map_lanes", "map.lanes", (1, 3, h, w), "float32", "merged masks: divider, crossing, contour"),
        Port(
            "map_settled",
            "map.settled",
            (1,),
            "int32",
            "1: map_lanes is exactly what painting the elements one after the other gives; 0: they overlap in chains longer than "
            "the graph follows, and the host paints map_mask anew by map_merge",
            is_mask=True,
        ),
        Port("map_drivable", "map.drivable", (1, h, w), "float32", "drivable area"),
    )
    merge = MapMerge(m.map.num_things, m.map.quality_threshold_things, m.map.overlap_threshold_things)
    if not m.has_stage2:
        return Contract(frame, state, outputs, merge)
    grid = OccGrid(tuple(m.occ.xbound), tuple(m.occ.ybound))
    return Contract((*frame, COMMAND), state, (*outputs, *_future_ports(m)), merge, grid)


COMMAND = Port("command", "command", (1,), "int32", "where the navigation wants to go: 0 right, 1 left, 2 straight")


def _future_ports(m: ModelSpec) -> tuple[Port, ...]:
    """What stage 2 adds. Agents carry no boxes of their own: ``agent_row`` says which row of ``boxes`` is theirs."""
    agents, modes, steps = m.agent_capacity + 1, m.motion.predict_modes, m.motion.predict_steps
    occ = (1, m.occ.n_future + 1, *BevGrid.from_bounds(m.occ.xbound, m.occ.ybound).shape)
    return (
        Port(
            "agent_row",
            "agents.row",
            (1, agents),
            "int32",
            "row of boxes, score and label that an agent slot holds: reported tracks, best score first; the ego car is the last",
        ),
        Port("agent_id", "agents.obj_id", (1, agents), "int32", "track id; -1 an empty slot, -2 the ego car"),
        Port("agent_valid", "agents.valid", (1, agents), "int32", "0 for an empty slot", is_mask=True),
        Port("agents_dropped", "agents.dropped", (1,), "int32", "reported tracks in range that found no slot, so have no future"),
        Port(
            "motion_traj",
            "motion.traj.-1",
            (1, agents, modes, steps, 5),
            "float32",
            "futures, 0.5 s steps: x, y as offsets from the agent's centre in lidar axes (m), inverse deviations along x and y, "
            "correlation",
        ),
        Port("motion_score", "motion.score.-1", (1, agents, modes), "float32", "log probability of each future"),
        Port("occ_seg", "occ.seg", occ, "int32", "1 where a vehicle is, now and in 0.5 s steps; row 0 behind, column 0 left"),
        Port("occ_ids", "occ.ids", occ, "int32", "0 free, else 1 + the agent slot that claims the cell"),
        Port(
            "plan_traj",
            "plan.traj",
            (1, m.plan.steps, 2),
            "float32",
            "planned path, 0.5 s steps: x, y in the lidar frame of now (m), before any collision optimisation",
        ),
    )


def _lookup(owner: object, path: str) -> Tensor:
    """The tensor at ``path``: names of fields, or numbers that index a leading axis (``-1``: the last layer)."""
    for part in path.split("."):
        owner = owner[int(part)] if part.lstrip("-").isdigit() else getattr(owner, part)
    return owner


def _to_border(port: Port, value: Tensor) -> Tensor:
    import torch

    return value.to(torch.int32 if port.is_mask else getattr(torch, port.dtype))


def _from_border(port: Port, value: Tensor) -> Tensor:
    return value != 0 if port.is_mask else value


def as_array(value: Tensor | np.ndarray) -> np.ndarray:
    """A tensor of any device, or an array, as an array; PyTorch need not be there."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def frame_feeds(contract: Contract, frame: Frame) -> dict[str, np.ndarray]:
    """A frame of tensors or of arrays as named arrays, in the dtypes of the graph inputs."""
    return {p.name: as_array(_lookup(frame, p.path)).astype(p.dtype, copy=False) for p in contract.frame}


def pack_frame(contract: Contract, frame: Frame) -> tuple[Tensor, ...]:
    """Border tensors of a frame, in the contract's order."""
    return tuple(_to_border(p, _lookup(frame, p.path)) for p in contract.frame)


def pack_state(contract: Contract, state: State) -> tuple[Tensor, ...]:
    return tuple(_to_border(p, _lookup(state, p.path)) for p in contract.state)


def pack_outputs(contract: Contract, outputs: StepOutputs, state: State) -> tuple[Tensor, ...]:
    return tuple(_to_border(p, _lookup(outputs, p.path)) for p in contract.outputs) + pack_state(contract, state)


def unpack_inputs(contract: Contract, tensors: Iterable[Tensor]) -> tuple[Frame, State]:
    """Border tensors (frame ports, then state ports) back to what ``UniAD.step`` takes."""
    import torch

    tensors = list(tensors)
    ports = (*contract.frame, *contract.state)
    if len(tensors) != len(ports):
        raise ValueError(f"{len(tensors)} tensors for {len(ports)} ports")
    values = {p.path: _from_border(p, t) for p, t in zip(contract.frame, tensors)}
    # Stage 1 has no use for the command; the frame still carries one.
    values.setdefault("command", torch.full((1,), 2, dtype=torch.int32, device=tensors[0].device))
    frame = Frame(**values)
    held = {p.path: _from_border(p, t) for p, t in zip(contract.state, tensors[len(contract.frame) :])}
    tracks = Tracks(**{path.split(".")[1]: held.pop(path) for path in list(held) if path.startswith("tracks.")})
    return frame, State(tracks=tracks, **held)


def as_feeds(contract: Contract, tensors: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """Border tensors as named numpy arrays."""
    return {name: as_array(t) for name, t in zip(contract.input_names, tensors)}
