"""A public forge and a devcontainer run the scripts that a person runs: .ci/run and make's targets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import mutate
from helpers import REPO

WORKFLOWS = sorted((REPO / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", "\n".join(p.read_text() for p in (REPO / "mk").glob("*.mk")), re.M))


def ours(command: str) -> bool:
    words = command.split()
    return words == [".ci/run"] or (words[0] == "make" and words[1] in TARGETS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_runs_nothing_but_ours(path) -> None:
    text = path.read_text()
    steps = re.findall(r"^ *- run: (.*)$", text, re.M)
    assert steps and all(map(ours, steps)), steps
    assert len(re.findall(r"\brun:", text)) == len(steps), "a step is one line that a person can type"
    assert "permissions:\n  contents: read" in text
    assert all(re.search(r"@v\d", use) for use in re.findall(r"uses: (\S+)", text))


def test_ci_is_run_whole_and_the_other_pythons_are_tried() -> None:
    text = (REPO / ".github/workflows/ci.yml").read_text()
    assert "- run: .ci/run" in text
    tried = set(re.findall(r'"(3\.\d+)"', text))
    project = (REPO / "pyproject.toml").read_text()
    low, high = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', project, re.M).groups()
    assert tried == {f"3.{minor}" for minor in range(int(low), int(high))}


def test_the_devcontainer_makes_the_environment_as_a_person_does() -> None:
    settings = json.loads((REPO / ".devcontainer/devcontainer.json").read_text())
    assert settings["postCreateCommand"] == "make env"
    assert settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].endswith("/.venv/bin/python")


# Of the devcontainer specification (containers.dev): what a file of the "image" kind may say, and in which form
OF_AN_IMAGE = {
    "name": str, "image": str, "features": dict, "hostRequirements": dict, "runArgs": list, "mounts": list, "init": bool,
    "containerEnv": dict, "remoteEnv": dict, "containerUser": str, "remoteUser": str, "updateRemoteUserUID": bool,
    "workspaceFolder": str, "workspaceMount": str, "postCreateCommand": (str, list, dict), "postStartCommand": (str, list, dict),
    "onCreateCommand": (str, list, dict), "forwardPorts": list, "customizations": dict,
}  # fmt: skip


def test_the_devcontainer_s_file_is_one_of_the_specification() -> None:
    """An unknown key is passed over by the tools without a word, and a wrong form fails when somebody opens the folder."""
    settings = json.loads((REPO / ".devcontainer/devcontainer.json").read_text())
    assert "image" in settings and set(settings) <= set(OF_AN_IMAGE), set(settings) - set(OF_AN_IMAGE)
    assert all(isinstance(value, OF_AN_IMAGE[key]) for key, value in settings.items())
    assert all(isinstance(word, str) for word in settings["runArgs"] + list(settings["containerEnv"].values()))
    assert all(re.fullmatch(r"[a-z0-9./-]+:\d+", name) for name in settings["features"])
    needs = settings["hostRequirements"]
    assert set(needs) <= {"cpus", "memory", "storage", "gpu"} and type(needs["cpus"]) is int and needs["cpus"] >= 1
    assert all(re.fullmatch(r"\d+([tgmk]b)?", needs[key]) for key in ("memory", "storage"))
    assert needs["gpu"] in (True, False, "optional")


def test_ci_says_what_takes_long() -> None:
    lines = [line.strip() for line in (REPO / ".ci/run").read_text().splitlines()]
    lines = [line for line in lines if line.startswith(("make test ", "make test-long "))]
    assert len(lines) == 2 and all("$slowest" in line for line in lines)
    assert "--durations=" in (REPO / ".ci/run").read_text()


@pytest.mark.parametrize("free_gib, made, enough", [(4, False, False), (9, False, True), (3, True, False), (5, True, True)])
def test_ci_says_at_its_start_that_the_disk_is_too_small(tmp_path: Path, free_gib: int, made: bool, enough: bool) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPO / ".ci/run", tmp_path / ".ci")
    if made:
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv/installed.sha256").touch()
    for name, text in (("df", f"echo; echo disk 0 0 {free_gib << 20}"), ("make", "echo make $*"), ("id", "echo 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run([".ci/run"], cwd=tmp_path, env=env, capture_output=True, text=True)
    free = f"disk: {free_gib}.0 GiB free for the tree, {free_gib}.0 GiB in {tmp_path}"
    assert done.returncode == 0 and done.stdout.splitlines()[0] == f"{free} (start)" and done.stdout.count(free) == 5
    assert "make test-long" in done.stdout
    need = f"CI may need {4 if made else 7} GiB free in {tmp_path} and has {free_gib}.0"
    assert done.stderr == ("" if enough else f"note: {need}: make room, or name another folder by TMPDIR\n")


def test_fast_slow_and_long_tests_are_all_tests() -> None:
    """Each test is selected by `make test-fast`, `make test-slow` or `make test-long`, and `make test` is the first two."""
    text = (REPO / "mk/test.mk").read_text()
    chosen = dict(re.findall(r"^(test[a-z-]*): .*\n.* -m '([^']+)'", text, re.M))
    assert chosen == {"test": "not long", "test-fast": "not slow and not long", "test-slow": "slow and not long"}
    assert re.search(r"^test-long: .*\n.* -m long ", text, re.M)


def test_modules_that_mutation_changes_have_tests_of_their_folder(capsys, monkeypatch) -> None:
    default = re.search(r"^MUTANTS \?= ((?:.*\\\n)*.*)$", (REPO / "mk/vars.mk").read_text(), re.M)[1].replace("\\\n", " ").split()
    assert len(default) >= 8
    for module in default:
        assert (REPO / mutate.PACKAGE / module).is_file() and mutate.tests_of(mutate.PACKAGE / module)
    for word, told in (("no/such.py", "no/such.py: not there"), ("errors.py", "errors.py has no folder of tests of its own")):
        monkeypatch.setattr("sys.argv", ["mutate.py", word])
        assert mutate.ended(mutate.main) == 2 and told in capsys.readouterr().err
    assert "mutate" not in (REPO / ".ci/run").read_text() + "".join(path.read_text() for path in WORKFLOWS)
