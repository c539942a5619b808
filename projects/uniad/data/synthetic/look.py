"""Light and weather of one scene."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from uniad.data.synthetic.sensors import WIDTH

SKY_ROWS = 620  # the horizon lies near row 490; buildings cover the rest


@dataclass(frozen=True)
class Look:
    """Colours are red, green, blue, 0..255."""

    sun: np.ndarray  # [3] unit vector towards the sun
    ambient: float
    diffuse: float
    tint: np.ndarray  # [3] factor of every colour: the light's colour and the exposure
    zenith: np.ndarray  # [3]
    horizon: np.ndarray  # [3] also the haze
    haze_m: float  # distance at which haze takes 63 % of a colour
    clouds: float

    def shade(self, normals_F3: np.ndarray, colors_F3: np.ndarray, glow_F: np.ndarray) -> np.ndarray:
        """Lit colours [F, 3] of faces with world normals [F, 3]."""
        light = self.ambient + self.diffuse * np.maximum(normals_F3 @ self.sun, 0.0)
        light = np.where(glow_F, np.maximum(light, 1.0), light)
        return np.clip(colors_F3 * light[:, None] * self.tint, 0, 255)

    def sky(self, rng: np.random.Generator) -> np.ndarray:
        """The sky above the horizon, twice an image wide so that each camera looks at its own piece: [rows, 2W, 3] BGR."""
        rise = np.linspace(1.0, 0.0, SKY_ROWS)[:, None] ** 1.5
        column = self.zenith * rise + self.horizon * (1 - rise)
        sky = np.repeat(column[:, None], 2 * WIDTH, axis=1).astype(np.float32)
        puffs = cv2.resize(rng.random((9, 24), dtype=np.float32), (2 * WIDTH, SKY_ROWS), interpolation=cv2.INTER_CUBIC)
        white = np.clip((puffs - 0.55) * 2.2, 0, 1)[..., None] * self.clouds * rise[:, None].astype(np.float32)
        sky += (np.float32(245.0) * self.tint.astype(np.float32).clip(0, 1) - sky) * white
        return np.ascontiguousarray(np.clip(sky, 0, 255).astype(np.uint8)[..., ::-1])


def make_look(rng: np.random.Generator) -> Look:
    """Sunny, overcast or late light."""
    kind = rng.choice(3, p=[0.5, 0.35, 0.15])
    azimuth, height = rng.uniform(-np.pi, np.pi), (rng.uniform(0.5, 1.2), rng.uniform(0.8, 1.3), rng.uniform(0.15, 0.4))[kind]
    sun = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    ambient, diffuse = ((0.58, 0.52), (0.78, 0.2), (0.72, 0.4))[kind]
    exposure = (rng.uniform(0.9, 1.08), rng.uniform(0.8, 0.98), rng.uniform(0.72, 0.85))[kind]
    tint = exposure * np.array(((1.02, 1.0, 0.96), (0.97, 1.0, 1.03), (1.1, 0.98, 0.84))[kind])
    zenith = np.array(((92, 142, 206), (158, 166, 176), (96, 104, 140))[kind], float)
    horizon = np.array(((196, 212, 226), (190, 194, 198), (216, 172, 138))[kind], float)
    fade = exposure if kind else 1.0
    return Look(
        sun, ambient, diffuse, tint, zenith * fade, horizon * fade,
        haze_m=float(rng.uniform(320, 700)), clouds=float((0.7, 0.35, 0.5)[kind]),
    )  # fmt: skip
