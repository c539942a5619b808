"""The ROS 2 node over a stand-in of rclpy, and its package as colcon would take it."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from helpers import REPO
from helpers.bags import drawn_result
from helpers.toy_graph import write_toy
from uniad.artifacts.card import sequence_path
from uniad.deploy.plausible import Limits
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.ros.live import Live, verify_model
from uniad.ros.messages import nanoseconds
from uniad.ros.topics import Held

pytest.importorskip("rosbags", reason="rosbags is not installed: make env installs it")
from ruamel.yaml import YAML  # noqa: E402  it comes with rosbags

from helpers import rclpy_stand_in as ros  # noqa: E402

PACKAGE = REPO / "ros2/uniad_node"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "toy.onnx")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> ros.World:
    monkeypatch.syspath_prepend(str(PACKAGE))
    for name in [name for name in sys.modules if name.partition(".")[0] == "uniad_node"]:
        monkeypatch.delitem(sys.modules, name)
    return ros.install(monkeypatch)


@pytest.fixture
def node(world: ros.World, toy: Path):
    made = importlib.import_module("uniad_node.node").UniadNode(parameter_overrides=[("model", str(toy))])
    yield made
    made.destroy_node()


def advertise(world: ros.World, messages) -> None:
    for topic, _, message in messages:
        if topic not in world.types:
            latched = topic == "/tf_static"
            best = "/cam_" in topic or "points" in topic
            world.advertise(
                topic, message.__msgtype__, durability=ros.Durability.TRANSIENT_LOCAL if latched else ros.Durability.VOLATILE,
                reliability=ros.Reliability.BEST_EFFORT if best else ros.Reliability.RELIABLE,
            )  # fmt: skip


def play(world: ros.World, node, messages, shift_ns: int = 0) -> None:
    for topic, stamp, message in messages:
        world.now_ns = stamp + shift_ns
        world.publish(topic, ros.from_bag(message))
        node._waiting.join()  # a model that is fast enough


def errors(node) -> str:
    return " / ".join(text for level, text in node.log if level == "error")


def warnings(node) -> str:
    return " / ".join(text for level, text in node.log if level == "warning")


def test_a_drive_goes_through_the_whole_lifecycle(world, node, messages):
    advertise(world, messages)
    assert node.trigger_configure() is ros.Answer.SUCCESS and node.state == "inactive"
    assert ("info", next(text for level, text in node.log if "verified on 2 frames in onnxruntime" in text)) in node.log
    assert not world.subscriptions, "nothing is listened to before it is active"
    assert node.trigger_activate() is ros.Answer.SUCCESS, node.log
    play(world, node, messages)
    assert (node.frames, node.refused, node.dropped) == (6, 0, 0), node.log
    stamps = [nanoseconds(message.header.stamp) for topic, message in world.sent if topic == "/uniad/map"]
    assert stamps == [stamp for topic, stamp, _ in messages if topic == "/lidar_top/points"]
    assert {topic for topic, _ in world.sent} == {"/uniad/tracks", "/uniad/detections", "/uniad/map", "/tf_static"}
    assert node.trigger_deactivate() is ros.Answer.SUCCESS and not world.subscriptions
    sent = len(world.sent)
    play(world, node, messages)
    assert len(world.sent) == sent, "an inactive node says nothing"
    assert node.trigger_activate() is ros.Answer.SUCCESS
    play(world, node, messages[: len(messages) // 2])
    assert node.frames > 6 and node.refused == 0, "the second drive begins anew"
    node.trigger_deactivate()
    runtime = node._runtime
    assert node.trigger_cleanup() is ros.Answer.SUCCESS and node.state == "unconfigured"
    with pytest.raises(UserError, match="is closed"):
        runtime.reset()
    assert node.trigger_configure() is ros.Answer.SUCCESS
    assert node.trigger_shutdown() is ros.Answer.SUCCESS and node.state == "finalized"


def test_a_model_that_cannot_be_used_leaves_the_node_unconfigured(world, node, toy, tmp_path):
    for name, value, told in (
        ("model", "", "parameter model is empty"), ("model", str(tmp_path / "absent.onnx"), "absent.onnx"),
        ("backend", "onnx", "parameter backend is 'onnx': choose auto"), ("topics_file", "/absent.json", "does not exist"),
        ("limits", "most_stp_s=3", "limit 'most_stp_s=3': choose"),
    ):  # fmt: skip
        before = node.get_parameter(name).value
        assert node.set_parameter(name, value)
        assert node.trigger_configure() is ros.Answer.FAILURE and node.state == "unconfigured"
        assert told in node.log[-1][1] and "\n" not in node.log[-1][1]
        node.set_parameter(name, before)
    assert node.trigger_configure() is ros.Answer.SUCCESS, node.log


def test_topics_that_are_not_there_leave_it_inactive_until_they_are(world, node, messages):
    advertise(world, [entry for entry in messages if entry[0] != "/cam_back/image_raw/compressed"])
    node.trigger_configure()
    assert node.trigger_activate() is ros.Answer.FAILURE and node.state == "inactive"
    assert "no topic of CAM_BACK" in errors(node) and "it holds /cam_back/camera_info" in errors(node)
    advertise(world, messages)
    assert node.trigger_activate() is ros.Answer.SUCCESS


def test_what_nobody_foresaw_is_an_error_of_the_transition_and_gives_everything_back(world, node, monkeypatch):
    module = sys.modules["uniad_node.node"]
    monkeypatch.setattr(module.Limits, "parse", lambda texts: 1 / 0)
    assert node.trigger_configure() is ros.Answer.ERROR and node.state == "unconfigured"
    monkeypatch.undo()
    assert node._runtime is None and not node._sinks


def test_a_bag_that_plays_again_is_another_drive(world, node, messages):
    advertise(world, messages)
    node.trigger_configure(), node.trigger_activate()
    play(world, node, messages)
    play(world, node, [entry for entry in messages if entry[0] != "/tf_static"], shift_ns=10**10)
    assert "another drive begins" in warnings(node)
    assert node.refused == 0 and node.frames >= 11, (node.frames, node.log)


def test_a_lost_image_and_a_wrong_message_are_told_and_the_drive_goes_on(world, node, messages):
    advertise(world, messages)
    node.trigger_configure(), node.trigger_activate()
    backs = [stamp for topic, stamp, _ in messages if topic == "/cam_back/image_raw/compressed"]
    play(world, node, [entry for entry in messages if entry[:2] != ("/cam_back/image_raw/compressed", backs[2])])
    assert node.frames == 5 and node.incomplete == 1 and "frame left out: CAM_BACK: the nearest message is" in warnings(node)
    bad = ros.message_class("std_msgs/msg/Int8")(data=9)
    world.publish("/command", bad)
    assert "the command is 9; needed is one of 0 right, 1 left, 2 straight" in warnings(node)


def test_a_frame_that_fails_is_told_and_the_thread_lives_on(world, node, messages, monkeypatch):
    advertise(world, messages)
    node.trigger_configure(), node.trigger_activate()
    real, calls = node._live.run, []

    def failing(instant):
        calls.append(instant)
        if len(calls) == 2:
            raise ZeroDivisionError("a fault of ours")
        if len(calls) == 3:
            raise UserError("implausible")
        return real(instant)

    monkeypatch.setattr(node._live, "run", failing)
    play(world, node, messages)
    assert len(calls) == 6 and node.refused == 2 and node.frames == 4
    assert "ZeroDivisionError: a fault of ours" in errors(node) and "frame refused: implausible" in warnings(node)


def test_a_model_that_is_too_slow_misses_the_older_frame(world, node, messages):
    import threading

    advertise(world, messages)
    node.trigger_configure(), node.trigger_activate()
    gate, run = threading.Event(), node._live.run
    node._live.run = lambda instant: (gate.wait(20), run(instant))[1]
    for topic, stamp, message in messages:
        world.now_ns = stamp
        world.publish(topic, ros.from_bag(message))
    gate.set()
    node._waiting.join()
    assert node.dropped >= 3 and node.frames + node.dropped == 6 and "slower than its frames" in warnings(node)


def test_parameters_are_described_and_held_to_their_ranges(world, node, toy):
    parameters = sys.modules["uniad_node.parameters"].PARAMETERS
    assert all(node._descriptors[name].description for name in parameters)
    for name, value in (("every", 0), ("tolerance_s", 2.0), ("every", 2.5)):
        assert not node.set_parameter(name, value)
    assert node.set_parameter("every", 5)
    with pytest.raises(ros.InvalidParameterValueException):
        sys.modules["uniad_node.node"].UniadNode(parameter_overrides=[("patience_s", -1.0)])


def test_messages_of_a_whole_result_are_what_rclpy_takes(world, spec):
    make = importlib.import_module("uniad_node.node").make
    from uniad.ros.results import ResultMessages

    messages = ResultMessages(make, spec).of(drawn_result(), 10**18 + 7, -1.84)
    module = sys.modules["uniad_node.node"]
    for name, kind in (module.PUBLISHED | module.PUBLISHED_STAGE2).items():
        assert isinstance(messages[name], ros.message_class(kind)), name


def test_a_running_car_and_a_bag_are_the_same_frames(spec, messages):
    """To the bit, and the CAN bus too: an instant waits until odometry and IMU have gone beyond it."""
    seen = []
    runtime = SimpleNamespace(spec=spec, limits=Limits(), reset=lambda: None, step=lambda s: seen.append(s) or drawn_result())
    held = list({topic: Held(topic, message.__msgtype__, 1) for topic, _, message in messages}.values())
    live = Live(runtime, held, lambda kind, **fields: SimpleNamespace(**fields))
    for topic, stamp, message in messages:
        for instant in live.add(topic, message, stamp):
            live.run(instant)
    expected = [record.sensors for record in DatasetFrames(spec.data).scene("0")]
    assert len(seen) == len(expected) and live.notes() == []
    for a, b in zip(seen, expected):
        np.testing.assert_array_equal(a.can_bus[7:16], b.can_bus[7:16])
        assert (a.time_s, a.command) == (b.time_s, b.command)
        for name in CAMERAS:
            np.testing.assert_array_equal(a.lidar2img[name], b.lidar2img[name])
            np.testing.assert_array_equal(a.images[name], b.images[name])


def test_a_command_acts_where_the_car_s_clock_is_not_the_one_of_its_headers(spec, messages):
    """A simulator whose headers begin at 0 s, before a node that reads the world's clock: the command counted as one of later."""
    instants = [stamp for topic, stamp, _ in messages if topic == "/lidar_top/points"]
    kind = type(next(message for topic, _, message in messages if topic == "/command"))
    said = [("/command", instants[0] - 1, kind(data=0)), ("/command", (instants[2] + instants[3]) // 2, kind(data=1))]
    others = [entry for entry in messages if entry[0] != "/command"]
    for ahead in (0, 10**17, -(10**17)):
        seen: list = []
        step = lambda sensors, seen=seen: seen.append(sensors) or drawn_result()  # noqa: E731
        runtime = SimpleNamespace(spec=spec, limits=Limits(), reset=lambda: None, step=step)
        held = list({topic: Held(topic, message.__msgtype__, 1) for topic, _, message in messages}.values())
        live = Live(runtime, held, lambda kind, **fields: SimpleNamespace(**fields))
        for topic, stamp, message in sorted([*others, *said], key=lambda entry: entry[1]):
            for instant in live.add(topic, message, stamp + ahead):
                live.run(instant)
        assert [sensors.command for sensors in seen] == [0, 0, 0, 1, 1, 1], ahead


def test_a_frame_that_ends_after_another_drive_began_is_none_of_it(spec, messages):
    resets = []

    def step(sensors):
        live.begin()  # as another thread would, when time goes back
        return drawn_result()

    runtime = SimpleNamespace(spec=spec, limits=Limits(), reset=lambda: resets.append(1), step=step)
    held = list({topic: Held(topic, message.__msgtype__, 1) for topic, _, message in messages}.values())
    live = Live(runtime, held, lambda kind, **fields: SimpleNamespace(**fields))
    for _ in range(2):
        for topic, stamp, message in messages:
            if instants := live.add(topic, message, stamp):
                live.run(instants[0])
                break
    assert len(resets) == 2, "the second drive begins a scene"


def test_a_model_that_departs_from_its_recording_is_refused(toy, tmp_path):
    assert "verified on 2 frames" in verify_model(toy)
    assert verify_model(toy, "never") == "not verified: nobody asked for it"
    for file in toy.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path, sequence = tmp_path / toy.name, sequence_path(tmp_path / toy.name)
    arrays = dict(np.load(sequence))
    arrays["f0/out/boxes"] = arrays["f0/out/boxes"] + 1
    np.savez_compressed(sequence, **arrays)
    with pytest.raises(UserError, match="departs from its recorded sequence|toy.sequence"):
        verify_model(path)
    sequence.unlink()
    assert "is not beside it" in verify_model(path)
    with pytest.raises(UserError, match="cannot be verified"):
        verify_model(path, "always")


# --- the package


def test_package_xml_is_of_format_3_and_names_what_the_code_imports():
    root = ET.parse(PACKAGE / "package.xml").getroot()
    assert root.tag == "package" and root.get("format") == "3"
    texts = {tag: (root.findtext(tag) or "").strip() for tag in ("name", "version", "description", "license")}
    assert all(texts.values()) and re.fullmatch(r"\d+\.\d+\.\d+", texts["version"])
    assert re.fullmatch(r"[a-z][a-z0-9_]*", texts["name"])
    maintainer = root.find("maintainer")
    assert maintainer is not None and "@" in maintainer.get("email", "")
    assert root.findtext("export/build_type") == "ament_python"
    needed = {element.text for element in root.findall("exec_depend")}
    used = set()
    for path in (*PACKAGE.glob("uniad_node/*.py"), *PACKAGE.glob("launch/*.py")):
        for entry in ast.walk(ast.parse(path.read_text())):
            if isinstance(entry, ast.ImportFrom) and entry.module:
                used.add(entry.module.partition(".")[0])
            elif isinstance(entry, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in entry.names}
    used |= {kind.partition("/")[0] for kind in re.findall(r'"(\w+/msg/\w+)"', "".join(
        (REPO / "projects/uniad/ros" / name).read_text() for name in ("messages.py", "results.py", "write.py")))}  # fmt: skip
    ours = used - set(sys.stdlib_module_names) - {"uniad", "uniad_node", "numpy"}
    assert ours == needed
    setup = (PACKAGE / "setup.py").read_text()
    assert f'version="{texts["version"]}"' in setup and f'license="{texts["license"]}"' in setup


def test_the_package_installs_where_ros_looks_for_it(tmp_path: Path):
    # As colcon does: built outside of the sources, into a prefix.
    words = ["-q", "build", "-b", str(tmp_path / "build"), "egg_info", "-e", str(tmp_path), "install", "--prefix",
             str(tmp_path / "prefix"), "--record", str(tmp_path / "record"), "--single-version-externally-managed"]  # fmt: skip
    done = subprocess.run([sys.executable, "setup.py", *words], cwd=PACKAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    prefix = tmp_path / "prefix"
    for name in (
        "lib/uniad_node/uniad_node", "share/ament_index/resource_index/packages/uniad_node", "share/uniad_node/package.xml",
        "share/uniad_node/launch/uniad.launch.py", "share/uniad_node/config/uniad.yaml", "share/uniad_node/config/topics.json",
    ):  # fmt: skip
        assert (prefix / name).is_file(), name
    assert list(prefix.glob("lib/python*/site-packages/uniad_node/node.py"))
    assert not list(PACKAGE.glob("build")) and not list(PACKAGE.glob("*.egg-info"))


def test_config_launch_and_readme_name_what_the_node_takes(world, monkeypatch):
    node = importlib.import_module("uniad_node.node")
    parameters = sys.modules["uniad_node.parameters"].PARAMETERS
    values = YAML(typ="safe").load(PACKAGE / "config/uniad.yaml")["/**"]["ros__parameters"]
    assert {name: p.default for name, p in parameters.items()} == values
    page = (PACKAGE / "README.md").read_text()
    assert all(f"`{name}`" in page for name in parameters)
    assert all(f"~/{name}" in page for name in (*node.PUBLISHED, *node.PUBLISHED_STAGE2))
    from uniad.formats.topics import TOPICS

    assert set(TOPICS.check(json.loads((PACKAGE / "config/topics.json").read_text()), "topics.json")["cameras"]) == set(CAMERAS)
    for name in (
        "ament_index_python.packages", "launch", "launch.actions", "launch.conditions", "launch.events", "launch.substitutions",
        "launch_ros.actions", "launch_ros.event_handlers", "launch_ros.events.lifecycle", "lifecycle_msgs.msg",
    ):  # fmt: skip
        stub = ModuleType(name)
        stub.__getattr__ = lambda word: MagicMock(name=word, return_value=word)
        monkeypatch.setitem(sys.modules, name, stub)
    sys.modules["launch"].LaunchDescription = list
    sys.modules["ament_index_python.packages"].get_package_share_directory = lambda package: f"/share/{package}"
    space: dict = {}
    exec(compile((PACKAGE / "launch/uniad.launch.py").read_text(), "uniad.launch.py", "exec"), space)
    assert len(space["generate_launch_description"]()) == 7
