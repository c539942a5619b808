"""The real Makefile with stand-ins for the container engine and for upstream's repository, which behave as those do."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from helpers import REPO, TESTS
from helpers.make_tree import lay_tree
from helpers.upstream_tree import ENGINE, PATCH, POSTPROCESS, Upstream, git


@pytest.fixture(scope="session")
def uniad_repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, commit) of a repository that is cut like UniAD, with one later commit."""
    root = tmp_path_factory.mktemp("upstream")
    git(root, "init", "-q")
    shutil.copytree(TESTS / "contract" / "upstream" / "tools", root / "tools")
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
            ("ENGINE_PYTHON", sys.executable), ("ENGINE_INSIDE", str(TESTS / "helpers" / "container.py")),
        ),  # fmt: skip
    )
