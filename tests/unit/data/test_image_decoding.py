"""JPEGs decoded at reduced size, from packs and on a GPU: options that change pixels by no more than they say."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from helpers import REPO, specs
from uniad.config.spec import DataSpec
from uniad.data.dataset import ClipDataset, open_table
from uniad.data.image_pack import BLOCK, check_pack, read_pack
from uniad.data.image_packing import write_pack
from uniad.data.images import ImageSource
from uniad.data.pixels import collate_raw
from uniad.data.transforms import decode_all, resampler, shrink_for
from uniad.errors import UserError
from uniad.training.loader import ClipLoader

KEY = (0, 5)


@pytest.fixture(scope="module")
def one_frame(data_spec: DataSpec):
    table = open_table(data_spec, "train")
    return replace(table, img_path=table.img_path[:2], token=table.token[:2])


@pytest.mark.parametrize(("scale", "shrink"), [(0.125, 8), (0.25, 4), (0.3, 2), (0.5, 2), (0.6, 1), (1.0, 1)])
def test_no_network_pixel_is_made_from_less_than_one_decoded(scale: float, shrink: int):
    assert shrink_for(scale) == shrink


@pytest.mark.parametrize("scale", [0.125, 0.25, 0.3])
def test_a_reduced_image_lies_where_the_scaled_one_lies(tmp_path: Path, scale: float):
    rows, columns = np.mgrid[:900, :1600]
    smooth = np.stack([rows * 0.25, columns * 0.15, 128 + 80 * np.sin(rows / 90)], -1).clip(0, 255).astype(np.uint8)
    path = tmp_path / "x.jpg"
    path.write_bytes(cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes())
    shrink = shrink_for(scale)
    made = []
    for n in (1, shrink):
        scaler = resampler((900, 1600), scale, n)
        made.append(scaler.weigh(scaler.pick(decode_all([str(path)], 1, n)[0]).astype(np.float32)))
    assert made[0].shape == made[1].shape
    inner = np.abs(made[0] - made[1])[:-1]  # the last row of blocks is half a block
    assert inner.mean() < 0.6 and inner.max() < 3


def test_reduced_images_must_be_jpegs_of_the_cameras_size(tmp_path: Path):
    for name, hw, found in (("a.jpg", (480, 640), "640x480"), ("a.png", (900, 1600), "another format")):
        cv2.imwrite(str(tmp_path / name), np.zeros((*hw, 3), np.uint8))
        with pytest.raises(UserError, match=f"native.jpeg='reduced' needs a JPEG of 1600x900, this one has {found}"):
            decode_all([str(tmp_path / name)], 1, 4)


def test_a_reduced_clip_is_trained_on_and_cached_apart(data_spec: DataSpec, one_frame, tmp_path: Path):
    reduced = specs.edit(data_spec, jpeg="reduced")
    shape = (6, 3, data_spec.image.height, data_spec.image.width)
    full, small, again = (np.empty(shape, np.float32) for _ in range(3))
    ImageSource(one_frame, data_spec).load(0, None, full)
    ImageSource(one_frame, reduced).load(0, None, small)
    assert 0.001 < np.abs(full - small).mean() < 0.1, "of a standard deviation: other pixels, the same picture"
    cached = [specs.edit(s, image_cache="exact", image_cache_dir=str(tmp_path)) for s in (reduced, data_spec)]
    sources = [ImageSource(one_frame, spec) for spec in cached]
    assert sources[0].cache.pixels_path != sources[1].cache.pixels_path
    for _ in range(2):
        sources[0].load(0, None, again)
        assert np.array_equal(again, small)


@pytest.fixture(scope="module")
def packed(data_spec: DataSpec, one_frame, tmp_path_factory) -> tuple[DataSpec, Path]:
    path = tmp_path_factory.mktemp("pack") / "x.images"
    assert write_pack(specs.edit(data_spec, image_cache="exact"), [one_frame], path, 0) == 12
    return specs.edit(data_spec, image_cache="exact", image_pack=str(path)), path


def test_a_pack_gives_the_pixels_of_the_files_without_them(data_spec: DataSpec, one_frame, packed, tmp_path: Path):
    spec, path = packed
    path.chmod(0o444)
    source = ImageSource(one_frame, specs.edit(spec, data_root=str(tmp_path), image_cache_dir=str(tmp_path / "none")))
    wanted, found = (np.empty((6, 3, spec.image.height, spec.image.width), np.float32) for _ in range(2))
    ImageSource(one_frame, data_spec).load(1, None, wanted)
    source.load(1, None, found)
    assert np.array_equal(found, wanted) and not (tmp_path / "none").exists()
    assert not source.pack.read(1)[0].flags.writeable
    assert check_pack(path) == 12 and [p.name for p in path.parent.iterdir()] == [path.name]


def forged(path: Path, copy: Path, change: dict | bytes, index: bytes | None = None) -> Path:
    """A pack with another header or index, whose digest is right: what somebody else's program may have written."""
    content, (header, _) = path.read_bytes(), read_pack(path)
    if index is not None:
        content = content[: header["index_at"]] + index
        header |= {"index_sha256": hashlib.sha256(index).hexdigest(), "file_bytes": len(content)}
    line = change if isinstance(change, bytes) else json.dumps(header | change).encode()
    copy.write_bytes(line.ljust(BLOCK) + content[BLOCK:])
    return copy


