"""The real Makefile with stand-ins for the container engine and for upstream's repository, which behave as those do.

upstream/ holds what stands for UniAD's scripts at the pinned commit: their arguments, what they read, where they write.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from helpers.make_tree import Tree

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


PATCH = """--- a/projects/lines.py
+++ b/projects/lines.py
@@ -1,3 +1,3 @@
 one
-two
+ours
 three
"""

# Ours, without torch
POSTPROCESS = """import re
from pathlib import Path
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


STACK = ("STACK=torch1.12", "RUNTIME=docker", "DATASET=nuscenes")
STEMS = {"tiny": "tiny_imgx0.25", "full": "full"}
SHM = {"tiny": "8g", "full": "32g"}


def shown(tree: Upstream, *arguments: str) -> str:
    """What `make -n` prints, quotes and doubled blanks aside."""
    text = tree.done("-n", *STACK, *arguments).replace("'", "").replace("\\\n", " ")
    return "\n".join(re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
