"""A fault is traced to the operator that makes it: wrong kernels, overflows, fusions, faults of a late frame."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.replays import draw_sequence
from helpers.specs import nano_spec
from uniad.bisect.probes import EngineSide, OrtSide
from uniad.bisect.recorded import replay_of
from uniad.bisect.search import Replay, locate
from uniad.engines.base import BuildOptions
from uniad.errors import UserError
from uniad.interface.contract import contract_for
from uniad.precision.half import convert
from uniad.verify.tensors import Limits, difference

SIZE, DEPTH, FRAMES = 6, 40, 5


class Build:
    """A graph of a few dozen nodes: a trunk, two branches that end in outputs of their own, and a state that is fed back."""

    def __init__(self, gain: float = 1.0, state_gain: float = 0.5) -> None:
        self.nodes, self.consts = [], {}
        rng = np.random.default_rng(0)
        x = self.op("Add", ["image", "state"], "trunk/in")
        for i in range(DEPTH):
            weight = np.float32(rng.uniform(0.8, 1.1, (1, 2, SIZE, SIZE)))
            x = self.op("Mul", [x, self.const(f"w{i}", weight)], f"trunk.layers.{i}")
        grid = self.op("Tanh", ["grid"], "left")
        left = self.op("GridSample", [x, grid], "left.sampler", mode="bilinear", padding_mode="zeros", align_corners=0)
        right = self.op("Relu", [x], "right")
        for i in range(DEPTH // 2):
            left = self.op("Add", [left, self.const(f"l{i}", np.float32(0.01))], f"left.layers.{i}")
            right = self.op("Add", [right, self.const(f"r{i}", np.float32(0.02))], f"right.layers.{i}")
        large = self.op("Mul", [right, self.const("gain", np.float32(gain))], "right.large")
        small = self.op("Mul", [large, self.const("back", np.float32(1 / gain))], "right.small")
        self.op("Identity", [left], "left", out="left")
        self.op("Identity", [small], "right", out="right")
        self.op("Mul", [x, self.const("keep", np.float32(state_gain))], "glue", out="next_state")

    def const(self, name, value):
        self.consts[name] = np.asarray(value)
        return name

    def op(self, kind, inputs, path, out=None, **attributes):
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"{path}/{kind}_{len(self.nodes)}", **attributes))
        return out

    def model(self) -> onnx.ModelProto:
        shape = (1, 2, SIZE, SIZE)
        value = helper.make_tensor_value_info
        inputs = [value(n, TensorProto.FLOAT, shape) for n in ("image", "state")]
        inputs.append(value("grid", TensorProto.FLOAT, (1, SIZE, SIZE, 2)))
        outputs = [value(n, TensorProto.FLOAT, shape) for n in ("left", "right", "next_state")]
        consts = [numpy_helper.from_array(v, n) for n, v in self.consts.items()]
        graph = helper.make_graph(self.nodes, "small", inputs, outputs, consts)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node_of(model, kind, which=0):
    return [n for n in model.graph.node if n.op_type == kind][which]


def replay(frames=FRAMES, recorded=None, precision="fp32") -> Replay:
    rng = np.random.default_rng(1)
    shape = (1, 2, SIZE, SIZE)

    def wrong(got, want):
        return [n for n in want if difference(got[n], want[n]).over(Limits.of(precision)) > 1]

    feeds = [{"image": rng.random(shape, np.float32), "grid": rng.uniform(-1, 1, (1, SIZE, SIZE, 2)).astype(np.float32)}
             for _ in range(frames)]  # fmt: skip
    return Replay(feeds, {"state": np.zeros(shape, np.float32)}, lambda out: {"state": out["next_state"]}, wrong,
                  **({"recorded": recorded} if recorded else {}))  # fmt: skip


def find(candidate, model=None, precision="fp32", printed=None, **more):
    reference = OrtSide(model or Build().model(), optimise=False, threads=1, name="reference")
    lines = printed if printed is not None else []
    side = candidate if hasattr(candidate, "opened") else OrtSide(candidate, threads=1)
    return locate(reference, side, more.pop("replay", None) or replay(precision=precision), precision, say=lines.append, **more)


@pytest.mark.parametrize("cheap, steps", [(False, 6), (True, 3)])
def test_a_sample_that_takes_the_nearest_cell_is_named_in_logarithmically_many_probes(cheap, steps):
    bad = nearest()
    node = node_of(bad, "GridSample")
    printed = []
    side = OrtSide(bad, threads=1)
    side.cheap = cheap
    finding = find(side, printed=printed)
    assert (finding.verdict, finding.frame, finding.outputs) == ("located", 0, ["left"])
    assert (finding.tensor, finding.op_type, finding.node) == (node.output[0], "GridSample", node.name)
    assert finding.module == "left.sampler"
    assert all(error.over(finding.limit) < 1 for error in finding.inputs.values()) and len(finding.inputs) == 2
    assert finding.alone.over(finding.limit) > 1 and "GridSample is at fault" in finding.reason
    assert finding.probes <= 1 + steps + 2, "62 nodes lead there; one probe looks for the frame, two look at what was found"
    assert ("each a build" in printed[1]) is not cheap
    promised = int(printed[1].split("at most ")[1].split()[0])
    assert finding.probes - 1 <= promised, "as announced"
    assert "GridSample" in "\n".join(finding.lines()) and json.loads(json.dumps(finding.to_json()))["tensor"] == finding.tensor


@pytest.mark.parametrize("layer", [0, 1, 17, DEPTH - 2, DEPTH - 1])
def test_a_wrong_constant_of_any_layer_is_found_though_every_output_is_wrong(layer):
    bad = Build().model()
    weight = next(i for i in bad.graph.initializer if i.name == f"w{layer}")
    value = numpy_helper.to_array(weight).copy()
    value[0, 1, 2, 3] *= 1.05
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    finding = find(bad)
    assert finding.module == f"trunk.layers.{layer}" and finding.outputs == ["left", "right", "next_state"]


def test_of_two_faults_in_two_branches_the_earlier_one_is_named():
    bad = Build().model()
    next(a for a in node_of(bad, "GridSample").attribute if a.name == "mode").s = b"nearest"
    for initializer in bad.graph.initializer:
        if initializer.name == "r9":
            initializer.CopyFrom(numpy_helper.from_array(np.float32(0.5).reshape(()), "r9"))
    assert find(bad).op_type == "GridSample"
    relu = node_of(bad, "Relu")
    relu.op_type = "Abs"  # equal: everything is positive
    assert find(bad).op_type == "GridSample", "what is computed otherwise and comes out equal is no fault"


def test_an_operator_that_overflows_halves_is_named_as_that():
    model = Build(gain=2.0e5).model()
    mixed = convert(model, keep=())
    finding = find(mixed, model, "fp16")
    assert (finding.op_type, finding.module) == ("Mul", "right.large")
    assert finding.error.infinite and finding.error.reference_max > 65504 and finding.candidate_type == "float16"
    assert "overflows fp16: |x| = " in finding.reason and "in fp32" in finding.reason


def test_a_number_too_large_for_a_half_that_an_operator_reads_is_named():
    model = Build(gain=2.0e5).model()
    mixed = convert(model, keep=[n.name for n in model.graph.node if n.name.startswith("right.large")])
    finding = find(mixed, model, "fp16")
    assert finding.module == "right.small" and "is more than fp16 holds" in finding.reason


def test_a_graph_of_halves_that_is_good_enough_is_told_so():
    model = Build().model()
    finding = find(convert(model, keep=()), model, "fp16")
    assert finding.verdict == "agrees" and "nothing departs" in finding.reason


def test_nothing_departs_between_two_ways_of_running_one_graph():
    finding = find(Build().model())
    assert finding.verdict == "agrees" and finding.tensor is None and finding.probes == 1
    assert finding.lines() == [finding.reason]


class Fails(OrtSide):
    """Right but for what a frame, or an open tensor, makes of it."""

    def __init__(self, model, bad, when):
        super().__init__(model, threads=1)
        self.bad, self.when = OrtSide(bad, threads=1), when

    @contextmanager
    def opened(self, tensors, inputs=None):
        with super().opened(tensors, inputs) as good, self.bad.opened(tensors, inputs) as bad:
            yield lambda feeds: (bad if self.when(tensors, feeds) else good)(feeds)


def nearest():
    bad = Build().model()
    next(a for a in node_of(bad, "GridSample").attribute if a.name == "mode").s = b"nearest"
    return bad


def test_a_fault_of_the_fourth_frame_is_sought_there_with_the_reference_s_state():
    frames = replay()
    image = frames.feeds[3]["image"]
    side = Fails(Build().model(), nearest(), lambda tensors, feeds: np.array_equal(feeds.get("image", image), image))
    finding = find(side, replay=frames)
    assert (finding.frame, finding.op_type, finding.outputs) == (3, "GridSample", ["left"])


def test_a_fault_that_only_a_fusion_makes_is_told_as_a_range():
    model = Build().model()
    sampled = node_of(model, "GridSample").output[0]
    near = {sampled, *node_of(model, "GridSample").input, *(n.output[0] for n in model.graph.node if n.input[0] == sampled)}
    printed = []
    finding = find(Fails(model, nearest(), lambda tensors, feeds: not near & set(tensors)), printed=printed)
    assert finding.verdict == "range" and "fusion" in finding.reason
    assert node_of(model, "GridSample").name in finding.nodes and len(finding.nodes) < 8
    assert any("lies between" in line for line in finding.lines())


def test_a_state_that_makes_much_of_little_is_drift_and_no_tensor_s_fault():
    model, other = Build(state_gain=40.0).model(), Build(state_gain=40.0).model()
    for initializer in other.graph.initializer:
        if initializer.name == "w3":
            initializer.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(initializer) * np.float32(1 + 6e-5), "w3"))
    finding = find(other, model)
    assert finding.verdict == "drift" and finding.frame > 0 and "grow from frame to frame" in finding.reason


def test_a_reference_that_is_not_as_recorded_is_no_fault_of_the_back_end():
    frames = replay(recorded=lambda i, want: ["left"] if i == 0 else [])
    finding = find(Build().model(), replay=frames)
    assert finding.verdict == "recording" and "the export or the recording is at fault" in finding.reason


def test_small_errors_that_only_a_task_minds_are_found_by_smaller_limits():
    bad = Build().model()
    for initializer in bad.graph.initializer:
        if initializer.name == "l7":
            initializer.CopyFrom(numpy_helper.from_array(np.float32(0.010005).reshape(()), "l7"))
    frames = replay()
    frames.judge = lambda got, want: ["left"] if np.abs(got["left"] - want["left"]).max() > 1e-6 else []
    finding = find(bad, replay=frames)
    assert finding.module == "left.layers.7" and finding.notes


def test_memory_for_open_tensors_is_bounded_by_asking_in_parts(monkeypatch):
    import uniad.bisect.search as module

    sizes = []
    batches = module._Search._batches

    def watched(self, tensors):
        self.memory = 2 * 4 * 2 * SIZE * SIZE  # one tensor of each side
        made = batches(self, tensors)
        sizes.extend(map(len, made))
        return made

    monkeypatch.setattr(module._Search, "_batches", watched)
    assert find(nearest()).op_type == "GridSample"
    assert max(sizes) == 1


def test_the_search_is_the_same_each_time():
    first, second = [], []
    a, b = find(nearest(), printed=first), find(nearest(), printed=second)
    assert first == second and a.lines() == b.lines()


def test_another_graph_is_refused():
    other = Build().model()
    other.graph.output[0].name = "port"
    node = next(n for n in other.graph.node if n.output[0] == "left")
    node.output[0] = "port"
    with pytest.raises(UserError, match="the candidate graph has no left"):
        find(other)


def test_an_engine_is_not_sought_without_its_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="locate the fault on the device"):
        EngineSide(Build().model(), BuildOptions(backend="tensorrt_rtx"))


@pytest.mark.parametrize("value, printed", [(np.inf, "1 infinite"), (np.nan, "1 not a number"), (2.0, "worst 1")])
def test_a_difference_tells_what_is_wrong(value, printed):
    want = np.ones(4, np.float32)
    got = want.copy()
    got[2] = value
    assert printed in str(difference(got, want))
    assert difference(got, want).over(Limits.of("int8")) > 1 or value == 2.0


def test_what_is_infinite_in_the_reference_may_be_infinite():
    want = np.array([1.0, -np.inf], np.float32)
    assert difference(want.copy(), want).over(Limits.of("fp32")) == 0


def test_single_frames_of_a_recorded_sequence_are_judged_by_the_limits_of_their_precision():
    contract = contract_for(nano_spec(2))
    sequence = draw_sequence(contract)
    frames = replay_of(contract, sequence, "fp32")
    state = {f"next_{p.name}": np.zeros(p.shape, p.dtype) for p in contract.state}
    want = {**sequence.expected[0], **state}
    assert frames.judge(want, want) == [] and frames.recorded(0, want) == []
    off = {**want, "plan_traj": want["plan_traj"] + np.float32(0.05)}
    assert frames.judge(off, want) == ["plan_traj"] and frames.recorded(0, off) == ["plan_traj"]
    assert replay_of(contract, sequence, "fp16").judge(off, want) == ["plan_traj"], "0.07 m, and 0.02 m are allowed on average"
    assert frames.judge({**want, "boxes": want["boxes"] * np.float32(np.nan)}, want) == ["boxes"]
    assert frames.judge({**want, "next_bev": want["next_bev"] + 1}, want) == ["next_bev"]
