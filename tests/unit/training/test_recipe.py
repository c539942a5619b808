"""A recipe is data that is checked before anything is made: phases, seeds, steps, and how long they take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from helpers import REPO
from helpers.command_line import refused
from uniad.config.file import ConfigError
from uniad.training.recipe import read_recipe

RECIPES = sorted((REPO / "projects/configs/recipes").glob("*.py"))
PHASE = "dict(name='a', stage=1, seeds=[11], frames=2, steps=5, lr=1e-3)"


def write(tmp_path: Path, phases: str = f"[{PHASE}]", more: str = "") -> Path:
    path = tmp_path / "mine.py"
    config = REPO / "projects/configs/stage1_track_map/nano_track_map.py"
    path.write_text(f"configs = {{1: '{config}'}}\nworlds = dict(scenes=2, frames=8)\nclips = 4\nphases = {phases}\n{more}")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_here_can_be_run(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every phase's config takes its values, and all of them train both stages."""
    from uniad.config.read import load_spec

    monkeypatch.chdir(REPO)
    recipe = read_recipe(path)
    assert {phase.stage for phase in recipe.phases} == {1, 2}
    for phase in recipe.phases:
        spec = load_spec(recipe.configs[phase.stage], recipe.config_values(phase))
        assert spec.stage == phase.stage and spec.data.queue_length == spec.model.queue_length == phase.frames
        assert spec.train.lr == phase.lr


def test_values_of_a_phase_reach_the_config_and_come_after_the_recipes(tmp_path: Path):
    phases = f"[{PHASE[:-1]}, least_lr=0.5, options={{'native.max_objects': 32}})]"
    recipe = read_recipe(write(tmp_path, phases, "options = {'native.max_objects': 64, 'native.compat': 'fixed'}"))
    values = recipe.config_values(recipe.phases[0])
    assert "native.max_objects=32" in values and "native.compat=fixed" in values and "native.max_objects=64" not in values
    assert {"queue_length=2", "model.queue_length=2", "data.train.queue_length=2"} <= set(values)
    assert {"optimizer.lr=0.001", "lr_config.min_lr_ratio=0.5"} <= set(values)


def test_the_time_on_a_cpu_grows_with_steps_clips_and_frames(tmp_path: Path):
    recipe = read_recipe(write(tmp_path, f"[{PHASE.replace('steps=5', 'steps=3600')}]"))
    # 3,600 steps of 4 clips at 2 s, of as many frames as the config's clips have
    assert "about 8 hours" in recipe.time(recipe.phases, False, (2.0, 1.0))
    longer = read_recipe(write(tmp_path, f"[{PHASE.replace('steps=5', 'steps=3600').replace('frames=2', 'frames=6')}]"))
    assert "about 24 hours" in longer.time(longer.phases, False, (2.0, 1.0))
    assert "days" in recipe.time(recipe.phases, False) and recipe.time(recipe.phases, True) == ""
    nano = read_recipe(REPO / "projects/configs/recipes/nano.py")
    assert f"in {sum(phase.minutes for phase in nano.phases):.0f} minutes" in nano.time(nano.phases, True)


