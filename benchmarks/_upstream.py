"""Upstream's loader as a process beside ours: upstream_loader.py in upstream's interpreter, asked and answered line by line."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from _loading import Rate
from uniad.config.spec import DataSpec
from uniad.data.dataset import ClipDataset
from uniad.errors import UserError

SCRIPT = Path(__file__).with_name("upstream_loader.py")
# Largest difference of images of one clip, in steps of an original grey level: both compute in fp32, in another order (upstream
# normalises and then scales). tests/stacks allows 1e-6 for images whose grey levels are about 0.017 apart.
IMAGES_AGREE = 1e-4


class UpstreamLoader:
    """Answers as upstream's loader does, until ``close``. UserError where it cannot run."""

    def __init__(self, python: str, root: str, config: str, data: DataSpec, batch: int) -> None:
        if not (Path(root) / "projects" / "mmdet3d_plugin").is_dir():
            raise UserError(f"--upstream-root {root} holds no projects/mmdet3d_plugin: name a clone of UniAD at 02fa68c5")
        self._log = tempfile.TemporaryFile("w+")
        words = [
            python, str(SCRIPT), config, "--root", root, "--data-root", str(data.data_root), "--infos", str(data.ann_file_train),
            "--queue-length", str(data.queue_length), "--batch", str(batch), *([] if data.image.photometric else ["--plain"]),
        ]  # fmt: skip
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1, env=env
            )
        except OSError as error:
            raise UserError(f"--upstream-python {python}: {error.strerror}") from error
        self.opened = self._answer()

    def __enter__(self) -> UpstreamLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, at once where it is busy."""
        self._process.terminate()
        self._process.communicate()
        self._log.close()

    def rate(self, workers: int, clips: int, seconds: float) -> Rate:
        """How fast it runs with so many loader processes, by the method that ours is measured with."""
        return Rate(*self._asked(do="rate", workers=workers, clips=clips, seconds=seconds))

    def images(self, last: int) -> np.ndarray:
        """Images [T, N, 3, H, W] of the clip that ends at frame ``last``, without distortion."""
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/clip.npy"
            self._asked(do="images", last=last, file=file)
            return np.load(file)

    def _asked(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError:
            pass  # it has ended: there is no answer, and its log says why
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._log.seek(0)
        said = self._log.read().strip().splitlines() or ["nothing"]
        raise UserError(f"upstream's loader ended with {self._process.returncode}; it said last: {said[-1]}")


def image_difference(upstream: UpstreamLoader, dataset: ClipDataset, last: int) -> float:
    """Largest difference between images of one clip of both loaders, in original grey levels; nothing is distorted.

    UserError where shapes differ, or images by more than rounding: then the two would not be timed at the same work.
    """
    theirs, ours = upstream.images(last), dataset.clip(last, np.random.default_rng(0)).frames.img.numpy()
    if theirs.shape != ours.shape:
        raise UserError(f"images of the clip that ends at frame {last}: {list(ours.shape)}, upstream's {list(theirs.shape)}")
    std = np.asarray(dataset.spec.image.std, np.float32)[:, None, None]
    found = max(float((np.abs(mine - other) * std).max()) for mine, other in zip(ours, theirs))
    if found > IMAGES_AGREE:
        raise UserError(
            f"images of the clip that ends at frame {last} differ by {found:.2g} grey levels, more than {IMAGES_AGREE:g}"
        )
    return found
