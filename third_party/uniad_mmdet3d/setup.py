"""Builds `mmdet3d`: the part of mmdet3d 0.17 that UniAD calls, and the operators that it runs on.

    python3 setup.py build develop --user

CPU kernels are always built, CUDA kernels where the installed torch and a toolkit (CUDA_HOME) allow it. FORCE_CUDA=1
builds them on a machine without a GPU, as an image build is; FORCE_CUDA=0 leaves them out.
"""

import os
import site
import sysconfig
from pathlib import Path

import torch
from setuptools import Command, find_packages, setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

SOURCES = Path("mmdet3d/ops/csrc")
VERSION = "0.17.1+uniad"


def wants_cuda():
    """Whether to compile the CUDA kernels; says so when they were asked for and cannot be."""
    asked = os.environ.get("FORCE_CUDA")
    if asked not in (None, "", "0", "1"):
        raise SystemExit(f"error: FORCE_CUDA={asked}: it is 0 or 1")
    possible = CUDA_HOME is not None and torch.version.cuda is not None
    if asked == "1" and not possible:
        lacking = "CUDA_HOME is not set" if CUDA_HOME is None else "this torch has no CUDA"
        raise SystemExit(f"error: FORCE_CUDA=1, but {lacking}: install a CUDA toolkit and a torch that goes with it")
    if asked in ("0", "1"):
        return asked == "1"
    return possible and torch.cuda.is_available()


def extension():
    """The one extension module, mmdet3d.ops._C."""
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    flags = {"cxx": ["-O3", "-fopenmp"]}  # without OpenMP at::parallel_for runs on one core
    if not wants_cuda():
        return CppExtension("mmdet3d.ops._C", sources, extra_compile_args=flags, extra_link_args=["-fopenmp"])
    sources += sorted(str(path) for path in SOURCES.glob("*.cu"))
    flags["nvcc"] = ["-O3"]
    return CUDAExtension(
        "mmdet3d.ops._C",
        sources,
        define_macros=[("WITH_CUDA", None)],
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
    )


class Develop(Command):
    """Makes this folder importable where it is.

    setuptools' own hands over to pip since version 80, and pip builds in an environment of its own, which has no torch.
    """

    description = "compile the operators and let Python find this folder"
    user_options = [("user", None, "for the calling user"), ("install-dir=", "d", "in this folder of packages")]
    boolean_options = ["user"]

    def initialize_options(self):
        self.user = False
        self.install_dir = None

    def finalize_options(self):
        if self.install_dir is None:
            # A virtual environment does not read the user's packages
            for_user = self.user and site.ENABLE_USER_SITE
            self.install_dir = site.getusersitepackages() if for_user else sysconfig.get_paths()["purelib"]

    def run(self):
        self.run_command("build_ext")  # nothing more where `build` has just done it
        self.get_finalized_command("build_ext").copy_extensions_to_source()
        here, path = Path(__file__).resolve().parent, Path(self.install_dir) / "uniad_mmdet3d.pth"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{here}\n")
        except OSError as cause:
            raise SystemExit(f"error: {path} cannot be written ({cause.strerror}): develop --user") from None
        print(f"Installed {here}, found by {path}")


setup(
    name="uniad-mmdet3d",
    version=VERSION,
    description="The part of the mmdet3d 0.17 interface that UniAD calls, and its compiled operators",
    license="Apache-2.0",
    packages=find_packages(include=["mmdet3d", "mmdet3d.*"]),
    python_requires=">=3.8",
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExtension, "develop": Develop},
    zip_safe=False,
)
