"""mk/lib/with_engine.sh leaves nothing: no store, no base image, no half of one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from helpers import REPO

# One program for all that it calls. The daemon answers once it wrote its store; a docker that somebody else runs answers always.
STAND_IN = """#!/usr/bin/env bash
place=$(dirname "$0")
case "$(basename "$0") $*" in
  "id -u") echo 0 ;;
  dockerd*) mkdir -p "$2/overlay2/layer"; touch "$place/up"; trap 'rm "$place/up"; exit' TERM; while :; do sleep 0.05; done ;;
  "docker info") [[ -e $place/up ]] ;;
  "docker image inspect"*) exit 1 ;;
  "docker import"*) cat > "$place/imported" ;;
  "docker image rm"*) echo "${@: -1}" >> "$place/removed" ;;
  debootstrap*) mkdir "${@: -2:1}/etc"; [[ ! -e $place/broken ]] || { echo "E: no mirror"; exit 1; } ;;
esac
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    for name in ("id", "dockerd", "docker", "debootstrap"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def run(place: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), **env}
    words = [REPO / "mk/lib/with_engine.sh", *command]
    return subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("status", [0, 3])
def test_a_daemon_of_its_own_goes_with_its_store(place: Path, status: int) -> None:
    done = run(place, "bash", "-c", f'ls "$TMPDIR"/*/docker; exit {status}')
    assert done.returncode == status and "overlay2" in done.stdout, done.stderr
    assert (place / "bin/imported").stat().st_size and not (place / "bin/up").exists()
    assert list((place / "tmp").iterdir()) == [] and not (place / "home").exists()


def test_a_store_that_was_named_stays(place: Path) -> None:
    assert run(place, "true", UNIAD_ENGINE_CACHE=str(place / "store")).returncode == 0
    assert (place / "store/docker/overlay2/layer").is_dir() and list((place / "tmp").iterdir()) == []


def test_a_base_that_cannot_be_made_leaves_no_half(place: Path) -> None:
    (place / "bin/broken").touch()
    done = run(place, "true")
    assert done.returncode == 77 and done.stdout.endswith("note: debootstrap failed: E: no mirror\n")
    assert list((place / "tmp").iterdir()) == []


def test_in_an_engine_of_somebody_else_only_the_base_that_was_made_goes(place: Path) -> None:
    (place / "bin/up").touch()
    assert run(place, "true").returncode == 0
    assert (place / "bin/removed").read_text() == "uniad-test-base:bullseye\n" and (place / "bin/up").exists()
    (place / "bin/removed").unlink()
    assert run(place, "true", TEST_BASE="debian:bullseye").returncode == 0
    assert not (place / "bin/removed").exists() and list((place / "tmp").iterdir()) == []
