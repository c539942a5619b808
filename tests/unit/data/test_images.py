from __future__ import annotations

import os
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers import specs
from uniad.data.decoder_log import decoder_messages
from uniad.data.images import ImageCache
from uniad.data.transforms import Distortion, Resampler, check_size, decode, decode_all, finish, normalise
from uniad.errors import UserError


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    return cv2.resize(noise, (1600, 900))


def jpeg(path, image):
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return path


@pytest.mark.parametrize("scale", [0.25, 0.125, 0.3, 1.0])
def test_scaling_by_picked_pixels_equals_scaling_the_whole_image(image, scale):
    scaler = Resampler((900, 1600), scale)
    want = cv2.resize(image.astype(np.float32), scaler.hw[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(scaler.weigh(scaler.pick(image).astype(np.float32)) - want).max() < 0.02  # grey levels


@pytest.mark.parametrize("seed", range(4))
def test_distorting_picked_pixels_equals_the_upstream_order(image, seed):
    spec = specs.tiny_spec().data.image
    distortion = Distortion.draw(np.random.default_rng(seed))
    scaler = Resampler((900, 1600), spec.scale)
    got = np.zeros((3, spec.height, spec.width), dtype=np.float32)
    finish(scaler.pick(image), spec, scaler, distortion, got)
    # Upstream: distort the whole image, normalise, scale, pad.
    want = cv2.resize(normalise(distortion.apply(image.astype(np.float32)), spec), (400, 225))
    assert np.abs(got[:, :225, :400].transpose(1, 2, 0) - want).max() < 1e-5
    assert not got[:, 225:].any() and not got[:, :, 400:].any()


def test_distortion_draws_each_step_half_of_the_time_and_within_its_range():
    rng = np.random.default_rng(0)
    drawn = [Distortion.draw(rng) for _ in range(2000)]
    for field, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5), ("hue_deg", -18, 18)):
        values = [getattr(d, field) for d in drawn if getattr(d, field) is not None]
        assert 900 < len(values) < 1100
        assert low <= min(values) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(values) <= high
    assert 900 < sum(d.contrast_first for d in drawn) < 1100
    assert len({d.channels for d in drawn}) == 7  # six orders and none


def test_distortion_leaves_its_input_alone(image):
    source = image[:20].astype(np.float32)
    before = source.copy()
    Distortion(5.0, True, 1.1, 1.2, 3.0, (2, 1, 0)).apply(source)
    assert np.array_equal(source, before)


def test_several_threads_decode_the_same_in_the_same_order(tmp_path, image):
    paths = [str(jpeg(tmp_path / f"{i}.jpg", np.roll(image, i * 50, axis=1))) for i in range(4)]
    one, many = decode_all(paths, 1), decode_all(paths, 3)
    assert all(np.array_equal(a, b) for a, b in zip(one, many))
    assert not np.array_equal(one[0], one[1])


