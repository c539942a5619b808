#!/usr/bin/env python3
"""How fast the synthetic world is made: benchmarks/synthetic_world.py [--workers N] [--scenes N] [--frames N]

Prints one table. A keyframe is six 1600x900 JPEGs and one lidar sweep. Wall time tells what this machine did just now; CPU
time what an idle one would do.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import _tools  # noqa: F401

import cv2

from uniad.data.synthetic import WorldParams, generate
from uniad.data.synthetic.params import scene_specs
from uniad.data.synthetic.scene import Keyframe, Scene
from uniad.data.synthetic.sensors import CAMERAS
from uniad.processes import cores_here


def cpu_s() -> float:
    """CPU seconds of this process and of its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def steps(params: WorldParams, frames: int) -> dict[str, float]:
    """CPU milliseconds a keyframe of each step, in one process."""
    spent = {"build the scene (a keyframe's share)": 0.0, "render six images": 0.0, "JPEG": 0.0, "lidar": 0.0, "boxes": 0.0}

    def timed(name: str, call):
        start = time.process_time()
        result = call()
        spent[name] += (time.process_time() - start) * 1e3
        return result

    scene = timed("build the scene (a keyframe's share)", lambda: Scene(params, scene_specs(params)[0]))
    spent["build the scene (a keyframe's share)"] *= frames / params.frames
    for index in range(frames):
        frame = Keyframe(scene, index)
        for channel in CAMERAS:
            image = timed("render six images", lambda f=frame, c=channel: f.image(c))
            ok = timed("JPEG", lambda i=image: cv2.imencode(".jpg", i, [cv2.IMWRITE_JPEG_QUALITY, params.jpeg_quality])[0])
            assert ok
        sweep = timed("lidar", frame.lidar)
        timed("boxes", lambda f=frame, s=sweep: f.observations(s))
    return {name: ms / frames for name, ms in spent.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workers", type=int, default=cores_here())
    p.add_argument("--scenes", type=int, default=4)
    p.add_argument("--frames", type=int, default=40)
    args = p.parse_args()
    cv2.setNumThreads(1)
    params = WorldParams(train_scenes=args.scenes, val_scenes=0, frames=args.frames)
    rows = [(f"CPU ms a keyframe: {name}", f"{ms:.1f}") for name, ms in steps(params, min(10, args.frames)).items()]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "nuscenes"
        wall, cpu = time.perf_counter(), cpu_s()
        generate(params, out, args.workers)
        wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
        images = [path.stat().st_size for path in out.glob("samples/CAM_*/*.jpg")]
    count = args.scenes * args.frames
    rows += [
        (f"data set: {args.scenes} scenes x {args.frames} keyframes, {args.workers} workers, wall", f"{wall:.1f} s"),
        ("data set: keyframes a second, wall", f"{count / wall:.1f}"),
        ("data set: CPU ms a keyframe, everything", f"{1e3 * cpu / count:.0f}"),
        (f"keyframes a second that {args.workers} idle cores would make", f"{args.workers * count / cpu:.1f}"),
        ("kilobytes a JPEG", f"{sum(images) / len(images) / 1e3:.0f}"),
        ("load of this machine (1 minute)", f"{os.getloadavg()[0]:.1f} on {cores_here()} cores"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:>12}")


if __name__ == "__main__":
    main()
