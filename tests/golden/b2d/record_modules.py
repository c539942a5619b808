"""modules.npz: Bench2DriveZoo's modules one by one, fed with noise; called by record.py."""

from __future__ import annotations

import numpy as np
import small
import torch

# Every how many numbers of the flattened tensor are kept
THINNED = {
    "encoder/bev": 211, "encoder/bev_first": 211, "decoder/cls": 97, "decoder/boxes": 97, "decoder/past_traj": 211,
    "decoder/query": 997, "map/query": 61, "motion/traj": 7, "motion/traj_query": 97,
    "occ/logits": 61, "occ/logits64": 61,
}  # fmt: skip


@torch.no_grad()
def record(model, meta) -> dict:
    """Arrays by name. model: of stage 2, in evaluation mode; meta: of frame 1 of the recorded frames."""
    from mmcv.core.bbox.structures.lidar_box3d import LiDARInstance3DBoxes

    given = {name: torch.from_numpy(value) for name, value in small.module_inputs().items()}
    before = small.pose(0)["can_bus"]
    meta["can_bus"][:3] -= before[:3]
    meta["can_bus"][-1] -= before[-1]
    found, cells = {}, given["bev"].permute(1, 0, 2)

    head = model.pts_bbox_head
    for name, previous in (("encoder/bev", given["prev_bev"].clone()), ("encoder/bev_first", None)):
        found[name] = head.get_bev_features([given["feats"]], [meta], prev_bev=previous)[0]

    query = torch.cat([model.query_embedding.weight, given["query"]])
    reference = torch.cat([model.reference_points(model.query_embedding.weight[:, :256]), given["ref_pts"]])
    out = head.get_detections(cells, object_query_embeds=query, ref_points=reference, img_metas=[meta])
    for name, key in (("cls", "all_cls_scores"), ("boxes", "all_bbox_preds"), ("past_traj", "all_past_traj_preds"),
                      ("ref_pts", "last_ref_points"), ("query", "query_feats")):  # fmt: skip
        found[f"decoder/{name}"] = out[key]

    elements = model.seg_head.forward_test(cells, None, None, [meta], False)[0]
    found["map/query"] = elements["args_tuple"][3]
    found.update({f"map/{name}": elements["pts_bbox"][name] for name in ("bbox", "labels")})
    found["map/lanes"] = np.packbits(elements["pts_bbox"]["lane"].numpy().astype(bool))

    boxes = LiDARInstance3DBoxes(given["agents/boxes"], box_dim=9)
    everyone = torch.ones(8, dtype=torch.bool)
    tracks = [[boxes, given["agents/scores"], given["agents/labels"], torch.arange(8), everyone]]
    out = model.motion_head(cells, given["agents/query"][None], given["lane_query"], given["lane_query_pos"], tracks)
    for name, key in (("traj", "all_traj_preds"), ("score", "all_traj_scores"), ("traj_query", "traj_query"),
                      ("query_pos", "track_query_pos")):  # fmt: skip
        found[f"motion/{name}"] = out[key]

    def occupancy(cast) -> torch.Tensor:
        kept = slice(0, 7)
        outs = dict(traj_query=cast(given["traj_query"][:, :, kept]), track_query=cast(given["agents/query"][:, kept]),
                    track_query_pos=cast(given["track_query_pos"][:, kept]))  # fmt: skip
        return occ(cast(cells), ins_query=occ.merge_queries(outs))[1]

    occ = model.occ_head
    found["occ/logits"] = occupancy(torch.Tensor.float)
    occ.double()
    found["occ/logits64"] = occupancy(torch.Tensor.double)

    side, model.planning_head.use_col_optim = small.CELLS, False
    for command in small.COMMANDS:
        position = given["bev_pos"].transpose(1, 2).unflatten(2, (side, side))
        out = model.planning_head(
            cells, None, position, given["traj_query"][:, :, -1], given["agents/query"][:, -1], torch.tensor([command])
        )
        found[f"plan/{command}"] = out["sdc_traj"]
    return {name: thin(name, value) for name, value in found.items()}


def thin(name: str, value) -> np.ndarray:
    array = value.numpy() if isinstance(value, torch.Tensor) else value
    array = array.reshape(-1)[:: THINNED[name]] if name in THINNED else array
    return array.astype(np.int16) if array.dtype == np.int64 else array
