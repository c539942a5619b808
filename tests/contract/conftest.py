"""The real Makefile with stand-ins for the container engine and for upstream's repository, which behave as those do.

upstream/ holds what stands for UniAD's scripts at the pinned commit: their arguments, what they read, where they write.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from make.conftest import REPO, Tree, lay_tree

__all__ = ["REPO", "Upstream", "git"]

# Notes what it was asked, and runs what is to run in a container on the mounted folders (container.py).
ENGINE = r"""#!/usr/bin/env bash
set -euo pipefail
[[ -z ${ENGINE_DOWN:-} ]] || { echo "Cannot connect to the Docker daemon at unix:///var/run/docker.sock." >&2; exit 1; }
case $1 in
  info) [[ ! -e $ENGINE_STATE/info.json ]] || cat "$ENGINE_STATE/info.json"; exit 0 ;;
  version) echo "${ENGINE_VERSION:-}"; exit 0 ;;
  buildx) exit 1 ;;
  image) [[ -e $ENGINE_STATE/images ]] && grep -qx "${!#}" "$ENGINE_STATE/images" || exit 1
         [[ $* != *--format* ]] || cat "$ENGINE_STATE/${!#}.label"; exit 0 ;;
esac
printf '%q ' "$@" >> "$ENGINE_STATE/log"; echo >> "$ENGINE_STATE/log"
case $1 in
  build) while (( $# )); do case $1 in
           --tag) echo "$2" >> "$ENGINE_STATE/images"; tag=$2 ;;
           --label) [[ $2 != uniad.inputs=* ]] || echo "${2#*=}" > "$ENGINE_STATE/$tag.label" ;; esac; shift; done ;;
  run)
    if [[ $* == *"--gpus all"* && -n ${ENGINE_NO_GPUS:-} ]]; then
      echo 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].' >&2; exit 125
    fi
    if [[ -n ${ENGINE_NO_INIT:-} ]]; then
      echo 'Error: container-init binary not found on the host: stat catatonit: no such file or directory' >&2; exit 125
    fi
    "$ENGINE_PYTHON" "$ENGINE_INSIDE" "$ENGINE_STATE" "$@" & wait $! ;;
esac
"""


def git(where: Path, *words: str) -> str:
    env = {**os.environ, **{f"GIT_{a}_{b}": "x" for a in ("AUTHOR", "COMMITTER") for b in ("NAME", "EMAIL")}}
    return subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True, text=True, env=env).stdout.strip()


@pytest.fixture(scope="session")
def uniad_repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, commit) of a repository that is cut like UniAD, with one later commit."""
    root = tmp_path_factory.mktemp("upstream")
    git(root, "init", "-q")
    shutil.copytree(Path(__file__).parent / "upstream" / "tools", root / "tools")
    for name, text in {
        "projects/lines.py": "one\ntwo\nthree\n", "sources/big.gif": "x" * 1000, "projects/mmdet3d_plugin/__init__.py": "",
        "projects/configs/_base_/default_runtime.py": "theirs = 1\n", "README.md": "x",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "pinned")
    commit = git(root, "rev-parse", "HEAD")
    (root / "README.md").write_text("later")
    git(root, "commit", "-qam", "later")
    return root, commit


PATCH = """--- a/projects/lines.py
+++ b/projects/lines.py
@@ -1,3 +1,3 @@
 one
-two
+ours
 three
"""

# Ours, without torch
POSTPROCESS = """from pathlib import Path
text = Path("ckpts/bevformer_tiny_epoch_24.pth").read_text()
Path("ckpts/bevformer_tiny_epoch_24_updated2.pth").write_text("901 queries of " + text)
"""


@dataclass
class Upstream(Tree):
    """A tree on a machine with the stand-in engine, nuScenes and published files at hand."""

    settings: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return super().make(*self.settings, *arguments, **{**dict(self.environment), **environment})

    def engine_log(self) -> list[list[str]]:
        path = self.root / "engine" / "log"
        lines = [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    @property
    def uniad(self) -> Path:
        return self.root / "UniAD_train" / "UniAD"


@pytest.fixture
def upstream(tmp_path: Path, uniad_repository: tuple[Path, str]) -> Upstream:
    root = tmp_path / "repo"
    root.mkdir()
    lay_tree(root)
    shutil.copytree(REPO / "docker", root / "docker")
    for name in ("third_party/uniad_mmdet3d/setup.py", "third_party/uniad_mmdet3d/mmdet3d/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("ours\n")
    (root / "patch").mkdir()
    (root / "patch" / "uniad-tiny-training-support.patch").write_text(PATCH)
    (root / "tools" / "postprocess_bevformer_tiny_epoch_24_pth.py").write_text(POSTPROCESS)
    bin_dir = root / "bin"
    (root / "engine").mkdir()
    bin_dir.mkdir()
    for engine in ("docker", "podman"):
        (bin_dir / engine).write_text(ENGINE)
        (bin_dir / engine).chmod(0o755)
    for name in ("nuscenes/v1.0-trainval/sample.json", "infos/nuscenes_infos_temporal_train.pkl",
                 "infos/nuscenes_infos_temporal_val.pkl", "others/motion_anchor_infos_mode6.pkl"):  # fmt: skip
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_text("[]")
    (root / "have").mkdir()
    for name in ("bevformer_tiny_epoch_24.pth", "bevformer_r101_dcn_24ep.pth"):
        (root / "have" / name).write_bytes(b"PK\x03\x04" + name.encode())
    url, commit = uniad_repository
    return Upstream(
        root,
        settings=(f"UNIAD_GIT_URL={url}", f"UNIAD_COMMIT={commit}", "WEIGHTS_DIR=have"),
        environment=(
            ("PATH", f"{bin_dir}:{os.environ['PATH']}"), ("ENGINE_STATE", str(root / "engine")),
            ("ENGINE_PYTHON", sys.executable), ("ENGINE_INSIDE", str(Path(__file__).with_name("container.py"))),
        ),  # fmt: skip
    )
