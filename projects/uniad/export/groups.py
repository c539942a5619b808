"""Which layer of the model every node of a graph belongs to: what precision is chosen for, and what a card speaks of.

Export gives each node the name ``module.path/operator``, with the path that its module has in a state_dict. TensorRT names its
layers after nodes, so a profile or a flag such as --layerPrecisions speaks of the same layers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import onnx

from uniad.errors import UserError

# Nodes of no module with a group: poses, clocks, track slots, ids. "glue" is their name in graphs and cards, which stays.
UNGROUPED = "glue"
_SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's: module paths from the outermost to the operator
_ROOT = "model."  # the export wrapper's attribute

# Longest first: a path belongs to the first row that matches its beginning. Rows cut where numbers change their nature: image
# features, geometry of sampled points, attention over sets, heads. \d+ is the number of a layer.
_GROUPS = [
    re.compile(rf"({row})(?:\.|$)")
    for row in (
        r"img_backbone\.layer\d+",
        r"img_neck",
        r"pts_bbox_head\.transformer\.(?:en|de)coder\.layers\.\d+",
        r"pts_bbox_head\.transformer\.encoder",  # where each pillar of the BEV lies in each image
        r"pts_bbox_head\.(?:cls|reg)_branches",
        r"seg_head\.transformer\.(?:en|de)coder\.layers\.\d+",
        r"seg_head\.(?:things|stuff)_mask_head",
        r"motion_head\.motionformer\.\w+_layers(?:\.\d+)?",
        r"motion_head\.motionformer",
        r"occ_head\.transformer_decoder(?:\.layers\.\d+)?",
        r"occ_head\.dense_decoder",
        r"occ_head\.(?:base_downscale|downscale_convs|upsample_adds)",
        r"planning_head\.attn_module",
        r"planning_head\.bev_adapter",
    )
]
_HEADS = {"img_backbone": "img_backbone.stem"}
_WHOLE = ("pts_bbox_head", "seg_head", "motion_head", "occ_head", "planning_head", "query_interact", "memory_bank")


def group_of(path: str) -> str:
    """The layer group of a module path such as ``pts_bbox_head.transformer.decoder.layers.0.ffns.0``."""
    for row in _GROUPS:
        found = row.match(path)
        if found:
            return found.group(1)
    head = path.partition(".")[0]
    return _HEADS.get(head, head if head in _WHOLE else UNGROUPED)


def layer_groups(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Group -> names of its nodes. Groups in the order of their first node, nodes in the graph's; every node is in one group.

    A node that a pass added without a path (a Cast, a QuantizeLinear) goes with the node that reads it, else with its source.
    Raises UserError where names repeat or no node carries a path.
    """
    nodes = model.graph.node
    names = [node.name for node in nodes]
    if len(set(names)) != len(names) or "" in names:
        raise UserError("nodes of this graph have no name of their own, so layers cannot be told apart; run `make export` again")
    if names and not any("/" in name for name in names):
        raise UserError("the graph does not say which layers its nodes belong to: it is older than this; run `make export`")
    groups: dict[str, list[str]] = {}
    for name, path in zip(names, _inherit(nodes, [n.partition("/")[0] if "/" in n else None for n in names])):
        groups.setdefault(group_of(path), []).append(name)
    return groups


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node ``module.path/operator_i`` by what PyTorch's exporter recorded about it; the step's own are ``glue/...``."""
    nodes = model.graph.node
    for i, (node, path) in enumerate(zip(nodes, _inherit(nodes, [_recorded(node) for node in nodes]))):
        node.name = f"{path or UNGROUPED}/{node.op_type}_{i}"
    return model


def _recorded(node: onnx.NodeProto) -> str | None:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)  # the last is the operator, the first the wrapper ("")
            return scopes[-2].removeprefix(_ROOT) if len(scopes) > 1 else ""
    return None


def _inherit(nodes: Sequence[onnx.NodeProto], paths: list[str | None]) -> list[str]:
    """Fill the gaps: the path of the first reader, or else of the source of the first input that has one."""
    paths = list(paths)
    reader: dict[str, int] = {}
    source = {out: i for i, node in enumerate(nodes) for out in node.output}
    for i, node in enumerate(nodes):
        for name in node.input:
            reader.setdefault(name, i)
    for i in reversed(range(len(nodes))):
        if paths[i] is None:
            paths[i] = next((paths[reader[out]] for out in nodes[i].output if out in reader), None)
    for i, node in enumerate(nodes):
        if paths[i] is None:
            paths[i] = next((paths[source[n]] for n in node.input if n in source and paths[source[n]] is not None), "")
    return [path or "" for path in paths]
