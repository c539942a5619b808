"""Lenses and sizes: a point that a lens has bent is where the matrix says, once its image has gone through."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from uniad.ros.messages import Lens
from uniad.ros.rig import Car, _Fit
from uniad.ros.topics import CameraTopic, Topics

K = np.array([[600.0, 0.0, 790.0], [0.0, 610.0, 460.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("model, d", [
    ("plumb_bob", [-0.25, 0.08, 0.001, -0.002, 0.01]), ("rational_polynomial", [0.3, 0.02, 0.001, 0.0, 0.01, 0.6, 0.1, 0.0]),
    ("equidistant", [0.05, -0.02, 0.01, -0.003]),
])  # fmt: skip
@pytest.mark.parametrize("point", [(0.5, 0.3), (-0.6, -0.25)])
def test_a_bent_point_is_where_the_matrix_says(model, d, point):
    d = np.array(d)
    if model == "equidistant":
        bent = cv2.fisheye.distortPoints(np.array([[point]]), K, d)[0, 0]
    else:
        bent = cv2.projectPoints(np.array([[*point, 1.0]]), np.zeros(3), np.zeros(3), K, d)[0][0, 0]
    image = np.zeros((900, 1600, 3), np.uint8)
    cv2.circle(image, tuple(np.round(bent).astype(int).tolist()), 4, (255, 255, 255), -1)
    car = Car(Topics({"CAM_FRONT": CameraTopic("/a", "/b")}))
    straight = car._undistorted("CAM_FRONT", image, Lens("f", 1600, 900, model, d, K, np.zeros((3, 4)), np.eye(3)), "there")
    rows, columns = np.nonzero(straight[..., 0] > 127)
    found, expected = np.array([columns.mean(), rows.mean()]), (K @ (*point, 1.0))[:2]
    assert np.abs(found - expected).max() < 1.5 and np.abs(bent - expected).max() > 5


@pytest.mark.parametrize("height, width", [(1080, 1920), (450, 800), (1200, 1600), (1200, 1920), (600, 1600)])
def test_an_image_fills_the_size_and_a_pixel_is_where_the_matrix_says(height, width):
    fit = _Fit.of(height, width)
    image = np.zeros((height, width, 3), np.uint8)
    x, y = width // 2 + 40, height // 2 - 30
    cv2.circle(image, (x, y), 6, (255, 255, 255), -1)
    out = fit.apply(image)
    assert out.shape == (900, 1600, 3)
    rows, columns = np.nonzero(out[..., 0] > 127)
    np.testing.assert_allclose([columns.mean(), rows.mean()], (fit.matrix @ (x, y, 1, 1))[:2], atol=0.6)
