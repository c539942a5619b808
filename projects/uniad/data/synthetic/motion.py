"""The ego car's motion along its track, in the quantities that poses and CAN bus messages are made of."""

from __future__ import annotations

import numpy as np

from uniad.data.synthetic.dynamics import Track

WHEELBASE_M, STEERING_RATIO = 2.59, 15.2


class Motion:
    """The ego car's motion along a track at a list of times since the first keyframe; arrays [n]."""

    def __init__(self, track: Track, start_us: int, t_s: np.ndarray) -> None:
        s, self.v, self.a = track.motion(t_s)
        self.xy, self.yaw = track.path.at(s)
        self.bend = track.path.curvature(s)
        self.yaw_rate = self.bend * self.v
        self.steer = np.arctan(WHEELBASE_M * self.bend) * STEERING_RATIO  # radians at the wheel
        self.s = s
        self.utime = np.round(start_us + t_s * 1e6).astype(np.int64)
