"""Records the files beside it from Bench2DriveZoo's own code (README.md beside this file).

    python record.py ZOO        # a checkout of Thinklab-SJTU/Bench2DriveZoo, branch uniad/vad
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import small
import zoo

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import torch  # noqa: E402

from helpers import weights  # noqa: E402

CONFIGS = {
    (variant, stage): f"adzoo/uniad/configs/{folder}/{variant}_{kind}_b2d.py"
    for variant in ("tiny", "base")
    for stage, folder, kind in ((1, "stage1_track_map", "track_map"), (2, "stage2_e2e", "e2e"))
}
# Every how many numbers of the flattened tensor are kept
THINNED = {
    "bev": 997, "det/cls": 251, "det/boxes": 251, "det/ref_pts": 41, "motion/traj": 7, "motion/score": 1, "occ/logits": 1999,
    "map/query": 61, "carried/query": 53,
}  # fmt: skip


def config(root: Path, variant: str, stage: int, options=()):
    from mmcv.utils import Config

    cfg = Config.fromfile(str(root / CONFIGS[variant, stage]))
    if options:
        cfg.merge_from_dict(dict(options))
    if stage == 2:
        cfg.model.motion_head.anchor_info_path = str(root / "data/others/b2d_motion_anchor_infos_mode6.pkl")
    return cfg


def build(cfg, kind: str = "b2d"):
    from mmcv.models import build_model

    model = build_model(cfg.model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    state = weights.rule_state_dict(model.state_dict(), kind)
    model.load_state_dict(state, strict=False)
    return model


def digest(model) -> dict:
    """As tests/golden/state_dict.json: how many entries, and a digest of names, shapes, dtypes and what is trained."""
    parameters = dict(model.named_parameters())
    rows = [
        [k, list(v.shape), str(v.dtype).replace("torch.", ""), parameters[k].requires_grad if k in parameters else "buffer"]
        for k, v in model.state_dict().items()
    ]
    return {"entries": len(rows), "sha256": hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()}


def state_dicts(root: Path) -> None:
    found = {}
    for variant, stage in CONFIGS:
        model = build(config(root, variant, stage))
        model.train()
        found[f"b2d-{variant}_stage{stage}"] = digest(model)
    (HERE / "state_dict.json").write_text(json.dumps(found, indent=1) + "\n")


def meta_of(frame: int, token: str) -> dict:
    from mmcv.core.bbox.structures.lidar_box3d import LiDARInstance3DBoxes

    now = small.pose(frame)
    return {
        "can_bus": now["can_bus"].copy(), "lidar2img": list(small.lidar2img()), "scene_token": token, "folder": token,
        "img_shape": [(*small.IMAGE, 3)] * 6, "box_type_3d": LiDARInstance3DBoxes, "prev_bev_exists": frame > 0,
        "l2g_r_mat": now["l2g_r"], "l2g_t": now["l2g_t"],
    }  # fmt: skip


class Watch:
    """Keeps what methods returned."""

    def __init__(self) -> None:
        self.seen: dict = {}

    def on(self, owner, name: str, key: str, pick=lambda out: out) -> None:
        method = getattr(owner, name)

        def watched(*args, **kwargs):
            out = method(*args, **kwargs)
            self.seen[key] = copy.deepcopy(pick(out))
            return out

        setattr(owner, name, watched)


def put(store: dict, at: str, name: str, value) -> None:
    array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if name in THINNED:
        array = array.reshape(-1)[:: THINNED[name]]
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    store[at + name] = array.astype(np.int16) if array.dtype == np.int64 else array


@torch.no_grad()
def frames(root: Path) -> None:
    model = build(config(root, "tiny", 2, small.OPTIONS)).eval()
    watch = Watch()
    watch.on(model.pts_bbox_head, "get_detections", "det")
    watch.on(model, "_forward_single_frame_inference", "track")
    watch.on(model.seg_head, "forward_test", "map")
    watch.on(model.motion_head, "forward", "motion")
    watch.on(model.occ_head, "forward_test", "occ")
    watch.on(model.planning_head, "forward_test", "plan")
    store: dict = {}
    for i in range(small.FRAMES):
        now, at = small.pose(i), f"f{i}/"
        model(
            dict(
                img=[torch.from_numpy(small.image(i))], img_metas=[[meta_of(i, small.SCENE[i])]],
                l2g_t=torch.from_numpy(now["l2g_t"])[None], l2g_r_mat=torch.from_numpy(now["l2g_r"])[None],
                timestamp=[torch.from_numpy(now["timestamp"])], command=[torch.tensor([small.COMMANDS[i]])],
            ),
            return_loss=False, rescale=True,
        )  # fmt: skip
        seen = watch.seen
        track = seen["track"]
        put(store, at, "bev", track["bev_embed"].permute(1, 0, 2))
        put(store, at, "det/cls", seen["det"]["all_cls_scores"])
        put(store, at, "det/boxes", seen["det"]["all_bbox_preds"])
        put(store, at, "det/ref_pts", seen["det"]["last_ref_points"])
        put(store, at, "track/ids", track["track_obj_idxes"])
        put(store, at, "track/boxes", track["boxes_3d"].tensor)
        put(store, at, "track/scores", track["track_scores"])
        put(store, at, "track/labels", track["labels_3d"])
        put(store, at, "track/reported", track["track_ids"])
        carried = track["track_instances"]
        kept = carried.obj_idxes >= 0
        put(store, at, "carried/ids", carried.obj_idxes[kept])
        put(store, at, "carried/ref_pts", carried.ref_pts[kept])
        put(store, at, "carried/query", carried.query[kept])
        elements = seen["map"][0]["pts_bbox"]
        put(store, at, "map/bbox", elements["bbox"])
        put(store, at, "map/labels", elements["labels"])
        store[at + "map/lanes"] = np.packbits(elements["lane"].numpy().astype(bool))
        put(store, at, "map/query", seen["map"][0]["args_tuple"][3])
        put(store, at, "motion/traj", seen["motion"]["all_traj_preds"])
        put(store, at, "motion/score", seen["motion"]["all_traj_scores"])
        if "pred_ins_logits" in seen["occ"]:
            put(store, at, "occ/logits", seen["occ"]["pred_ins_logits"])
        store[at + "occ/seg"] = np.packbits(seen["occ"]["seg_out"].numpy().astype(bool))
        put(store, at, "plan/traj", seen["plan"]["sdc_traj"])
        print(i, "tracks", int(kept.sum()), "agents", store[at + "motion/score"].shape, "plan", store[at + "plan/traj"][0, -1])
    store["anchors"] = model.motion_head.kmeans_anchors.numpy().astype(np.float32)
    np.savez_compressed(HERE / "frames.npz", thinned=np.array(json.dumps(THINNED)), **store)


@torch.no_grad()
def velo_update(root: Path) -> None:
    """What their update makes of points and poses, and of the same poses given by rows."""
    model = build(config(root, "tiny", 1, {k: v for k, v in small.OPTIONS.items() if k.startswith(("model.pts", "model.seg"))}))
    draw = np.random.RandomState(3)
    points = draw.uniform(-2, 2, (40, 3)).astype(np.float32)
    velocity = draw.uniform(-8, 8, (40, 2)).astype(np.float32)
    one, two = small.pose(0), small.pose(2)
    store = {"points": points, "velocity": velocity}
    for name, turn in (("published", lambda r: r), ("rows", lambda r: r.T.copy())):
        arguments = (turn(one["l2g_r"]), one["l2g_t"], turn(two["l2g_r"]), two["l2g_t"])
        moved = model.velo_update(
            torch.from_numpy(points), torch.from_numpy(velocity), *map(torch.from_numpy, arguments),
            time_delta=torch.from_numpy(two["timestamp"] - one["timestamp"]),
        )  # fmt: skip
        store[name] = moved.numpy()
    np.savez_compressed(HERE / "velo_update.npz", **store)


def small_tiny(root: Path, stage: int):
    """Tiny for a BEV of 40x40 cells."""
    import record_clip

    return build(record_clip.small_model(config(root, "tiny", stage, small.CLIP_OPTIONS), stage), "b2d-train")


def modules(root: Path) -> None:
    """The parts one by one, fed with noise."""
    import record_modules

    found = record_modules.record(small_tiny(root, 2).eval(), meta_of(1, "a"))
    np.savez_compressed(HERE / "modules.npz", thinned=np.array(json.dumps(record_modules.THINNED)), **found)


def clip(root: Path) -> None:
    """One training iteration of each stage."""
    import record_clip

    np.savez_compressed(HERE / "clip.npz", **record_clip.record(lambda stage: small_tiny(root, stage)))


def data(root: Path) -> None:
    """What the data set hands to the model."""
    import record_data

    np.savez_compressed(HERE / "data.npz", **record_data.record(config(root, "tiny", 2)))


PARTS = {"state_dict": state_dicts, "frames": frames, "velo_update": velo_update, "clip": clip, "modules": modules,
         "data": data}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1]).resolve()
    zoo.load(str(root))
    for part in sys.argv[2:] or PARTS:
        PARTS[part](root)
