"""Tools one after the other, as make calls them, on a small world with a nano checkpoint."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from helpers import REPO
from helpers.forked import run_forked
from helpers.specs import config_path


def run(tool: str, *args: object) -> subprocess.CompletedProcess[str]:
    """A command line of tools/, from the root of the checkout, as make calls it."""
    return run_forked([f"tools/{tool}", *map(str, args)], REPO, os.environ)


def one_line_error(result: subprocess.CompletedProcess) -> str:
    """The message of a failed command: a single line, no traceback."""
    assert result.returncode != 0
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def options(work: Path, **more: object) -> list[str]:
    pairs: dict[str, object] = {"data.workers_per_gpu": 0, "model.score_thresh": 0.88, "model.filter_score_thresh": 0.86}
    for split in ("train", "val", "test"):
        infos = "train" if split == "train" else "val"
        pairs[f"data.{split}.data_root"] = work / "world"
        pairs[f"data.{split}.ann_file"] = work / "infos" / f"nuscenes_infos_temporal_{infos}.pkl"
    return ["--cfg-options", *(f"{k}={v}" for k, v in {**pairs, **more}.items())]


def export(work: Path, out: Path, *args: object, checkpoint: Path | None = None, **more: object) -> subprocess.CompletedProcess:
    return run(
        "export_onnx.py", config_path("nano").relative_to(REPO), checkpoint or work / "nano.pth", "--out", out, *args,
        *options(work, **more),
    )  # fmt: skip