def test_a_truncated_image_is_an_error_that_names_it(tmp_path, image):
    path = jpeg(tmp_path / "cut.jpg", image)
    data = path.read_bytes()
    assert decode(path).shape == (900, 1600, 3)
    for length in (len(data) // 2, len(data) - 3, 100):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.jpg is cut short"):
            decode(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xd9"])
def test_a_file_that_is_no_image_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.jpg is not a readable JPEG"):
        decode(path)
    with pytest.raises(UserError, match=r"none\.jpg does not exist"):
        decode(tmp_path / "none.jpg")


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an orientation in its Exif data, and a thumbnail's end marker there."""
    entry = struct.pack("<HHI", 0x0112, 3, 1) + struct.pack("<HH", orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0) + b"\xff\xd8\xff\xd9"
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_pixels_are_read_as_stored_whatever_exif_says_of_up(tmp_path, image, orientation):
    """As Pillow, which the devkit reads with, and mmcv do: the calibration knows nothing of it."""
    plain = jpeg(tmp_path / "plain.jpg", image)
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(with_exif(plain.read_bytes(), orientation))
    got = decode(turned)
    assert np.array_equal(got, decode(plain))
    with Image.open(turned) as theirs:
        assert theirs.size == (1600, 900) and theirs.getexif()[0x0112] == orientation


@pytest.mark.parametrize("padding", [b"\0" * 900, b"\0" * 4096, b"\n", bytes(range(256)) * 9])
def test_what_follows_the_end_marker_is_left_alone(tmp_path, image, padding):
    path = jpeg(tmp_path / "padded.jpg", image)
    want = decode(path)
    path.write_bytes(path.read_bytes() + padding)
    assert np.array_equal(decode(path), want)


def test_a_cut_image_with_a_whole_thumbnail_is_cut(tmp_path, image):
    path = jpeg(tmp_path / "cut.jpg", image)
    data = with_exif(path.read_bytes(), 1)
    path.write_bytes(data[: len(data) // 2] + b"\0" * 5000)
    with pytest.raises(UserError, match=r"cut\.jpg is cut short"):
        decode(path)


@pytest.mark.parametrize("fill", [0x55, 0x00])
@pytest.mark.parametrize("threads", [1, 3])
def test_damage_inside_names_the_file(tmp_path, image, fill, threads, capfd):
    good = jpeg(tmp_path / "good.jpg", image)
    path = jpeg(tmp_path / "damaged.jpg", image)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:-2] = bytes([fill]) * (len(data) - 2 - middle)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"damaged\.jpg is damaged \(Corrupt JPEG data.*download") as error:
        decode_all([str(good), str(path), str(good)], threads)
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


def test_what_others_write_while_images_are_decoded_reaches_stderr(capfd):
    with decoder_messages() as output:
        os.write(2, b"a word of another thread\nCorrupt JPEG data: premature end of data segment\n")
    assert output == ["Corrupt JPEG data: premature end of data segment"]
    assert capfd.readouterr().err == "a word of another thread\n"


def test_images_decode_where_there_is_no_stderr(tmp_path, image):
    path = jpeg(tmp_path / "a.jpg", image)
    script = "import os, sys; os.close(2); from uniad.data.transforms import decode; print(decode(sys.argv[1]).shape)"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert done.stdout == "(900, 1600, 3)\n"


def test_an_image_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(UserError, match="has 640x480 pixels.*needs 1600x900"):
        check_size((480, 640), specs.tiny_spec().data.image, "x.jpg")


def test_a_small_file_that_claims_gigabytes_of_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """A PNG of zeros packs a thousand to one; a JPEG needs no more than its header to claim as much."""
    decoded = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: decoded.append(1))
    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    start = jpeg.index(b"\xff\xc0")
    for name, data in (
        ("a.png", png[:16] + struct.pack(">II", 30_000, 30_000) + png[24:]),
        ("a.jpg", jpeg[: start + 5] + struct.pack(">HH", 30_000, 30_000) + jpeg[start + 9 :]),
        ("b.jpg", b"\xff\xd8" + jpeg[start : start + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[start + 9 :]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name} claims \d+x\d+ pixels"):
            decode(tmp_path / name)
    assert not decoded


@pytest.mark.parametrize("variant", ["nano", "tiny", "full"])
@pytest.mark.parametrize("hw", [(1080, 1920), (1280, 1920), (720, 1280), (928, 1600), (1000, 1640)])  # the last two pad alike
def test_sizes_that_other_cameras_have_are_refused_by_every_variant(variant, hw):
    spec = getattr(specs, f"{variant}_spec")().data.image
    with pytest.raises(UserError, match=f"has {hw[1]}x{hw[0]} pixels.*scale images and camera matrices together"):
        check_size(hw, spec, "x.jpg")


def test_the_cache_refuses_what_it_has_no_room_for_with_one_line(image):
    cache = ImageCache.__new__(ImageCache)
    cache.exact = True
    scaler = Resampler((928, 1600), 0.25)  # of the network's size after padding, yet another number of rows
    with pytest.raises(UserError, match="cache holds images of 1600x900, one has 1600x928; set native.image_cache=off"):
        cache.pack(image, scaler)


class OneImage(list):
    """An info table of one frame from one camera."""

    img_path = np.array([["a.jpg"]])


@pytest.fixture
def cache(tmp_path):
    """Makes the cache of one image anew, as a new process does."""
    (tmp_path / "a.jpg").write_bytes(b"one")
    os.utime(tmp_path / "a.jpg", ns=(10**18, 10**18))

    def make(**changes) -> ImageCache:
        places = {"data_root": str(tmp_path), "image_cache_dir": str(tmp_path / "cache"), "image_cache": "scaled"}
        return ImageCache(OneImage([0]), specs.edit(specs.tiny_spec().data, **{**places, **changes}))

    return make


def test_images_that_changed_get_a_cache_of_their_own(cache, tmp_path):
    names = [cache().pixels_path]
    assert cache().pixels_path == names[0]
    os.utime(tmp_path / "a.jpg", ns=(10**18, 10**18 + 1))
    names.append(cache().pixels_path)
    (tmp_path / "a.jpg").write_bytes(b"three")
    os.utime(tmp_path / "a.jpg", ns=(10**18, 10**18))
    names += [cache().pixels_path, cache(image__scale=0.3).pixels_path, cache(image_cache="exact").pixels_path]
    assert len(set(names)) == len(names) == 5, "time, size, scale and kind"


def test_an_entry_counts_from_when_all_its_pixels_are_there(cache):
    """Whoever stops while it is written, the first time or again, leaves none."""
    one = cache()
    stored = np.arange(np.prod(one.shape[1:]), dtype=np.uint8).reshape(one.shape[1:])
    assert one.read(0) is None
    one.write(0, stored)
    assert np.array_equal(one.read(0), stored) and np.array_equal(cache().read(0), stored)

    class Stopped(np.ndarray):
        def __setitem__(self, frame, values):
            np.ndarray.__setitem__(self, (frame, 0), values[0])
            raise KeyboardInterrupt

    pixels, sums = one._open()
    one._maps = pixels.view(Stopped), sums
    with pytest.raises(KeyboardInterrupt):
        one.write(0, 255 - stored)
    one._maps = pixels, sums
    assert one.read(0) is None and cache().read(0) is None
