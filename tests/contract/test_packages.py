"""docker/setup/packages.sh with real pip and small indexes: what an image installs, and from where."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers import REPO

IMAGES = ("torch1.12", "deploy", "jetson")

# Of one version pip takes the better tag: PyPI's torch is a manylinux wheel, the Jetson index's a plain linux one.
BETTER_TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}-none-any"


def wheel(index: Path, name: str, version: str, text: str = "", needs: str = "", script: str = "",
          tag: str = "py3-none-any") -> None:  # fmt: skip
    """A wheel of one module in a simple index; ``script``: a program that it installs."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": text,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs and f'Requires-Dist: {needs}'}\n",
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **({f"{name}-{version}.data/scripts/{name}": script} if script else {}),
    }
    record = "".join(f"{path},,\n" for path in files)
    (index / name).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(index / name / f"{name}-{version}-{tag}.whl", "w") as archive:
        for path, content in {**files, f"{about}/RECORD": f"{record}{about}/RECORD,,\n"}.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if "scripts" in path else 0o100644) << 16
            archive.writestr(entry, content)


def list_all(index: Path) -> str:
    """The index's pages, and its address."""
    for folder in (p for p in index.iterdir() if p.is_dir()):
        links = "".join(f'<a href="{p.name}">{p.name}</a>' for p in sorted(folder.iterdir()) if p.name != "index.html")
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return index.as_uri()


class Packages:
    """Names that nothing installed has: pip would take an installed one away from this environment."""

    def __init__(self, place: Path):
        self.place = place
        self.general = place / "general"
        (place / "wheels").mkdir()

    def install(self, *pins: str, **environment: str) -> subprocess.CompletedProcess[str]:
        requirements = self.place / "layer.txt"
        requirements.write_text("# a layer\n" + "".join(f"{pin}\n" for pin in pins))
        env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {
            "PYTHON": sys.executable, "UNIAD_ROOT": str(self.place / "uniad"), "UNIAD_WHEELS": str(self.place / "wheels"),
            "PIP_INDEX_URL": list_all(self.general), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull,
        }  # fmt: skip
        command = ["sh", REPO / "docker/setup/packages.sh", requirements]
        return subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, timeout=120)

    def module(self, name: str) -> str:
        return (self.place / "uniad/site" / f"{name}.py").read_text()


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path)


def test_torch_comes_from_its_own_index_and_its_dependencies_from_the_general_one(packages: Packages, tmp_path: Path):
    own = tmp_path / "own"
    wheel(own, "faketorch", "2.8.0", "WHOSE = 'the device index'\n", needs="fakehelper")
    wheel(packages.general, "faketorch", "2.8.0", "WHOSE = 'the general index'\n", needs="fakehelper", tag=BETTER_TAG)
    wheel(packages.general, "fakehelper", "1.0")
    config = tmp_path / "pip.conf"  # as a base image may have one
    config.write_text(f"[global]\nextra-index-url = {list_all(packages.general)}\n")
    done = packages.install("faketorch==2.8.0", INDEX_ALONE=list_all(own), WITH_DEPENDENCIES="1", PIP_CONFIG_FILE=str(config),
                            PIP_EXTRA_INDEX_URL=list_all(packages.general))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the device index" in packages.module("faketorch")
    assert packages.module("fakehelper") == ""


def test_an_index_without_the_pinned_torch_is_one_line_and_nothing_else_is_taken(packages: Packages, tmp_path: Path):
    own = tmp_path / "own"
    wheel(own, "faketorch", "2.7.0")
    wheel(packages.general, "faketorch", "2.8.0")
    done = packages.install("faketorch==2.8.0", INDEX_ALONE=list_all(own), WITH_DEPENDENCIES="1")
    assert done.returncode != 0 and not list((tmp_path / "uniad/site").iterdir())
    output = f"error: {own.as_uri()} has not all of faketorch==2.8.0 for this Python: name another index (TORCH_INDEX_URL)"
    assert done.stderr.splitlines()[-1].startswith(output)


def test_a_wheel_at_hand_is_taken_before_any_index(packages: Packages, tmp_path: Path):
    own = tmp_path / "own"
    wheel(own, "faketorch", "2.8.0", "WHOSE = 'the device index'\n")
    wheel(packages.general, "other", "1.0")
    wheel(tmp_path / "hand", "faketorch", "2.8.0", "WHOSE = 'at hand'\n")
    next((tmp_path / "hand/faketorch").glob("*.whl")).rename(tmp_path / "wheels/faketorch-2.8.0-py3-none-any.whl")
    assert packages.install("faketorch==2.8.0", INDEX_ALONE=list_all(own)).returncode == 0
    assert "at hand" in packages.module("faketorch")


def test_a_build_finds_the_programs_of_earlier_layers(packages: Packages, tmp_path: Path):
    """torch compiles on one core where ninja does not answer."""
    wheel(packages.general, "fakeninja", "1.0", "print('1.0')\n", script="#!python\nimport fakeninja\n")
    source = "import setuptools, subprocess\nassert subprocess.check_output(['fakeninja', '--version']) == b'1.0\\n'\n"
    folder = tmp_path / "fakecompiled-1.0"
    folder.mkdir()
    (folder / "setup.py").write_text(source + "setuptools.setup(name='fakecompiled', py_modules=['fakecompiled'], version='1.0')")
    (folder / "fakecompiled.py").write_text("")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: fakecompiled\nVersion: 1.0\n")
    (packages.general / "fakecompiled").mkdir(parents=True)
    with tarfile.open(packages.general / "fakecompiled/fakecompiled-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    assert packages.install("fakeninja==1.0").returncode == 0
    done = packages.install("fakecompiled==1.0", FORCE_CUDA="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert packages.module("fakecompiled") == ""


def test_the_pins_hold_against_a_base_images_own(packages: Packages, tmp_path: Path):
    """NVIDIA's images hold pip to their versions by PIP_CONSTRAINT."""
    wheel(packages.general, "fakenumeric", "1.26.4")
    (tmp_path / "constraint.txt").write_text("fakenumeric==1.24.0\n")
    done = packages.install("fakenumeric==1.26.4", WITH_DEPENDENCIES="1", PIP_CONSTRAINT=str(tmp_path / "constraint.txt"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_every_image_takes_torch_from_its_index_alone(image: str):
    dockerfile = (REPO / "docker" / image / "Dockerfile").read_text()
    assert 'INDEX_ALONE="${TORCH_INDEX_URL}" sh /opt/setup/packages.sh /opt/layers/torch.txt' in dockerfile
    assert "EXTRA_INDEX" not in dockerfile
    text = (REPO / "docker" / image / "requirements.txt").read_text()
    layer = text[text.index("# layer: torch") :].split("# layer:")[1]
    names = {line.split("==")[0] for line in layer.splitlines() if "==" in line}
    assert names <= {"torch", "torchvision"}, "such an index has nothing else that is wanted from it"


@pytest.mark.parametrize("image", IMAGES)
def test_no_image_needs_a_screen(image: str):
    """libgl1 brings Mesa and LLVM; OpenCV without windows needs none of them."""
    folder = REPO / "docker" / image
    assert "libgl" not in (folder / "Dockerfile").read_text()
    pins = [line.split("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()]
    assert [name for name in pins if name.startswith("opencv")] == ["opencv-python-headless"]
