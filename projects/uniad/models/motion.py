"""Motion forecasting: several futures of every agent and how likely each is (UniAD section 3.2).

Each agent has K modes. A mode starts from an anchor, a typical trajectory of the agent's class group, and is refined layer by
layer: it looks at the other modes, at the agents, at the map, and at the BEV around the place where it ends. Slots that hold
no agent are masked as keys; what they compute is finite and nobody reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uniad.config.spec import MotionSpec
from uniad.interface.types import Agents, MotionOutput
from uniad.models import motion_geometry as geometry
from uniad.models.motion_layers import MotionFormer, mlp
from uniad.models.precision import full_precision

STEP_PARAMS = 5  # mu_x, mu_y, sig_x, sig_y, rho


class MotionHead(nn.Module):
    """Attribute names are those of published checkpoints; the anchors come from a file of their own and are in none."""

    anchors: Tensor
    group_of_class: Tensor
    divisor: Tensor

    def __init__(self, spec: MotionSpec, anchors: Tensor) -> None:
        """anchors: [groups, K, F, 2] metres in the agent's axes, one row of K for each of ``spec.group_ids``."""
        super().__init__()
        want = (len(spec.group_ids), spec.predict_modes, spec.predict_steps, 2)
        if tuple(anchors.shape) != want:
            raise ValueError(f"anchors are {tuple(anchors.shape)}, the spec asks for {want}")
        self.spec = spec
        dim, layers = spec.embed_dims, spec.num_layers
        self.learnable_motion_query_embedding = nn.Embedding(spec.predict_modes * len(spec.group_ids), dim)
        self.motionformer = MotionFormer(spec)
        # Nothing reads it; checkpoints have it.
        self.layer_track_query_fuser = nn.Sequential(nn.Linear(dim * spec.det_layers, dim), nn.LayerNorm(dim), nn.ReLU())
        self.agent_level_embedding_layer = mlp(dim, 2 * dim, dim)
        self.scene_level_ego_embedding_layer = mlp(dim, 2 * dim, dim)
        self.scene_level_offset_embedding_layer = mlp(dim, 2 * dim, dim)
        self.boxes_query_embedding_layer = mlp(dim, 2 * dim, dim)
        self.traj_cls_branches = nn.ModuleList([score_branch(spec) for _ in range(layers)])
        self.traj_reg_branches = nn.ModuleList([trajectory_branch(spec) for _ in range(layers)])
        group_of_class = torch.zeros(spec.num_classes, dtype=torch.int64)
        for group, classes in enumerate(spec.group_ids):
            group_of_class[list(classes)] = group
        self.register_buffer("anchors", anchors.detach().float().clone(), persistent=False)
        self.register_buffer("group_of_class", group_of_class, persistent=False)
        self.register_buffer("divisor", geometry.inv_freq(dim), persistent=False)

    def forward(self, bev: Tensor, agents: Agents, map_query: Tensor, map_query_pos: Tensor) -> MotionOutput:
        """bev [B, S, D]; map_query, map_query_pos [B, M, D] of all map queries. See ``MotionOutput``.

        The ego car is an agent like any other here; its anchors, too, are those of the class that its query looks like.
        """
        former, boxes = self.motionformer, agents.boxes.float()
        modes = (-1, -1, self.spec.predict_modes, -1)
        track_pos = self.boxes_query_embedding_layer(self.encode_position(boxes[..., :2]))
        track_K = agents.query.unsqueeze(2).expand(modes)
        pos_K = track_pos.unsqueeze(2).expand(modes)
        padding = ~agents.valid

        end, agent_end, learnt = self.anchor_ends(agents)
        goals = self.goal_embeddings(agent_end, end, boxes)
        # The anchors' own modes look at each other once; goals of later layers do not.
        goals = (former.intention_interaction_layers(goals[0]), *goals[1:])
        static = goals[0] + goals[1] + learnt
        goal = end.detach()

        tokens = torch.zeros_like(static)
        trajs, scores, queries = [], [], []
        for layer in range(self.spec.num_layers):
            tokens = former.intention(tokens, static, goals)
            seen_agents = former.track_agent_interaction_layers[layer](tokens, pos_K, agents.query, track_pos, padding)
            seen_map = former.map_interaction_layers[layer](tokens, pos_K, map_query, map_query_pos)
            seen_bev = former.bev_interaction_layers[layer](tokens, pos_K, bev, goal, boxes)
            tokens = former.join(seen_agents, seen_map, seen_bev, track_K + pos_K)
            traj = self.trajectory(tokens, layer)
            trajs.append(traj)
            scores.append(self.traj_cls_branches[layer](tokens).squeeze(-1).float().log_softmax(-1))
            queries.append(tokens)
            if layer + 1 < self.spec.num_layers:
                goal = traj[..., -1, :2].detach()
                start = boxes.detach()
                agent_goal = geometry.agent_from_scene(goal, start, self.spec.anchor_rotation)
                goals = self.goal_embeddings(agent_goal, goal, start)
        return MotionOutput(torch.stack(trajs), torch.stack(scores), torch.stack(queries), agents.query, track_pos)

    def anchor_ends(self, agents: Agents) -> tuple[Tensor, Tensor, Tensor]:
        """Where each agent's anchors end, in lidar axes and in its own, [B, A, K, 2] metres from its centre; and the anchors'
        learnt embeddings [B, A, K, D]."""
        shape, label = agents.label.shape, agents.label.flatten().to(torch.int32)
        group = self.group_of_class.index_select(0, label)  # by rows: an index in brackets leaves as GatherND
        end = self.anchors[:, :, -1].index_select(0, group).unflatten(0, shape)
        table = self.learnable_motion_query_embedding.weight.unflatten(0, self.anchors.shape[:2])
        learnt = table.index_select(0, group).unflatten(0, shape)
        return geometry.scene_from_agent(end, agents.boxes.float(), self.spec.anchor_rotation), end, learnt

    def goal_embeddings(self, agent_end: Tensor, scene_end: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ends of modes [B, A, K, 2], metres from the agent's centre in its own and in lidar axes, and the boxes [B, A, 9] that
        they start from -> embeddings [B, A, K, D]: agent level, scene offset, scene."""
        return (
            self.agent_level_embedding_layer(self.encode_position(agent_end)),
            self.scene_level_offset_embedding_layer(self.encode_position(scene_end)),
            self.scene_level_ego_embedding_layer(self.encode_position(geometry.at_centre(scene_end, boxes))),
        )

    def encode_position(self, points: Tensor) -> Tensor:
        """Position code [..., D] of lidar positions, or offsets as if they were ones, [..., 2] in metres."""
        with full_precision(points):
            return geometry.position_code(geometry.to_fraction(points.float(), self.spec.pc_range), self.divisor)

    def trajectory(self, tokens: Tensor, layer: int) -> Tensor:
        """Modes [B, A, K, D] -> [B, A, K, F, 5]; the network gives the way of each step, the running sum is the place."""
        raw = self.traj_reg_branches[layer](tokens).float().unflatten(-1, (self.spec.predict_steps, STEP_PARAMS))
        return torch.cat([geometry.steps_so_far(raw[..., :2]), raw[..., 2:4].exp(), raw[..., 4:].tanh()], -1)


def score_branch(spec: MotionSpec) -> nn.Sequential:
    """[..., D] -> [..., 1] logit of a mode."""
    dim, parts = spec.embed_dims, []
    for _ in range(max(1, spec.num_cls_fcs - 1)):
        parts += [nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(dim, 1))


def trajectory_branch(spec: MotionSpec) -> nn.Sequential:
    """[..., D] -> [..., F * 5]."""
    dim, parts = spec.embed_dims, []
    for _ in range(max(1, spec.num_cls_fcs - 1)):
        parts += [nn.Linear(dim, dim), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(dim, spec.predict_steps * STEP_PARAMS))
