"""The class that a car holds: the dataset's numbers from raw sensors, its own state, and one clear line for a wrong input."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.specs import config_path, edit, nano_spec
from uniad.data.dataset import SceneStream
from uniad.deploy.device_images import DeviceImages
from uniad.deploy.plausible import Limits
from uniad.deploy.records import read_frame, write_frame
from uniad.deploy.runtime import Runtime
from uniad.deploy.sensors import Pose, Sensors, prepare, prepare_arrays
from uniad.deploy.sources import DatasetFrames, FrameRecord
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.models.uniad import UniAD
from uniad.postprocess.result import Result, result_of
from uniad.processes import cores_here
from uniad.training.carried import ANCHORS
from uniad.training.checkpoint import read_checkpoint, save_checkpoint

FRAMES = 6  # the world's scene


@pytest.fixture(scope="module")
def runtime(nano) -> Iterator[Runtime]:
    with nano.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def records(runtime: Runtime) -> list[FrameRecord]:
    return list(DatasetFrames(runtime.spec.data).scene("0"))


@pytest.fixture
def sensors(runtime: Runtime, records: list[FrameRecord]) -> Sensors:
    """The first frame of a scene, before a runtime that expects one."""
    runtime.reset()
    return records[0].sensors


def test_raw_sensors_make_the_very_input_that_the_dataset_makes(runtime: Runtime, records: list[FrameRecord]) -> None:
    samples = list(SceneStream(runtime.spec.data, "val", stage=2, workers=0))
    assert len(samples) == len(records) == FRAMES
    for number, (sample, record) in enumerate(zip(samples, records)):
        frame = prepare(record.sensors, runtime.spec.data, 0.0, number == 0)
        for name, live, stored in zip(frame._fields, frame, sample.frame):
            assert live.dtype == stored.dtype and torch.equal(live, stored), (number, name)


def test_it_says_what_the_model_says_frame_by_frame(runtime: Runtime, records: list[FrameRecord]) -> None:
    runtime.reset()
    model, state = runtime._runner.model, runtime._runner.model.init_state(1, torch.device("cpu"))
    seen, moved = set(), 0.0
    for number, record in enumerate(records):
        result = runtime.step(record.sensors)
        frame = prepare(record.sensors, runtime.spec.data, 0.0, number == 0)
        with torch.no_grad():
            output, state = model.step(frame, state)
        active = output.track.active[0] & (output.track.obj_id[0] >= 0)
        assert set(result.tracks.ids.tolist()) <= set(output.track.obj_id[0][active].tolist())
        np.testing.assert_array_equal(result.plan.raw, output.stage2.plan.traj[0].numpy())
        np.testing.assert_array_equal(result.occupancy, output.stage2.occ.seg[0].numpy() != 0)
        np.testing.assert_array_equal(result.drivable, output.map.drivable[0].numpy() > 0.5)
        agents = output.stage2.agents.valid[0] & (output.stage2.agents.obj_id[0] >= 0)
        assert result.forecasts.ids.tolist() == output.stage2.agents.obj_id[0][agents].tolist()
        centres = output.stage2.agents.boxes[0][agents][:, None, None, :2] + output.stage2.motion.traj[-1, 0][agents][..., :2]
        np.testing.assert_array_equal(result.forecasts.traj, centres.numpy())
        np.testing.assert_allclose(result.forecasts.prob.sum(-1), 1.0, atol=1e-5)
        claimed = set(result.occupancy_ids[result.occupancy].tolist())
        assert claimed <= set(result.forecasts.ids.tolist()) | {-1}
        seen |= claimed
        moved = max(moved, float(np.linalg.norm(result.plan.path - result.plan.raw, axis=-1).mean()))
        assert set(result.timings_ms) == {"preprocess", "step", "postprocess"}
        assert result.plan.command == record.sensors.command
    assert len(seen) > 1 and moved > 0, "vehicles occupy cells, and the optimiser has something to do"


def test_a_prepared_frame_gives_what_its_sensors_give(runtime: Runtime, records: list[FrameRecord]) -> None:
    both = []
    for prepared in (False, True):
        runtime.reset()
        for number, record in enumerate(records[:3]):
            frame = prepare(record.sensors, runtime.spec.data, 0.0, number == 0) if prepared else record.sensors
            result = runtime.step(frame)
        both.append(result)
    np.testing.assert_array_equal(both[0].tracks.boxes, both[1].tracks.boxes)
    np.testing.assert_array_equal(both[0].plan.path, both[1].plan.path)


def test_time_may_count_from_any_epoch_and_reset_forgets(runtime: Runtime, records: list[FrameRecord]) -> None:
    plans = []
    for epoch in (0.0, 1.5e9):
        runtime.reset()
        for record in records[:2]:
            result = runtime.step(replace(record.sensors, time_s=record.sensors.time_s + epoch))
        plans.append(result.plan.raw)
    np.testing.assert_allclose(plans[0], plans[1], atol=1e-4)
    runtime.reset()
    alone = runtime.step(records[1].sensors).plan.raw
    assert np.abs(alone - plans[0]).max() > 1e-4, "the frame before mattered"


def moved(pose: Pose, metres: float) -> Pose:
    return Pose(np.asarray(pose.translation, float) + [metres, 0, 0], pose.rotation)


def leaning(sensors: Sensors, degrees: float) -> Sensors:
    """The lidar turned about the car's x axis."""
    half = math.radians(degrees) / 2
    mount = Pose(sensors.lidar2ego.translation, [math.cos(half), math.sin(half), 0.0, 0.0])
    return replace(sensors, lidar2ego=mount, ego2global=Pose(sensors.ego2global.translation, [1.0, 0.0, 0.0, 0.0]))


