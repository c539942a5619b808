"""Builds `mmdet3d`: the part of mmdet3d 0.17 that UniAD calls, and the operators that it runs on.

    python3 setup.py build develop --user

CPU kernels are always built, CUDA kernels where the installed torch and a toolkit (CUDA_HOME) allow it, be there a GPU or
not: what was built without one serves when there is one. FORCE_CUDA=1 makes their lack an error, FORCE_CUDA=0 leaves them out.
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
    return possible and asked != "0"


def known_to_torch():
    """The GPUs that this torch has kernels for, from sm_70 on, as TORCH_CUDA_ARCH_LIST spells them."""
    numbers = [flag[3:] for flag in torch._C._cuda_getArchFlags().split() if flag.startswith("sm_")]
    return ";".join(f"{n[:-1]}.{n[-1]}" for n in numbers if n.isdigit() and int(n) >= 70)


def extension():
    """The one extension module, mmdet3d.ops._C."""
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    flags = {"cxx": ["-O3", "-fopenmp"]}  # without OpenMP at::parallel_for runs on one core
    if not wants_cuda():
        return CppExtension("mmdet3d.ops._C", sources, extra_compile_args=flags, extra_link_args=["-fopenmp"])
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", known_to_torch())  # torch looks at the GPUs that are there
    sources += sorted(str(path) for path in SOURCES.glob("*.cu"))
    flags["nvcc"] = ["-O3"]
    return CUDAExtension(
        "mmdet3d.ops._C",
        sources,
        define_macros=[("WITH_CUDA", None)],
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
    )


class Build(BuildExtension):
    """Compiles again where what is there is of another kind: setuptools only looks at the age of sources."""

    def build_extensions(self):
        kind = [torch.__version__, os.environ.get("TORCH_CUDA_ARCH_LIST")]
        kind = str(kind + [(extension.define_macros, extension.sources) for extension in self.extensions])
        note = Path(self.build_temp) / "kind.txt"
        if not note.is_file() or note.read_text() != kind:
            self.force = True
        super().build_extensions()
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(kind)


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
    cmdclass={"build_ext": Build, "develop": Develop},
    zip_safe=False,
)
