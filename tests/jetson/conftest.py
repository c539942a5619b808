"""A toy to deploy, a device to deploy it to, and a tree to deploy it from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import REPO
from helpers.command_line import ENV
from helpers.jetson_device import Device, StandIn
from helpers.make_tree import Tree, lay_tree
from helpers.toy_graph import write_toy
from uniad.canary import sets

ONNX = "onnx/uniad_nano_track_map.onnx"


@pytest.fixture(scope="package", autouse=True)
def few_canaries() -> Iterator[None]:
    """What is built in this process tries two canaries, which say as much of the way that they take as all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "KINDS", {name: sets.KINDS[name] for name in ("grid_sample", "operators_elementwise")})
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX with card and recorded sequence; read, never written."""
    return write_toy(tmp_path_factory.mktemp("toy") / Path(ONNX).name)


@pytest.fixture(scope="session")
def converted_toy(toy: Path) -> Path:
    """The toy in fp16."""
    from uniad.precision.write import converted_name, write_converted

    write_converted(toy, converted_name(toy), say=lambda line: None, threads=1)
    return converted_name(toy)


@pytest.fixture
def own_toy(toy: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    for file in toy.parent.glob(f"{toy.stem}*"):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / toy.name


@pytest.fixture(scope="session")
def _device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    device = Device(tmp_path_factory.mktemp("device"))
    yield device
    device.end()


@pytest.fixture
def device(_device: Device) -> Device:
    """The device, empty and well-behaved."""
    shutil.rmtree(_device.home)
    _device.home.mkdir()
    _device.trtexec.behave()
    _device.trtexec.calls()
    _device.runs_jetpack("R36 (release), REVISION: 4.0")
    return _device


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """trtexec on this machine."""
    made = StandIn(tmp_path / "bin")
    monkeypatch.setenv("TRTEXEC", str(made.path))
    monkeypatch.delenv("NV_TEGRA_RELEASE", raising=False)
    return made


class JetsonTree(Tree):
    """A tree whose stage 1 has been exported already."""

    def __init__(self, root: Path, device: Device) -> None:
        super().__init__(root)
        self.device = device

    def command(self, *more: str, flags: str = "") -> list[str]:
        d = self.device
        return [
            *d.prefix, "make", "-o", ONNX, "jetson-engine", "VARIANT=nano", "STAGE=1", "STACK=native", "RUNTIME=host",
            "DATASET=synthetic", "GPUS=0", f"JETSON={d.target}", f"JETSON_SSH_FLAGS={d.flags} {flags}".strip(),
            f"JETSON_DIR={d.home}/engines", "JETSON_ITERATIONS=1", "JETSON_SECONDS=0", "CANARY=0", *more,
        ]  # fmt: skip

    def start(self, *more: str, flags: str = "") -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*more, flags=flags), cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={k: v for k, v in ENV.items() if not k.startswith("MAKE") and k not in ("PYTHON", "TRTEXEC")},
            start_new_session=True,
        )  # fmt: skip

    def build(self, *more: str, flags: str = "") -> tuple[int, str, str]:
        process = self.start(*more, flags=flags)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def tree(tmp_path: Path, toy: Path, device: Device) -> JetsonTree:
    root = tmp_path / "tree"
    root.mkdir()
    lay_tree(root, configured=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    # the whole package, where lay_tree has the few files that make itself runs
    shutil.rmtree(root / "projects/uniad")
    (root / "projects/uniad").symlink_to(REPO / "projects/uniad")
    for tool in ("_environment.py", "jetson_engine.py", "convert_precision.py", "canary.py"):
        shutil.copy(REPO / "tools" / tool, root / "tools")
    (root / "onnx").mkdir()
    for file in toy.parent.glob(f"{toy.stem}*"):
        shutil.copy(file, root / "onnx" / file.name)
    return JetsonTree(root, device)
