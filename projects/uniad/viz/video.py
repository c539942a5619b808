"""Pictures as a video: H.264 in MP4, which every browser plays, by the ffmpeg that imageio-ffmpeg brings along."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from uniad.errors import UserError
from uniad.files import atomic_path

FRAMES_PER_S = 2.0  # keyframes are 0.5 s apart


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


def _even(picture: np.ndarray) -> np.ndarray:
    """One row or column less where the codec, which keeps colours for two by two pixels, would complain."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
