"""Regenerates tests/golden/track.npz from the golden data: what ids, moved reference points and memories need.

    python tests/golden/make_track.py GOLDEN_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

MEMORY_ROWS = 12  # a row's memory depends on no other row: half of these have one


def main(golden: Path) -> None:
    forward = np.load(golden / "tiny_stage2_forward.npz")
    modules = np.load(golden / "tiny_stage2_modules.npz")
    both = {k: z[k] for z in (forward, modules) for k in z.files if k[:3] in ("f0/", "f1/", "f2/")}
    keep: dict[str, np.ndarray] = {}
    for frame in range(3):
        for name in ("before_obj_idxes", "before_scores", "before_disappear_time", "after_obj_idxes", "after_disappear_time",
                     "active_index"):  # fmt: skip
            value = both[f"f{frame}/trk/{name}"]
            keep[f"f{frame}/trk/{name}"] = value.astype(np.int16) if value.dtype == np.int64 else value
        if frame:
            keep |= {k: v for k, v in both.items() if k.startswith(f"f{frame}/velo/")}
    # The recorded bank after the update was thinned to every fifth row.
    thinned = np.arange(0, len(both["f1/mem/in_scores"]), 5)
    recalls = ~both["f1/mem/in_mem_padding_mask"][thinned, -1].astype(bool)
    rows = np.concatenate([thinned[recalls][: MEMORY_ROWS // 2], thinned[~recalls][: MEMORY_ROWS // 2]])
    for name, value in both.items():
        if name.startswith("f1/mem/"):
            keep[name] = value[rows // 5] if name.endswith("out_mem_bank") else value[rows]
    np.savez_compressed(Path(__file__).with_name("track.npz"), meta=np.array(json.dumps({})), **keep)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
