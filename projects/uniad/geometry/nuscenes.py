"""Measures of nuScenes' recordings: cameras, the rate of keyframes, the recording car."""

from __future__ import annotations

IMAGE_HW = (900, 1600)  # pixels of every camera
STEP_S = 0.5  # between keyframes, and so between the steps of forecasts, plans and occupancy
EGO_SIZE = (1.73, 4.08, 1.56)  # width, length, height of the car, m
EGO_WIDTH, EGO_LENGTH = 1.85, 4.084  # m, of the footprint that planning keeps clear
