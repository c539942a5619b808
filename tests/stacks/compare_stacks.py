#!/usr/bin/env python3
"""Hold the upstream stack and the native one against each other: samples, evaluation and losses on one synthetic world.

Upstream's half runs by --python, the interpreter of an environment with docker/torch1.12/requirements.txt and our
uniad_mmdet3d, on --tree, a clone of UniAD with our patch and overlay. Both halves read the same files and the same weights
(tests/helpers/weights.py). Ends with 0 where they agree, 1 where not, 77 where upstream's environment is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(REPO / "projects")]

CONFIG = "projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py"
SKIPPED = 77
PARTS = ("samples", "evaluate", "losses")
QUEUE_LENGTH, CLIP = 3, 9
WORLD = ["--train-scenes", "1", "--val-scenes", "1", "--frames", "14", "--seed", "3"]

# Keys of an upstream sample that no native one has, and why. Patterns of whole names, list positions as #.
NOT_NATIVE = {
    "gt_(centerness|offset|flow|backward_flow)(/#)?": "made by the labels, read by no head and no loss",
    "gt_future_labels/#": "the collision loss reads boxes of all classes alike",
    "img_metas/#/(box_mode_3d|flip|pcd_.*|scale_factor|img_norm_cfg/.*)": "the same for every sample, part of the config",
    "img_metas/#/ori_shape/#/#": "size before padding: nothing reads it",
    "img_metas/#/(prev_idx|next_idx|pts_filename)": "read by nothing past the pipeline",
}
# Keys that may differ, by how much, and why. A number: largest difference; a share: of the cells of the grid that may differ.
METRES, PIXELS = 2e-5, 5e-5
RASTER = 2e-3
ALLOWED: dict[str, tuple[float, str]] = {
    "img(/#)?": (1e-6, "normalised in one step instead of two"),
    "img_metas/#/lidar2img": (PIXELS, "float32 here, float64 there; pixels"),
    "img_metas/#/can_bus": (5e-5, "float32 here, float64 there; metres and degrees"),
    "gt_(fut|past|sdc_fut)_traj(/#)?": (METRES, "float32 here, float64 there; metres"),
    "gt_future_boxes/#": (METRES, "float32 on both sides, by other steps; metres"),
    "sdc_planning(/#)?": (METRES, "float32 here, float64 there; metres"),
}
CELLS: dict[str, tuple[float, str]] = {
    "gt_(segmentation|instance)(/#)?": (RASTER, "a corner within rounding of the border between two cells"),
    "gt_lane_masks(/#)?": (RASTER, "a line within rounding of the border between two cells"),
}
# Evaluation and losses
BOXES, SCORES, PLAN, LOSS, METRIC = 1e-3, 1e-4, 1e-3, 1e-3, 1e-3
# All 300 detections, also those that nobody would report: 4e-5 of the 102 m that a decoder covers, its own noise (tolerances.py)
DETECTIONS = 4e-3
# A track carries its noise along, so the first frames are held to the limits above and the later ones to LATER times as much;
# ids, labels and plans to the same in all.
STEADY, LATER = 4, 10
# Birth and reporting of tracks where made-up weights score little, as clear of any score as a trained model's thresholds are:
# at the config's 0.4 and 0.35, rounding decides over a track of this scene, and then over all that follows.
CLEAR = ["model.score_thresh=0.6", "model.filter_score_thresh=0.55"]
SEG_CELLS = 1e-3  # share of cells whose probability lies within rounding of the threshold


class Line(NamedTuple):
    """One compared quantity: the worst difference found, and what is allowed."""

    name: str
    count: int
    worst: float
    allowed: float
    note: str = ""

    @property
    def agrees(self) -> bool:
        return self.worst <= self.allowed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="", help="interpreter of upstream's environment")
    parser.add_argument("--tree", type=Path, default=Path("UniAD_train/UniAD"), help="UniAD, patched, with our overlay")
    parser.add_argument("--out", type=Path, default=Path(".make/stacks"), help="where both halves write")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--weights", type=Path, help="a checkpoint (default: made from the parameters' names)")
    parser.add_argument("--keep", action="store_true", help="use the world and what upstream's half wrote before")
    args = parser.parse_args()
    missing = why_not(args.python, args.tree)
    if missing:
        print(f"skipped: {missing}")
        return SKIPPED
    # What is named relative to here, before leaving: configs name data/ relative to where they are used
    out, tree = args.out.resolve(), args.tree.resolve()
    python = os.path.abspath(args.python) if os.sep in args.python else args.python
    given = args.weights and args.weights.resolve()
    if not args.keep:
        # What other code made before is not what is to be compared
        for name in ("data", "upstream", "native"):
            shutil.rmtree(out / name, ignore_errors=True)
    prepare(out)
    config = tree / CONFIG
    os.chdir(out)
    options = [] if given else CLEAR
    lines: list[Line] = []
    for part in args.parts:
        weights = given or out / f"{part}.pth"
        if part != "samples" and not given and not (args.keep and weights.exists()):
            write_weights(weights, config, "tiny" if part == "evaluate" else "train")
        if not (args.keep and (out / "upstream" / part).is_dir()):
            upstream(python, tree, part, config, weights, options)
        compare = {"samples": compare_samples, "evaluate": compare_evaluation, "losses": compare_losses}[part]
        lines += compare(config, weights, options)
        report(lines, part, out)
    return 0 if all(line.agrees for line in lines) else 1


def why_not(python: str, tree: Path) -> str:
    """What is missing for upstream's half; empty where it can run."""
    if not python:
        return "no upstream environment: name its interpreter, UPSTREAM_PYTHON=/path/to/python3"
    if not (tree / "projects/mmdet3d_plugin/uniad_compat").is_dir():
        return f"{tree} is no UniAD with our patch: make overlay STACK=torch1.12"
    try:
        done = subprocess.run(
            [python, "-c", "import mmcv.ops, mmdet, mmdet3d.ops, nuscenes"], capture_output=True, text=True, env=environment(tree)
        )
    except OSError as error:
        return f"{python}: {error.strerror}"
    return "" if done.returncode == 0 else f"{python} lacks the upstream stack: {done.stderr.strip().splitlines()[-1]}"


def environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree.resolve())}


def prepare(out: Path) -> None:
    """The world, its infos and its anchors under ``out``/data, made once."""
    data = out / "data"
    anchors = data / "others/motion_anchor_infos_mode6.pkl"
    if anchors.exists():
        return
    infos = data / "infos"

    def tool(name: str, *words: object) -> None:
        command = [sys.executable, str(REPO / "tools" / name), *map(str, words)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(REPO / "projects")})

    tool("make_synthetic_nuscenes.py", "--out", data / "nuscenes", *WORLD, "--quiet")
    tool("create_data.py", "nuscenes", "--root-path", data / "nuscenes", "--out-dir", infos, "--quiet")
    train = infos / "nuscenes_infos_temporal_train.pkl"
    tool("make_motion_anchors.py", REPO / CONFIG, "--out", anchors, "--cfg-options", f"data.train.ann_file={train}")


def write_weights(path: Path, config: Path, kind: str) -> None:
    """Weights that follow from the parameters' names, with some tracks, lanes and occupied cells over their thresholds."""
    import torch

    from helpers import weights
    from uniad.config.read import load_spec
    from uniad.training.build import build_model

    model = weights.fill(build_model(load_spec(config)), kind=kind)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)


def upstream(python: str, tree: Path, part: str, config: Path, weights: Path, options: list[str]) -> None:
    words = [python, HERE / "upstream_half.py", part, config, Path("upstream") / part]
    words += ["--weights", weights, "--clip", CLIP, "--queue-length", QUEUE_LENGTH]
    if part == "evaluate" and options:
        words += ["--cfg-options", *options]
    log = Path(f"upstream_{part}.log")
    with log.open("w") as handle:
        done = subprocess.run([str(w) for w in words], stdout=handle, stderr=subprocess.STDOUT, env=environment(tree))
    if done.returncode:
        raise SystemExit(f"error: upstream's half failed at {part}: {log.resolve()} ends in\n" + log.read_text()[-2000:])


