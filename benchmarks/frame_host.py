#!/usr/bin/env python3
"""What the runtime's own Python costs in a frame: every part but the model, whose place a stub takes that answers at once.

The stub's answers are a frame's worth of made-up objects, masks and a plan, from a seed; images have the size of nuScenes'. As
with a back end on a GPU the host only picks the pixels that scaling reads. Times are of this thread's processor, so that other
jobs of the machine do not count; one thread picks.

    benchmarks/frame_host.py --config projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py --frames 200
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import _tools  # noqa: F401

import numpy as np

from uniad.backends.base import Runner
from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.deploy import runtime as R
from uniad.deploy.plausible import Limits
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import run_cli
from uniad.interface.contract import Contract, contract_for

CONFIG = "projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py"
OBJECTS = 60


class Stub(Runner):
    """Answers at once, the same each time but for what it was fed."""

    name = "stub"
    image_device = "cpu"

    def __init__(self, contract: Contract, spec: Spec) -> None:
        super().__init__(contract)
        self._answer = answer(contract, spec)

    def _infer(self, feeds: Any) -> dict[str, Any]:
        return self._answer


def answer(contract: Contract, spec: Spec) -> dict[str, np.ndarray]:
    """Outputs and next state of a frame: ``OBJECTS`` objects, as many agents as fit, plausible masks."""
    rng = np.random.default_rng(0)
    made = {}
    for name, port in contract.output_ports().items():
        if name.startswith("next_"):
            made[name] = np.full(port.shape, port.initial, port.dtype)
        elif np.dtype(port.dtype).kind == "f":
            made[name] = rng.random(port.shape, np.float32)
        else:
            made[name] = np.zeros(port.shape, port.dtype)
    slots = rng.permutation(made["boxes"].shape[1])[:OBJECTS]
    made["boxes"][..., :2] = rng.uniform(-40, 40, made["boxes"][..., :2].shape)
    for name in ("valid", "active"):
        made[name][0, slots] = 1
    made["obj_id"][0] = -1
    made["obj_id"][0, slots] = np.arange(OBJECTS)
    made["map_settled"][:] = 1
    if "plan_traj" in made:
        agents = min(OBJECTS, made["agent_id"].shape[1])
        made["agent_valid"][0, :agents], made["agent_id"][0, :agents] = 1, np.arange(agents)
        made["agent_row"][0, :agents] = slots[:agents]
        made["plan_traj"][0] = np.stack([np.zeros(6), np.arange(1, 7) * 1.7], -1)[: made["plan_traj"].shape[1]]
        rows, columns = made["occ_seg"].shape[-2:]
        made["occ_seg"][..., rows // 2 + 6 : rows // 2 + 15, columns // 2 + 2 : columns // 2 + 6] = 1  # a car beside the plan
        made["occ_ids"][made["occ_seg"] != 0] = 1
    return made


def sensors(spec: Spec, number: int, images: dict[str, np.ndarray]) -> Sensors:
    """A car that drives on at 5 m/s, with cameras all around."""
    focal, projections = np.array([[1266, 0, 800, 0], [0, 1266, 450, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), {}
    for index, camera in enumerate(spec.data.vocabulary.cameras):
        turn = -np.pi / 3 * index
        c, s = np.cos(turn), np.sin(turn)
        # x right, y down, z ahead of a camera that looks along (-s, c) of the lidar frame
        camera_from_lidar = np.array([[c, s, 0, 0], [0, 0, -1, -0.3], [-s, c, 0, -0.5], [0, 0, 0, 1.0]])
        projections[camera] = focal @ camera_from_lidar
    return Sensors(
        images=images, lidar2img=projections, ego2global=Pose((0.0, 2.5 * number, 0.0), (1.0, 0.0, 0.0, 0.0)),
        lidar2ego=Pose((0.9, 0.0, 1.8), (1.0, 0.0, 0.0, 0.0)), time_s=0.5 * number,
    )  # fmt: skip


class Clock:
    """Adds up what named functions take; a function inside another one counts for both."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.ms.setdefault(name, []).append(1e3 * (time.thread_time() - begun))

        return wrapped


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default=CONFIG)
    p.add_argument("--frames", type=int, default=200)
    args = p.parse_args()
    spec = load_spec(args.config)
    clock = Clock()
    runtime: Any = R.Runtime(Stub(contract_for(spec), spec), spec, limits=Limits.off(), threads=1)
    from uniad.deploy import device_images
    from uniad.postprocess import collision

    zeros = np.zeros((1, len(spec.data.vocabulary.cameras), 3, spec.data.image.height, spec.data.image.width), np.float32)
    setattr(device_images, "network_images", lambda *_: device_images.torch.from_numpy(zeros))  # noqa: B010  the GPU's part
    runtime._images = clock.timed("pixels picked", runtime._images)
    runtime._prepared = clock.timed("input made (with pixels)", runtime._prepared)
    runtime._feed = clock.timed("input checked against the contract", runtime._feed)
    runtime._checked_rig = clock.timed("cameras checked", runtime._checked_rig)
    R.check_plausible = clock.timed("plausibility", R.check_plausible)
    runtime.runner.step = clock.timed("step's own Python", runtime.runner.step)
    runtime.runner.is_finite = clock.timed("state finite", runtime.runner.is_finite)
    R.result_of = clock.timed("result made (with optimiser)", R.result_of)
    collision.optimise_plan = clock.timed("collision optimiser", collision.optimise_plan)
    step = clock.timed("whole frame", runtime.step)
    rng = np.random.default_rng(0)
    pictures = {camera: rng.integers(0, 255, (900, 1600, 3), np.uint8) for camera in spec.data.vocabulary.cameras}
    for number in range(args.frames + 10):
        if number == 10:
            clock.ms.clear()
        step(sensors(spec, number, pictures))
    print(f"{args.frames} frames, {args.config}\n| part | median ms | p99 ms |\n|---|---|---|")
    for name, took in sorted(clock.ms.items(), key=lambda item: -float(np.median(item[1]))):
        p50, p99 = np.percentile(took, (50, 99))
        print(f"| {name} | {p50:.3f} | {p99:.3f} |")


if __name__ == "__main__":
    run_cli(main)