def every(matrix: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(CAMERAS, matrix)


MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])
# What no car can have sent, in the first frame of a scene or a later one; and what only a later one shows
IMPLAUSIBLE = {
    "a projection of zeros": (lambda s: replace(s, lidar2img=every(np.zeros((4, 4)))), "lidar2img of CAM_FRONT"),
    "a projection beyond float32": (lambda s: replace(s, lidar2img=every(np.full((4, 4), 1e300))), "lidar2img holds a value"),
    "a projection of ones": (lambda s: replace(s, lidar2img=every(np.ones((4, 4)))), "ends in the row"),
    "a projection twice as large": (
        lambda s: replace(s, lidar2img={c: np.diag([2.0, 2, 2, 1]) @ m for c, m in s.lidar2img.items()}), "third row has length 2"
    ),
    "a mirrored camera": (lambda s: replace(s, lidar2img={c: m @ MIRROR for c, m in s.lidar2img.items()}), "mirrors the image"),
    "a sheared lidar": (
        lambda s: replace(s, lidar2img={c: m @ np.diag([1.0, 1, 1.5, 1]) for c, m in s.lidar2img.items()}), "shears the image"
    ),
    "a camera 100 m away": (
        lambda s: replace(s, lidar2img={c: m + 100 * np.eye(4)[:, 2:3] * np.eye(4)[3] for c, m in s.lidar2img.items()}),
        "m from the lidar",
    ),
    "can_bus of 1e30": (lambda s: replace(s, can_bus=[1e30] * 18), "can_bus: acceleration is"),
    "can_bus beyond float32": (lambda s: replace(s, can_bus=[1e300] * 18), "can_bus or ego2global holds a value"),
    "a speed of 1000 m/s": (lambda s: replace(s, can_bus=[0] * 13 + [1000, 0, 0, 0, 0]), "velocity is 1000 m/s"),
    "a pose 1e20 m away": (lambda s: replace(s, ego2global=moved(s.ego2global, 1e20)), "m from the origin"),
    "a pose beyond float32": (lambda s: replace(s, ego2global=moved(s.ego2global, 1e39)), "holds a value"),
    "a pose in UTM": (lambda s: replace(s, ego2global=moved(s.ego2global, 5e6)), "position_m=100000"),
    "a lidar a mile off": (lambda s: replace(s, lidar2ego=moved(s.lidar2ego, 1609)), "lidar2ego is a translation of"),
    "a lidar on its side": (lambda s: leaning(s, 50.0), "lay z 50 degrees off upright; needed are z up, and quaternions w first"),
    "a lidar head down": (lambda s: leaning(s, 180.0), "lay z 180 degrees off upright"),
    "images that are none": (lambda s: replace(s, images=None), "images is a NoneType; needed is a dict by camera name"),
    "an image of many lengths": (lambda s: replace(s, images=every([None, []])), "CAM_FRONT is a list that is no array"),
    "a complex projection": (lambda s: replace(s, lidar2img=every(np.eye(4) * 900j)), "CAM_FRONT is no array of numbers"),
    "a pose as a tuple": (lambda s: replace(s, ego2global=([0, 0, 0], [1, 0, 0, 0])), "ego2global is a tuple"),
    "a command that is none": (lambda s: replace(s, command=7), "command is 7"),
    "a time without end": (lambda s: replace(s, time_s=10**5000), "time_s is an int"),
    "a command without end": (lambda s: replace(s, command=10**5000), "command is an int"),
}  # fmt: skip
LATER = {
    "5 km further on": (lambda s: replace(s, ego2global=moved(s.ego2global, 5000)), "the car moved"),
    "turned round": (
        lambda s: replace(s, ego2global=Pose(s.ego2global.translation, s.ego2global.rotation @ TURNED)), "the car turned by 180"
    ),
    "10 s later": (lambda s: replace(s, time_s=s.time_s + 10), "comes 10.5 s after the one before; at most 3 s"),
    "a billion seconds later": (lambda s: replace(s, time_s=s.time_s + 1e9), "1e+09 s after the one before"),
    "in microseconds": (lambda s: replace(s, time_s=s.time_s * 1e6 + 1), "in microseconds, it seems"),
    "at 20 Hz": (lambda s: replace(s, time_s=s.time_s - 0.45), "hand over about every 10th"),
    "an hour ago": (lambda s: replace(s, time_s=s.time_s - 3600), "reset() begins a scene"),
    "cameras that see all": (lambda s: replace(s, lidar2img=every(WIDE)), "a camera sees"),
}  # fmt: skip
TURNED = np.array([[0, 0, 0, 1], [0, 0, 1, 0], [0, -1, 0, 0], [-1, 0, 0, 0]], float)  # times the quaternion 0, 0, 0, 1
WIDE = np.array([[120.0, 0, 800, 15_200], [0, 120, 450, 8550], [0, 0, 1, 19], [0, 0, 0, 1]])  # 19 m below, looking up


