"""A scene as a bag is the scene: images, matrices, poses and results to the last bit, whatever the bag is stored as."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import infer
import make_bag
from helpers.bags import changed, record, write
from uniad.deploy.records import read_frame, read_summary
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.formats.report import read_report
from uniad.ros.bag import BagFrames
from uniad.ros.messages import nanoseconds

pytest.importorskip("rosbags", reason="rosbags is not installed: make env installs it")

FRONT = "/cam_front/image_raw/compressed"
BACK = "/cam_back/image_raw/compressed"


def same_sensors(dataset: DatasetFrames, bag: BagFrames, most: int | None = None) -> None:
    mine, theirs = list(bag.scene(most)), list(dataset.scene("0", most))
    assert len(mine) == len(theirs)
    for a, b in zip((r.sensors for r in theirs), (r.sensors for r in mine)):
        assert (a.time_s, a.command) == (b.time_s, b.command)
        for name in CAMERAS:
            np.testing.assert_array_equal(a.images[name], b.images[name])
            np.testing.assert_array_equal(a.lidar2img[name], b.lidar2img[name])
        for pose in ("ego2global", "lidar2ego"):
            for part in ("translation", "rotation"):
                np.testing.assert_array_equal(getattr(getattr(a, pose), part), getattr(getattr(b, pose), part))
        np.testing.assert_array_equal(a.can_bus[7:16], b.can_bus[7:16])


@pytest.fixture(scope="module")
def dataset(spec) -> DatasetFrames:
    return DatasetFrames(spec.data)


def test_every_frame_of_a_bag_is_the_datasets_to_the_bit(dataset, drive):
    bag = BagFrames(drive)
    same_sensors(dataset, bag)
    assert bag.notes() == [] and bag.left_out == []


def test_results_along_a_bag_are_those_along_the_scene(nano, dataset, drive):
    with nano.open() as runtime:
        expected = [runtime.step(record.sensors) for record in dataset.scene("0", 3)]
        runtime.reset()
        found = [runtime.step(record.sensors) for record in BagFrames(drive).scene(3)]
    for a, b in zip(expected, found):
        for name in ("lanes", "drivable", "occupancy", "occupancy_ids"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name in ("boxes", "scores", "labels", "ids"):
            np.testing.assert_array_equal(getattr(a.tracks, name), getattr(b.tracks, name))
            np.testing.assert_array_equal(getattr(a.detections, name), getattr(b.detections, name))
        np.testing.assert_array_equal(a.plan.path, b.plan.path)
        np.testing.assert_array_equal(a.plan.raw, b.plan.raw)
        np.testing.assert_array_equal(a.forecasts.traj, b.forecasts.traj)


@pytest.mark.parametrize("name, how", [
    ("raw_rgb.mcap", {"encoding": "rgb8", "compressed": True}), ("raw_bgr.db3", {"encoding": "bgr8"}),
    ("folder", {"storage": "mcap", "compressed": True}), ("folder_sqlite", {"storage": "sqlite3", "compressed": True}),
])  # fmt: skip
def test_raw_images_folders_sqlite_and_compression_are_the_same_frames(spec, dataset, tmp_path, name, how):
    same_sensors(dataset, BagFrames(record(spec.data, tmp_path / name, most=2, **how)), 2)


@pytest.mark.parametrize("compression, indexed", [("LZ4", True), ("ZSTD", False), ("NONE", False)])
def test_mcap_of_another_writer_is_read_with_any_compression_and_without_index(messages, dataset, tmp_path, compression, indexed):
    mcap = pytest.importorskip("mcap.writer", reason="mcap is not installed: make env installs it")
    from uniad.ros.bag import typestore

    store, path, channels = typestore(), tmp_path / "other.mcap", {}
    flags = {} if indexed else dict(
        index_types=mcap.IndexType.NONE, repeat_channels=False, repeat_schemas=False, use_statistics=False
    )  # fmt: skip
    with open(path, "wb") as stream:
        writer = mcap.Writer(stream, compression=mcap.CompressionType[compression], use_summary_offsets=indexed, **flags)
        writer.start(profile="ros2")
        for topic, stamp, message in messages:
            kind = message.__msgtype__
            if topic not in channels:
                schema = writer.register_schema(kind, "ros2msg", store.generate_msgdef(kind, ros_version=2)[0].encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic], stamp, bytes(store.serialize_cdr(message, kind)), stamp)
        writer.finish()
    same_sensors(dataset, BagFrames(path), 2)


def test_frames_may_be_read_in_any_order(dataset, drive):
    bag = BagFrames(drive)
    (first, _), (third, _), (again, _) = bag.read(0), bag.read(2), bag.read(0)
    np.testing.assert_array_equal(first.images["CAM_BACK"], again.images["CAM_BACK"])
    assert third.time_s == pytest.approx(1.0, abs=0.01)


# --- what is missing, late, or out of order


def keep(topic, stamp, message):
    return [(topic, stamp, message)]


def test_a_lost_image_leaves_its_frame_out_and_says_so(messages, tmp_path):
    times = [stamp for topic, stamp, _ in messages if topic == BACK]
    bag = BagFrames(changed(messages, tmp_path / "lost.mcap", lambda t, s, m: [] if (t, s) == (BACK, times[2]) else [(t, s, m)]))
    assert len(bag.frames) == 5 and len(bag.left_out) == 1
    (left,) = bag.report()["left_out"]
    assert list(left["missing"]) == ["CAM_BACK"] and "ms" in left["missing"]["CAM_BACK"]
    assert any("1 of 6 frames are left out" in note and "CAM_BACK" in note for note in bag.notes())
    infos = [record.info["bag"] for record in bag.scene()]
    assert [len(info["left_out_before"]) for info in infos] == [0, 0, 1, 0, 0]
    assert infos[0]["offsets_ms"]["CAM_FRONT"] == pytest.approx(-35.491)


def test_the_picture_of_a_drive_shows_what_is_missing_however_long_it_is(drive):
    from uniad.ros.report import CELL, LEFT, TOP, draw_frames

    bag = BagFrames(drive)
    missing = bag.frames.pop(2)
    bag.left_out.append(replace(missing, picked={}, missing={"CAM_BACK": "no message"}))
    red = (draw_frames(bag)[TOP + 3 * CELL + 5, LEFT + 5 :: CELL][:6] == (60, 60, 220)).all(-1)
    assert red.tolist() == [False, False, True, False, False, False]
    bag.frames = bag.frames * 100
    assert draw_frames(bag).shape[1] < 2100


def test_messages_out_of_order_are_sorted_and_repeated_ones_counted(messages, dataset, tmp_path):
    """The recorder got two images of a camera in the wrong order, and one twice."""
    fronts = [entry for entry in messages if entry[0] == FRONT]
    others = [entry for entry in messages if entry[0] != FRONT]
    late = fronts[1][1] + 700_000_000
    mixed = [(FRONT, late, fronts[1][2]), fronts[0], *fronts[2:], fronts[2]]
    bag = BagFrames(write(tmp_path / "mixed.mcap", sorted([*others, *mixed], key=lambda entry: entry[1])))
    same_sensors(dataset, bag, 4)
    counts = bag.sync.counts["CAM_FRONT"]
    assert counts.reordered == 1 and counts.repeated == 1
    assert any("CAM_FRONT: 1 messages out of order" in note for note in bag.notes())


def test_headers_without_a_time_take_that_of_recording(messages, dataset, tmp_path):
    def unstamped(topic, stamp, message):
        if topic.startswith("/cam_back/image"):
            message = copy.deepcopy(message)
            message.header.stamp.sec = message.header.stamp.nanosec = 0
        return [(topic, stamp, message)]

    bag = BagFrames(changed(messages, tmp_path / "unstamped.mcap", unstamped))
    same_sensors(dataset, bag, 2)
    assert any(f"{BACK}: 6 headers have no time" in note for note in bag.notes())


def moved(messages, path, topics, shift_s, after=0):
    """Headers of some topics run by another clock."""

    def shifted(topic, stamp, message):
        if topic in topics and stamp > after:
            message = copy.deepcopy(message)
            whole = nanoseconds(message.header.stamp) + round(shift_s * 1e9)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(whole, 10**9)
        return [(topic, stamp, message)]

    return changed(messages, path, shifted)


@pytest.mark.parametrize("shift_s", [-5.0, 3600.0])
def test_a_clock_that_was_set_is_one_line_that_says_where(messages, tmp_path, shift_s):
    middle = messages[len(messages) // 2][1]
    with pytest.raises(UserError, match=rf"{FRONT}: the clock of its headers jumps by .*--stop"):
        BagFrames(moved(messages, tmp_path / "jump.mcap", {FRONT}, shift_s, middle))


def test_a_camera_with_another_clock_is_one_line_with_the_time_between(messages, tmp_path):
    with pytest.raises(UserError, match=r"none of 6 frames .* within 60 ms \(--tolerance\): .*CAM_FRONT in 6 .*late"):
        BagFrames(moved(messages, tmp_path / "clock.mcap", {FRONT}, 37.0))


def test_odometry_of_another_time_is_one_line(messages, tmp_path):
    with pytest.raises(UserError, match=r"missing is pose in 6 .*/odometry: the nearest pose is 3\d+ ms away|missing is pose"):
        BagFrames(moved(messages, tmp_path / "poses.mcap", {"/odometry"}, 37.0))


def test_a_window_and_every_nth_instant(messages, drive, tmp_path):
    assert len(BagFrames(drive, start_s=0.9).frames) == 5
    assert len(BagFrames(drive, stop_s=1.2).frames) == 2

    def dense(topic, stamp, message):  # 10 Hz: four more of each image and cloud after each
        if "/cam_" not in topic and "lidar" not in topic:
            return [(topic, stamp, message)]
        out = []
        for number in range(5):
            copied = copy.copy(message)
            whole = nanoseconds(message.header.stamp) + number * 100_000_000
            stamp_of_copy = replace(message.header.stamp, sec=whole // 10**9, nanosec=whole % 10**9)
            copied.header = replace(message.header, stamp=stamp_of_copy)
            out.append((topic, stamp + number * 100_000_000, copied))
        return out

    few = [entry for entry in messages if entry[1] <= messages[0][1] + 1_600_000_000]
    dense_bag = write(tmp_path / "dense.mcap", sorted((new for old in few for new in dense(*old)), key=lambda e: e[1]))
    with pytest.raises(UserError, match=r"--every 5` takes every 5th .*INFER_ARGS"):
        BagFrames(dense_bag)
    thinned = BagFrames(dense_bag, every=5)
    assert np.diff([i.stamp_ns for i in thinned.frames]) == pytest.approx(5e8, rel=0.01)


# --- assumptions that are said


def test_without_command_imu_and_odometry_something_is_assumed_and_said(messages, dataset, tmp_path):
    left = {"/command", "/imu", "/odometry"}
    bag = BagFrames(changed(messages, tmp_path / "bare.mcap", lambda t, s, m: [] if t in left else [(t, s, m)]))
    frames = list(bag.scene(2))
    assert [frame.sensors.command for frame in frames] == [2, 2] and frames[0].sensors.can_bus is None
    for mine, theirs in zip(frames, dataset.scene("0", 2)):
        np.testing.assert_array_equal(mine.sensors.ego2global.translation, theirs.sensors.ego2global.translation)
    notes = " / ".join(bag.notes())
    assert "the command is straight on" in notes and "acceleration is 0" in notes and "poses are TF's" in notes


def test_far_positions_count_from_where_the_drive_begins(messages, dataset, tmp_path):
    def far(topic, stamp, message):
        if topic == "/odometry":
            message = copy.deepcopy(message)
            message.pose.pose.position.x += 500_000.0
        return [(topic, stamp, message)]

    bag = BagFrames(changed(messages, tmp_path / "far.mcap", far))
    sensors, _ = bag.read(0)
    assert np.linalg.norm(sensors.ego2global.translation) < 2
    assert any("where the drive begins" in note for note in bag.notes())


def lidar_as(messages, path, pose):
    def turned(topic, stamp, message):
        if topic == "/tf_static":
            message = copy.deepcopy(message)
            for transform in message.transforms:
                if transform.child_frame_id == "lidar_top":
                    pose(transform.transform)
        return [(topic, stamp, message)]

    return BagFrames(changed(messages, path, turned))


def test_a_lidar_that_looks_along_x_is_not_taken_for_nuscenes(messages, tmp_path):
    def along_x(transform):
        transform.rotation.x = transform.rotation.y = transform.rotation.z = 0.0
        transform.rotation.w = 1.0

    bag = lidar_as(messages, tmp_path / "x.mcap", along_x)
    sensors, _ = bag.read(0)
    np.testing.assert_allclose(sensors.lidar2ego.matrix()[:3, 1], [1, 0, 0], atol=1e-9)
    assert any("y axis not ahead" in note for note in bag.notes())

    def low(transform):
        transform.translation.z = 0.3

    bag = lidar_as(messages, tmp_path / "low.mcap", low)
    assert bag.read(0)[0].lidar2ego.translation[2] == 1.84 and any("nuScenes' place" in note for note in bag.notes())


# --- lenses and sizes


def lensed(messages, path, change, image=None):
    def new(topic, stamp, message):
        if topic.endswith("camera_info") or (image is not None and topic == FRONT):
            message = copy.deepcopy(message)
            (change if topic.endswith("camera_info") else image)(message)
        return [(topic, stamp, message)]

    return BagFrames(changed([m for m in messages if m[1] < messages[0][1] + 1_200_000_000], path, new))


def test_distortion_is_taken_out_and_said(messages, drive, tmp_path):
    def distort(message):
        message.d = np.array([-0.3, 0.1, 0.001, -0.001, 0.0])

    plain, _ = BagFrames(drive).read(0)
    bag = lensed(messages, tmp_path / "d.mcap", distort)
    sensors, info = bag.read(0)
    k, d = sensors_matrix(messages), np.array([-0.3, 0.1, 0.001, -0.001, 0.0])
    expected = cv2.undistort(plain.images["CAM_FRONT"], k, d)
    close = np.abs(sensors.images["CAM_FRONT"].astype(int) - expected).max(-1) <= 8
    assert close.mean() > 0.99 and not np.array_equal(sensors.images["CAM_FRONT"], plain.images["CAM_FRONT"])
    np.testing.assert_array_equal(sensors.lidar2img["CAM_FRONT"], plain.lidar2img["CAM_FRONT"])
    assert any("distortion is taken out" in note for note in bag.notes())


def sensors_matrix(messages) -> np.ndarray:
    return next(m for t, _, m in messages if t == "/cam_front/camera_info").k.reshape(3, 3)


@pytest.mark.parametrize("change, told", [
    (dict(distortion_model="thin_prism", d=np.ones(6)), "distortion 'thin_prism' of 6 coefficients cannot be taken out"),
    (dict(binning_x=2), "binning or a region of interest"),
    (dict(k=np.zeros(9)), "not calibrated"),
    (dict(width=1280, height=720), "the image has 1600x900 pixels, its CameraInfo speaks of 1280x720"),
    (dict(k=np.full(9, np.nan)), "not finite"),
])  # fmt: skip
def test_a_calibration_that_would_be_misread_is_one_line(messages, tmp_path, change, told):
    def spoil(message):
        for name, value in change.items():
            setattr(message, name, value)

    with pytest.raises(UserError, match=told):
        lensed(messages, tmp_path / "spoilt.mcap", spoil).read(0)


def test_images_of_another_size_and_their_matrices_are_scaled_together(messages, drive, tmp_path):
    """Half the size, and taller: a point is drawn where it was, to half a pixel."""
    size = (800, 500)

    def shrink(message):
        image = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
        padded = cv2.copyMakeBorder(image, 50, 50, 0, 0, cv2.BORDER_REPLICATE)
        message.data = cv2.imencode(".png", cv2.resize(padded, size, interpolation=cv2.INTER_AREA))[1]

    def halve(message):
        if message.header.frame_id == "cam_front":
            k = message.k.reshape(3, 3) * 0.5
            k[0, 2], k[1, 2], k[2, 2] = k[0, 2] - 0.25, (message.k[5] + 50 + 0.5) / 2 - 0.5, 1.0
            message.k, message.width, message.height = k.reshape(-1), *size

    plain, _ = BagFrames(drive).read(0)
    bag = lensed(messages, tmp_path / "small.mcap", halve, image=shrink)
    sensors, _ = bag.read(0)
    assert sensors.images["CAM_FRONT"].shape == (900, 1600, 3)
    np.testing.assert_allclose(sensors.lidar2img["CAM_FRONT"], plain.lidar2img["CAM_FRONT"], atol=0.5)
    difference = cv2.absdiff(sensors.images["CAM_FRONT"], plain.images["CAM_FRONT"])
    assert difference.mean() < 6
    assert any("800x500 images are scaled by 2 and cut to 1600x900" in note for note in bag.notes())


def calibration_of(drive, path) -> Path:
    """The bag's own calibration as a file."""
    bag = BagFrames(drive)
    tree, stamp = bag.car.tree, bag.frames[0].stamp_ns
    lidar = tree.lookup("base_link", "lidar_top", stamp)
    cameras = {}
    for name in CAMERAS:
        camera = tree.lookup(name.lower(), "lidar_top", stamp).matrix()
        k = bag.car.infos[name].entries[0][1].k
        cameras[name] = {"intrinsic": k.tolist(), "lidar2cam": camera.tolist()}
    pose = {"translation": list(map(float, lidar.translation)), "rotation": list(map(float, lidar.rotation))}
    path.write_text(json.dumps({"lidar2ego": pose, "cameras": cameras}))
    return path


