"""A real engine, the real Dockerfile with a handful of small packages, and a repository that is cut like UniAD."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import REPO
from helpers.make_tree import lay_tree
from helpers.real_engine import Machine
from helpers.upstream_tree import git

# Small stand-ins for the layers: what is tested is how images are built and commands are run.
REQUIREMENTS = """# layer: build
pip==23.3.2
setuptools==59.8.0
wheel==0.41.3
ninja==1.11.1.1
# layer: torch
typing_extensions==4.13.2
# layer: mmcv
tomli==2.2.1
# layer: rest
tqdm==4.64.0
"""

TRAIN = """
import os, sys, time
import tomli, tqdm, mmdet3d
assert mmdet3d.NAME == "ours", mmdet3d
assert tomli.AT_HAND, "an index has this version too, and the wheel at hand is to be taken"
cfg = next(a for a in sys.argv if a.startswith("./projects/configs/"))
options = dict(a.split("=", 1) for a in sys.argv if "=" in a)
assert os.path.isfile(cfg) and os.path.isfile("data/infos/nuscenes_infos_temporal_train.pkl")
assert os.path.isfile("data/nuscenes/v1.0-trainval/sample.json"), "a data set below a folder with a blank"
assert os.path.isfile("/workspace/UniAD/Makefile")
if os.path.exists("data/wait"):
    print("training", flush=True)
    time.sleep(120)
work = sys.argv[sys.argv.index("--work-dir") + 1]
os.makedirs(work, exist_ok=True)
open(f"{work}/iter_{options['runner.max_iters']}.pth", "w").write(f"{os.getuid()} {os.environ['HOME']}")
"""
SETUP = "from setuptools import setup\nsetup(name='uniad-mmdet3d', version='1', packages=['mmdet3d'])\n"
# For the tools of this repository that prepare data: they find an interpreter as the real ones do, and leave the files.
DATA_TOOL = """import _environment, os, sys
assert sys.prefix == sys.base_prefix and os.path.samefile(_environment.ROOT, "/workspace/UniAD")
out = sys.argv[sys.argv.index("{option}") + 1]
os.makedirs({folder}, exist_ok=True)
for name in {names}:
    open(os.path.join(out, name) if name else out, "w").write("[]")
"""
DATA_TOOLS = {
    "make_synthetic_nuscenes": {"option": "--out", "folder": "out + '/v1.0-trainval'", "names": ["v1.0-trainval/sample.json"]},
    "create_data": {"option": "--out-dir", "folder": "out",
                    "names": [f"nuscenes_infos_temporal_{split}.pkl" for split in ("train", "val")]},
    "make_motion_anchors": {"option": "--out", "folder": "os.path.dirname(out)", "names": [""]},
}  # fmt: skip
TEST = "import sys, tqdm, mmdet3d\nprint('evaluated', sys.argv[1], open(sys.argv[2]).read())\n"


# An ordinary person, neither root nor in the image
SOMEBODY = 54321


def whoever_types_make(engine: str) -> dict[str, Any]:
    """For subprocess: somebody who may use the engine but is not root. podman gives every user an engine of their own, so
    there, and where the tests are an ordinary user's anyway, make runs as the tests do."""
    if os.getuid() or engine != "docker":
        return {}
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    groups = [os.stat(host.removeprefix("unix://")).st_gid] if host.startswith("unix://") else []
    return {"user": SOMEBODY, "group": SOMEBODY, "extra_groups": groups}


def python_of(person: dict[str, Any]) -> str:
    """An interpreter that they may run: root's own often lies where nobody else looks."""
    for python in (sys.executable, shutil.which("python3", path=os.defpath)):
        try:
            subprocess.run([python, "-c", ""], check=True, capture_output=True, **person)
            return python
        except (OSError, TypeError, subprocess.CalledProcessError):
            continue
    pytest.skip("an ordinary user finds no Python here")