def native_spec(config: Path, options: Iterable[str] = ()):
    import native_half

    return native_half.spec_of(config, QUEUE_LENGTH, list(options))


# Samples ----------------------------------------------------------------------------------------------------------------


def general(key: str) -> str:
    """A key with list positions as #."""
    return "/".join("#" if part.isdigit() else part for part in key.split("/"))


def rule(table: dict, key: str):
    return next((value for pattern, value in table.items() if re.fullmatch(pattern, key)), None)


def difference(key: str, native: NDArray, wanted: NDArray) -> float:
    """Largest difference, or the share of cells that differ; inf where kind or shape differ."""
    if wanted.dtype.kind == "U":
        return 0.0 if str(native) == str(wanted) else np.inf
    if native.shape != wanted.shape:
        return np.inf
    if not wanted.size:
        return 0.0
    if rule(CELLS, key):
        return float((native != wanted).mean())
    return float(np.abs(native.astype(np.float64) - wanted.astype(np.float64)).max())


def compare_samples(config: Path, *_: object) -> list[Line]:
    import native_half

    spec, lines = native_spec(config), []
    for split, samples in (("train", native_half.train_samples(spec)), ("val", native_half.val_samples(spec))):
        files = {int(path.stem.split("_")[1]): path for path in Path("upstream/samples").glob(f"{split}_*.npz")}
        worst: dict[str, list[float]] = {}
        extra: set[str] = set()
        seen = []
        for index, native in samples:
            seen.append(index)
            if index not in files:
                continue
            with np.load(files[index]) as wanted:
                extra |= {general(key) for key in set(wanted) - set(native) if not rule(NOT_NATIVE, general(key))}
                extra |= {general(key) for key in set(native) - set(wanted)}
                for key in set(native) & set(wanted):
                    worst.setdefault(general(key), []).append(difference(general(key), native[key], wanted[key]))
        lines.append(Line(f"{split}: samples of one stack only", len(seen), len(set(seen) ^ set(files)), 0))
        lines.append(Line(f"{split}: keys of one stack only", len(worst), len(extra), 0, ", ".join(sorted(extra))))
        for key in sorted(worst):
            allowed, note = rule({**ALLOWED, **CELLS}, key) or (0.0, "")
            unit = "share of cells: " if rule(CELLS, key) else ""
            lines.append(Line(f"{split}: {key}", len(worst[key]), max(worst[key]), allowed, unit + note))
    return lines


# Evaluation -------------------------------------------------------------------------------------------------------------


def by_place(rows: NDArray, *labels: NDArray) -> NDArray[np.intp]:
    """An order that does not depend on scores that are equal up to rounding."""
    return np.lexsort([*np.round(rows[:, 2::-1].T, 2), *labels])


