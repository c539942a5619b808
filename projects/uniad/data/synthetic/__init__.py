"""A synthetic world in the genuine nuScenes v1.0 format: streets, traffic, cameras, lidar, maps and CAN bus, by seed."""

from uniad.data.synthetic.generate import generate, stamp_of
from uniad.data.synthetic.params import WorldParams

__all__ = ["WorldParams", "generate", "stamp_of"]
