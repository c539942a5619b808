"""A recorded sequence: real frames and the model's outputs, so that any backend can be asked the same questions.

Images are kept as uint8 at network size (before normalisation) and the expected numbers come from exactly those images, so a
file of ten frames stays small and is still exact. Layout of the ``.npz``: ``mean`` and ``std`` [3]; ``f{i}/img_u8``
[N, H, W, 3] and ``f{i}/{port}`` for the other frame inputs; ``f{i}/out/{port}`` for the expected outputs; ``end/{port}`` for
the last state. Every array is as the contract wants it, and finite, or the file is refused: a replay of less proves less.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uniad.config.spec import ImageSpec, Spec
from uniad.errors import UserError
from uniad.files import atomic_path, open_outside, sha256, write_npz
from uniad.interface.contract import Contract, pack_frame, pack_outputs, unpack_inputs
from uniad.interface.types import Frame
from uniad.postprocess.map_merge import finish_lanes

if TYPE_CHECKING:  # reading a sequence needs no PyTorch: a car replays it
    import torch

    from uniad.models.uniad import UniAD

LARGE_BEV_CELLS = 100 * 100  # a frame of such a model takes a CPU half a minute


def default_frames(spec: Spec) -> int:
    """How many frames to record unless told otherwise: enough for what errors feed back, few where a frame takes minutes."""
    if spec.stage == 1:
        return 10
    return 3 if spec.model.bev.height * spec.model.bev.width >= LARGE_BEV_CELLS else 20


@dataclass
class Sequence:
    """Feeds (frame inputs only) and expected outputs, frame by frame, by their names in the graph."""

    feeds: list[dict[str, np.ndarray]]
    expected: list[dict[str, np.ndarray]]
    end_state: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.feeds)


def quantise_images(img: torch.Tensor, image: ImageSpec) -> np.ndarray:
    """[1, N, 3, H, W] normalised float -> [N, H, W, 3] uint8 in the network's channel order."""
    import torch

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (image.mean, image.std))
    pixels = (img[0].cpu() * std + mean).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def normalise_images(img_u8: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] uint8 -> [1, N, 3, H, W] float32."""
    pixels = (img_u8.astype(np.float32) - mean.astype(np.float32)) / std.astype(np.float32)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))[None]


def record(model: UniAD, contract: Contract, frames: Iterable[Frame], image: ImageSpec, path: Path) -> int:
    """Run ``model.step`` over frames (batch 1) in fp32 with fed-back state; write the sequence to ``path``; return its length."""
    import torch

    mean, std = np.asarray(image.mean, np.float32), np.asarray(image.std, np.float32)
    arrays: dict[str, np.ndarray] = {"mean": mean, "std": std}
    tensors = [torch.from_numpy(v) for v in contract.initial_state().values()]
    count = 0
    model.eval()
    with torch.no_grad():
        for i, raw in enumerate(frames):
            img_u8 = quantise_images(raw.img, image)
            frame = raw._replace(img=torch.from_numpy(normalise_images(img_u8, mean, std)))
            arrays[f"f{i}/img_u8"] = img_u8
            packed = pack_frame(contract, frame)
            for port, value in zip(contract.frame, packed):
                if port.name != "img":
                    arrays[f"f{i}/{port.name}"] = value.numpy()
            outputs, state = model.step(*unpack_inputs(contract, [*packed, *tensors]))
            values = dict(zip(contract.output_names, pack_outputs(contract, outputs, state)))
            recorded = finish_lanes({p.name: values[p.name].numpy() for p in contract.outputs}, contract.map_merge)
            arrays |= {f"f{i}/out/{name}": value for name, value in recorded.items()}
            tensors = [values[f"next_{p.name}"] for p in contract.state]
            count += 1
        for port, value in zip(contract.state, tensors):
            arrays[f"end/{port.name}"] = value.numpy()
    with atomic_path(path) as temporary:
        write_npz(temporary, arrays)
    return count


def recorded_frames(sequence: Sequence, contract: Contract) -> Iterator[Frame]:
    """The frames of a sequence as ``record`` takes them: what it writes of them are the same inputs to the bit."""
    import torch

    state = [torch.from_numpy(value) for value in contract.initial_state().values()]
    for feed in sequence.feeds:
        yield unpack_inputs(contract, [*(torch.from_numpy(feed[port.name]) for port in contract.frame), *state])[0]


def load(path: Path, contract: Contract, card: Mapping[str, Any] | None = None) -> Sequence:
    """Read a recorded sequence and hold it against its contract, and against what the card of its graph says of it.

    A file that is damaged, of another contract, or of another number of frames than the card has is a UserError that names the
    first difference.
    """
    try:
        with open_outside(path) as handle, zipfile.ZipFile(handle) as archive:
            arrays = _arrays(archive, path, contract)
    except FileNotFoundError:
        raise UserError(f"{path}: no recorded sequence; `make export` writes it beside the ONNX") from None
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything; all of it means the same to its owner
        why = str(error) or type(error).__name__
        raise UserError(f"{path}: not a recorded sequence ({why}); run `make export` again") from None
    count = 1 + max(int(name[1:].partition("/")[0]) for name in arrays if name.startswith("f"))
    if card is not None:
        if card.get("sequence_frames", count) != count:
            raise UserError(f"{path}: has {count} frames, its card says {card['sequence_frames']}; run `make export` again")
        if card.get("sequence_sha256", "") not in ("", sha256(path)):
            raise UserError(f"{path}: changed after its card was written (digest differs); run `make export` again")
    feeds, expected = [], []
    for i in range(count):
        feed = {p.name: arrays[f"f{i}/{p.name}"] for p in contract.frame if p.name != "img"}
        feed["img"] = normalise_images(arrays[f"f{i}/img_u8"], arrays["mean"], arrays["std"])
        feeds.append(feed)
        expected.append({p.name: arrays[f"f{i}/out/{p.name}"] for p in contract.outputs})
    end = {p.name: arrays[f"end/{p.name}"] for p in contract.state}
    contract.check_inputs({**feeds[0], **contract.initial_state()})
    return Sequence(feeds, expected, end)


def _arrays(archive: zipfile.ZipFile, path: Path, contract: Contract) -> dict[str, np.ndarray]:
    """All arrays by name; there are those of whole frames from 0 on, and no others."""
    again = "the file is cut or belongs to another config; run `make export` again"
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    frames = sorted({int(name[1:].partition("/")[0]) for name in names if re.match(r"f\d{1,6}/", name)})
    if not frames:
        raise UserError(f"{path}: holds no frame; {again}")
    wanted = _expected_arrays(contract, range(len(frames)))
    for name in wanted:
        if name not in names:
            raise UserError(f"{path}: {name} is missing, {again}")
    for name in names:
        if name not in wanted:
            raise UserError(f"{path}: has an array {name[:80]!r}, which no frame of this config has; {again}")
    arrays = {}
    for name, (shape, dtype) in wanted.items():
        with archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            found, by_columns, kind = header(member)
            if tuple(found) != shape or kind != dtype:
                raise UserError(f"{path}: {name} is {kind}{list(found)}, expected {dtype}{list(shape)}: {again}")
            # One byte more than there must be: reading to the end is what checks the archive's sum.
            data = member.read(math.prod(shape) * dtype.itemsize + 1)
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C").copy()
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds a value that is not finite; {again}")
        arrays[name] = array
    return arrays


def _expected_arrays(contract: Contract, frames: Iterable[int]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype by name of all that a sequence of these frames holds."""
    img = next(port for port in contract.frame if port.name == "img")
    _, cameras, channels, height, width = img.shape
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {name: ((channels,), np.dtype(np.float32)) for name in ("mean", "std")}
    for i in frames:
        arrays[f"f{i}/img_u8"] = ((cameras, height, width, channels), np.dtype(np.uint8))
        arrays |= {f"f{i}/{p.name}": (p.shape, np.dtype(p.dtype)) for p in contract.frame if p is not img}
        arrays |= {f"f{i}/out/{p.name}": (p.shape, np.dtype(p.dtype)) for p in contract.outputs}
    return arrays | {f"end/{p.name}": (p.shape, np.dtype(p.dtype)) for p in contract.state}
