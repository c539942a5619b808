"""What a frame is held against, computed number by number, says what matrices say."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from uniad.backends.torch import TorchRunner
from uniad.deploy.plausible import Limits, _check_projection
from uniad.errors import UserError
from uniad.geometry.transforms import rotation_matrix


def cameras(count: int) -> list[np.ndarray]:
    """Projections [4, 4] of cameras that look anywhere, as float32 holds them."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        camera = np.eye(4)
        camera[:3, :3] = [[300, 0, 208], [0, 300, 128], [0, 0, 1]] @ rotation_matrix(rng.normal(size=4))
        camera[:3, 3] = camera[:3, :3] @ rng.normal(scale=2, size=3)
        found.append(camera.astype(np.float32).astype(np.float64))
    return found


def test_a_camera_is_as_far_away_as_its_matrix_says() -> None:
    for camera in cameras(50):
        _check_projection(camera, "a camera", 416, 256, Limits())
        away = np.linalg.norm(np.linalg.solve(camera[:3, :3], camera[:3, 3]))
        with pytest.raises(UserError, match=rf"is of a camera {re.escape(f'{away:.4g}')} m from the lidar"):
            _check_projection(camera, "a camera", 416, 256, Limits(mount_m=away * (1 - 1e-6)))
        _check_projection(camera, "a camera", 416, 256, Limits(mount_m=away * (1 + 1e-6)))


@pytest.mark.parametrize(("spoil", "fault"), [
    (lambda camera: camera * [[-1], [1], [1], [1]], "mirrors the image"),
    (lambda camera: camera * [[1], [1], [1.05], [1]], "third row has length 1.05"),
    (lambda camera: camera * [[1], [1.5], [1], [1]], "shears the image"),
    (lambda camera: camera + [[0], [0], [0], [0.1]], r"ends in the row \[0.1, 0.1, 0.1, 1.1\]"),
    (lambda camera: camera * [[30], [30], [1], [1]], "focal length of 21.6 image widths"),
    (lambda camera: camera + 900 * np.eye(4)[0][:, None] * camera[2], "optical axis at pixel 1108"),
    (lambda camera: np.diag([0, 0, 0, 1.0]), "third row has length 0,"),
])  # fmt: skip
def test_what_is_no_camera_is_named(spoil, fault) -> None:
    for camera in cameras(5):
        with pytest.raises(UserError, match=fault):
            _check_projection(spoil(camera), "a camera", 416, 256, Limits())


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (np.nan, False), (-np.inf, False), (3e38, True)])
def test_one_answer_for_all_of_the_state_is_that_of_each(value: float, finite: bool) -> None:
    """Also where the sum of finite values is not."""
    runner = TorchRunner.__new__(TorchRunner)
    runner.device = torch.device("cpu")
    runner._state = {
        "state_bev": torch.full((8,), value), "state_pos": np.zeros(3, np.float32), "state_id": torch.zeros(1, dtype=torch.int32),
        "state_half": torch.full((3,), 6e4, dtype=torch.float16),
    }  # fmt: skip
    assert runner.is_finite() is finite
