"""Bench2DriveZoo's own modules on a CPU, for the recorders beside this file.

The repository carries its mmcv, of which only compiled operators and packages that a recording never calls are missing. Those are
stood in for: whatever is absent imports as an empty shell, deformable attention takes the repository's own PyTorch function, and
``torchmetrics.Metric`` is a plain module with ``add_state``. Nothing of the repository is edited.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types

import torch

ABSENT = (
    "numba", "nuscenes", "motmetrics", "lyft_dataset_sdk", "pycocotools", "torchmetrics", "pytorch_lightning", "seaborn",
    "open3d", "trimesh", "IPython", "plyfile", "torch.utils.tensorboard", "tensorboardX", "wandb", "fairscale",
    "mmcv._ext", "cumm", "spconv",
    "mmcv.ops.roiaware_pool3d.roiaware_pool3d_ext", "mmcv.ops.iou3d_det.iou3d_cuda", "similaritymeasures", "sklearn", "regex",
    "torch_scatter", "ipdb", "pandas", "turbojpeg", "lvis", "skimage", "imagecorruptions", "albumentations", "petrel_client",
    "adzoo", "detectron2", "fvcore", "descartes", "iou3d_cuda", "tqdm",
    "mmcv.datasets.dd3d_nuscenes_dataset",
)  # fmt: skip


class _Shell(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Shell()


class Shell(metaclass=_Shell):
    """Stands for anything of an absent package: a decorator, a function, a base class."""

    def __init__(self, *args, **kwargs):
        pass

    def __iter__(self):
        return iter(range(100))  # some module makes a table of colours

    def __call__(self, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) else Shell()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Shell()


class Metric(torch.nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()

    def add_state(self, name, default, dist_reduce_fx=None):
        self.register_buffer(name, default, persistent=False)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if any(name == absent or name.startswith(absent + ".") for absent in ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []

        def attribute(name, module=module):
            if name.startswith("__"):
                raise AttributeError(name)
            found = Metric if name == "Metric" else type(name, (Warning if name.endswith("Warning") else Shell,), {})
            setattr(module, name, found)
            return found

        module.__getattr__ = attribute
        return module

    def exec_module(self, module):
        pass


def load(root: str):
    """Import the repository at ``root``. Returns its mmcv package."""
    sys.meta_path.insert(0, Finder())
    sys.path.insert(0, root)
    torch.Tensor.cuda = lambda self, *a, **k: self
    torch.nn.Module.cuda = lambda self, *a, **k: self
    import numpy

    for name in ("int", "float", "bool", "object"):
        if not hasattr(numpy, name):
            setattr(numpy, name, __builtins__[name])
    import mmcv
    import mmcv.datasets
    import mmcv.models

    plain_attention()
    return mmcv


def plain_attention() -> None:
    """Every caller of deformable attention, compiled or not, gets the repository's PyTorch function, fed as the kernel reads."""
    from mmcv.ops import multi_scale_deform_attn as ops

    plain = ops.multi_scale_deformable_attn_pytorch

    def attend(value, shapes, locations, weights):
        levels = shapes.shape[0]
        if locations.shape[3] != levels:
            locations, weights = folded(locations, weights, levels)
        return plain(value, shapes, locations, weights)

    class Function:
        @staticmethod
        def apply(value, shapes, starts, locations, weights, step):
            return attend(value, shapes, locations, weights)

    for name, module in list(sys.modules.items()):
        if name.startswith("mmcv"):
            if hasattr(module, "multi_scale_deformable_attn_pytorch"):
                module.multi_scale_deformable_attn_pytorch = attend
            for attribute in ("MultiScaleDeformableAttnFunction", "MultiScaleDeformableAttnFunction_fp32",
                              "MultiScaleDeformableAttnFunction_fp16"):  # fmt: skip
                if hasattr(module, attribute):
                    setattr(module, attribute, Function)


def folded(locations, weights, levels):
    """The CUDA kernel counts levels by the shapes that it is given and walks flat buffers: query q of head h then reads what
    lies at flat place (q * heads + h) of buffers made for more levels."""
    batch, queries, heads, _, points, _ = locations.shape
    flat = locations.reshape(batch, -1, levels, points, 2)[:, : queries * heads]
    flat_weights = weights.reshape(batch, -1, levels, points)[:, : queries * heads]
    return (
        flat.reshape(batch, queries, heads, levels, points, 2),
        flat_weights.reshape(batch, queries, heads, levels, points),
    )
