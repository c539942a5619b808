"""Regenerates tests/golden/motion_metrics.npz from the golden data: boxes with forecasts, and what they scored.

    python tests/golden/make_motion_metrics.py GOLDEN_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main(golden: Path) -> None:
    metrics = np.load(golden / "metrics.npz")
    # Curves, 101 points each, are kept at every fourth; AP and errors sum all of them up anyway.
    keep = {
        name: metrics[name][:, ::4] if name.startswith("motion/out_") else metrics[name]
        for name in metrics.files
        if name.startswith(("motion/", "motion_fn/"))
    }
    results = json.loads((golden / "metrics_motion.json").read_text())["results"]
    meta = {name: "subsampled [::4] along dim 1" for name in keep if name.startswith("motion/out_")}
    path = Path(__file__).with_name("motion_metrics.npz")
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), results=np.array(json.dumps(results)), **keep)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
