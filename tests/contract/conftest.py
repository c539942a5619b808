"""The real Makefile with a stand-in for the engine: what would run is checked, without an engine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from make.conftest import REPO, STUB, Tree, lay_tree

__all__ = ["REPO", "Documented", "git"]

# Notes what it was asked and leaves what the real commands would: build/, checkpoints.
ENGINE = r"""#!/usr/bin/env bash
set -euo pipefail
[[ -z ${ENGINE_DOWN:-} ]] || { echo "Cannot connect to the Docker daemon at unix:///var/run/docker.sock." >&2; exit 1; }
case $1 in
  version|info) exit 0 ;;
  image) [[ -e $ENGINE_STATE/images ]] && grep -qx "${!#}" "$ENGINE_STATE/images" || exit 1
         [[ $* != *--format* ]] || cat "$ENGINE_STATE/${!#}.label"; exit 0 ;;
esac
printf '%q ' "$@" >> "$ENGINE_STATE/log"; echo >> "$ENGINE_STATE/log"
case $1 in
  build) while (( $# )); do case $1 in
           --tag) echo "$2" >> "$ENGINE_STATE/images"; tag=$2 ;;
           --label) echo "${2#*=}" > "$ENGINE_STATE/$tag.label" ;; esac; shift; done ;;
  run)
    if [[ $* == *"--gpus all"* && -n ${ENGINE_NO_GPUS:-} ]]; then
      echo 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].' >&2; exit 125
    fi
    if [[ -n ${ENGINE_NO_INIT:-} ]]; then
      echo 'Error: container-init binary not found on the host: stat catatonit: no such file or directory' >&2; exit 125
    fi
    for (( i = 1; i <= $#; i++ )); do case ${!i} in
      ./projects/configs/*) cfg=${!i} ;;
      runner.max_iters=*) iters=${!i#*=} ;;
      *train*) training=1 ;;
      SLEEP) sleep 60 & wait $! ;;
    esac; done
    if [[ -n ${cfg:-} && $* == *train.* ]]; then
      work=UniAD_train/UniAD/${cfg#./}; work=${work/configs/work_dirs}; work=${work%.py}
      mkdir -p "$work"; n=epoch_6; [[ $cfg != *e2e* ]] || n=epoch_20
      echo weights > "$work/${iters:+iter_$iters}$([[ ${iters:-} ]] || echo $n).pth"
    fi ;;
esac
"""


def git(where: Path, *words: str) -> str:
    env = {**os.environ, **{f"GIT_{a}_{b}": "x" for a in ("AUTHOR", "COMMITTER") for b in ("NAME", "EMAIL")}}
    return subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True, text=True, env=env).stdout.strip()


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, commit) of a repository that is cut like UniAD, with one later commit."""
    root = tmp_path_factory.mktemp("upstream")
    git(root, "init", "-q")
    for name, text in {
        "tools/train.py": "one\ntwo\nthree\n", "tools/uniad_dist_train.sh": "#!/bin/bash\n", "sources/big.gif": "x" * 1000,
        "projects/configs/_base_/default_runtime.py": "theirs = 1\n", "projects/mmdet3d_plugin/__init__.py": "", "README.md": "x",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "pinned")
    commit = git(root, "rev-parse", "HEAD")
    (root / "README.md").write_text("later")
    git(root, "commit", "-qam", "later")
    return root, commit


PATCH = """--- a/tools/train.py
+++ b/tools/train.py
@@ -1,3 +1,3 @@
 one
-two
+ours
 three
"""


@dataclass
class Documented(Tree):
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
def documented(tmp_path: Path, upstream: tuple[Path, str]) -> Documented:
    root = tmp_path / "repo"
    root.mkdir()
    lay_tree(root)
    shutil.copytree(REPO / "docker", root / "docker")
    for name in ("third_party/uniad_mmdet3d/setup.py", "third_party/uniad_mmdet3d/mmdet3d/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("ours\n")
    (root / "patch").mkdir()
    (root / "patch" / "uniad-tiny-training-support.patch").write_text(PATCH)
    (root / "tools" / "postprocess_bevformer_tiny_epoch_24_pth.py").write_text("")
    bin_dir = root / "bin"
    (root / "engine").mkdir()
    bin_dir.mkdir()
    for engine in ("docker", "podman"):
        (bin_dir / engine).write_text(ENGINE)
        (bin_dir / engine).chmod(0o755)
    stub = STUB.replace("  test|export_onnx", "  postprocess*) cp \"$2\" \"$3\" ;;\n  test|export_onnx")
    (root / ".venv/bin/python").write_text(stub)
    for name in ("nuscenes/v1.0-trainval/sample.json", "infos/nuscenes_infos_temporal_train.pkl",
                 "infos/nuscenes_infos_temporal_val.pkl", "others/motion_anchor_infos_mode6.pkl"):  # fmt: skip
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_text("[]")
    (root / "have").mkdir()
    for name in ("bevformer_tiny_epoch_24.pth", "bevformer_r101_dcn_24ep.pth"):
        (root / "have" / name).write_bytes(b"PK\x03\x04" + name.encode())
    url, commit = upstream
    return Documented(
        root,
        settings=(f"UNIAD_GIT_URL={url}", f"UNIAD_COMMIT={commit}", "WEIGHTS_DIR=have"),
        environment=(("PATH", f"{bin_dir}:{os.environ['PATH']}"), ("ENGINE_STATE", str(root / "engine"))),
    )
