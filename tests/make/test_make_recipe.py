"""`make train` of a variant that learns the synthetic world from nothing runs its recipe, unless somebody says how long."""

from __future__ import annotations

import shutil

import pytest

from helpers import REPO
from helpers.make_tree import Tree

NANO, TINY = "projects/configs/recipes/nano.py", "projects/configs/recipes/tiny_imgx0.25.py"
SHIPPED = "weights/nano/nano_e2e.pth"


@pytest.fixture
def recipes(tree: Tree) -> Tree:
    """The tree with the repository's recipes and model, and a stand-in for what runs a recipe."""
    shutil.copytree(REPO / "projects/configs/recipes", tree.root / "projects/configs/recipes")
    for name in ("nano_e2e.pth", "motion_anchor_infos_mode6.pkl"):
        (tree.root / "weights/nano").mkdir(parents=True, exist_ok=True)
        (tree.root / "weights/nano" / name).write_text(name)
    shutil.copy(REPO / "projects/uniad/training/recipe.py", tree.root / "projects/uniad/training/recipe.py")
    python = tree.root / ".venv/bin/python"
    stub = '  train_recipe) mkdir -p "$(dirname "$out")"; date +%s%N > "$out" ;;\n'
    python.write_text(python.read_text().replace("  train) work=", f"{stub}  train) work="))
    return tree


def trainings(tree: Tree) -> list[str]:
    return [line for line in tree.calls() if line.split()[0] in ("tools/train.py", "tools/train_recipe.py")]


def test_nano_from_nothing_is_trained_by_its_recipe_and_promoted(recipes: Tree):
    output = recipes.done("train", "VARIANT=nano", "FROM_SCRATCH=1", "GPUS=0")
    first, second = trainings(recipes)
    assert first.startswith(f"tools/train_recipe.py [{NANO}] [--stage] [1]") and "[--device] [cpu]" in first
    assert "[--stage] [2]" in second and "[--load-from] [ckpts/nano_track_map.pth]" in second
    assert "[--packs] [data/synthetic/packs/nano]" in first and "[anchor_root=weights/nano/]" in second
    for name in ("ckpts/nano_track_map.pth", "ckpts/nano_e2e.pth", "ckpts/nano_e2e_ep20.pth"):
        assert (recipes.root / name).is_file()
    assert "on two CPU cores this takes about" in output, "a person is told before"
    recipes.done("train", "VARIANT=nano", "FROM_SCRATCH=1", "GPUS=0")
    assert recipes.calls() == [], "and it is done once"


def test_tiny_has_a_recipe_of_its_own_and_no_flags_of_anybodys(recipes: Tree):
    recipes.done("train", "VARIANT=tiny", "GPUS=0")
    first, second = trainings(recipes)
    assert TINY in first and TINY in second and "[--precision]" not in first, "the tool takes what suits the machine"
    recipes.done("train-stage1", "VARIANT=tiny", "GPUS=0", "TRAIN_PRECISION=bf16", "TRAIN_ARGS=--save-every 5m")
    (again,) = trainings(recipes)
    assert "[--precision] [bf16]" in again and again.endswith("[--] [--save-every] [5m]")


@pytest.mark.parametrize("words", [
    ["RECIPE=0"], ["MAX_ITERS=3"], ["EPOCHS=1"], ["EPOCHS.2=1"], ["QUEUE_LENGTH=3"], ["DATASET=demo"], ["FROM_SCRATCH=0"],
])  # fmt: skip
def test_the_plain_schedule_stays_where_somebody_says_how_long_or_what_on(recipes: Tree, words: list[str]):
    result = recipes.make("-n", "train", "VARIANT=tiny", "GPUS=0", *words)
    assert "tools/train_recipe.py" not in result.stdout, result.stdout


def test_the_model_of_this_repository_is_continued_plainly(recipes: Tree):
    recipes.done("train", "VARIANT=nano", "GPUS=0")
    (line,) = trainings(recipes)
    assert line.startswith("tools/train.py") and f"[load_from={SHIPPED}]" in line


def test_a_changed_recipe_is_asked_again_and_one_that_cannot_be_used_is_said(recipes: Tree):
    recipes.done("train-stage1", "VARIANT=tiny", "GPUS=0")
    recipes.calls()
    (recipes.root / TINY).write_text((recipes.root / TINY).read_text() + "# another thought\n")
    recipes.done("train-stage1", "VARIANT=tiny", "GPUS=0")
    assert len(trainings(recipes)) == 1, "the tool knows which phases are finished"
    refused = recipes.make("train", "VARIANT=full", "RECIPE=1", "GPUS=0", "STACK=native")
    assert refused.returncode == 2 and "has no full.py" in refused.stderr
