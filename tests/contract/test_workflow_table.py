"""The table of the workflow in docs/upstream-stack.md is what make runs, row by row."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from helpers import REPO
from helpers.upstream_tree import SHM, STEMS, Upstream, shown

RAW = {"tiny": "bevformer_tiny_epoch_24.pth", "full": "bevformer_r101_dcn_24ep.pth"}
MACHINES = {"1 machine": ("GPUS=8",), "4 machines": ("GPUS=8", "NNODES=4", "NODE_RANK=0", "MASTER_ADDR=first")}
GOALS = ("clone", "patch", "overlay", "init-weights", "compile", "train-stage1", "train", "eval", "shell", "export")


class Row(NamedTuple):
    workflow: str
    goal: str
    runs: str
    of: str


def rows() -> list[Row]:
    section = (REPO / "docs/upstream-stack.md").read_text().split("## The workflow, command by command")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return [Row(workflow, goal.strip("`"), runs.strip("`"), of) for _, workflow, goal, runs, of in cells[2:]]


def missing(row: Row, text: str, variant: str, tree: Upstream) -> str | None:
    """What of a row's command no line has."""
    url, commit = (setting.split("=", 1)[1] for setting in tree.settings[:2])
    words = {
        "STEM": STEMS[variant], "RAW": RAW[variant], "SHM": SHM[variant], "HERE": str(tree.root), "URL": url, "COMMIT": commit,
        "VARIANT": variant,
    }  # fmt: skip
    runs = re.sub("|".join(rf"(?<![A-Z]){word}(?![A-Z])" for word in words), lambda found: words[found.group()], row.runs)
    pattern = ".*".join(re.escape(part.strip()) for part in runs.split("..."))
    return None if re.search(pattern, text) else runs


@pytest.mark.parametrize("machines", MACHINES)
@pytest.mark.parametrize("variant", ["tiny", "full"])
def test_every_command_of_the_workflow_is_run_as_the_table_says(upstream: Upstream, variant: str, machines: str):
    text = shown(upstream, *GOALS, f"VARIANT={variant}", *MACHINES[machines])
    random = shown(upstream, "export", "RANDOM_WEIGHTS=1", f"VARIANT={variant}", "GPUS=8") if machines == "1 machine" else ""
    checked = 0
    for row in rows():
        if row.of and row.of not in (variant, machines):
            continue
        if "RANDOM_WEIGHTS=1" in row.goal and not random:
            continue
        lines = random if "RANDOM_WEIGHTS=1" in row.goal else text
        assert (absent := missing(row, lines, variant, upstream)) is None, f"{row.workflow}: not run: {absent}"
        checked += 1
    assert checked >= 17


@pytest.mark.parametrize("goal", sorted({row.goal for row in rows()}))
def test_each_goal_alone_runs_its_commands(upstream: Upstream, goal: str):
    text = shown(upstream, *goal.split(), "VARIANT=tiny", "GPUS=8")
    for row in rows():
        if row.goal == goal and row.of != "4 machines":
            assert missing(row, text, "tiny", upstream) is None, row


def test_the_table_leaves_nothing_of_the_workflow_out():
    table = "\n".join(row.workflow for row in rows())
    for part in (
        "git clone", "git checkout 02fa68c5", "git apply patch/uniad-tiny-training-support.patch", "third_party", "mkdir ckpts",
        "wget -O", "docker run -it --gpus all", "setup.py build develop --user", "python3 ./tools/postprocess_bevformer_tiny",
        "uniad_dist_train.sh ./projects/configs/stage1", "epoch_6.pth ./ckpts/STEM_track_map.pth", "torch.distributed.launch",
        "uniad_dist_train.sh ./projects/configs/stage2", "epoch_20.pth ./ckpts/STEM_e2e.pth", "uniad_dist_eval.sh",
        "_e2e_ep20.pth", "uniad_export_onnx.sh", "uniad_tiny_dummy.onnx",
    ):  # fmt: skip
        assert part in table, part


def test_a_drift_is_found(upstream: Upstream):
    row = Row("x", "train", "uniad_torch1.12 ./tools/uniad_dist_train.sh ... STEM_track_map.py 8", "")
    line = "docker run uniad_torch1.12 ./tools/uniad_dist_train.sh ./c/tiny_imgx0.25_track_map.py 8"
    assert missing(row, line, "tiny", upstream) is None
    assert missing(row, line.replace(" 8", " 4"), "tiny", upstream) and missing(row, line, "full", upstream)
