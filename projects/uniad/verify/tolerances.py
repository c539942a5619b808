"""How far a back end may be from what was recorded: one table, a row a precision.

Travels to Jetsons: Python 3.8 and numpy are all that JetPack 5 has.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Largest difference to accept. One row a precision; reasons stand beside the table."""

    boxes_m: float  # centre, size and velocity of reported tracks: metres, metres per second, radians
    score: float  # of objects, and of map elements where they are below 1, else relative to them
    logits: float  # class logits of all valid rows, and log probabilities of predicted trajectories
    ids: float  # rows whose id, label or validity differs, and state slots of another track; above 0 objects are matched first
    objects: float  # share of reported objects, over all frames, that only one of the two reports
    map_cells: float  # fraction of map cells that may flip
    map_box: float  # fraction of the canvas
    map_mask: float  # largest difference over the larger of 1 and the largest value
    map_elements: float  # share of elements without counterpart in the other set
    bev_rel: float  # last BEV features: largest difference over largest value
    state_rel: float  # any other state of carried tracks at the end, likewise
    plan_m: float  # mean distance of a frame's planned positions: metres
    plan_mean_m: float  # the same, mean over all frames
    traj_m: float  # any position of any predicted trajectory of an agent: metres from its centre
    traj_spread: float  # its inverse deviations and correlation: largest difference over the larger of 1 and the value
    occ_cells: float  # fraction of occupancy cells that differ, in being occupied or in whose they are
    tensor_rms: float  # any tensor inside the graph, the frame before being right: root mean square of its error over its own
    tensor_max: float  # the same: largest difference over largest value
    tensor_flips: float  # share of whole numbers and truths that differ in a tensor inside the graph


# The one table of limits, a row a precision.
#
# fp32. Backends differ by the order of additions: 20 layers of it measure 1e-5 on scores and 1e-4 m on boxes, amplified by
# feeding the state back. A logit of 5 moves 150 times as much as its score, so logits have more room. A map box of 1e-3 is 0.1 m,
# half a cell of full's canvas. The elements are the best 100 of 900 pairs: when two nearly tie for the last place either may be
# in, so 2 % may be exchanged, but none that the merged map is made of. Plans of 1e-3 m and occupancy equal on 99.9 % of the cells
# are what the product promises. Predicted trajectories start from boxes and read the BEV, and have the room that boxes have;
# spreads are exponentials of what the network gives. Inside the graph, given the same state, tensors of nano agree to 1e-6 of
# their root mean square and 1e-5 of their range: ten times and more is no rounding, and a near tie may flip one index in 1000.
#
# fp16. Half keeps 11 bits, 5e-4 of a value, and a hundred roundings that add up by chance make 5e-3; four times that is lost
# accuracy. Single elements after a cancellation may be further off. Scores cross thresholds, so ids are free, and limits are on
# what tasks are judged by. A tenth of a metre of a box is half the finest matching threshold of nuScenes' 0.5 m, less what the
# box is off anyway. A plan may be off by 0.02 m over the sequence, as both lower precisions promise; a single frame, in which one
# agent may have appeared or gone, by five times that. One reported object in twenty may come or go a frame earlier or later.
#
# int8. 8 bits keep 4e-3 of a range, mostly of a much smaller value: a tenth of the root mean square is usual in a quantised
# layer. Boxes of 0.5 m and less are matched as right by the loosest thresholds alone, so that is where it ends. The plan is
# promised as in fp16: its layers and what it reads keep the precision that this takes.
_ANY = float("inf")
TOLERANCES = {
    "fp32": Tolerance(
        boxes_m=1e-3, score=1e-3, logits=1e-2, ids=0, objects=0, map_cells=1e-3, map_box=1e-3, map_mask=1e-3, map_elements=0.02,
        bev_rel=1e-3, state_rel=1e-3, plan_m=1e-3, plan_mean_m=1e-3, traj_m=1e-3, traj_spread=1e-3, occ_cells=1e-3,
        tensor_rms=1e-4, tensor_max=1e-3, tensor_flips=1e-3,
    ),
    "fp16": Tolerance(
        boxes_m=0.1, score=0.02, logits=0.2, ids=_ANY, objects=0.05, map_cells=0.01, map_box=0.02, map_mask=0.1, map_elements=0.1,
        bev_rel=0.05, state_rel=_ANY, plan_m=0.1, plan_mean_m=0.02, traj_m=0.2, traj_spread=0.05, occ_cells=0.01,
        tensor_rms=0.02, tensor_max=0.5, tensor_flips=0.02,
    ),
    "int8": Tolerance(
        boxes_m=0.5, score=0.1, logits=1.0, ids=_ANY, objects=0.1, map_cells=0.05, map_box=0.05, map_mask=0.3, map_elements=0.3,
        bev_rel=0.2, state_rel=_ANY, plan_m=0.1, plan_mean_m=0.02, traj_m=1.0, traj_spread=0.2, occ_cells=0.05,
        tensor_rms=0.2, tensor_max=1.0, tensor_flips=0.1,
    ),
}  # fmt: skip

AHEAD = ("plan_m", "plan_mean_m", "traj_m", "traj_spread", "occ_cells")  # rows that only the end-to-end step is judged by
INSIDE = ("tensor_rms", "tensor_max", "tensor_flips")  # rows for tensors that no replay sees; see bisect
