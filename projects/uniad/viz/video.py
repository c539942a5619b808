"""Pictures as a film: H.264 in MP4, which every browser plays, by the ffmpeg that imageio-ffmpeg brings along."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from uniad.errors import UserError
from uniad.files import atomic_path
from uniad.viz.birdseye import FONT
from uniad.viz.palette import GROUND, TEXT

FRAMES_PER_S = 2.0  # keyframes are 0.5 s apart
BANNER = 44  # height of the strip with the name above each of two runs
WIDEST = 3840  # hardware decoders stop at 4096


def write_video(path: Path, pictures: Iterable[np.ndarray], fps: float = FRAMES_PER_S) -> int:
    """Write RGB pictures of one size [H, W, 3] as an MP4; returns their number. The file is whole or absent."""
    import imageio_ffmpeg

    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise UserError(f"{path}: there is no frame to show")
    first = _even(first)
    height, width = first.shape[:2]
    count = 0
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (width, height), fps=fps, codec="libx264", macro_block_size=2, quality=None, ffmpeg_log_level="error",
            # Two pictures a second: whoever jumps to a moment should find it. faststart: plays while it still loads.
            output_params=["-crf", "22", "-preset", "veryfast", "-g", "10", "-movflags", "+faststart"],
        )  # fmt: skip
        writer.send(None)
        try:
            for picture in itertools.chain([first], pictures):
                picture = _even(picture)
                if picture.shape != first.shape:
                    raise UserError(f"{path}: frame {count} is {picture.shape[1]}x{picture.shape[0]}, not {width}x{height}")
                writer.send(np.ascontiguousarray(picture))
                count += 1
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {str(error).splitlines()[0]}; is there room left?") from None
        finally:
            writer.close()
        if not temporary.stat().st_size:
            raise UserError(f"{path}: ffmpeg wrote nothing; is there room left?")
    return count


def write_picture(path: Path, picture: np.ndarray) -> None:
    """An RGB picture as PNG, whole or absent."""
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), picture[..., ::-1]):
            raise UserError(f"{path}: cannot be written; is it a .png in a folder with room?")


def side_by_side(left: Iterable[np.ndarray], right: Iterable[np.ndarray], titles: tuple[str, str]) -> Iterator[np.ndarray]:
    """Two runs of the same frames as one picture each, the name above; as long as both last."""
    for pair in zip(left, right):
        height = min(picture.shape[0] for picture in pair)
        halves = [_to(picture, height, WIDEST // 2) for picture in pair]
        lowest = max(half.shape[0] for half in halves)
        columns = []
        for half, title in zip(halves, titles):
            column = np.empty((BANNER + lowest, half.shape[1], 3), np.uint8)
            column[:] = GROUND
            column[BANNER : BANNER + half.shape[0]] = half
            cv2.putText(column, title, (16, 30), FONT, 0.8, TEXT, 2, cv2.LINE_AA)
            columns.append(column)
        yield np.concatenate(columns, 1)


def _to(picture: np.ndarray, height: int, widest: int) -> np.ndarray:
    """Scaled to a height, or to the widest that is allowed."""
    scale = min(height / picture.shape[0], widest / picture.shape[1])
    if scale == 1.0:
        return picture
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _even(picture: np.ndarray) -> np.ndarray:
    """One row or column less where the codec, which keeps colours for two by two pixels, would complain."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
