"""Where a stage starts: which checkpoint, what it may lack, and the BEVFormer weights made to fit.

Stage 1 starts from BEVFormer (Li et al. 2022), which has no map head, no track memory and no ego query; stage 2 from stage 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.training.carried import check_anchors
from uniad.training.checkpoint import STAGE2_HEADS, LoadReport, load_checkpoint

OBJECT_QUERIES = "pts_bbox_head.query_embedding.weight"
RENAMED = {
    "pts_bbox_head.transformer.reference_points.weight": "reference_points.weight",
    "pts_bbox_head.transformer.reference_points.bias": "reference_points.bias",
}


@dataclass(frozen=True)
class AllowList:
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


# By stage: what the checkpoint that a stage starts from cannot have, and what it has that the stage has no use for.
STARTS_FROM = {
    1: AllowList(
        missing=(
            "seg_head.*",
            "query_interact.*",
            "memory_bank.*",
            "pts_bbox_head.past_traj_reg_branches.*",
        ),
        unexpected=(OBJECT_QUERIES,),  # its copy with the ego query added is what is loaded
    ),
    2: AllowList(missing=tuple(f"{head}*" for head in STAGE2_HEADS), unexpected=()),
}


def adapt_bevformer(state: OrderedDict[str, Tensor]) -> list[str]:
    """Gives BEVFormer weights the names and shapes that UniAD expects, in place; leaves other weights alone.

    UniAD keeps queries and reference points outside the detection head and has one query more, the ego car's, which starts as a
    copy of the last one. Returns what was done, one line each.
    """
    done = []
    if OBJECT_QUERIES in state and "query_embedding.weight" not in state:
        queries = state[OBJECT_QUERIES]
        state["query_embedding.weight"] = torch.cat([queries, queries[-1:]])
        done.append(f"{OBJECT_QUERIES} -> query_embedding.weight {len(queries)} -> {len(queries) + 1} rows")
    for old, new in RENAMED.items():
        if old in state and new not in state:
            state[new] = state.pop(old)
            done.append(f"{old} -> {new}")
    return done


def load_initial(model: nn.Module, spec: Spec, say: Callable[[str], None]) -> LoadReport | None:
    """Loads the weights that the config starts from, if it names any."""
    source = spec.train.load_from
    if source is None:
        if spec.model.freeze.img_backbone:
            raise UserError(
                f"{spec.path} freezes the backbone but names no weights to load, so it would stay random: "
                "set load_from, or train everything with --from-scratch"
            )
        say(f"{spec.name}: starting from random weights")
        return None
    if not Path(source).is_file():
        how = (
            "get them as docs/training.md says under 'Published weights', or train without them: --from-scratch"
            if spec.stage == 1
            else "train stage 1 first: make train-stage1 promote, or do without: --from-scratch"
        )
        raise UserError(f"initial weights {source} (load_from in {spec.path}) not found: {how}")
    allow = STARTS_FROM[spec.stage]
    return load_checkpoint(
        model, source, allow_missing=allow.missing, allow_unexpected=allow.unexpected,
        adapt=adapt_bevformer if spec.stage == 1 else None, name=spec.name, say=say,
        check=lambda content: check_anchors(content, spec, source),
    )  # fmt: skip
