"""What a TensorRT engine may be opened in follows from what built it, and is decided before it is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from uniad.backends import open as opening
from uniad.errors import UserError

ORIN = {"model": "Orin", "compute_capability": "8.7"}
PATH = Path("a.engine")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    """Opens an engine that ``builder`` 10.3.0 built on an Orin; the runner's name, or the package's."""
    monkeypatch.setattr(opening, "TensorRtRunner", lambda contract, path, package: package)
    monkeypatch.setattr(opening, "TrtexecRunner", lambda contract, path, tool: "trtexec")

    def open_it(builder: str, backend: str = "auto", here: str = "10.3.0", gpu: dict | None = ORIN, device: str = "auto") -> str:
        monkeypatch.setattr(opening, "load_package", lambda package: SimpleNamespace(__version__=here))
        monkeypatch.setattr(opening.trtexec, "probe", lambda: SimpleNamespace(version_text=here))
        monkeypatch.setattr(opening, "this_device", lambda: gpu)
        card = {"builder": builder, "builder_version": "10.3.0", "compute_capabilities": ["default"], "device": ORIN}
        return opening.open_engine(card, None, PATH, backend, device)

    return open_it


@pytest.mark.parametrize(
    "builder, backend, runs_in",
    [
        ("tensorrt", "auto", "tensorrt"), ("trtexec", "auto", "tensorrt"), ("tensorrt_rtx", "auto", "tensorrt_rtx"),
        ("tensorrt", "tensorrt", "tensorrt"), ("tensorrt", "trtexec", "trtexec"), ("trtexec", "trtexec", "trtexec"),
        ("trtexec", "tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt_rtx", "tensorrt_rtx"),
        ("tensorrt", "tensorrt_rtx", None), ("trtexec", "tensorrt_rtx", None), ("tensorrt_rtx", "tensorrt", None),
        ("tensorrt_rtx", "trtexec", None), ("tensorrt", "onnxruntime", None),
    ],
)  # fmt: skip
def test_an_engine_runs_in_its_own_family_and_in_no_other(opened, builder, backend, runs_in):
    if runs_in:
        assert opened(builder, backend) == runs_in
    else:
        with pytest.raises(UserError, match=rf"a\.engine: this engine runs in .*, not in {backend}"):
            opened(builder, backend)


@pytest.mark.parametrize("backend", ["auto", "tensorrt", "trtexec"])
def test_another_release_or_another_gpu_is_refused(opened, backend):
    assert opened("trtexec", backend, here="10.3")
    with pytest.raises(UserError, match="built for trtexec 10.3.0, here is 10.4.0"):
        opened("trtexec", backend, here="10.4.0")
    with pytest.raises(UserError, match="built on Orin, this is Thor"):
        opened("trtexec", backend, gpu={"model": "Thor", "compute_capability": "11.0"})


def test_an_engine_is_nothing_for_a_cpu(opened):
    with pytest.raises(UserError, match="an engine runs on a GPU"):
        opened("tensorrt", device="cpu")


def test_a_config_is_no_model(tmp_path):
    path = tmp_path / "nano_e2e.py"
    path.write_text("a = 1\n")
    with pytest.raises(UserError, match=r"nano_e2e\.py is no model: .* a checkpoint ends in \.pth or \.pt"):
        opening.find_model(path, path)
