"""Writes data.npz: recorded box geometry, occupancy and map labels, and image pipeline, small enough to commit.

    python tests/golden/make_data.py GOLDEN_DIR

What no part of ours reads (flow, centerness, single losses) is left out; recorded images keep every fourth row and column where
they are large, masks are whole.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

WHOLE = ("box/", "map/", "img/tiny", "img/lidar2img")
OCCUPANCY = ("_boxes", "labels", "inds", "_l2e_r", "_l2e_t", "_e2g_r", "_e2g_t", "out_gt_segmentation", "out_gt_instance")


def main(golden: Path) -> None:
    recorded = np.load(golden / "data_ops.npz")
    keep = {name: recorded[name] for name in recorded.files if name.startswith(WHOLE)}
    for name in recorded.files:
        if name.startswith("occlab_") and (name.endswith(OCCUPANCY) or "out_future_boxes" in name):
            keep[name] = recorded[name]
    keep["img/in_bgr_uint8"] = recorded["img/in_bgr_uint8"]
    del keep["img/tiny_normalised"]  # follows from the input alone
    keep["img/base_padded_every4"] = recorded["img/base_padded"][::4, ::4]
    np.savez_compressed(Path(__file__).with_name("data.npz"), **keep)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
