"""What a setting holds never runs: every one of mk/*.mk, with everything that a shell or make acts on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from helpers import REPO
from helpers.make_tree import Tree

MAKEFILES = [REPO / "Makefile", *(REPO / "mk").glob("*.mk")]
SETTINGS = sorted({name for path in MAKEFILES for name in re.findall(r"^\s*([A-Za-z_][\w.]*)\s*\?=", path.read_text(), re.M)})
# Read from the environment by other programs, and expanded nowhere; of `make configure`, in a file of its own
ELSEWHERE = {"http_proxy", "https_proxy", "no_proxy"}
TOUCHED = "touch canary"
HOSTILE = (f"a`{TOUCHED}`", f"a;{TOUCHED};", f"a&{TOUCHED}&", f"a|{TOUCHED}", f"$$({TOUCHED})", f"$(shell {TOUCHED})",
           f"a';{TOUCHED};'", f'a";{TOUCHED};"', f"a\n{TOUCHED}", f"a(){{ {TOUCHED}; }};a", "a>canary", "a #")  # fmt: skip
# Prints a setting as a recipe that leaves it to the shell would, were it not refused before.
BARE = "include mk/prelude.mk\ninclude mk/values.mk\nSHELL := /bin/bash\n.PHONY: all\nall: ; @true $({name})\n"


def bare(folder: Path, name: str, value: str, **run: str) -> subprocess.CompletedProcess[str]:
    text = BARE.replace("{name}", name)
    line, env = [] if run else [f"{name}={value}"], {"PATH": "/usr/bin:/bin:/usr/local/bin", **run}
    return subprocess.run(["make", "-f", "-", *line], input=text, cwd=folder, capture_output=True, text=True, timeout=30, env=env)


def quoted() -> list[str]:
    lines = (REPO / "mk/values.mk").read_text().replace("\\\n", " ")
    patterns = re.search(r"^QUOTED := (.*)$", lines, re.M).group(1).split()
    return [s for s in SETTINGS if any(re.fullmatch(p.replace(".", r"\.").replace("%", ".*"), s) for p in patterns)]


@pytest.fixture
def makefiles(tmp_path: Path) -> Path:
    (tmp_path / "mk").symlink_to(REPO / "mk")
    (tmp_path / "Makefile").symlink_to(REPO / "Makefile")
    return tmp_path


def test_every_setting_is_known(makefiles: Path) -> None:
    assert len(SETTINGS) > 90 and {"SCENE", "FRAMES_DIR", "TRAIN_ARGS", "JETSON_DIR", "HOST_PYTHON"} <= set(SETTINGS)


@pytest.mark.parametrize("value", HOSTILE)
def test_no_kind_of_value_runs(makefiles: Path, value: str) -> None:
    for name in ("SCENE", "TRAIN_ARGS", "TESTS", "RANK", "DATA_ROOT"):
        done = bare(makefiles, name, value)
        assert done.returncode == 2 and f"{name} cannot hold " in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (makefiles / "canary").exists()


@pytest.mark.parametrize("value", ["nano ", " nano", "nano\t"])
def test_a_blank_at_an_end_is_refused_of_words_not_of_lists(makefiles: Path, value: str) -> None:
    # On the command line make itself takes a blank away that comes first.
    for run in ({"VARIANT": value}, *([{}] if value.startswith("n") else [])):
        done = bare(makefiles, "VARIANT", value, **run)
        assert done.returncode == 2 and "begins or ends with a blank" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    for name in ("TRAIN_ARGS", "TESTS"):
        assert bare(makefiles, name, value).returncode == 0
    assert bare(makefiles, "VARIANT", "").returncode == bare(makefiles, "VARIANT", " ").returncode == 0


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - ELSEWHERE))
def test_no_setting_runs(makefiles: Path, name: str) -> None:
    everything = f"a`{TOUCHED}`$(shell {TOUCHED})$$({TOUCHED});{TOUCHED}&{TOUCHED}|{TOUCHED}"
    for environment in ({}, {name: everything}):  # on the command line, and from the environment
        done = bare(makefiles, name, everything, **environment)
        assert done.returncode == 2 and f"{name} cannot hold " in done.stderr, (environment, done.stderr)
    assert not (makefiles / "canary").exists()


# What a shell acts on, but make does not
TAIL = f"a';{TOUCHED};'`{TOUCHED}`\"&{TOUCHED}&(#~*"
NATIVE = ("VARIANT=nano", "DATASET=synthetic", "STACK=native", "RUNTIME=host")
IMAGE = ("image", "VARIANT=tiny", "RUNTIME=docker")
INDEX = "TORCH_INDEX_URL="
# Of each setting that every use quotes: goals and settings that bring it to a tool, what stands before it there, and whether
# the tool gets the value as one word or each of its words.
REACHES = {
    "CFG_OPTIONS": (("infer", "visualize", *NATIVE), "", "words"),
    "TIMING_CACHE": (("engine", *NATIVE), "", "one"),
    "KEEP_FP32": (("quantize", "PRECISION=int8", *NATIVE), "", "words"),
    "JETSON_DIR": (("jetson-engine", "JETSON=me@orin", *NATIVE), "--folder=", "one"),
    "JETSON_SSH_FLAGS": (("jetson-engine", "JETSON=me@orin", *NATIVE), "--ssh-flags=", "one"),
    "JOB_IMAGE": (("train", "ON=k8s", "GPUS=8", *NATIVE), "", "one"),
    "JOB_STORAGE": (("train", "ON=k8s", "GPUS=8", *NATIVE), "", "one"),
    "WEIGHTS_DIR": (("weights", "VARIANT=tiny", "STACK=native", "RUNTIME=host"), "", "one"),
    "WEIGHTS_URL.bevformer_tiny_epoch_24.pth": (("weights", "VARIANT=tiny", "STACK=native", "RUNTIME=host"), "", "words"),
    "TORCH_INDEX_URL": (("-W", "pyproject.toml", "env", *NATIVE), "", "one"),
    "UNIAD_GIT_URL": (("clone", "STACK=torch1.12", "RUNTIME=docker", "VARIANT=tiny"), "", "one"),
    "TORCH112_INDEX_URL": ((*IMAGE, "STACK=torch1.12"), INDEX, "one"),
    "DEPLOY_INDEX_URL": ((*IMAGE, "IMAGE=deploy"), INDEX, "one"),
    "JETSON_INDEX_URL": ((*IMAGE, "IMAGE=jetson"), INDEX, "one"),
    "PIP_INDEX_URL": ((*IMAGE, "IMAGE=deploy"), "PIP_INDEX_URL=", "one"),
    "APT_MIRROR": ((*IMAGE, "IMAGE=deploy"), "APT_MIRROR=", "one"),
    "BUILD_ARGS": ((*IMAGE, "IMAGE=deploy"), "", "words"),
    "CA_CERTS": ((*IMAGE, "IMAGE=deploy"), "", "one"),
    "PIP_CERT": ((*IMAGE, "IMAGE=deploy"), "", "one"),
    "WHEELS": ((*IMAGE, "IMAGE=deploy"), "", "words"),
    "PIP_FIND_LINKS": ((*IMAGE, "IMAGE=deploy"), "", "words"),
}


@pytest.mark.parametrize("name", sorted({*quoted(), *REACHES}))
def test_settings_that_every_use_quotes_reach_their_tools_as_they_are(tree: Tree, name: str) -> None:
    """Through the real recipes; every tool, and the container engine, is one that notes its words."""
    goals, before, how = REACHES[name]
    value = f"{name.lower()}{TAIL}"
    for word in value.split() if name == "PIP_FIND_LINKS" else ():
        (tree.root / word).mkdir()  # pip's variable may name folders that are not there; ours would not
    (tree.root / "ckpts").mkdir(exist_ok=True)
    (tree.root / "ckpts/nano_e2e_ep20.pth").write_text("weights")
    note = tree.root / ".venv/bin/python"
    (tree.root / "config.mk").unlink()  # it names another Python than HOST_PYTHON
    (tree.root / "bin").mkdir()
    for place in ("bin/docker", "mk/lib/stage_context.sh"):
        (tree.root / place).write_text('#!/bin/sh\nexec "$NOTE" "$(basename $0)" "$@"\n')
        (tree.root / place).chmod(0o755)
    environment = {"NOTE": str(note), "PATH": f"{tree.root}/bin:{os.environ['PATH']}"}
    done = tree.make(*goals, f"{name}={value}", f"HOST_PYTHON={note}", **environment)
    words = [word for line in tree.calls() for word in re.findall(r"\[(.*?)\](?= \[|$)", line)]
    wanted = [before + value] if how == "one" else value.split()
    missing = [word for word in wanted if word not in words]
    assert not missing, (missing, words, done.stderr[-500:])
    assert not [path for path in tree.root.rglob("canary*") if not path.is_dir()]


# Settings of several words: goals that bring them to a tool
NANO = ("VARIANT=nano", "DATASET=synthetic", "STACK=native", "RUNTIME=host")
CONTAINER = ("VARIANT=tiny", "DATASET=nuscenes", "STACK=torch1.12", "RUNTIME=docker")
LISTS = {
    "BUILD_FLAGS": (*IMAGE, "IMAGE=deploy"),
    "COMPARE_ARGS": ("compare-stacks",),
    "DATA_ARGS": ("data", *NANO),
    "DEMO_TRAIN_ARGS": ("demo",),
    "DOCKER_FLAGS": ("shell", *CONTAINER),
    "EVAL_ARGS": ("eval", *NANO),
    "INFER_ARGS": ("infer", *NANO),
    "QUANTIZE_ARGS": ("quantize", "PRECISION=int8", *NANO),
    "SLURM_FLAGS": ("slurm", *NANO),
    "TESTS": ("test",),
    "TEST_ARGS": ("test",),
    "TRAIN_ARGS": ("train", *NANO),
    "VIEW_ARGS": ("view", *NANO),
    "VIDEO_ARGS": ("visualize", "SCENE=0", *NANO),
    "VISUALIZE_ARGS": ("visualize", *NANO),
}


def test_every_list_of_options_is_used_by_a_recipe() -> None:
    found = {s for s in SETTINGS if re.fullmatch(r"\w+_ARGS|\w+_FLAGS|TESTS", s)} - set(quoted())
    assert set(LISTS) <= found, "each of these is tried below"
    text = "".join(path.read_text() for path in MAKEFILES)
    assert not [name for name in found if f"$({name})" not in text]


@pytest.mark.parametrize("name", LISTS)
def test_options_reach_their_tools_word_by_word(tree: Tree, name: str) -> None:
    (tree.root / "ckpts").mkdir(exist_ok=True)
    (tree.root / "ckpts/nano_e2e_ep20.pth").write_text("weights")
    shown = tree.make("-n", *LISTS[name], f"{name}=--{name.lower()} 1.5")
    words = shown.stdout.replace("'", " ").split()
    assert f"--{name.lower()}" in words and words[words.index(f"--{name.lower()}") + 1] == "1.5", shown.stdout + shown.stderr


@pytest.mark.parametrize("name", ["a`touch canary`b", "a;touch canary", "a'b", "a&b", "$(touch canary)", "a b"])
def test_folders_with_names_of_commands_run_nothing(tree: Tree, name: str) -> None:
    folder = tree.root / name
    (folder / "drive").mkdir(parents=True)
    (folder / "frames.json").write_text("{}")
    for given in (f"FRAMES_DIR={folder}", f"COMPARE={folder} {folder}", f"DATA_DIR={folder}", f"VENV={folder}"):
        done = tree.make("infer", "VARIANT=nano", given)
        assert done.returncode == 2 and given.split("=")[0] in done.stderr, (given, done.stderr)
    # Its name shows only where the path ends.
    for part in ("Makefile", "mk", "tools", "projects", ".venv"):
        (folder / "drive" / part).symlink_to(tree.root / part)
    inside = Tree(folder / "drive").make("infer", "VARIANT=nano", "FRAMES_DIR=..")
    assert inside.returncode == 2 and "FRAMES_DIR" in inside.stderr, inside.stderr
    assert not [path for path in tree.root.rglob("canary") if path != folder]


OPTION = "-x"


# Some of each kind: words, and settings that every use quotes
@pytest.mark.parametrize("name", [
    "BAG", "BAG_TOPICS", "BACKBONE", "DATA_DIR", "FRAMES_DIR", "RUNS", "SCENE", "VENV",
    "CFG_OPTIONS", "JETSON_DIR", "KEEP_FP32", "TIMING_CACHE", "WEIGHTS_DIR", "WHEELS",
])  # fmt: skip
def test_no_setting_is_taken_for_an_option(makefiles: Path, name: str) -> None:
    """Quotes do not help: a tool reads --folder -x as two options, and -v or --help as a wish for something else."""
    for run in ({}, {name: OPTION}):
        done = bare(makefiles, name, OPTION, **run)
        assert done.returncode == 2 and f"{name}={OPTION}: {OPTION} would be taken for an option" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and "write a path as ./-x" in done.stderr


def test_numbers_below_0_and_dashes_inside_are_no_options(makefiles: Path) -> None:
    assert "--help would be taken" in bare(makefiles, "CFG_OPTIONS", "a.b=1 --help").stderr
    fine = {"SEED": "-1", "SCENE": "./-x", "CFG_OPTIONS": "a=-1 b.c=x-y", "TEST_ARGS": "-k x", "JETSON_SSH_FLAGS": "-i key"}
    for name, value in fine.items():
        assert bare(makefiles, name, value).returncode == 0, (name, value)


@pytest.mark.parametrize("scene", [".", "..", "../../..", "a/../b"])
def test_a_scene_that_climbs_out_of_its_folder_is_none(tree: Tree, scene: str) -> None:
    done = tree.make("-n", "infer", "VARIANT=nano", f"SCENE={scene}")
    assert done.returncode == 2 and "is no scene" in done.stderr


def test_what_people_write_is_taken(tree: Tree) -> None:
    """Brackets and quotes of config values, patterns, a home by ~, and several words where several are meant."""
    shown = tree.done(
        "-n", "infer", "engine", "VARIANT=nano", "CFG_OPTIONS=a.b=[1,2] c='x' d=(1,2)", "TRAIN_ARGS=--save-every 5m", "TRT=10.3",
        "JETSON_SSH_FLAGS=-i ~/.ssh/jetson", "TESTS=tests/unit -k config", "WEIGHTS_DIR=/my weights", "INFER_ARGS=--warmup 10",
        "UNIAD_GIT_URL=https://host/r.git?a=1&b=2", "SCENE=scene-0103", http_proxy="http://me:pa$$@proxy",
    )  # fmt: skip
    assert "--warmup 10" in shown and "'d=(1,2)'" in shown