def test_refused_frames_change_nothing(
    runtime: Runtime, records: list[FrameRecord], undisturbed: list[Result], record_property: Callable[[str, object], None]
) -> None:
    record_property("attacks", 2 * len(IMPLAUSIBLE) + len(LATER))
    runtime.reset()
    for number, (record, want) in enumerate(zip(records, undisturbed)):
        for case, (spoil, message) in (IMPLAUSIBLE | LATER if number else IMPLAUSIBLE).items():
            with pytest.raises(UserError) as error:
                runtime.step(spoil(record.sensors))
            assert message in str(error.value) and "\n" not in str(error.value), case
        result = runtime.step(record.sensors)
        np.testing.assert_array_equal(result.plan.raw, want.plan.raw)
        np.testing.assert_array_equal(result.tracks.ids, want.tracks.ids)


def test_images_are_scaled_in_as_many_threads_as_there_are_and_alike_in_any(runtime: Runtime, sensors: Sensors):
    assert runtime._threads == min(6, cores_here())
    one, several = (prepare_arrays(sensors, runtime.spec.data, 0.0, True, threads) for threads in (1, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, several, strict=True))
    cameras = list(sensors.images)
    bad = replace(sensors, images={**sensors.images, cameras[1]: np.zeros((4, 4, 3), np.uint8), cameras[4]: "none"})
    for threads in (1, 4):
        with pytest.raises(UserError, match=f"image of {cameras[4]}"):  # what is no image at all comes first
            prepare_arrays(bad, runtime.spec.data, 0.0, True, threads)