def write_wheel(folder: Path, name: str, version: str, text: str) -> None:
    """A wheel of one module."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": text,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in {**files, f"{about}/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(path), content)  # without the time: the builder's cache goes by content


def base_with_packages_of_its_own(engine: str, base: str, place: Path) -> str:
    """Images like NVIDIA's bring Python packages where pip and apt put them: broken ones here, to see whose are used."""
    for folder in ("usr/local/lib/python3.9/dist-packages", "usr/lib/python3/dist-packages"):
        about = place / folder / "tqdm-4.1.0.dist-info"
        about.mkdir(parents=True)
        (place / folder / "tqdm.py").write_text("raise ImportError('the base image has this one')\n")
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tqdm\nVersion: 4.1.0\n")
    (place / "Dockerfile").write_text(f"FROM {base}\nCOPY usr /usr\n")
    subprocess.run([engine, "build", "--quiet", "--tag", "uniad_base_test", place], check=True, capture_output=True)
    return "uniad_base_test"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    engine, base = os.environ.get("TEST_ENGINE"), os.environ.get("TEST_BASE")
    if not engine or not base:
        pytest.skip("needs a container engine: make test-containers")
    person = whoever_types_make(engine)
    python = python_of(person)
    # pytest's own folders are closed to others
    place = Path(tempfile.mkdtemp(prefix="uniad-"))
    upstream = place / "upstream"
    upstream.mkdir()
    git(upstream, "init", "-q")
    for name, text in {
        "tools/train.py": TRAIN, "tools/test.py": TEST, "projects/mmdet3d_plugin/__init__.py": "", "sources/x": "x",
        "a.txt": "1\n2\n",
    }.items():  # fmt: skip
        (upstream / name).parent.mkdir(parents=True, exist_ok=True)
        (upstream / name).write_text(text)
    git(upstream, "add", "-A")
    git(upstream, "commit", "-qm", "pinned")

    root = place / "repo"
    root.mkdir()
    lay_tree(root)
    shutil.copytree(REPO / "docker", root / "docker")
    shutil.copy(REPO / "docker-bake.hcl", root)
    (root / "docker/torch1.12/requirements.txt").write_text(REQUIREMENTS)
    for name, text in {
        "third_party/uniad_mmdet3d/setup.py": SETUP,
        "third_party/uniad_mmdet3d/mmdet3d/__init__.py": "NAME = 'ours'\n",
        "tools/postprocess_bevformer_tiny_epoch_24_pth.py": "",
        "patch/uniad-tiny-training-support.patch": "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n 1\n-2\n+3\n",
        **{f"tools/{name}.py": DATA_TOOL.format(**words) for name, words in DATA_TOOLS.items()},
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copy(REPO / "tools/_environment.py", root / "tools")
    (root / "data/synthetic").mkdir(parents=True)
    (place / "my big disk").mkdir()
    (root / "data/synthetic/nuscenes").symlink_to(place / "my big disk")
    base = base_with_packages_of_its_own(engine, base, place / "base")
    write_wheel(place / "wheels", "tomli", "2.2.1", "AT_HAND = True\n")
    settings = (
        "VARIANT=tiny", "STACK=torch1.12", f"RUNTIME={engine}", "DATASET=synthetic", "GPUS=0",
        "MAX_ITERS=2",
        f"HOST_PYTHON={python}", f"UNIAD_GIT_URL={upstream}", f"UNIAD_COMMIT={git(upstream, 'rev-parse', 'HEAD')}",
        "IMAGE_TAG.torch1.12=uniad_test", f"TORCH112_BASE={base}", "TORCH112_INDEX_URL=none",
        f"WHEELS={place / 'wheels'}",
    )  # fmt: skip
    if person:
        subprocess.run(["chown", "-R", f"{person['user']}:{person['group']}", str(place)], check=True)
    # What takes hours is a stand-in; make, the engine, git, pip and the images are real.
    yield Machine(root, engine, settings, person)
    subprocess.run([engine, "image", "rm", "--force", "uniad_test", base], capture_output=True)
    shutil.rmtree(place)
