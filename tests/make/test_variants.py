"""A variant is a config pair and a row: one of somebody's own works everywhere, and nothing else knows its name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from helpers import REPO
from helpers.make_tree import Tree, lay_tree

GOALS = ("train", "eval", "export", "verify", "engine", "visualize", "infer")


@pytest.fixture
def mine(tmp_path: Path) -> Tree:
    """A tree with copies of nano's configs under a name of one's own, as docs/configs.md says."""
    tree = lay_tree(tmp_path)
    for folder, kind in (("stage1_track_map", "track_map"), ("stage2_e2e", "e2e")):
        configs = tree.root / "projects/configs" / folder
        text = (configs / f"nano_{kind}.py").read_text()
        (configs / f"mine_{kind}.py").write_text(text.replace("nano_", "mine_"))
    (tree.root / "variants.local.mk").write_text("STEM.mine := mine\nSHM.mine := 3g\n")
    return tree


def test_the_whole_plan_of_a_variant_of_one_s_own_names_its_files_only(mine: Tree):
    plan = mine.done("-n", *GOALS, "VARIANT=mine")
    configs = "stage1_track_map/mine_track_map.py stage2_e2e/mine_e2e.py"
    checkpoints = "ckpts/mine_track_map.pth ckpts/mine_e2e_ep20.pth"
    products = "onnx/uniad_mine_cp.onnx engines/uniad_mine_cp.fp32 outputs/mine_e2e.png"
    for name in f"{configs} {checkpoints} {products}".split():
        assert name in plan, name
    assert not re.findall(r"[\w./]*(?:nano|tiny|full)[_.][\w./]*", plan)
    assert "mine_e2e_trt_p" not in plan, "without an export config of its own the stage's is taken"


def test_it_runs_and_a_second_time_does_nothing(mine: Tree):
    mine.done(*GOALS, "VARIANT=mine")
    assert (mine.root / "ckpts/mine_e2e_ep20.pth").is_file()
    mine.calls()
    mine.done(*GOALS, "VARIANT=mine")
    assert mine.tools() == []
    mine.done("demo", "VARIANT=mine", "DEMO_ITERS.mine=2 1")
    assert any("[--max-iters] [2]" in line for line in mine.calls())


def test_an_unknown_variant_is_refused_with_all_that_there_are(mine: Tree):
    result = mine.make("train", "VARIANT=other")
    assert result.returncode != 0
    there = "full, tiny, nano, base, b2d-base, b2d-tiny, b2d-nano, mine"
    assert f"choose {there}, or give it a row in variants.local.mk (docs/configs.md)" in result.stderr


def test_a_row_can_stand_on_the_command_line(mine: Tree):
    (mine.root / "variants.local.mk").unlink()
    assert "mine_e2e.py" in mine.done("-n", "train", "VARIANT=mine", "STEM.mine=mine")
    assert "SHM.mone is a column of no variant" in mine.make("-n", "train", "SHM.mone=1g").stderr


def test_columns_that_a_row_leaves_out_have_defaults_and_those_it_has_are_used(mine: Tree):
    shown = mine.done("-n", "shell", "VARIANT=mine", "STACK=native", "RUNTIME=docker")
    assert "--shm-size=3g" in shown
    row = {"STEM": "mine", "EXPORT_FRAMES": "5", "RAW": "ckpts/a.pth", "INIT": "ckpts/b.pth"}
    (mine.root / "variants.local.mk").write_text("".join(f"{column}.mine := {value}\n" for column, value in row.items()))
    assert "--shm-size=8g" in mine.done("-n", "shell", "VARIANT=mine", "STACK=native", "RUNTIME=docker")
    plan = mine.done("-n", "train", "export", "VARIANT=mine", "FROM_SCRATCH=0")
    assert "--frames 5" in plan
    assert "--out ckpts/a.pth" in plan.replace("'", "")
    assert "postprocess_bevformer_tiny_epoch_24_pth.py ckpts/a.pth ckpts/b.pth" in plan


def test_a_row_without_its_files_says_which(mine: Tree):
    (mine.root / "projects/configs/stage2_e2e/mine_e2e.py").unlink()
    result = mine.make("-n", "train", "VARIANT=mine")
    assert "VARIANT=mine has no projects/configs/stage2_e2e/mine_e2e.py" in result.stderr


def test_a_stack_that_cannot_run_a_variant_says_so(mine: Tree):
    with (mine.root / "variants.local.mk").open("a") as row:
        row.write("STACKS.mine := native\n")
    result = mine.make("-n", "train", "VARIANT=mine", "STACK=torch1.12", "RUNTIME=docker")
    assert "STACK=torch1.12 has no VARIANT=mine" in result.stderr and "STACK=native" in result.stderr


def test_no_code_knows_a_variant_by_its_name():
    """Text for people may; comparisons, tables and file names may not."""
    named = re.compile(r"""["'](full|tiny|nano)["']|["'](full|tiny_imgx0\.25|nano)_""")
    places = [*(REPO / "projects/uniad").rglob("*.py"), *(REPO / "tools").iterdir(), *(REPO / "mk").glob("*.mk")]
    allowed = {"variants.mk", "published.py", "checkpoints.py"}  # publishers' names of their own models
    for place in places:
        if place.is_file() and place.name not in allowed:
            for number, line in enumerate(place.read_text().splitlines(), 1):
                code = line.split("#")[0]
                assert not re.search(named, code) or "help=" in code or "default=" in code, f"{place}:{number}: {line}"


def test_the_export_of_a_config_has_the_name_that_make_gives_it(mine: Tree):
    from uniad.config.read import load_spec
    from uniad.export.names import onnx_name

    configs = mine.root / "projects/configs"
    shutil.copy(configs / "stage2_e2e/mine_e2e.py", configs / "stage2_e2e/mine_imgx0.5_e2e.py")
    spec = load_spec(configs / "stage1_track_map/mine_track_map.py")
    assert (spec.variant, onnx_name(spec)) == ("mine", "uniad_mine_track_map.onnx")
    spec = load_spec(configs / "stage2_e2e/mine_e2e.py")
    assert (spec.variant, onnx_name(spec)) == ("mine", "uniad_mine_cp.onnx")
    spec = load_spec(configs / "stage2_e2e/mine_imgx0.5_e2e.py")
    assert (spec.variant, onnx_name(spec)) == ("mine", "uniad_mine_imgx0.5_cp.onnx")


def test_only_the_table_of_rows_knows_a_variant_by_name():
    """In comments and help it may serve as an example."""
    named = re.compile(r"(?<![\w./-])(full|tiny|nano)(?![\w.])")
    for path in sorted((REPO / "mk").glob("*.mk")):
        lines = [line.partition("#")[0] for line in path.read_text().splitlines()] if path.name != "variants.mk" else []
        assert not [line for line in lines if named.search(line)], path.name


def test_base_takes_published_files_under_their_own_names(mine: Tree):
    """`make eval VARIANT=base` reads what upstream published where it was put; its products bear upstream's names."""
    plan = mine.done("-n", "eval", "export", "VARIANT=base")
    assert "stage2_e2e/uniad_base_e2e.py" in plan and "onnx/uniad_base_cp.onnx" in plan
    assert "ckpts/uniad_base_e2e.pth" in plan and "uniad_uniad" not in plan