@pytest.mark.parametrize("scale", [None, 0.5, 1.0])
def test_images_that_are_made_on_the_device_are_those_of_the_host(runtime: Runtime, sensors: Sensors, scale: float | None):
    """On a CPU to the digit, also where no pixel is left out, and in memory that the frame before has used."""
    data = runtime.spec.data
    image = (
        data.image if scale is None else replace(data.image, scale=scale, height=int(900 * scale) + 30, width=int(1600 * scale))
    )
    made, data = DeviceImages(image, "cpu"), replace(data, image=image)
    turned = replace(sensors, images={name: np.asarray(pixels)[::-1] for name, pixels in sensors.images.items()})
    for given in (sensors, turned, sensors):
        host, device = (prepare_arrays(given, data, 0.0, True, 2, on_device) for on_device in (None, made))
        assert torch.equal(torch.from_numpy(host.img), device.img) and np.array_equal(host.lidar2img, device.lidar2img)


def test_a_step_takes_images_that_lie_where_it_computes(runtime: Runtime, records: list[FrameRecord], monkeypatch) -> None:
    runtime.reset()
    expected = [runtime.step(record.sensors) for record in records]
    monkeypatch.setattr(runtime, "_images", DeviceImages(runtime.spec.data.image, "cpu"))
    runtime.reset()
    for record, want in zip(records, expected):
        got = runtime.step(record.sensors)
        np.testing.assert_array_equal(got.plan.raw, want.plan.raw)
        np.testing.assert_array_equal(got.tracks.boxes, want.tracks.boxes)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["torch", "compiled"])
def test_a_gpu_makes_images_as_the_host_does(nano, records: list[FrameRecord], backend: str) -> None:
    """Up to rounding; they come where the step reads them."""
    with nano.open(backend=backend, device="cuda") as there:
        made = there._images
        assert made is not None
        for record in records[:3]:
            there.step(record.sensors)
            host, device = (
                prepare_arrays(record.sensors, there.spec.data, 0.0, True, 2, on_device) for on_device in (None, made)
            )
            assert device.img.is_cuda and np.abs(device.img.cpu().numpy() - host.img).max() < 1e-5


def test_poses_before_a_scene_are_taken_as_one_as_several_and_as_a_loader_process_hands_them_over(runtime: Runtime):
    rows = np.random.default_rng(0).normal(size=(20, 18)).astype(np.float32)

    def carried(poses) -> dict[str, np.ndarray]:
        runtime.reset(poses)
        return {name: np.asarray(runtime._runner.state[name]) for name in ("state_pos", "state_angle")}

    expected = carried(rows[-1])
    assert np.array_equal(expected["state_pos"], rows[-1:, :3]) and np.array_equal(expected["state_angle"], rows[-1, 17:])
    for poses in (rows, torch.from_numpy(rows), torch.from_numpy(rows[-1])):
        got = carried(poses)
        assert all(np.array_equal(got[name], expected[name]) for name in expected), type(poses)
    with pytest.raises(UserError, match="18 numbers"):
        runtime.reset(rows[:, :17])


@pytest.fixture(scope="module")
def undisturbed(runtime: Runtime, records: list[FrameRecord]) -> list[Result]:
    runtime.reset()
    return [runtime.step(record.sensors) for record in records[:2]]


def test_a_refused_frame_begins_no_scene(runtime: Runtime, records: list[FrameRecord], undisturbed: list[Result]) -> None:
    """Its time and its cameras are not those of the scene; the frame after it starts one."""
    runtime.reset()
    late = replace(records[0].sensors, time_s=100.0)
    for spoilt in (replace(late, command=7), replace(late, lidar2img=every(WIDE)), replace(late, can_bus=[1e30] * 18)):
        with pytest.raises(UserError):
            runtime.step(spoilt)
    frame = prepare(late, runtime.spec.data, 0.0, True)
    with pytest.raises(UserError, match="does not fit the model"):
        runtime.step(frame._replace(img=frame.img[:, :5]))
    result = runtime.step(records[0].sensors)
    np.testing.assert_array_equal(result.plan.raw, undisturbed[0].plan.raw)


