"""Upstream's `setup.py build develop` of third_party/uniad_mmdet3d under this setuptools: a real run over a small source."""

from __future__ import annotations

from helpers import REPO
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = REPO / "third_party/uniad_mmdet3d"
SOURCE = r"""
#include <Python.h>
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    here = tmp_path / "package"
    (here / "mmdet3d/ops/csrc").mkdir(parents=True)
    shutil.copy(PACKAGE / "setup.py", here)
    for name, text in {
        "mmdet3d/__init__.py": "",
        "mmdet3d/ops/__init__.py": "from . import _C\n",
        "mmdet3d/ops/csrc/one.cpp": SOURCE,
    }.items():
        (here / name).write_text(text)
    return here


def run(package: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MAX_JOBS": "1", "FORCE_CUDA": "0", **environment}
    return subprocess.run([sys.executable, *words], cwd=package, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
def test_the_upstream_build_compiles_once_and_the_package_is_found_where_it_is(package: Path):
    done = run(package, "setup.py", "build", "develop", "--install-dir", str(package.parent / "site"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("one.cpp -o") == 1, done.stdout
    find = f"import site; site.addsitedir({str(package.parent / 'site')!r}); import mmdet3d.ops; print(mmdet3d.__file__)"
    found = subprocess.run([sys.executable, "-c", find], cwd=package.parent, capture_output=True, text=True)
    assert found.stdout.strip() == str(package / "mmdet3d/__init__.py"), found.stderr


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
def test_a_build_of_another_kind_is_done_again(package: Path):
    """Sources that an earlier build left out, as kernels for GPUs are, may be older than what it made."""
    assert run(package, "setup.py", "build").returncode == 0
    made = next(package.glob("build/lib*/mmdet3d/ops/_C*.so"))
    two = package / "mmdet3d/ops/csrc/two.cpp"
    two.write_text("int two() { return 2; }\n")
    os.utime(two, (made.stat().st_mtime - 100,) * 2)
    done = run(package, "setup.py", "build")
    assert done.returncode == 0 and "two.cpp -o" in done.stdout, done.stdout + done.stderr
    assert "cpp -o" not in run(package, "setup.py", "build").stdout, "the same kind again"


def test_kernels_for_gpus_are_built_wherever_a_toolkit_is(package: Path):
    """What is compiled on a machine without a GPU is used when one appears."""
    (package / "mmdet3d/ops/csrc/kernel.cu").write_text("")
    code = """
import os, setuptools, torch, torch.utils.cpp_extension as cpp
from distutils.core import run_setup
torch.version.cuda, cpp.CUDA_HOME, torch.cuda.is_available = "11.6", "/usr/local/cuda", lambda: False
torch._C._cuda_getArchFlags = lambda: "sm_37 sm_50 sm_70 sm_86 compute_86"
for asked, gpus in ("", "8.6"), ("", None), ("0", "8.6"):
    os.environ["FORCE_CUDA"] = asked
    os.environ.pop("TORCH_CUDA_ARCH_LIST", None)
    if gpus:
        os.environ["TORCH_CUDA_ARCH_LIST"] = gpus
    made, = run_setup("setup.py", stop_after="init").ext_modules
    print(*map(os.path.basename, made.sources), os.environ.get("TORCH_CUDA_ARCH_LIST"))
"""
    done = run(package, "-c", code)
    assert done.stdout.splitlines() == ["one.cpp kernel.cu 8.6", "one.cpp kernel.cu 7.0;8.6", "one.cpp 8.6"], done.stderr


def test_kernels_for_gpus_that_cannot_be_built_are_one_line(package: Path):
    for lack, told in (("cpp.CUDA_HOME = None", "CUDA_HOME is not set"), ("torch.version.cuda = None", "this torch has no CUDA")):
        code = f"""
import runpy, sys, torch, torch.utils.cpp_extension as cpp
torch.version.cuda, cpp.CUDA_HOME = "11.6", "/usr/local/cuda"
{lack}
sys.argv[:] = ["setup.py", "build"]
runpy.run_path("setup.py", run_name="__main__")
"""
        done = run(package, "-c", code, FORCE_CUDA="1")
        assert done.returncode != 0 and done.stderr.splitlines()[-1].startswith(f"error: FORCE_CUDA=1, but {told}"), done.stderr
    done = run(package, "setup.py", "build", FORCE_CUDA="yes")
    assert done.returncode != 0 and done.stderr.splitlines()[-1] == "error: FORCE_CUDA=yes: it is 0 or 1"
