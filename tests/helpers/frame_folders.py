"""A recorded folder of frames as a user would bring it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from uniad.deploy.sources import INDEX, DatasetFrames


def record_folder(dataset: DatasetFrames, folder: Path, **changes: object) -> Path:
    """The dataset's scene as the folder that a user would record, images linked."""
    frames = []
    for record in dataset.scene("0"):
        info, sensors = record.info, record.sensors
        images = {}
        for camera, path in info["cams"].items():
            link = folder / camera / f"{record.number}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
            images[camera] = str(link.relative_to(folder))
        pose = {key: info[f"ego2global_{key}"] for key in ("translation", "rotation")}
        frames.append({
            "time_s": 100.0 + sensors.time_s, "images": images, "ego2global": pose, "command": sensors.command,
            "can_bus": np.asarray(sensors.can_bus).tolist(), "token": info["token"],
        })  # fmt: skip
    lidar = {key: info[f"lidar2ego_{key}"] for key in ("translation", "rotation")}
    cameras = {camera: {"lidar2img": matrix} for camera, matrix in info["lidar2img"].items()}
    (folder / INDEX).write_text(json.dumps({"lidar2ego": lidar, "cameras": cameras, "frames": frames, **changes}))
    return folder