def test_a_step_that_fails_inside_is_undone(
    runtime: Runtime, records: list[FrameRecord], undisturbed: list[Result], monkeypatch
) -> None:
    runtime.reset()
    runtime.step(records[0].sensors)
    step = runtime._runner.step

    def broken(feed):
        outputs = dict(step(feed))
        runtime._runner._state["state_bev"] = runtime._runner._state["state_bev"] * np.nan
        return outputs

    def interrupted(feed):
        step(feed)
        raise KeyboardInterrupt

    for failing, kind in ((broken, UserError), (interrupted, KeyboardInterrupt)):
        monkeypatch.setattr(runtime._runner, "step", failing)
        with pytest.raises(kind):
            runtime.step(records[1].sensors)
        monkeypatch.undo()
    np.testing.assert_array_equal(runtime.step(records[1].sensors).plan.raw, undisturbed[1].plan.raw)


def test_a_lidar_may_lean_by_as_much_as_the_limit_says(
    runtime: Runtime, records: list[FrameRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, degrees, accepted in ((45.0, 44.0, True), (45.0, 46.0, False), (50.0, 46.0, True), (50.0, 51.0, False)):
        monkeypatch.setattr(runtime, "limits", Limits.parse([f"tilt_deg={limit:g}"]))
        runtime.reset()
        if accepted:
            assert runtime.step(leaning(records[0].sensors, degrees)).plan is not None
        else:
            with pytest.raises(UserError, match=f"lay z {degrees:.0f} degrees off upright.*tilt_deg={limit:g}"):
                runtime.step(leaning(records[0].sensors, degrees))
    assert Limits().tilt_deg == 45


def test_limits_are_the_callers(nano, runtime: Runtime, records: list[FrameRecord]) -> None:
    runtime.reset()
    runtime.step(records[0].sensors)
    usual, runtime.limits = runtime.limits, Limits.parse(["most_step_s=inf", "speed_mps=1e4"])
    try:
        later = replace(records[1].sensors, time_s=11.0, ego2global=moved(records[1].sensors.ego2global, 5000))
        assert runtime.step(later).plan is not None
    finally:
        runtime.limits = usual
    for text in ("most_steps=1", "speed_mps", "speed_mps=fast", "speed_mps=-1", "speed_mps=nan"):
        with pytest.raises(UserError, match="limit"):
            Limits.parse([text])


def test_calls_from_many_threads_take_their_turns(runtime: Runtime, records: list[FrameRecord], monkeypatch) -> None:
    runtime.reset()
    inside, most, original = [0], [0], runtime._runner.step

    def watched(feed):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        out = original(feed)
        inside[0] -= 1
        return out

    monkeypatch.setattr(runtime._runner, "step", watched)
    frame = prepare(records[0].sensors, runtime.spec.data, 0.0, True)
    threads = [threading.Thread(target=runtime.step, args=(frame,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


def without(mapping: dict, *names: str) -> dict:
    return {name: value for name, value in mapping.items() if name not in names}


BROKEN = {
    "a camera is missing": (lambda s: replace(s, images=without(s.images, "CAM_BACK")), "5 of 6 cameras: it lacks CAM_BACK"),
    "a camera too many": (lambda s: replace(s, images={**s.images, "CAM_TOP": 0}), "unknown CAM_TOP"),
    "a matrix is missing": (lambda s: replace(s, lidar2img=without(s.lidar2img, "CAM_FRONT")), "lidar2img has 5 of 6"),
    "an image of another size": (
        lambda s: replace(s, images={**s.images, "CAM_FRONT": np.zeros((720, 1280, 3), np.uint8)}),
        "of CAM_FRONT has 1280x720 pixels",
    ),
    "an image of floats": (
        lambda s: replace(s, images={c: i.astype(np.float32) for c, i in s.images.items()}), "image of CAM_FRONT is float32"
    ),
    "a grey image": (lambda s: replace(s, images={c: i[..., 0] for c, i in s.images.items()}), "BGR"),
    "a small matrix": (lambda s: replace(s, lidar2img=dict.fromkeys(CAMERAS, np.eye(3))), "CAM_FRONT has shape [3, 3]"),
    "nan in a matrix": (lambda s: replace(s, lidar2img=dict.fromkeys(CAMERAS, np.full((4, 4), np.nan))), "not finite"),
    "a pose of zeros": (lambda s: replace(s, ego2global=Pose([0, 0, 0], [0, 0, 0, 0])), "ego2global rotation has length 0"),
    "a pose of text": (lambda s: replace(s, lidar2ego=Pose("here", [1, 0, 0, 0])), "lidar2ego translation"),
    "half a can bus": (lambda s: replace(s, can_bus=np.zeros(9)), "can_bus has shape [9]"),
    "command 3": (lambda s: replace(s, command=3), "command is 3, which is no driving command"),
    "command -1": (lambda s: replace(s, command=-1), "command is -1"),
    "command left": (lambda s: replace(s, command="left"), "no driving command"),
    "no time": (lambda s: replace(s, time_s=None), "time_s is None"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_wrong_sensors_get_one_line(runtime: Runtime, sensors: Sensors, case: str) -> None:
    spoil, message = BROKEN[case]
    with pytest.raises(UserError) as error:
        runtime.step(spoil(sensors))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_time_that_stands_still_and_things_that_are_no_frames_get_one_line(runtime: Runtime, sensors: Sensors) -> None:
    runtime.step(sensors)
    with pytest.raises(UserError, match="reset\\(\\) begins a scene"):
        runtime.step(sensors)
    with pytest.raises(UserError, match="not dict"):
        runtime.step({})
    frame = prepare(sensors, runtime.spec.data, 0.0, True)
    with pytest.raises(UserError, match="does not fit the model: img is"):
        runtime.step(frame._replace(img=frame.img[:, :5]))


def test_numbers_that_are_none_never_reach_the_car(runtime: Runtime, sensors: Sensors) -> None:
    frame = prepare(sensors, runtime.spec.data, 0.0, True)
    feed = runtime._feed(frame)
    outputs = dict(runtime._runner.step(feed))
    outputs["plan_traj"] = outputs["plan_traj"] * np.nan
    with pytest.raises(UserError, match="plan_traj are not finite"):
        result_of(outputs, feed, runtime.spec)


def test_the_plan_of_nano_slows_down_for_who_is_tracked_on_its_way_and_moves_aside_for_nobody(
    runtime: Runtime, sensors: Sensors
) -> None:
    feed = runtime._feed(prepare(sensors, runtime.spec.data, 0.0, True))
    outputs = {name: value.copy() for name, value in runtime._runner.step(feed).items()}
    feed = {**feed, "can_bus": feed["can_bus"].copy()}
    feed["can_bus"][0, 13] = 7.0
    straight = np.stack([np.zeros(6), 3.5 * np.arange(1, 7)], -1).astype(np.float32)
    outputs["plan_traj"][0] = straight
    for name in ("valid", "active"):
        outputs[name][:] = 0
        outputs[name][0, :2] = 1
    outputs["score"][0, :2], outputs["obj_id"][0, :2] = 0.9, (7, 8)
    standing_car = [-1.0, 1.9, 4.6, 1.7, -np.pi, 0.0, 0.0]
    outputs["boxes"][0, :2] = [[0.0, 14.0, *standing_car], [-2.4, 5.0, *standing_car]]
    outputs["occ_seg"][:] = 1  # which upstream's would shy away from
    plan = result_of(outputs, feed, runtime.spec).plan
    assert np.array_equal(plan.raw, straight)
    assert plan.path.dtype == np.float32 and np.abs(plan.path[:, 0]).max() < 1e-6 and 4.0 < plan.path[-1, 1] < 9.5
    outputs["boxes"][0, 0, 1] = -14.0
    assert np.array_equal(result_of(outputs, feed, runtime.spec).plan.path, straight)
    off = edit(runtime.spec, model__stage2__plan__use_col_optim=False)
    outputs["boxes"][0, 0, 1] = 14.0
    assert np.array_equal(result_of(outputs, feed, off).plan.path, straight)


def test_opening_says_what_is_missing(nano, tmp_path) -> None:
    for path, arguments, message in (
        (tmp_path / "a.onnx", {}, "no such file"),
        (nano.checkpoint, {}, "needs the config"),
        (nano.checkpoint, {"config": nano.config, "backend": "tensorrt"}, "runs in torch"),
        (nano.checkpoint, {"config": nano.config, "backend": "openvino"}, "unknown backend 'openvino'"),
        (nano.checkpoint, {"config": nano.config, "device": "npu"}, "unknown device 'npu'"),
    ):
        with pytest.raises(UserError, match=message):
            Runtime.open(path, **arguments)
    lone = tmp_path / "lone.onnx"
    lone.write_bytes(b"graph")
    with pytest.raises(UserError, match="the card of lone.onnx is missing"):
        Runtime.open(lone)
    with pytest.raises(UserError, match="the card of lone.onnx is missing"):
        Runtime.open(tmp_path / "lone.onnx.json")


def test_a_model_of_stage_1_tracks_and_maps_and_says_nothing_of_the_future(nano, records, tmp_path) -> None:
    spec = nano_spec(1)
    state = UniAD(spec.model).state_dict()
    save_checkpoint(tmp_path / "nano.pth", {"meta": {"uniad": {"variant": "nano"}}, "state_dict": state})
    with Runtime.open(tmp_path / "nano.pth", "cpu", config=config_path("nano")) as first:
        result = first.step(records[0].sensors)
    assert result.lanes.shape == (3, *spec.data.canvas_hw) and len(result.detections) > 0
    assert result.plan is result.forecasts is result.occupancy is result.occupancy_ids is None
    write_frame(tmp_path, 0, result, records[0].info, spec.data.class_names)
    read, info = read_frame(tmp_path / "0000.json", spec.data.class_names)
    assert read.plan is None and "plan" not in info and (read.drivable == result.drivable).all()


def test_another_checkpoint_takes_over_whole_or_not_at_all(nano, records, tmp_path) -> None:
    """In place, in the middle of a scene: then it says what one says that was opened with that checkpoint."""
    other = read_checkpoint(nano.checkpoint)
    planner = next(value for key, value in other["state_dict"].items() if key.startswith("planning_head.") and value.dim() > 1)
    planner *= 1.5
    save_checkpoint(tmp_path / "other.pth", {key: value for key, value in other.items() if key != "native"} | {
        "native": {ANCHORS: other["native"][ANCHORS]}})  # fmt: skip
    save_checkpoint(tmp_path / "first.pth", {"state_dict": UniAD(nano_spec(1).model).state_dict()})

    def plan(opened: Runtime, name: str) -> np.ndarray:
        assert opened.source.endswith(name)
        return opened.step(records[0].sensors).plan.raw

    with nano.open() as opened:
        before = plan(opened, nano.checkpoint.name)
        with pytest.raises(UserError, match="is of stage 1"):
            opened.load_weights(tmp_path / "first.pth")
        opened.reset()
        np.testing.assert_array_equal(plan(opened, nano.checkpoint.name), before)
        opened.load_weights(tmp_path / "other.pth")
        after = plan(opened, "other.pth")
    with Runtime.open(tmp_path / "other.pth", "cpu", config=nano.config, options=nano.options) as fresh:
        np.testing.assert_array_equal(plan(fresh, "other.pth"), after)
    assert not np.array_equal(before, after)


def test_a_closed_runtime_says_so(nano) -> None:
    opened = nano.open()
    opened.close()
    opened.close()
    with pytest.raises(UserError, match="is closed"):
        opened.reset()
