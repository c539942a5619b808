"""The model that the repository brings, on a small world."""

from __future__ import annotations

from pathlib import Path

from helpers import REPO
from helpers.specs import config_path
from uniad.data.infos import create_infos
from uniad.deploy.runtime import Runtime


def make_infos(world: Path, folder: Path) -> None:
    create_infos(world, folder / "infos", workers=1, progress=False)


class Nano:
    """The model that the repository brings, its own thresholds nearly, and the options that point a config at the small world.

    folder: has the infos that ``make_infos`` put there.
    """

    config = config_path("nano", 2)
    checkpoint = REPO / "weights/nano/nano_e2e.pth"

    def __init__(self, folder: Path, world: Path) -> None:
        self.folder, self.world = folder, world
        self.options = [
            f"data_root={world}/", f"info_root={folder}/infos/", f"anchor_root={self.checkpoint.parent}/",
            "data.workers_per_gpu=0", "model.score_thresh=0.38",
        ]  # fmt: skip

    def open(self) -> Runtime:
        return Runtime.open(self.checkpoint, "cpu", config=self.config, options=self.options)
