"""Where a stage starts: which checkpoint, what it may lack, and the BEVFormer weights made to fit.

Stage 0 starts from an image backbone; stage 1 from BEVFormer (Li et al. 2022), which has no map head, no track memory and no ego
query; stage 2 from stage 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.training.carried import check_anchors
from uniad.training.checkpoint import STAGE2_HEADS, LoadReport, load_checkpoint, state_dict_of
from uniad.training.generation import check_generation, unused

IMAGENET_STD = (58.395, 57.12, 57.375)  # of RGB, 0 to 255, by which torchvision's weights saw images divided
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
    # FCOS3D's file brings a pyramid with one level more, and its own head
    0: AllowList(missing=("img_neck.*", "pts_bbox_head.*", "*.conv_offset.*"), unexpected=("img_neck.*", "bbox_head.*")),
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


def adapt_image_backbone(state: OrderedDict[str, Tensor], spec: Spec, path: str | Path) -> list[str]:
    """Gives an image backbone's weights the names that stage 0 expects, in place: torchvision's, or a detector's ``backbone.``.

    torchvision's see RGB less its mean and divided by its deviation. Where the config's images are BGR and undivided, the first
    convolution is rewritten to give the same numbers for them. Returns what was done and what differs, one line each.
    """
    if any(name.startswith("pts_bbox_head.") for name in state):
        return []
    done = []
    if any(name.startswith("backbone.") for name in state):
        for name in [n for n in state if n.startswith(("backbone.", "neck."))]:
            state[f"img_{name}"] = state.pop(name)
        done.append("backbone.* -> img_backbone.*")
    elif "fc.weight" in state and "conv1.weight" in state:
        image, backbone = spec.data.image, spec.model.backbone
        for name in ("fc.weight", "fc.bias"):
            state.pop(name, None)
        if not image.to_rgb:
            deviation = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) / torch.tensor(image.std).flip(0).view(1, 3, 1, 1)
            state["conv1.weight"] = (state["conv1.weight"] / deviation).flip(1)
            done.append("conv1 reads BGR that is not divided, and gives what it gave for torchvision's RGB")
        for name in list(state):
            state[f"img_backbone.{name}"] = state.pop(name)
        done.append("torchvision's names -> img_backbone.*, the classifier (fc) left out")
        if backbone.style == "caffe":
            done.append("its bottlenecks stride in the 3x3, this config's in the 1x1 before it (caffe): training makes up for it")
        if any(backbone.stage_with_dcn):
            done.append("its 3x3 convolutions become deformable (DCNv2); their offsets start at zero")
    elif not any(name.startswith("img_backbone.") for name in state):
        some = ", ".join(list(state)[:3])
        raise UserError(
            f"{path} holds no image backbone (its entries are {some}, ...): take torchvision's resnet{spec.model.backbone.depth} "
            "with its fc, or a checkpoint with img_backbone.* or backbone.*"
        )
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
            if spec.stage <= 1
            else "train stage 1 first: make train-stage1 promote, or do without: --from-scratch"
        )
        raise UserError(f"initial weights {source} (load_from in {spec.path}) not found: {how}")
    allow = STARTS_FROM[spec.stage]
    adapt: dict[int, Callable[[OrderedDict[str, Tensor]], list[str]]] = {
        0: lambda state: adapt_image_backbone(state, spec, str(source)),
        1: adapt_bevformer,
    }
    return load_checkpoint(
        model, source, allow_missing=allow.missing, allow_unexpected=(*allow.unexpected, *unused(spec)),
        adapt=adapt.get(spec.stage), name=spec.name, say=say,
        check=lambda content: _check(content, spec, str(source), say),
    )  # fmt: skip


def _check(content: Mapping[str, Any], spec: Spec, source: str, say: Callable[[str], None]) -> None:
    """Stops at weights of another generation, and beside other anchors than a checkpoint of stage 2 carries."""
    check_anchors(content, spec, source)
    if spec.stage == 2:  # what the earlier stages start from is alike in all
        check_generation(content, state_dict_of(content, source), spec, source, say)