@pytest.mark.parametrize("change", [
    {"images": "12"}, {"images": 12.5}, {"images": True}, {"index_at": 10**30}, {"index_at": 4100.5}, {"file_bytes": "9"},
    {"shape": ["1", "2", "3"]}, {"shape": {"4": 1, "6": 2, "3": 3}}, {"shape": [2**32, 2**32, 3]}, {"shape": "123"},
    b'{"images": 1e999, "file_bytes": 1, "index_at": 1, "shape": [1, 1, 1], "format": 1}', b"[" * BLOCK, b"[]", b"\xff",
], ids=str)  # fmt: skip
def test_a_header_that_no_pack_has_is_one_line(packed, tmp_path: Path, change: dict | bytes):
    with pytest.raises(UserError, match="copy.images is no image pack"):
        check_pack(forged(packed[1], tmp_path / "copy.images", change))


@pytest.mark.parametrize("change, index", [
    ({"images": 1}, None), ({"images": 11}, None), ({}, b"x"), ({}, bytes(36 * 12) + b"\xff"), ({}, bytes(36 * 12) + b"one name"),
    ({}, bytes(36 * 12) + b"\n".join([b"twice"] * 12)),
], ids=str)  # fmt: skip
def test_an_index_of_other_images_is_one_line(packed, tmp_path: Path, change: dict, index: bytes | None):
    with pytest.raises(UserError, match="copy.images is not one of"):
        check_pack(forged(packed[1], tmp_path / "copy.images", change, index))


def test_pixels_of_another_shape_are_not_taken_for_these(one_frame, packed, tmp_path: Path):
    """Rows and columns the other way round are as many bytes, and their checksums are right."""
    spec, path = packed
    rows, w, colours = read_pack(path)[0]["shape"]
    copy = forged(path, tmp_path / "copy.images", {"shape": [w, rows, colours]})
    with pytest.raises(UserError, match="other settings .*shape: "):
        ImageSource(one_frame, specs.edit(spec, image_pack=str(copy)))


