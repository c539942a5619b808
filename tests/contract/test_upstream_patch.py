"""The patch of the upstream stack: new files of our own, and as little of UniAD's as can be."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from helpers import REPO

PATCH = REPO / "patch/uniad-tiny-training-support.patch"
COMMIT = "02fa68c5"
MOST_REMOVED = 8  # lines of UniAD's that the patch has to name


@pytest.fixture(scope="module")
def files():
    """Path -> lines of its part, for each file that the patch touches."""
    parts = re.split(r"(?m)^diff --git a/(\S+) .*\n", PATCH.read_text())
    return {path: part.splitlines() for path, part in zip(parts[1::2], parts[2::2], strict=True)}


def is_new(lines):
    return any(line.startswith("new file mode") for line in lines)


def added(lines):
    return [line[1:] for line in lines if line.startswith("+") and not line.startswith("+++")]


def test_it_quotes_no_more_of_uniad_than_plain_git_apply_needs(files):
    """A change that is not at a file's end needs the line after it; one line on either side, and no more."""
    for path, lines in files.items():
        hunk: list[str] = []
        for line in [*lines, "@@"]:
            if line.startswith("@@"):
                marks = "".join(part[0] for part in hunk)
                assert re.fullmatch(r" ?[-+]* ?", marks), f"{path}: {marks}"
                hunk = []
            elif line[:1] in (" ", "+", "-") and not line.startswith(("---", "+++")):
                hunk.append(line)


def test_it_takes_next_to_nothing_away(files):
    removed = [line for lines in files.values() for line in lines if line.startswith("-") and not line.startswith("---")]
    assert 0 < len(removed) <= MOST_REMOVED


def test_what_is_new_lies_in_one_package(files):
    new = [path for path, lines in files.items() if is_new(lines)]
    assert {str(Path(path).parent) for path in new} == {"projects/mmdet3d_plugin/uniad_compat"}


def test_new_files_are_python_that_says_what_it_is_for(files):
    for path, lines in files.items():
        if is_new(lines):
            assert ast.get_docstring(ast.parse("\n".join(added(lines)), filename=path)), path


def test_its_head_names_the_commit_and_how_to_apply_it():
    head = PATCH.read_text().split("diff --git")[0]
    assert COMMIT in head
    assert f"git apply {PATCH.name}" in head


def test_each_module_that_it_adds_is_named_in_its_head(files):
    head = PATCH.read_text().split("diff --git")[0]
    modules = {Path(path).stem for path, lines in files.items() if is_new(lines)} - {"__init__"}
    assert modules == set(re.findall(r"(?m)^  (\w+) {2,}\S", head))


def test_it_applies_at_the_commit_and_comes_off_again(tmp_path):
    url = os.environ.get("UNIAD_GIT_URL", "")
    if not url or not Path(url).is_dir():
        pytest.skip("no copy of UniAD here: set UNIAD_GIT_URL to a local repository")

    def git(*words, **more):
        return subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True, **more).stdout

    subprocess.run(["git", "clone", "--quiet", "--no-checkout", url, str(tmp_path)], check=True, capture_output=True)
    git("sparse-checkout", "set", "--no-cone", "/*", "!/sources/")
    # A partial copy may lack pictures, which the sparse checkout leaves out; git says so and goes on
    subprocess.run(["git", "-C", str(tmp_path), "checkout", "--quiet", COMMIT], capture_output=True, check=False)
    git("apply", str(PATCH))
    assert "uniad_compat" in git("status", "--short")
    git("apply", "--reverse", str(PATCH))
    assert not git("status", "--short").strip()
