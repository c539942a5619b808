"""What weather, light and a camera's electronics do to one image: six of RoboBEV's eight corruptions, on bytes.

RoboBEV (Xie et al., 2023) takes five severities from ImageNet-C and its kin and calls three of them easy, mid and hard; the
numbers here are those of the three. Two of them, cameras that go black, are in ``faults``, because they are decided for a scene
or a frame and not for an image. Images are BGR bytes [h, w, 3]; every function draws from the generator that it is given, and
from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
Corruption = Callable[[U8, Any, np.random.Generator], U8]

NOISE_DRAWS = 1024  # of each grey level; more would not show in eight bits
FOG_GRID = 512  # cells along a side of the finest layer of fog, which a full image magnifies


def brightness(image: U8, added: float, rng: np.random.Generator) -> U8:
    """The sun, or an exposure that is too long: ``added`` to the V of HSV (0..1), hue and saturation kept."""
    pixels = image.astype(np.float32)
    value = pixels.max(axis=2, keepdims=True)
    brighter = np.minimum(value + 255 * added, 255)
    # A black pixel has no hue: it becomes grey.
    return _bytes(np.where(value > 0, pixels * (brighter / np.maximum(value, 1)), brighter))


def low_light(image: U8, levels: tuple[float, float, float], rng: np.random.Generator) -> U8:
    """Night: stretched, squared and scaled to a largest value, then shot noise and read noise.

    levels: largest value (0..1), photons of a full pixel, deviation of the read noise (0..1).
    """
    most, photons, read_noise = levels
    least, span = float(image.min()), max(float(image.max()) - float(image.min()), 1.0)
    dark = np.clip((np.arange(256) - least) / span, 0, 1) ** 2 * most
    # There are 256 grey levels and four million values to an image: the noise of a level is drawn once, often, and picked from.
    draws = rng.poisson(dark[:, None] * photons, (256, NOISE_DRAWS)) / photons
    table = _bytes(255 * (np.clip(draws, 0, 1) + rng.normal(scale=read_noise, size=draws.shape)))
    picks = np.frombuffer(rng.bytes(2 * image.size), np.uint16).reshape(image.shape) % NOISE_DRAWS
    return table[image, picks]


def colour_quantisation(image: U8, bits: int, rng: np.random.Generator) -> U8:
    """A compressed link: the first ``bits`` of each channel are kept."""
    return image & np.uint8(0xFF << (8 - bits) & 0xFF)


def motion_blur(image: U8, levels: tuple[int, float], rng: np.random.Generator) -> U8:
    """A camera that shakes. levels: radius and deviation of the trace in pixels; its angle is drawn from +-45 degrees."""
    radius, deviation = levels
    return np.asarray(_trail(image, radius, deviation, rng.uniform(-45, 45)))


def fog(image: U8, levels: tuple[float, float], rng: np.random.Generator) -> U8:
    """Clouds between camera and street. levels: thickness, and by how much a layer of half the size is thinner."""
    thickness, decay = levels
    most = max(float(image.max()) / 255, 1 / 255)
    height, width = image.shape[:2]
    cloud = cv2.resize(_clouds(decay, rng), (max(height, width),) * 2, interpolation=cv2.INTER_LINEAR)[:height, :width]
    mixed = (image.astype(np.float32) / 255 + thickness * cloud[..., None]) * (most / (most + thickness))
    return _bytes(255 * mixed)


def snow(image: U8, levels: tuple[float, float, float, float, int, float, float], rng: np.random.Generator) -> U8:
    """Falling snow over a whitened scene.

    levels: mean and deviation of the noise that flakes are cut from, their size, the threshold that cuts them, radius and
    deviation of their trails (pixels), and how much of the scene's own colour stays.
    """
    mean, deviation, size, threshold, radius, trail, kept = levels
    height, width = image.shape[:2]
    seeds = rng.normal(mean, deviation, (int(np.ceil(height / size)), int(np.ceil(width / size)))).astype(np.float32)
    flakes = cv2.resize(seeds, (width, height), interpolation=cv2.INTER_LINEAR)
    flakes = _trail(np.where(flakes < threshold, 0, np.clip(flakes, 0, 1)), radius, trail, rng.uniform(-135, -45))
    pixels = image.astype(np.float32) / 255
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[..., None]
    white = kept * pixels + (1 - kept) * np.maximum(pixels, 1.5 * grey + 0.5)
    return _bytes(255 * (white + (flakes + flakes[::-1, ::-1])[..., None]))


# Name as RoboBEV spells it: what it does, and its easy, mid and hard level.
CORRUPTIONS: Mapping[str, tuple[Corruption, tuple[Any, Any, Any]]] = {
    "ColorQuant": (colour_quantisation, (4, 3, 2)),
    "MotionBlur": (motion_blur, ((15, 5.0), (15, 12.0), (20, 15.0))),
    "Brightness": (brightness, (0.2, 0.4, 0.5)),
    "LowLight": (low_light, ((0.4, 120.0, 0.018), (0.3, 50.0, 0.026), (0.2, 30.0, 0.038))),
    "Fog": (fog, ((2.0, 2.0), (2.5, 1.5), (3.0, 1.4))),
    "Snow": (
        snow,
        ((0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8), (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7), (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7)),
    ),
}


def _bytes(values: NDArray[Any]) -> U8:
    return np.clip(values, 0, 255).astype(np.uint8)


def _trail(image: NDArray[Any], radius: int, deviation: float, angle_deg: float) -> NDArray[Any]:
    """The image drawn out to one side along a line: half a Gaussian of 2 * radius + 1 pixels."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    angle = np.deg2rad(angle_deg)
    columns, rows = (np.rint(steps * f(angle)).astype(int) for f in (np.cos, np.sin))
    reach = 2 * radius
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    np.add.at(kernel, (reach + rows, reach + columns), (weights / weights.sum()).astype(np.float32))
    # The empty margin of the kernel would be paid for.
    used = [np.flatnonzero(kernel.any(axis)) for axis in (1, 0)]
    top, left = used[0][0], used[1][0]
    kernel = kernel[top : used[0][-1] + 1, left : used[1][-1] + 1]
    anchor = (int(reach - left), int(reach - top))
    return cv2.filter2D(image, -1, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)


def _clouds(decay: float, rng: np.random.Generator) -> F32:
    """[FOG_GRID, FOG_GRID] from 0 to 1: layers of noise, each of half the size and ``1 / decay`` the height of the one before."""
    total = np.zeros((FOG_GRID, FOG_GRID), np.float32)
    side, height = 2, 1.0
    while side <= FOG_GRID:
        layer = rng.uniform(-height, height, (side + 1, side + 1)).astype(np.float32)
        total += cv2.resize(layer, (FOG_GRID, FOG_GRID), interpolation=cv2.INTER_LINEAR)
        side, height = 2 * side, height / decay
    total -= total.min()
    return total / max(float(total.max()), 1e-6)
