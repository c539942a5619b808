#!/usr/bin/env python3
"""Changes one operator or number of a module at a time, and says which changes no test notices.

    mk/lib/mutate.py [--limit N] [--seed N] [--tests PATH]... MODULE...

MODULE: a file below projects/uniad. The tests that must notice are those of its folder, since tests/unit mirrors the package, or
--tests. --limit: so many changes of a module, drawn by --seed, instead of all. It works on a copy in .make/mutants, with
cosmic-ray, which the extra `mutation` of pyproject.toml pins and which is installed on first use. Exit 0: the changes were tried,
whatever came of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import machine

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from _refusal import Refused, ended  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / ".make" / "mutants"
PACKAGE = Path("projects/uniad")


def run(*command: object, capture: bool = True) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([str(word) for word in command], cwd=COPY, env=env, capture_output=capture, text=True, check=False)


def have_cosmic_ray() -> None:
    pins = machine.pins((ROOT / "pyproject.toml").read_text(encoding="utf-8"), "mutation")
    if not pins:
        raise Refused("pyproject.toml pins no tool in its extra `mutation`")
    (name, version), *_ = pins.items()
    requirement = f"{name}=={version}"
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        found = installed(name)
    except PackageNotFoundError:
        found = ""
    if found != version:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", requirement]
        if subprocess.run(command, check=False).returncode:
            raise Refused(f"pip could not install {requirement} (its message stands above)")


def lay_copy() -> None:
    """What git knows, as files of its own: the tool writes into them, and a stopped run must leave nothing in the tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise Refused(f"{ROOT} is no git checkout, from which the files to copy would be known")
    shutil.rmtree(COPY, ignore_errors=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, COPY / name)


def tests_of(module: Path) -> list[str]:
    folder = Path("tests/unit") / module.relative_to(PACKAGE).parent
    if not (ROOT / folder).is_dir() or folder == Path("tests/unit"):
        raise Refused(f"{module} has no folder of tests of its own ({folder}): name tests with --tests")
    return [str(folder)]


def keep_some(session: Path, limit: int, seed: int) -> None:
    """Leaves ``limit`` of the session's changes."""
    with sqlite3.connect(session) as base:
        jobs = sorted(job for (job,) in base.execute("select job_id from work_items"))
        gone = set(jobs) - set(random.Random(seed).sample(jobs, min(limit, len(jobs))))
        for table in ("mutation_specs", "work_items"):
            base.executemany(f"delete from {table} where job_id = ?", [(job,) for job in gone])


def mutate(module: Path, tests: list[str], limit: int | None, seed: int) -> tuple[int, int]:
    """(changes that a test noticed, changes tried); prints the others."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not long", *tests]
    baseline = run(*command)
    if baseline.returncode:
        raise Refused(f"{' '.join(tests)} fails before anything is changed:\n{baseline.stdout[-2000:]}")
    settings, session = COPY / "mutants.toml", COPY / "mutants.sqlite"
    session.unlink(missing_ok=True)
    words = " ".join(f"'{word}'" for word in command)
    settings.write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = 300.0\nexcluded-modules = []\ntest-command = "{words}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n',
        encoding="utf-8",
    )
    tool = Path(sys.executable).with_name("cosmic-ray")
    done = run(tool, "init", settings, session)
    if done.returncode == 0 and limit is not None:
        keep_some(session, limit, seed)
    done = done if done.returncode else run(tool, "exec", settings, session)
    if done.returncode:
        raise Refused(f"cosmic-ray: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    noticed = tried = 0
    for line in run(tool, "dump", session).stdout.splitlines():
        item, result = json.loads(line)
        if result is None:
            continue
        if result["test_outcome"] == "incompetent":
            continue  # the change is none that can run
        tried += 1
        if result["test_outcome"] == "survived":
            change = item["mutations"][0]
            shown = [part for part in result["diff"].splitlines() if re.match(r"[-+](?![-+])", part)]
            print(f"  {module}:{change['start_pos'][0]}  {'  ->  '.join(part[1:].strip() for part in shown)}")
        else:
            noticed += 1
    return noticed, tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--limit", type=int, help="so many changes of each module (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", action="append", default=[], help="tests that must notice (default: of the module's folder)")
    args = parser.parse_args()
    modules = [PACKAGE / name.removeprefix(f"{PACKAGE}/") for name in args.modules]
    absent = [str(module) for module in modules if not (ROOT / module).is_file()]
    if absent:
        raise Refused(f"{', '.join(absent)}: not there; name files below {PACKAGE}")
    tests = {module: args.tests or tests_of(module) for module in modules}
    have_cosmic_ray()
    lay_copy()
    for module in modules:
        print(f"{module}: tried by {' '.join(tests[module])}", flush=True)
        noticed, tried = mutate(module, tests[module], args.limit, args.seed)
        print(f"{module}: {noticed} of {tried} changes were noticed", flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
