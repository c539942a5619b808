"""The model that the repository brings, on a small world."""

from __future__ import annotations

from pathlib import Path

from helpers import REPO
from helpers.specs import config_path
from uniad.deploy.runtime import Runtime


class Nano:
    """The model that the repository brings, its own thresholds nearly, and the options that point a config at the small world."""

    config = config_path("nano", 2)
    checkpoint = REPO / "weights/nano/nano_e2e.pth"

    def __init__(self, world: Path, infos: Path) -> None:
        self.world = world
        self.options = [
            f"data_root={world}/", f"info_root={infos}/", f"anchor_root={self.checkpoint.parent}/",
            "data.workers_per_gpu=0", "model.score_thresh=0.38",
        ]  # fmt: skip

    def open(self, device: str = "cpu", backend: str = "auto") -> Runtime:
        return Runtime.open(self.checkpoint, device, backend, config=self.config, options=self.options)