def test_a_calibration_file_stands_for_camera_info_and_tf(messages, dataset, drive, tmp_path):
    from uniad.formats.topics import read_calibration

    calibration = read_calibration(calibration_of(drive, tmp_path / "rig.json"))
    bare = changed(messages, tmp_path / "bare.mcap", lambda t, s, m: [] if "tf" in t or "info" in t else [(t, s, m)])
    bag = BagFrames(bare, calibration=calibration)
    for mine, theirs in zip(bag.scene(2), dataset.scene("0", 2)):
        for name in CAMERAS:
            np.testing.assert_allclose(mine.sensors.lidar2img[name], theirs.sensors.lidar2img[name], atol=1e-6)
    assert any("no CameraInfo" in note for note in bag.notes())
    with pytest.raises(UserError, match=r"no CameraInfo of CAM_FRONT .*nor a calibration file"):
        BagFrames(bare)


# --- bags that are none


@pytest.mark.parametrize("spoil, told", [
    (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), r"cut short; `mcap recover"),
    (lambda p: p.write_bytes(b""), "empty"),
    (lambda p: p.write_bytes(p.read_bytes()[:8]), "a record in it has no end: it was cut short, or is no bag"),
    (lambda p: p.write_bytes(b"\x89MCAP0\r\n" + bytes(100)), "cannot be read"),
    (lambda p: p.write_bytes(p.read_bytes()[:300_000] + bytes(2000) + p.read_bytes()[302_000:]), "is damaged"),
])  # fmt: skip
def test_a_damaged_bag_is_one_line(drive, tmp_path, spoil, told):
    path = tmp_path / "damaged.mcap"
    shutil.copy(drive, path)
    spoil(path)
    with pytest.raises(UserError, match=told):
        list(BagFrames(path).scene())