@pytest.mark.parametrize("phases, more, output", [
    (f"[{PHASE[:-1]}, stpes=3)]", "", "nothing reads 'stpes'; did you mean 'steps'?"),
    (f"[{PHASE.replace('[11]', '[2]')}]", "", "seed 2 is none to train on"),
    (f"[{PHASE.replace('[11]', '[]')}]", "", "seeds names no world"),
    (f"[{PHASE[:-1]}, driven=[3])]", "", "seed 3 is none to train on"),
    (f"[{PHASE[:-1]}, learner=[3])]", "", "seed 3 is none to train on"),
    (f"[{PHASE[:-1]}, learner=[43])]", "", "a phase of stage 2 has to come before it"),
    (f"[{PHASE}, {PHASE}]", "", "names of their own"),
    ("[]", "", "at least"),
    (f"[{PHASE.replace('stage=1', 'stage=3')}]", "", "give 1 or 2"),
    (f"[{PHASE.replace('stage=1', 'stage=2')}]", "", "configs names none for stage 2"),
    (f"[{PHASE.replace('steps=5', 'steps=0')}]", "", "steps is 0; give a whole number above 0"),
    ("[dict(name='a', stage=1, seeds=[11])]", "", "frames, lr, steps is missing"),
    (f"[{PHASE}]", "clip = 3", "nothing reads 'clip'; did you mean 'clips'?"),
    (f"[{PHASE}]", "clips = 0", "clips is 0"),
    *((f"[{PHASE.replace(*change)}]", "", output) for change, output in (
        (("seeds=[11]", "seeds=5"), "seeds is 5; give a list"), (("seeds=[11]", "seeds=None"), "seeds is None; give a list"),
        (("seeds=[11]", "seeds='11'"), "seeds is '11'; give a list"), (("[11]", "[99999999999]"), "is none to train on"),
        (("[11]", "[True]"), "seed True is none to train on"), (("[11]", "[11, 11]"), "seeds names a world twice"),
        (("steps=5", "steps=5, driven=7"), "driven is 7; give a list"), (("1e-3", "'x'"), "lr is 'x'; give a number above 0"),
        (("1e-3", "None"), "lr is None"), (("1e-3", "1e999"), "lr is inf"),
        (("steps=5", "steps=5, least_lr='x'"), "least_lr is 'x'"), (("steps=5", "steps=5, warmup=2.5"), "warmup is 2.5"),
        (("steps=5", "steps=5, warmup=-3"), "warmup is -3; give a whole number"),
        (("stage=1", "stage='1'"), "stage is '1'; give 1 or 2"), (("stage=1", "stage=1.0"), "stage is 1.0; give 1 or 2"),
        (("stage=1", "stage=True"), "stage is True"), (("'a'", "'../../a'"), "name is '../../a'; give a folder's name"),
        (("'a'", "'/a'"), "name is '/a'"), (("'a'", "''"), "name is ''"), (("'a'", "[1]"), "name is [1]"),
        (("steps=5", "steps=5, minutes='x'"), "minutes is 'x'"), (("steps=5", "steps=5, minutes=-1"), "minutes is -1"),
        (("steps=5", "steps=5, dense_bev='no'"), "dense_bev is 'no'; give True or False"),
        (("steps=5", "steps=5, options=5"), "options is 5"), (("steps=5", "steps=5, options={'a b': 1}"), "a key is 'a b'"),
        (("frames=2", "frames=9"), "has clips of 9 frames; scenes of its worlds have 8"),
    )),
    ("5", "", "phases is 5; give a list"), ("'ab'", "", "phases is 'ab'"), ("[{1: 2}]", "", "nothing reads 1"),
    *((f"[{PHASE}]", more, output) for more, output in (
        ("worlds = 3", "worlds is 3; give dict(scenes=..., frames=...)"), ("worlds = ['scenes']", "worlds is ['scenes']"),
        ("configs = ['a']", "configs is ['a']; give a mapping"), ("configs = 'a'", "configs is 'a'"),
        ("configs = None", "configs is None"),
        ("configs = {'a': 'b'}", "a stage of configs is 'a'; give 1 or 2"), ("configs = {1: 2}", "the config of stage 1 is 2"),
        ("options = [1]", "options is [1]; give dict()"), ("options = 'a=b'", "options is 'a=b'"),
    )),
])  # fmt: skip
def test_what_a_recipe_cannot_be_is_one_line_that_names_it(tmp_path: Path, phases: str, more: str, output: str):
    with pytest.raises(ConfigError) as error:
        read_recipe(write(tmp_path, phases, more))
    assert output in str(error.value) and "mine.py" in str(error.value) and "\n" not in str(error.value)


def test_the_time_of_a_config_without_a_length_of_clips_is_one_line(tmp_path: Path):
    recipe = read_recipe(write(tmp_path))
    (tmp_path / "bare.py").write_text("a = 1\n")
    with pytest.raises(ConfigError, match="bare.py: queue_length is None"):
        dataclasses.replace(recipe, configs={1: str(tmp_path / "bare.py")}).time(recipe.phases, False, (2.0, 1.0))


def test_stages_come_in_their_order(tmp_path: Path):
    second = PHASE.replace("stage=1", "stage=2").replace("'a'", "'b'")
    with pytest.raises(ConfigError, match="phases of stage 1 come before"):
        read_recipe(write(tmp_path, f"[{second}, {PHASE}]"))


@pytest.mark.parametrize("words, output", [
    (["--seed", "-1"], "--seed -1: choose one from 0"), (["--seed", "9" * 20], "--seed 9999"),
    (["--jobs", "0"], "--jobs 0: give 1"), (["--pace", "nan", "1"], "--pace nan 1.0: give seconds"),
    (["--pace", "0", "1"], "--pace 0.0"),
    (["--load-from", "none.pth"], "none.pth: no such file"), (["--out", "FOLDER"], "is a folder; a file is to be written there"),
    (["--work-dir", "FILE"], "mine.py is a file, not a folder"), (["--packs", "FILE"], "mine.py is a file, not a folder"),
    (["--cfg-options", "model.nobody=1"], "nobody"),
])  # fmt: skip
def test_what_a_recipe_cannot_be_run_with_is_told_before_a_world_is_made(tmp_path: Path, words: list[str], output: str):
    recipe = write(tmp_path)
    places = {"FOLDER": str(tmp_path), "FILE": str(recipe)}
    given = [places.get(word, word) for word in words]
    for option in ("--work-dir", "--packs"):
        if option not in given:
            given = [option, str(tmp_path / option.strip("-")), *given]
    assert output in refused("tools/train_recipe.py", recipe, *given)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
