"""The part of the mmdet3d 0.17 interface that UniAD calls: boxes, dataset base, pipeline steps, detector base, operators.

Coordinates are those of mmdet3d 0.17, which the published weights and infos were made with (see `core/bbox/boxes.py`).
"""

__version__ = "0.17.1+uniad"
