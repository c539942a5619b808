"""Drives uniad.deploy.runtime as a car's program would: with the extra `runtime` alone, in a folder without the repository.

    python runtime_elsewhere.py MODEL.onnx SENSORS.npz OUT.npz [--blocked]

--blocked: packages that a car does not have cannot be imported, where they are installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

# What the environment for training has besides
NOT_ON_A_CAR = (
    "torch", "nuscenes", "scipy", "pandas", "shapely", "pyquaternion", "matplotlib", "onnx", "onnxscript", "motmetrics", "PIL",
    "tensorboard", "tqdm", "imageio_ffmpeg", "pytest",
)  # fmt: skip
POSES = ("ego2global", "lidar2ego")


class Blocker:
    """An import finder that knows nothing of some packages."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in NOT_ON_A_CAR:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def save_sensors(path: Path, frames: list) -> None:
    """Sensors of several frames as one file."""
    arrays = {}
    for number, sensors in enumerate(frames):
        for camera in sensors.images:
            arrays[f"{number}/image/{camera}"] = sensors.images[camera]
            arrays[f"{number}/lidar2img/{camera}"] = np.asarray(sensors.lidar2img[camera])
        for name in POSES:
            pose = getattr(sensors, name)
            arrays[f"{number}/{name}"] = np.concatenate([np.asarray(pose.translation), np.asarray(pose.rotation)])
        arrays[f"{number}/rest"] = np.array([sensors.time_s, sensors.command])
        arrays[f"{number}/can_bus"] = np.asarray(sensors.can_bus)
    np.savez(path, **arrays)


def load_sensors(path: Path) -> list:
    from uniad.deploy.sensors import Pose, Sensors

    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    frames = []
    for number in range(sum(name.endswith("/rest") for name in arrays)):
        of = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{number}/")}
        time_s, command = of["rest"].tolist()
        frames.append(Sensors(
            images={k.partition("/")[2]: v for k, v in of.items() if k.startswith("image/")},
            lidar2img={k.partition("/")[2]: v for k, v in of.items() if k.startswith("lidar2img/")},
            **{name: Pose(of[name][:3], of[name][3:]) for name in POSES},
            time_s=time_s, command=int(command), can_bus=of["can_bus"],
        ))  # fmt: skip
    return frames


def results_of(model: str, frames: list) -> dict[str, np.ndarray]:
    """All that the runtime says of the frames, by name."""
    from uniad.deploy.runtime import Runtime

    out = {}
    with Runtime.open(model, "cpu", threads=1) as runtime:
        for number, sensors in enumerate(frames):
            result = runtime.step(sensors)
            for name in ("tracks", "detections", "forecasts", "plan"):
                part = getattr(result, name)
                out |= {f"{number}/{name}/{key}": np.asarray(value) for key, value in vars(part).items()}
            out |= {f"{number}/{key}": getattr(result, key) for key in ("lanes", "drivable", "occupancy", "occupancy_ids")}
    return out


if __name__ == "__main__":
    model, sensors, out = sys.argv[1:4]
    if "--blocked" in sys.argv[4:]:
        sys.meta_path.insert(0, Blocker)
    np.savez(out, **results_of(model, load_sensors(Path(sensors))))
    print(sys.modules["uniad"].__file__)
