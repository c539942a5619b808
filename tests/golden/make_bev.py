"""Regenerates tests/golden/bev_{tiny,base}.npz from the golden data: image features, encoder internals, BEVs, thinned.

    python tests/golden/make_bev.py GOLDEN_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FEATURES = 2000  # values kept of each large float tensor
ENC = ("bev_query_in", "key", "shift", "layer0_ref_2d", "layer0_tsa_out", "layer0_sca_out", "layer0_out")
TINY = [f"f{f}/{n}" for f in range(3) for n in ("can_bus_seen", "img_feats0", "bev_embed")]
TINY += [f"f{f}/enc/{n}" for f in range(2) for n in ENC] + ["f0/enc/reference_points_cam", "f0/enc/bev_mask"]
TINY += ["f1/prev_bev_rotated", "bev_pos"]
BASE = [f"f{f}/{n}" for f in range(2) for n in ("can_bus_seen", *(f"img_feats{i}" for i in range(4)), "bev_embed")]


def main(golden: Path) -> None:
    write("bev_tiny", golden, "tiny_stage2", ("inputs", "forward", "modules"), TINY)
    write("bev_base", golden, "base_stage2_small", ("inputs", "forward"), BASE)


def write(target: str, golden: Path, stem: str, parts: tuple[str, ...], names: list[str]) -> None:
    rules = json.loads((golden / f"{stem}_index.json").read_text())["meta"]
    files = [np.load(golden / f"{stem}_{part}.npz") for part in parts]
    found = {k: z for z in files for k in z.files}
    keep = {k: found[k][k] for k in ("lidar2img", "image_seeds", "image_shape")}
    meta = {}
    for name in names:
        value = found[name][name]
        stride = 1 if value.dtype == np.uint8 else -(-value.size // FEATURES)  # masks compress, and are compared exactly
        if stride > 1:
            stride += 1 - stride % 2  # an even stride would see every other channel only
            rule = [rules[name]] if name in rules else []
            meta[name], value = "; ".join([*rule, f"flattened [::{stride}]"]), value.reshape(-1)[::stride]
        elif name in rules:
            meta[name] = rules[name]
        keep[name] = value
    np.savez_compressed(Path(__file__).with_name(f"{target}.npz"), meta=np.array(json.dumps(meta)), **keep)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