def test_what_is_wrong_with_a_pack_is_one_line(data_spec: DataSpec, one_frame, packed, tmp_path: Path):
    spec, path = packed
    good, (header, _) = path.read_bytes(), read_pack(path)

    def opened(content: bytes, **changes) -> ImageSource:
        copy = tmp_path / "copy.images"
        copy.write_bytes(content)
        return ImageSource(one_frame, specs.edit(spec, image_pack=str(copy), **changes))

    damaged = bytearray(good)
    damaged[BLOCK + 5] ^= 1
    with pytest.raises(UserError, match="copy.images is damaged: samples/.* differs from its checksum"):
        for frame in range(2):
            opened(bytes(damaged)).pack.read(frame)
    damaged = bytearray(good)
    damaged[header["index_at"] + 3] ^= 1
    for content, said in (
        (bytes(damaged), "index of image pack .* is damaged"), (good[:-9], "is not whole"), (b"", "is no image pack"),
        (b"{}".ljust(BLOCK), "is no image pack"), (good[:BLOCK].replace(b'"images": 12', b'"images": -2'), "is no image pack"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            opened(content)
    with pytest.raises(UserError, match="other settings .*image_cache: exact, wanted scaled"):
        opened(good, image_cache="scaled")
    with pytest.raises(UserError, match="needs native.image_cache"):
        opened(good, image_cache="off")
    with pytest.raises(UserError, match="does not exist"):
        ImageSource(one_frame, specs.edit(spec, image_pack=str(tmp_path / "none")))
    more = replace(one_frame, img_path=np.concatenate([one_frame.img_path, [["samples/new.jpg"] * 6]]))
    with pytest.raises(UserError, match="lacks 6 of 18 images, samples/new.jpg for one"):
        ImageSource(more, spec)
    other = tmp_path / "root" / one_frame.img_path[0, 0]
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another world's")
    with pytest.raises(UserError, match="was made from another samples/"):
        opened(good, data_root=str(tmp_path / "root"))


class Codec:
    """nvImageCodec's Python interface as 0.9 has it: None for what cannot be decoded, images handed over by DLPack."""

    ColorSpec, SampleFormat = SimpleNamespace(SRGB=1), SimpleNamespace(I_BGR=5)

    class CodeStream:
        def __init__(self, data: bytes) -> None:
            self.data = data

    class DecodeParams:
        def __init__(self, *, apply_exif_orientation: bool = True, color_spec: int = 1, sample_format: int = 2) -> None:
            assert not apply_exif_orientation and sample_format == Codec.SampleFormat.I_BGR

    class Image:
        def __init__(self, pixels: np.ndarray) -> None:
            self.shape, self.tensor = pixels.shape, torch.from_numpy(pixels)

        def __dlpack__(self, **options):
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    class Decoder:
        def __init__(self, device_id: int = -1, options: str = "") -> None:
            if device_id == 9:
                raise RuntimeError("CUDA Runtime failure: '#101'\nmore")

        def decode(self, srcs: list, *, params: object, cuda_stream: int = 0) -> list:
            images = [cv2.imdecode(np.frombuffer(s.data, np.uint8), cv2.IMREAD_COLOR) for s in srcs]
            return [None if image is None else Codec.Image(image) for image in images]


@pytest.fixture
def codec(monkeypatch) -> type[Codec]:
    monkeypatch.setitem(sys.modules, "nvidia", SimpleNamespace(nvimgcodec=Codec, __path__=[]))
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", Codec)
    return Codec


def test_a_clip_of_files_is_decoded_where_it_is_trained_on(data_spec: DataSpec, codec, monkeypatch):
    wanted = ClipDataset(data_spec, "train", stage=1, seed=3, raw=True)[KEY]
    dataset = ClipDataset(specs.edit(data_spec, jpeg="gpu"), "train", stage=1, seed=3, raw=True)
    raw = dataset[KEY]
    assert raw.clip.frames.img.shape[-1] < 1_000_000 and raw.clip.frames.img.dim() == 3
    loader = ClipLoader(
        dataset, [5], batch_size=2, workers=0, collate=collate_raw, seed=0, finish=dataset.finish, decode=dataset.decode
    )
    host = collate_raw([raw, raw])
    found = loader.on_device(host, torch.device("cpu"))
    assert torch.equal(found.frames.img, dataset.finish(collate_raw([wanted, wanted])).frames.img)
    monkeypatch.setattr(codec.Decoder, "decode", lambda self, srcs, **options: [None for _ in srcs])
    with pytest.raises(UserError, match=r"image .*samples/CAM_FRONT/.*jpg is damaged, the GPU's decoder refuses it"):
        loader.on_device(host, torch.device("cpu"))


def test_what_a_gpu_decoder_lacks_is_one_line(data_spec: DataSpec, one_frame, codec, monkeypatch, tmp_path: Path):
    from uniad.data.jpeg_gpu import PACKAGE, GpuDecoder, library

    with pytest.raises(UserError, match="nvImageCodec cannot use cpu:9 .CUDA Runtime failure: '#101'.$"):
        GpuDecoder(torch.device("cpu", 9))
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(UserError, match="needs nvImageCodec, which cannot be imported .*pip install 'nvidia-nvimgcodec-cu13"):
        library()
    assert f'gpu-jpeg = ["{PACKAGE}"]' in (REPO / "pyproject.toml").read_text()
    with pytest.raises(UserError, match="take one of them"):
        ImageSource(one_frame, specs.edit(data_spec, jpeg="gpu", image_cache="exact", image_cache_dir=str(tmp_path)))
