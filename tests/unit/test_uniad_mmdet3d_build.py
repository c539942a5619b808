"""The documented `setup.py build develop` of third_party/uniad_mmdet3d under this setuptools: a real run over a small source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "third_party/uniad_mmdet3d"
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
def test_the_documented_build_compiles_once_and_the_package_is_found_where_it_is(package: Path):
    done = run(package, "setup.py", "build", "develop", "--install-dir", str(package.parent / "site"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("one.cpp -o") == 1, done.stdout
    find = f"import site; site.addsitedir({str(package.parent / 'site')!r}); import mmdet3d.ops; print(mmdet3d.__file__)"
    found = subprocess.run([sys.executable, "-c", find], cwd=package.parent, capture_output=True, text=True)
    assert found.stdout.strip() == str(package / "mmdet3d/__init__.py"), found.stderr


def test_kernels_for_gpus_that_cannot_be_built_are_one_line(package: Path):
    done = run(package, "setup.py", "build", FORCE_CUDA="1", CUDA_HOME="", PATH="/usr/bin:/bin")
    assert done.returncode != 0 and done.stderr.splitlines()[-1].startswith("error: FORCE_CUDA=1, but "), done.stderr
    done = run(package, "setup.py", "build", FORCE_CUDA="yes")
    assert done.returncode != 0 and done.stderr.splitlines()[-1] == "error: FORCE_CUDA=yes: it is 0 or 1"
