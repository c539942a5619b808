"""Writes a stand-in of a published checkpoint at its full size, with motion anchors for it: names and shapes, seeded weights.

    .venv/bin/python tests/helpers/make_stand_in.py uniad-v1 projects/configs/stage2_e2e/uniad_base_e2e.py uniad_base_e2e.pth

    .venv/bin/python tests/helpers/make_stand_in.py bench2drive projects/configs/stage1_track_map/b2d-tiny_track_map.py \\
      ckpts/bevformer_tiny_b2d.pth --bevformer

``--bevformer``: of the file that this stage 1 starts from, under BEVFormer's names.

The anchors are written where the config's ``anchor_root`` says, unless a file is there: published checkpoints hold none, and a
world of two frames is too short to make some from. docs/weights.md says what was run with it.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "projects")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from helpers.weights import rule_state_dict  # noqa: E402
from uniad.config.read import load_spec  # noqa: E402
from uniad.config.spec import MotionSpec  # noqa: E402
from uniad.data.anchors import save_motion_anchors  # noqa: E402
from uniad.errors import run_cli  # noqa: E402
from uniad.formats.checkpoints import UNUSED_OF_V2, recognise  # noqa: E402
from uniad.formats.conventions import convert_anchors  # noqa: E402
from uniad.formats.published import BENCH2DRIVE, TITLES, UNIAD_V2  # noqa: E402
from uniad.models.uniad import UniAD  # noqa: E402
from uniad.training.initial import OBJECT_QUERIES, RENAMED, STARTS_FROM  # noqa: E402


def anchors_for(motion: MotionSpec, generation: str) -> list[np.ndarray]:
    """Agents that go ahead at up to 2 m a step, as the generation has them."""
    rng = np.random.default_rng(0)
    shape = (motion.predict_modes, motion.predict_steps)
    steps = (np.stack([rng.normal(0, 0.1, shape), rng.uniform(0, 2, shape)], -1) for _ in motion.group_ids)
    groups = [np.cumsum(step, axis=1) for step in steps]
    return [convert_anchors(group, UNIAD_V2) for group in groups] if generation == UNIAD_V2 else groups


def as_bevformer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of stage 1's weights BEVFormer's file has, named as there: no ego query, no map, no track memory."""
    state = {name: value for name, value in state.items() if not any(fnmatch(name, like) for like in STARTS_FROM[1].missing)}
    state[OBJECT_QUERIES] = state.pop("query_embedding.weight")[:-1].clone()
    return state | {old: state.pop(new) for old, new in RENAMED.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("generation", choices=TITLES)
    p.add_argument("config", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--bevformer", action="store_true", help="of a config of stage 1: what it starts from")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="override config values")
    args = p.parse_args()
    spec = load_spec(args.config, [f"native.compat={args.generation}", *args.cfg_options])
    motion = spec.model.stage2.motion if spec.model.stage2 else None
    shape = (len(motion.group_ids), motion.predict_modes, motion.predict_steps, 2) if motion else ()
    state = UniAD(spec.model, torch.zeros(shape) if motion else None).state_dict()
    kind = "b2d-full" if args.generation == BENCH2DRIVE else "full"
    state.update(rule_state_dict(state, kind))
    if args.bevformer:
        state = as_bevformer(state)
    elif args.generation == UNIAD_V2:
        state.update(rule_state_dict(dict(zip(UNUSED_OF_V2, ((3, 256), (3,)))), kind))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"meta": {"epoch": 20}, "state_dict": state}, args.out)
    found = recognise(args.out)
    print(f"{args.out}: {sum(v.numel() for v in state.values()) / 1e6:.0f} million, {found.title} {found.why}")
    if motion and not Path(motion.anchor_path).exists():
        Path(motion.anchor_path).parent.mkdir(parents=True, exist_ok=True)
        save_motion_anchors(motion.anchor_path, anchors_for(motion, args.generation), motion, spec.data.class_names)
        print(f"{motion.anchor_path}: anchors for it")


if __name__ == "__main__":
    run_cli(main)
