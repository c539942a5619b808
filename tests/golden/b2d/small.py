"""The small model of the recordings, and its inputs; read by the recorder and by the tests, so it needs numpy alone.

It is tiny of Bench2Drive with fewer layers, one image scale of 96x160, and a history of two frames; all widths, all 901
queries and the doubled BEV of 100x100 cells are tiny's own.
"""

from __future__ import annotations

import numpy as np

# Values of upstream's schema, for their reader and for ours
OPTIONS = {
    "model.prev_frame_num": 2,
    "model.pts_bbox_head.transformer.encoder.num_layers": 2,
    "model.seg_head.transformer.encoder.num_layers": 1,
    "model.seg_head.transformer.decoder.num_layers": 2,
    "model.seg_head.thing_transformer_head.num_decoder_layers": 1,
    "model.seg_head.stuff_transformer_head.num_decoder_layers": 1,
    "model.motion_head.transformerlayers.num_layers": 1,
    "model.planning_head.use_col_optim": False,
}
# Of the training clips and of the modules by themselves: a BEV of its own size, which is not doubled, and one image scale
CELLS = 40
HALF_M = 50.0
CLIP_FRAMES = 3
CLIP_IMAGE_SEED = 7301
MODULE_SEED = 7401
CLIP_OPTIONS = {
    "model.pts_bbox_head.transformer.encoder.num_layers": 2,
    "model.seg_head.transformer.encoder.num_layers": 1,
    "model.seg_head.transformer.decoder.num_layers": 2,
    "model.seg_head.thing_transformer_head.num_decoder_layers": 2,
    "model.seg_head.stuff_transformer_head.num_decoder_layers": 2,
}
IMAGE = (96, 160)
FRAMES = 3
COMMANDS = (5, 3, 0)
SCENE = ("a", "a", "a")
YAW = (0.3, 0.42, 0.55)
STEP_S = 0.1


def image(frame: int) -> np.ndarray:
    """[1, 6, 3, H, W] float32, noise instead of pixels."""
    return np.random.RandomState(7100 + frame).standard_normal((1, 6, 3, *IMAGE)).astype(np.float32)


def clip_images() -> np.ndarray:
    """[1, T, 6, 3, H, W] float32, noise."""
    shape = (1, CLIP_FRAMES, 6, 3, *IMAGE)
    return np.random.RandomState(CLIP_IMAGE_SEED).standard_normal(shape).astype(np.float32)


def lidar2img() -> np.ndarray:
    """[6, 4, 4]: cameras at 60 degrees from each other, 70 degrees wide; the lidar's x is right and y ahead."""
    out = []
    for number in range(6):
        angle = np.deg2rad(60.0 * number)
        ahead = np.array([-np.sin(angle), np.cos(angle), 0.0])
        right = np.array([ahead[1], -ahead[0], 0.0])
        camera_from_lidar = np.eye(4)
        camera_from_lidar[:3, :3] = np.stack([right, [0.0, 0.0, -1.0], ahead])
        camera_from_lidar[:3, 3] = camera_from_lidar[:3, :3] @ -(ahead * 0.4 + np.array([0.0, 0.0, -0.3]))
        height, width = IMAGE
        intrinsic = np.eye(4)
        intrinsic[0, 0] = intrinsic[1, 1] = width / 2 / np.tan(np.deg2rad(35))
        intrinsic[0, 2], intrinsic[1, 2] = width / 2, height / 2
        out.append(intrinsic @ camera_from_lidar)
    return np.stack(out)


def pose(frame: int) -> dict[str, np.ndarray]:
    """can_bus [18] in Bench2Drive's order, l2g_r [3, 3] by columns, l2g_t [3], timestamp [1], as their data set gives them."""
    yaw = YAW[frame]
    position = np.array([312.4, -88.1, 0.0]) + np.array([1.7 * frame, 0.8 * frame, 0.0])
    cos, sin = np.cos(yaw), np.sin(yaw)
    ego2world = np.eye(4)
    ego2world[:3, :3] = [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
    ego2world[:3, 3] = position
    lidar2ego = np.array([[0.0, 1, 0, -0.39], [-1, 0, 0, 0], [0, 0, 1, 1.84], [0, 0, 0, 1]])
    lidar2global = ego2world @ lidar2ego
    can_bus = np.zeros(18)
    can_bus[:3] = position
    can_bus[3:7] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    can_bus[7:10] = [18.0, 0, 0]
    can_bus[10:13] = [0.4, -0.2, 9.8]
    can_bus[13:16] = [0.0, 0.01, 0.9]
    can_bus[16], can_bus[17] = yaw, np.rad2deg(yaw)
    return {
        "can_bus": can_bus, "l2g_r": lidar2global[:3, :3], "l2g_t": lidar2global[:3, 3],
        "timestamp": np.array([2.0 + STEP_S * frame]),
    }  # fmt: skip


# Shapes of what the modules were fed by themselves: noise, in this order
MODULE_INPUTS = {
    "feats": (1, 6, 256, 12, 20), "bev": (1, CELLS * CELLS, 256), "prev_bev": (1, CELLS * CELLS, 256), "query": (5, 512),
    "ref_pts": (5, 3), "agents/query": (1, 8, 256), "lane_query": (1, 300, 256), "lane_query_pos": (1, 300, 256),
    "traj_query": (3, 1, 8, 6, 256), "track_query_pos": (1, 8, 256), "bev_pos": (1, CELLS * CELLS, 256),
}  # fmt: skip


def module_inputs() -> dict[str, np.ndarray]:
    """float32 noise by name, and the boxes [8, 9], labels and scores of eight agents; the last is the ego car."""
    draw = np.random.RandomState(MODULE_SEED)
    out = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in MODULE_INPUTS.items()}
    boxes = np.concatenate([
        draw.uniform(-40, 40, (8, 2)), draw.uniform(-2, 0, (8, 1)), draw.uniform(1.5, 5.0, (8, 3)),
        draw.uniform(-3.1, 3.1, (8, 1)), draw.standard_normal((8, 2)),
    ], 1)  # fmt: skip
    boxes[-1, :2] = 0.3, -0.2
    out.update({
        "agents/boxes": boxes.astype(np.float32), "agents/labels": np.array([0, 1, 2, 3, 7, 8, 4, 0]),
        "agents/scores": draw.uniform(0.4, 0.9, 8).astype(np.float32),
    })  # fmt: skip
    return out
