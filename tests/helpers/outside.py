"""What an adapter of another simulator drives in tests: something that answers as a runtime does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from uniad.deploy.sensors import Sensors


class Recorder:
    """Keeps the frames that it is shown, and plans straight on at 5 m/s, or along ``path``."""

    def __init__(self, path: np.ndarray | None = None) -> None:
        self.path = np.stack([np.zeros(6), 2.5 * np.arange(1, 7)], -1) if path is None else path
        self.frames: list[Sensors] = []
        self.resets = 0

    def step(self, frame: Sensors):
        self.frames.append(frame)
        return SimpleNamespace(plan=SimpleNamespace(path=self.path))

    def reset(self) -> None:
        self.resets += 1
