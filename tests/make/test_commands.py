"""What people type works: every tool answers --help, and every command in README, docs and help names what there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from helpers import REPO
from uniad import cli

# Imported or sourced by the others
PARTS = {"tools/_environment.py", "tools/_refusal.py", "mk/lib/machine.py", "tools/usage.sh"}
# What make alone calls, so no verb of `uniad`
BY_MAKE = {
    "configure.py", "doctor.py", "make_synthetic_bench2drive.py", "setup_env.py", "uniad_tree.py",
}  # fmt: skip
PAGES = [REPO / "README.md", REPO / "benchmarks/README.md", *sorted((REPO / "docs").glob("*.md"))]
SEPARATORS = {"&&", "||", ";", "|", "&"}
ENV = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def scripts() -> list[Path]:
    found = [p for folder in ("tools", "mk/lib", "benchmarks", "docker/setup") for p in (REPO / folder).glob("*.*")]
    ours = [p for p in found if p.suffix in (".py", ".sh") and not p.name.startswith("_")]
    return [p for p in ours if str(p.relative_to(REPO)) not in PARTS]


@cache
def help_of(script: Path) -> str:
    """What --help prints; AssertionError where it fails."""
    words = [sys.executable] if script.suffix == ".py" else ["bash"]
    done = subprocess.run(
        [*words, script, "--help"], cwd=REPO, env=ENV, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0 and not done.stderr, f"{script.name} --help: {done.returncode} {done.stderr[-500:]}"
    assert len(done.stdout) > 40, f"{script.name} --help says next to nothing: {done.stdout!r}"
    return done.stdout


def test_every_script_can_be_started_and_every_part_cannot():
    for path in scripts():
        assert os.access(path, os.X_OK) and path.read_bytes().startswith(b"#!"), f"chmod +x {path}, or list it in PARTS"
    for name in PARTS:
        assert not os.access(REPO / name, os.X_OK) and (REPO / name).is_file(), name
    if (REPO / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-s"], cwd=REPO, capture_output=True, text=True, check=True).stdout
        modes = {line.split("\t")[1]: line[:6] for line in listed.splitlines()}
        wrong = [p for p in scripts() if modes.get(str(p.relative_to(REPO)), "100755") != "100755"]
        assert not wrong, f"git update-index --chmod=+x {wrong}"


def test_every_tool_answers_help_and_does_nothing():
    asked = [p for p in scripts() if p.parent.name in ("tools", "lib")]  # of benchmarks those that pages name, below
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(help_of, asked))


def test_uniad_has_a_verb_for_every_tool_that_a_person_calls():
    there = {p.name for p in (REPO / "tools").glob("*.py") if not p.name.startswith("_")}
    assert set(cli.VERBS.values()) <= there
    assert there - set(cli.VERBS.values()) <= BY_MAKE
    shown = cli.usage(REPO / "tools")
    assert all(re.search(rf"^  {verb} +\S", shown, re.M) for verb in cli.VERBS)


def test_uniad_hands_on_and_names_the_nearest_verb():
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**ENV, "PYTHONPATH": str(REPO / "projects")}
        return subprocess.run([sys.executable, "-m", "uniad.cli", *words], env=env, capture_output=True, text=True, timeout=60)

    assert "--check" in run("synthetic", "--help").stdout or "--out" in run("synthetic", "--help").stdout
    wrong = run("trian")
    assert wrong.returncode == 2 and wrong.stderr == "error: uniad has no verb 'trian': did you mean train?\n"


# --- what pages say -----------------------------------------------------------------------------------------------------


@cache
def make_knows() -> tuple[set[str], set[str]]:
    """Targets and variables of the makefiles."""
    text = "\n".join(p.read_text() for p in [REPO / "Makefile", *(REPO / "mk").glob("*.mk")])
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.M)) | {f"train-stage{s}" for s in (1, 2)}
    variables = set(re.findall(r"^ *([A-Za-z_][A-Za-z0-9_.]*) *(?:\?=|:=|=)", text, re.M))
    return targets, variables | {"HOST_PYTHON", "RANK"}


def blocks(text: str) -> Iterator[str]:
    """Fenced blocks of commands: those without a language, or of a shell."""
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language in ("", "sh", "bash", "console"):
            yield body


def commands(page: str) -> Iterator[list[str]]:
    """Words of every command line of ours on a page, in blocks and in running text."""
    for body in blocks(page):
        known: dict[str, str] = {}
        for line in body.replace("\\\n", " ").splitlines():
            if "in UniAD_train/UniAD" in line:
                continue  # upstream's own tool of the same name
            yield from split(line, known)
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)):
        if re.match(r"(make|uniad|\./tools|tools|benchmarks)[ /]", code) and not re.search(r"[<>]|\.\.\.|\*", code):
            yield from split(code, {})


def split(line: str, known: dict[str, str]) -> Iterator[list[str]]:
    line = re.sub(r"\$\{?(\w+)\}?", lambda m: known.get(m[1], m[0]), line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    try:
        words = list(lexer)
    except ValueError:
        return  # prose or a picture of a folder
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in SEPARATORS:
            command.append(word)
            continue
        while command and re.match(r"[A-Za-z_]\w*=", command[0]):
            name, _, value = command.pop(0).partition("=")
            if not command:
                known[name] = value
        if command and is_ours(command[0]):
            yield command
        command = []


def is_ours(word: str) -> bool:
    names = ("make", "uniad", ".venv/bin/uniad", "python", "python3")
    return word in names or re.match(r"(\./)?(tools|benchmarks)/\w", word) is not None


def faults(words: list[str]) -> list[str]:
    """What a command names that there is not."""
    if words[0] == "make":
        targets, variables = make_knows()
        found = [f"make has no target {w}" for w in words[1:] if re.fullmatch(r"[a-z][\w-]*", w) and w not in targets]
        names = [w.partition("=")[0] for w in words[1:] if "=" in w]
        return found + [f"make reads no variable {n}" for n in names if n not in variables]
    if words[0].endswith("uniad"):
        if len(words) > 1 and words[1] not in cli.VERBS and words[1] != "VERB" and not words[1].startswith("-"):
            return [f"uniad has no verb {words[1]}"]
        words = [f"tools/{cli.VERBS[words[1]]}", *words[2:]] if words[1:] and words[1] in cli.VERBS else []
    elif words[0].startswith("python"):
        return ["write tools/NAME.py: many systems have no `python`, and tools find their own"] if "tools/" in words[-1] else []
    if not words:
        return []
    script = REPO / words[0]
    if not script.is_file():
        return [f"no script {words[0]}"]
    text = help_of(script)
    if script.suffix == ".sh":  # hands its options on
        text += "".join(help_of(REPO / name) for name in re.findall(r"tools/\w+\.py", text))
    options = [w.partition("=")[0] for w in words[1:] if re.match(r"--[a-z]", w)]
    found = [f"{script.name} has no option {o}" for o in options if not re.search(rf"{re.escape(o)}(?![\w-])", text)]
    # STEM stands for a variant's file names.
    configs = [w for w in words[1:] if re.fullmatch(r"(\./)?projects/configs/\S+\.py", w) and "STEM" not in w]
    return found + [f"no config {c}" for c in configs if not (REPO / c).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_on_a_page_is_one_that_there_is(page: Path):
    wrong = [f"{' '.join(words)}: {fault}" for words in commands(page.read_text()) for fault in faults(words)]
    assert not wrong, "\n".join(wrong)


def test_the_check_finds_what_it_is_for():
    page = "\n".join([
        "```", "A=x", "make trian VARIENT=full", "tools/nothing.py",
        "FOO=1 tools/train.py projects/configs/no.py --max-itres 2 # w", "```",
        "```python", "make = 1", "```", "and `tools/verify.py x.onnx --no-such-option`, `make doctor`",
    ])  # fmt: skip
    found = [fault for words in commands(page) for fault in faults(words)]
    assert found == [
        "make has no target trian", "make reads no variable VARIENT", "no script tools/nothing.py",
        "train.py has no option --max-itres", "no config projects/configs/no.py", "verify.py has no option --no-such-option",
    ]  # fmt: skip


def test_docstrings_and_help_of_tools_name_what_there_is():
    for script in [p for p in scripts() if p.parent.name == "tools"]:
        text = help_of(script) + (script.read_text().split('"""')[1] if script.suffix == ".py" else "")
        for line in text.replace("\\\n", " ").splitlines():
            for words in split(line.strip(), {}):
                if words[0].startswith(("tools/", "./tools/")):
                    assert not faults(words), (script.name, words, faults(words))