def compare_evaluation(config: Path, weights: Path, options: list[str]) -> list[Line]:
    import native_half

    folder = Path("native/evaluate")
    frames, metrics = native_half.evaluate(native_spec(config, [*native_half.ALL_TRACKS, *options]), weights, folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    for index, native in enumerate(frames):
        np.savez(folder / f"frame_{index:03d}.npz", **native)
    worst: dict[str, list[float]] = {}

    def note(name: str, native: NDArray, wanted: NDArray, order: Callable = lambda x: x) -> None:
        same = native.shape == wanted.shape
        gap = np.abs(order(native).astype(np.float64) - order(wanted).astype(np.float64)) if same else np.asarray([np.inf])
        worst.setdefault(name, []).append(float(gap.max()) if gap.size else 0.0)

    for index, native in enumerate(frames):
        later = "" if index < STEADY else ", later"
        with np.load(f"upstream/evaluate/frame_{index:03d}.npz") as wanted:
            ids = np.argsort(native["track_ids"]), np.argsort(wanted["track_ids"])
            note("track ids", native["track_ids"][ids[0]], wanted["track_ids"][ids[1]])
            for name in ("boxes_3d", "scores_3d", "labels_3d", "traj", "traj_scores"):
                if name in native:
                    theirs = wanted[name].reshape(-1, *native[name].shape[1:])[: len(ids[1])]
                    note(f"tracks{later}: {name}", native[name][ids[0]], theirs[ids[1]])
            order = [by_place(x["boxes_3d_det"], x["labels_3d_det"]) for x in (native, wanted)]
            for name in ("boxes_3d_det", "scores_3d_det", "labels_3d_det") if not later else ():
                note(f"detections: {name}", native[name][order[0]], wanted[name][order[1]])
            if "plan" in native:
                note("plan", native["plan"], wanted["plan"])
                same = native["occ/seg_out"].shape == wanted["occ/seg_out"].shape
                gap = (native["occ/seg_out"] != wanted["occ/seg_out"]).mean() if same else np.inf
                worst.setdefault("occupied cells", []).append(float(gap))
    allowed = {"track ids": 0.0, "plan": PLAN, "occupied cells": SEG_CELLS}
    kinds = {"boxes_3d": BOXES, "boxes_3d_det": DETECTIONS, "scores_3d": SCORES, "scores_3d_det": SCORES}
    kinds |= {"labels_3d": 0.0, "labels_3d_det": 0.0, "traj": BOXES, "traj_scores": BOXES}
    lines = [Line("evaluate: tracks that found no slot", len(frames), metrics["tracks_dropped"] + metrics["agents_dropped"], 0)]
    for name, found in worst.items():
        limit = allowed.get(name, kinds.get(name.split(": ")[-1])) * (LATER if ", later" in name else 1)
        lines.append(Line(f"evaluate: {name}", len(found), max(found), limit, "share of cells" if "cells" in name else ""))
    return lines + compare_metrics(metrics, json.loads(Path("upstream/evaluate/metrics.json").read_text()))


def compare_metrics(native: dict, upstream: dict) -> list[Line]:
    """The evaluation numbers that both stacks report."""
    theirs, pairs = upstream["metrics"], {}
    prefix = "pts_bbox_NuScenes/"
    for ours, name in (("NDS", "NDS"), ("mAP", "mAP")):
        pairs[f"detection: {name}"] = native["detection"][ours], theirs[prefix + name]
    for key, name in {"trans": "mATE", "scale": "mASE", "orient": "mAOE", "vel": "mAVE", "attr": "mAAE"}.items():
        pairs[f"detection: {name}"] = native["detection"]["errors"][f"{key}_err"], theirs[prefix + name]
    for label, aps in native["detection"]["AP"].items():
        for distance, ap in aps.items():
            pairs[f"detection: {label} AP {distance}"] = ap, theirs[f"{prefix}{label}_AP_dist_{distance}"]
    for key in ("amota", "amotp", "recall", "motar", "mota", "motp", "mt", "ml", "faf", "tp", "fp", "fn", "ids", "frag"):
        if prefix + key in theirs:
            pairs[f"tracking: {key}"] = native["tracking"][key], theirs[prefix + key]
    for name, value in native["map"].items():
        pairs[f"map: {name}"] = value, theirs[name]
    if "occ_results_computed" in upstream:
        occ, wanted = native["occupancy"]["model"], upstream["occ_results_computed"]
        for i, area in enumerate(native["occupancy"]["areas"]):
            for name in ("iou", "pq", "sq", "rq"):
                pairs[f"occupancy: {name} {area}"] = occ[f"occ_{name}_{area}"], wanted[name][i] / 100
        pairs["occupancy: samples"] = occ["occ_samples"], wanted["num_occ"]
    if "planning_results_computed" in upstream:
        plan = native["planning_per_step"].get("model_with_collision_optimiser", native["planning_per_step"]["model"])
        for name, values in upstream["planning_results_computed"].items():
            ours = plan[name]
            for step, value in enumerate(values):
                pairs[f"planning: {name} {(step + 1) / 2} s"] = ours[step], value
    if upstream["motion"]:
        modes = {run["mode"]: run for run in reversed(upstream["motion"])}  # the first three merge the classes
        for name in ("car", "pedestrian"):
            ours = native["motion"]["model"]
            for error in ("min_ade_err", "min_fde_err", "miss_rate_err"):
                pairs[f"motion: {name} {error}"] = ours[f"{name}/{error}"], modes["standard"]["errors"][name][error]
            pairs[f"motion: {name} EPA"] = ours[f"{name}/EPA"], modes["epa"]["EPA"][name]
    lines = []
    for name, (mine, wanted) in pairs.items():
        if mine is None or wanted is None or np.isnan(mine) or np.isnan(wanted):
            absent = [x is None or bool(np.isnan(x)) for x in (mine, wanted)]
            lines.append(Line(name, 1, 0.0 if all(absent) else np.inf, 0.0, f"native {mine}, upstream {wanted}"))
            continue
        gap = abs(mine - wanted) / max(1.0, abs(wanted))
        lines.append(Line(name, 1, gap, METRIC, f"native {mine:.6g}, upstream {wanted:.6g}"))
    return lines


# Losses -----------------------------------------------------------------------------------------------------------------


def compare_losses(config: Path, weights: Path, _: list[str]) -> list[Line]:
    import native_half

    native = native_half.losses(native_spec(config, native_half.NOTHING_RANDOM), weights, CLIP)
    Path("native").mkdir(exist_ok=True)
    Path("native/losses.json").write_text(json.dumps(native, indent=1) + "\n")
    wanted = json.loads(Path("upstream/losses/losses.json").read_text())
    one_only = sorted(set(native) ^ set(wanted))
    lines = [Line("losses: names of one stack only", len(wanted), len(one_only), 0, ", ".join(one_only))]
    idle = [name for name in native if name.startswith("occ.") and native[name] == 0]
    if idle:
        # Upstream's code then takes an empty query in its place and holds it against the clip's last object.
        lines.append(Line("losses: occupancy left out", len(idle), 0, 0, "no vehicle was matched in this clip"))
        native, wanted = ({k: v for k, v in x.items() if k not in idle} for x in (native, wanted))
    for name in sorted(set(native) & set(wanted)):
        gap = abs(native[name] - wanted[name]) / max(abs(wanted[name]), 1e-3)
        lines.append(Line(name, 1, gap, LOSS, f"native {native[name]:.6g}, upstream {wanted[name]:.6g}"))
    total = [sum(v for k, v in x.items() if "loss" in k) for x in (native, wanted)]
    gap = abs(total[0] - total[1]) / abs(total[1])
    return [*lines, Line("losses: total", len(wanted), gap, LOSS, f"native {total[0]:.6g}, upstream {total[1]:.6g}")]


def report(lines: list[Line], part: str, out: Path) -> None:
    """All lines into a file; those that differ, and the summary, on the terminal."""
    (out / "report.json").write_text(json.dumps([line._asdict() for line in lines], indent=1, default=float) + "\n")
    bad = [line for line in lines if not line.agrees]
    for line in lines:
        if part in line.name or not line.agrees or line.worst > 0:
            mark = "  " if line.agrees else "!!"
            print(f"{mark} {line.name}: {line.worst:.2g} (allowed {line.allowed:g}) {line.note}")
    print(f"{part}: {len(lines)} quantities compared so far, {len(bad)} differ; {out / 'report.json'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
