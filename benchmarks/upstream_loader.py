#!/usr/bin/env python3
"""Upstream's own loader, driven by data_loading.py --upstream-python: its data set, pipeline and build_dataloader at 02fa68c5.

Runs in upstream's interpreter (Python 3.8, its versions of mmcv, mmdet, mmsegmentation and mmdet3d), once, and answers one
request a line, so that both loaders can take turns without opening their data anew:

    {"do": "rate", "workers": 1, "clips": 10, "seconds": 2}     how fast it runs, see _loading.py
    {"do": "images", "last": 17, "file": "clip.npy"}            images of the clip that ends there, without distortion

Compiled operators of mmcv and mmdet3d that are absent are stood in for: loading calls none of them, but importing upstream's
plugin imports its models. The first answer names them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
from typing import Any, Dict, Iterator, List  # noqa: UP035 - Python 3.8

from _loading import rate

DISTORTION = "PhotoMetricDistortionMultiViewImage"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--root", required=True, help="UniAD's folder: holds projects/mmdet3d_plugin")
    parser.add_argument("--data-root", required=True, help="nuScenes' folder")
    parser.add_argument("--infos", required=True, help="info file of the split")
    parser.add_argument("--queue-length", type=int, required=True, help="frames of a clip")
    parser.add_argument("--batch", type=int, default=1, help="clips of a batch")
    parser.add_argument("--plain", action="store_true", help="leave photometric distortion out")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # upstream prints; what it says is no answer
    sys.path.insert(0, args.root)
    missing = StandIns()
    sys.meta_path.append(missing)
    importlib.import_module("projects.mmdet3d_plugin")
    dataset, settings = open_dataset(args)
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "mmcv", "mmdet", "mmseg", "mmdet3d", "cv2")}
    print(json.dumps({"samples": len(dataset), "stood_in_for": missing.names, "versions": versions}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "rate":
            answer = loader_rate(dataset, settings, args.batch, request)
        else:
            answer = clip_images(dataset, request)
        print(json.dumps(answer), file=answers)


class StandIns(importlib.abc.Loader):
    """Finds compiled modules that no other finder found. Whatever is taken from one fails when it is called."""

    def __init__(self) -> None:
        self.names: List[str] = []  # noqa: UP006

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "mmcv._ext" and not name.startswith("mmdet3d.ops."):
            return None
        self.names.append(name)
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)

        def stand_in(attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)

            def absent(*_: Any, **__: Any) -> None:
                raise RuntimeError(f"{spec.name}.{attribute} is compiled and not here; a loader should need none")

            return absent

        vars(module)["__getattr__"] = stand_in
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def open_dataset(args: argparse.Namespace) -> Any:
    """The config's training set on other data, and what build_dataloader takes of the config."""
    config = importlib.import_module("mmcv").Config.fromfile(args.config)
    train = config.data.train
    train.update(data_root=args.data_root, ann_file=args.infos, queue_length=args.queue_length)
    for step in train.pipeline:
        if "img_root" in step:
            step["img_root"] = args.data_root
    if args.plain:
        train.pipeline = [step for step in train.pipeline if step["type"] != DISTORTION]
    # As upstream's tools/train.py, which falls back to mmdet3d's builder for what is no wrapper
    build = importlib.import_module("projects.mmdet3d_plugin.datasets.builder").custom_build_dataset
    samplers = {key: config.data[key] for key in ("shuffler_sampler", "nonshuffler_sampler")}
    return build(train), samplers


def loader_rate(dataset: Any, samplers: Dict[str, Any], batch: int, request: Dict[str, Any]) -> List[float]:  # noqa: UP006
    build_dataloader = importlib.import_module("projects.mmdet3d_plugin.datasets.builder").build_dataloader
    workers = request["workers"]
    # Processes that stay: upstream starts them anew in every epoch, which a steady rate leaves out
    more = {"persistent_workers": True} if workers else {}
    loader = build_dataloader(dataset, batch, workers, dist=True, shuffle=True, seed=0, **samplers, **more)
    # A first batch of each process: it takes seconds, so what more would be ready is not kept waiting for
    return list(rate(endless(loader), batch, max(1, workers), request["clips"], request["seconds"]))


def endless(loader: Any) -> Iterator[Any]:
    """Batches of one epoch after the other."""
    while True:
        yield from loader


def clip_images(dataset: Any, request: Dict[str, Any]) -> List[int]:  # noqa: UP006
    """Writes [T, N, 3, H, W] float32; its shape."""
    steps = dataset.pipeline.transforms
    dataset.pipeline.transforms = [step for step in steps if type(step).__name__ != DISTORTION]
    try:
        images = dataset.prepare_train_data(request["last"])["img"].data.numpy()
    finally:
        dataset.pipeline.transforms = steps
    importlib.import_module("numpy").save(request["file"], images)
    return list(images.shape)


if __name__ == "__main__":
    main()
