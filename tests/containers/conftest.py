"""A real engine, the real Dockerfile with a handful of small packages, and a repository that is cut like UniAD."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from contract.conftest import git
from make.conftest import REPO, lay_tree

# Small stand-ins for the layers: what is tested is how images are built and commands are run.
REQUIREMENTS = """# layer: build
pip==23.3.2
setuptools==59.8.0
wheel==0.41.3
# layer: torch
typing_extensions==4.13.2
# layer: mmcv
tomli==2.2.1
# layer: rest
tqdm==4.64.0
"""

TRAIN = """
import os, sys, time
import tqdm, mmdet3d
assert mmdet3d.NAME == "ours", mmdet3d
cfg = next(a for a in sys.argv if a.startswith("./projects/configs/"))
options = dict(a.split("=", 1) for a in sys.argv if "=" in a)
assert os.path.isfile(cfg) and os.path.isfile("data/infos/nuscenes_infos_temporal_train.pkl")
assert os.path.isfile("/workspace/UniAD/Makefile")
if os.path.exists("data/wait"):
    print("training", flush=True)
    time.sleep(120)
work = sys.argv[sys.argv.index("--work-dir") + 1]
os.makedirs(work, exist_ok=True)
open(f"{work}/iter_{options['runner.max_iters']}.pth", "w").write(f"{os.getuid()} {os.environ['HOME']}")
"""
SETUP = "from setuptools import setup\nsetup(name='uniad-mmdet3d', version='1', packages=['mmdet3d'])\n"
TEST = "import sys, tqdm, mmdet3d\nprint('evaluated', sys.argv[1], open(sys.argv[2]).read())\n"


@dataclass
class Machine:
    root: Path
    engine: str
    settings: tuple[str, ...]

    def command(self, *goals: str) -> list[str]:
        return ["make", *self.settings, *goals]

    def make(self, *goals: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        return subprocess.run(
            self.command(*goals), cwd=self.root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1500
        )

    def containers(self) -> list[str]:
        command = [self.engine, "ps", "--all", "--format", "{{.ID}} {{.Image}}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [line.split()[0] for line in done.stdout.splitlines() if "uniad_test" in line]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    engine, base = os.environ.get("TEST_ENGINE"), os.environ.get("TEST_BASE")
    if not engine or not base:
        pytest.skip("needs a container engine: make test-containers")
    upstream = tmp_path_factory.mktemp("upstream")
    git(upstream, "init", "-q")
    for name, text in {
        "tools/train.py": TRAIN, "tools/test.py": TEST, "projects/mmdet3d_plugin/__init__.py": "", "sources/x": "x",
        "a.txt": "1\n2\n",
    }.items():  # fmt: skip
        (upstream / name).parent.mkdir(parents=True, exist_ok=True)
        (upstream / name).write_text(text)
    git(upstream, "add", "-A")
    git(upstream, "commit", "-qm", "pinned")

    root = tmp_path_factory.mktemp("machine") / "repo"
    root.mkdir()
    lay_tree(root)
    shutil.copytree(REPO / "docker", root / "docker")
    (root / "docker/torch1.12/requirements.txt").write_text(REQUIREMENTS)
    for name, text in {
        "third_party/uniad_mmdet3d/setup.py": SETUP,
        "third_party/uniad_mmdet3d/mmdet3d/__init__.py": "NAME = 'ours'\n",
        "tools/postprocess_bevformer_tiny_epoch_24_pth.py": "",
        "patch/uniad-torch1.12.patch": "--- a/a.txt\n+++ b/a.txt\n@@ -2 +2 @@\n-2\n+3\n",
        "data/synthetic/others/motion_anchor_infos_mode6.pkl": "",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    # The stand-in for native tools makes the dataset; everything below runs for real.
    return Machine(root, engine, (
        "VARIANT=tiny", "STACK=torch1.12", f"RUNTIME={engine}", "TOOLS_RUNTIME=host", "DATASET=synthetic", "GPUS=0",
        "MAX_ITERS=2",
        f"HOST_PYTHON={sys.executable}", f"UNIAD_GIT_URL={upstream}", f"UNIAD_COMMIT={git(upstream, 'rev-parse', 'HEAD')}",
        "IMAGE_TAG.torch1.12=uniad_test", f"TORCH112_BASE={base}", "TORCH112_INDEX_URL=none",
    ))  # fmt: skip
