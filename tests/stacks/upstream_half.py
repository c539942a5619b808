"""The upstream stack's half of compare_stacks.py: runs in its environment (Python 3.8), in the folder that holds data/.

samples   every clip of the training split and every sample of the validation split, as its pipelines make them
evaluate  every frame's results, and the metrics
losses    the losses of one training clip with nothing random
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import re

import numpy as np
import torch


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["samples", "evaluate", "losses"])
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("--weights")
    parser.add_argument("--clip", type=int, help="last frame of the clip")
    parser.add_argument("--queue-length", type=int, default=3)
    parser.add_argument("--cfg-options", nargs="+", default=[], help="numbers of the config: key=value")
    return parser.parse_args()


def flatten(value, name, into):
    """Arrays of a nested sample, by path."""
    if hasattr(value, "data") and type(value).__name__ == "DataContainer":
        value = value.data
    if hasattr(value, "tensor"):
        value = value.tensor
    if isinstance(value, dict):
        for key in value:
            flatten(value[key], f"{name}/{key}", into)
    elif isinstance(value, (list, tuple)) and len(value) and hasattr(value[0], "shape") and name.endswith("lidar2img"):
        into[name] = np.stack([np.asarray(item) for item in value])
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            flatten(item, f"{name}/{i}", into)
    elif isinstance(value, (torch.Tensor, np.ndarray, np.generic, bool, int, float)):
        into[name] = np.asarray(value)
    elif isinstance(value, str):
        into[name] = np.asarray(value)


def array_dict(sample):
    found = {}
    for key in sample:
        flatten(sample[key], key, found)
    return found


def samples(cfg, out):
    from mmdet3d.datasets import build_dataset

    # The only random step
    cfg.data.train.pipeline = [step for step in cfg.data.train.pipeline if "Photo" not in step["type"]]
    train = build_dataset(cfg.data.train)
    for last in range(len(train)):
        clip = train.prepare_train_data(last)
        if clip is not None:
            np.savez(os.path.join(out, f"train_{last:03d}.npz"), **array_dict(clip))
    cfg.data.test.test_mode = True
    test = build_dataset(cfg.data.test)
    for index in range(len(test)):
        np.savez(os.path.join(out, f"val_{index:03d}.npz"), **array_dict(test[index]))


def build(cfg, weights):
    from mmcv.runner import load_checkpoint
    from mmdet3d.models import build_model

    cfg.model.pretrained = None
    model = build_model(cfg.model)
    load_checkpoint(model, weights, map_location="cpu", strict=True)
    return model


def evaluate(cfg, out, weights):
    from mmcv.parallel import MMDataParallel
    from mmdet3d.datasets import build_dataset
    from projects.mmdet3d_plugin.datasets import nuscenes_e2e_dataset
    from projects.mmdet3d_plugin.datasets.builder import build_dataloader
    from projects.mmdet3d_plugin.uniad.apis.test import custom_multi_gpu_test
    from projects.mmdet3d_plugin.uniad_compat import evaluation as compat_evaluation

    os.environ["ENABLE_PLOT_MODE"] = "1"  # keep the grids
    planning_scores = compat_evaluation.PlanningScores
    add = planning_scores.add

    def add_and_keep(self, result):
        """UniAD's metric mirrors the plan that it is given, in place."""
        result["plan"] = result["planning"]["result_planning"]["sdc_traj"].clone()
        add(self, result)

    planning_scores.add = add_and_keep
    cfg.data.test.test_mode = True
    cfg.data.test.pop("samples_per_gpu", None)
    dataset = build_dataset(cfg.data.test)
    loader = build_dataloader(
        dataset, samples_per_gpu=1, workers_per_gpu=1, dist=False, shuffle=False,
        nonshuffler_sampler=cfg.data.nonshuffler_sampler,
    )  # fmt: skip
    cfg.model.train_cfg = None
    outputs = custom_multi_gpu_test(MMDataParallel(build(cfg, weights), device_ids=[0]), loader)

    results = outputs["bbox_results"] if isinstance(outputs, dict) else outputs
    for index, result in enumerate(results):
        kept = {key: value for key, value in result.items() if key not in ("pts_bbox", "planning")}
        np.savez(os.path.join(out, f"frame_{index:03d}.npz"), **array_dict(kept))

    motion = []

    class Recorded(nuscenes_e2e_dataset.MotionEval):
        """Keeps what UniAD only prints."""

        def main(self, *args, **kwargs):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                summary = super().main(*args, **kwargs)
            print(output.getvalue())
            epa = re.findall(r"EPA +(\w+) (\S+)", output.getvalue())
            motion.append(
                {
                    "mode": kwargs["eval_mode"],
                    "EPA": {name: float(value) for name, value in epa},
                    "errors": summary["label_tp_errors"],
                    "AP": summary["label_aps"],
                }
            )
            return summary

    nuscenes_e2e_dataset.MotionEval = Recorded
    metrics = dataset.evaluate(outputs, metric="bbox", jsonfile_prefix=os.path.join(out, "eval"))
    scores = {"metrics": {key: float(value) for key, value in metrics.items()}, "motion": motion}
    if isinstance(outputs, dict):
        for name in ("occ_results_computed", "planning_results_computed"):
            if name in outputs:
                scores[name] = {key: np.asarray(value).tolist() for key, value in outputs[name].items()}
    with open(os.path.join(out, "metrics.json"), "w") as handle:
        json.dump(scores, handle, indent=1, default=float)


def losses(cfg, out, weights, last):
    from mmcv.parallel import collate, scatter_kwargs
    from mmdet3d.datasets import build_dataset

    cfg.data.train.pipeline = [step for step in cfg.data.train.pipeline if "Photo" not in step["type"]]
    cfg.model.use_grid_mask = False
    cfg.model.qim_args.random_drop = 0.0
    cfg.model.qim_args.fp_ratio = 0.0
    model = build(cfg, weights).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    batch = collate([build_dataset(cfg.data.train).prepare_train_data(last)], samples_per_gpu=1)
    inputs = scatter_kwargs((), batch, [-1], dim=0)[1][0]
    with torch.no_grad():
        found = model(return_loss=True, **inputs)
    with open(os.path.join(out, "losses.json"), "w") as handle:
        json.dump({key: float(torch.as_tensor(value).mean()) for key, value in found.items()}, handle, indent=1)


def main():
    args = parse_args()
    importlib.import_module("projects.mmdet3d_plugin")
    from mmcv import Config

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(
        {"queue_length": args.queue_length, "model.queue_length": args.queue_length, "data.train.queue_length": args.queue_length}
    )
    cfg.merge_from_dict({key: float(value) for key, value in (option.split("=", 1) for option in args.cfg_options)})
    os.makedirs(args.out, exist_ok=True)
    if args.part == "samples":
        samples(cfg, args.out)
    elif args.part == "evaluate":
        evaluate(cfg, args.out, args.weights)
    else:
        losses(cfg, args.out, args.weights, args.clip)


if __name__ == "__main__":
    main()