def test_what_is_no_bag_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.bag").write_text("#ROSBAG V2.0")
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "x.db3").write_bytes(b"SQLite format 3\0" + bytes(50))
    for name, told in (
        ("absent.mcap", "does not exist"), ("empty", "no .mcap or .db3 file and no metadata.yaml; `ros2 bag reindex"),
        ("old.bag", "bag of ROS 1; `rosbags-convert"), ("x.txt", "is no bag"), ("x.db3", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            BagFrames(tmp_path / name)


def test_a_pipe_is_no_bag(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/metadata.yaml").write_text("")
    for path in (tmp_path / "a.mcap", tmp_path / "folder/a.db3"):
        os.mkfifo(path)
        with pytest.raises(UserError, match="is a pipe or a device, not a file"):
            BagFrames(path if path.parent == tmp_path else path.parent)


def test_a_folder_that_lost_its_metadata_is_read_by_its_one_file(spec, dataset, tmp_path):
    folder = record(spec.data, tmp_path / "folder", most=2)
    (folder / "metadata.yaml").unlink()
    same_sensors(dataset, BagFrames(folder), 2)


# --- the command line


def test_the_command_line_writes_results_a_report_and_a_bag_for_a_viewer(nano, drive, tmp_path, monkeypatch, capsys):
    out, written = tmp_path / "out", tmp_path / "results.mcap"
    model = [str(nano.checkpoint), "--config", str(nano.config), "--backend", "torch"]
    words = ["--bag", str(drive), "--frames", "2", "--out", str(out), "--write-bag", str(written), "--cfg-options", *nano.options]
    monkeypatch.setattr(sys, "argv", ["infer.py", *model, *words])
    assert infer.main() == 0
    summary = read_summary(out)
    assert summary["frames"] == 2 and summary["bag"]["tolerance_ms"] == 60 and summary["scenes"][0]["name"] == "drive"
    _, info = read_frame(out / "drive/0001.json", nano_names(nano))
    assert Path(info["cams"]["CAM_FRONT"]).read_bytes()[:2] == b"\xff\xd8"
    report = read_report(out)
    assert report.kind == "bag" and report.tables[0].rows[0][0] == "CAM_FRONT"
    assert report.findings[0] == "2 of 6 frames were run, 0 left out."
    assert cv2.imread(str(out / next(iter(report.pictures)))) is not None
    assert written.stat().st_size > 10_000
    from uniad.viz.replay import Replay

    assert next(iter(Replay.open(out).pictures("drive"))).shape[2] == 3


def nano_names(nano):
    from uniad.config.read import load_spec

    return load_spec(nano.config, nano.options).data.class_names


@pytest.mark.parametrize("words, told", [
    (["--bag", "x.mcap", "--scene", "0"], "both say what to run along"),
    (["--topics", "t.json"], "--topics is of a bag"),
    (["--bag", "x.mcap", "--tolerance", "-1"], "give seconds from 0 on"),
    (["--bag", "x.mcap", "--start", "5", "--stop", "2"], "is not after --start"),
    (["--bag", "x.mcap"], "x.mcap does not exist"),
    (["--write-bag", "x.bag"], "bags of ROS 1 are not written"),
    (["--write-bag", "OUT/results.mcap"], "lies in --out"),
])  # fmt: skip
def test_what_the_command_line_cannot_do_is_one_line(words, told, monkeypatch, tmp_path):
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    monkeypatch.setattr(sys, "argv", ["infer.py", "model.onnx", "--out", str(tmp_path / "out"), *words])
    with pytest.raises(UserError, match=told):
        infer.main()


def test_an_environment_without_rosbags_is_told_in_one_line(drive, monkeypatch):
    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    with pytest.raises(UserError, match=r"rosbags .*uniad\[bags\].*make env"):
        BagFrames(drive)


def test_a_bag_is_made_by_the_command_line(nano, tmp_path, monkeypatch, capsys):
    words = [str(nano.config), "--out", str(tmp_path / "a.mcap"), "--frames", "1", "--cfg-options", *nano.options]
    monkeypatch.setattr(sys, "argv", ["make_bag.py", *words])
    make_bag.main()
    assert "messages" in capsys.readouterr().out
    assert len(BagFrames(tmp_path / "a.mcap").frames) == 1
    assert not list(tmp_path.glob(".*"))


