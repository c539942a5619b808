"""AdamW, the learning-rate schedule, gradient clipping and loss scaling, all without waiting for the device.

Published recipes were written for one parameter group per parameter; a fused update wants few groups. So the optimizer here has
one group per learning rate, and checkpoints hold upstream's layout: ``upstream_state`` and ``load_upstream_state``
translate, so a run can move from one stack to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from uniad.config.spec import TrainSpec
from uniad.errors import UserError

BACKBONE_PREFIX = "img_backbone."

# An optimizer's state knows parameters by number. These are the two places where upstream's model registers its parts in
# another order than ours; parts that are not named follow in our order.
UPSTREAM_ORDER = {
    "": (
        "pts_bbox_head", "img_backbone", "img_neck", "query_embedding", "reference_points", "query_interact", "memory_bank",
        "criterion", "seg_head", "occ_head", "motion_head", "planning_head",
    ),
    "pts_bbox_head": (
        "code_weights", "positional_encoding", "transformer", "cls_branches", "reg_branches", "past_traj_reg_branches",
        "bev_embedding",
    ),
}  # fmt: skip


def upstream_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """All parameters by name, in the order in which the upstream stack numbers them."""

    def rank(entry: tuple[str, nn.Parameter]) -> tuple[int, int]:
        top, _, rest = entry[0].partition(".")
        inside = UPSTREAM_ORDER.get(top, ())
        second = rest.partition(".")[0]
        first = UPSTREAM_ORDER[""]
        return (
            first.index(top) if top in first else len(first),
            inside.index(second) if second in inside else len(inside),
        )

    return sorted(model.named_parameters(), key=rank)  # stable: our own order inside


def learning_rate_of(name: str, spec: TrainSpec) -> float:
    """Base learning rate of the parameter ``name``."""
    return spec.lr * (spec.backbone_lr_mult if name.startswith(BACKBONE_PREFIX) else 1.0)


def build_optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, one group per learning rate, fused."""
    by_lr: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_lr.setdefault(learning_rate_of(name, spec), []).append(parameter)
    if not by_lr:
        raise UserError("nothing to train: every parameter is frozen; pass --from-scratch or unfreeze a part in the config")
    groups = [{"params": params, "lr": lr, "initial_lr": lr} for lr, params in by_lr.items()]
    return torch.optim.AdamW(groups, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up by iteration, times cosine annealing by epoch (upstream) or by iteration."""

    warmup_iters: int
    warmup_ratio: float
    min_lr_ratio: float
    by_epoch: bool
    epoch_len: int
    max_epochs: int
    max_iters: int

    @classmethod
    def from_spec(cls, spec: TrainSpec, epoch_len: int, max_epochs: int, max_iters: int) -> Schedule:
        return cls(spec.warmup_iters, spec.warmup_ratio, spec.min_lr_ratio, spec.lr_by_epoch, epoch_len, max_epochs, max_iters)

    def factor(self, iteration: int) -> float:
        """What every base learning rate is multiplied by at iteration (from 0)."""
        progress = (iteration // self.epoch_len) / self.max_epochs if self.by_epoch else iteration / self.max_iters
        cosine = self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
        if iteration >= self.warmup_iters:
            return cosine
        return cosine * (1 - (1 - iteration / self.warmup_iters) * (1 - self.warmup_ratio))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def global_norm(grads: Sequence[Tensor]) -> Tensor:
    """L2 norm over all gradients, a scalar on their device; infinite or NaN where any gradient is."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(grads))))


def step(optimizer: torch.optim.AdamW, divisor: Tensor, skip: Tensor) -> None:
    """One fused update with gradients divided by ``divisor`` (clipping and loss scale), or none where ``skip`` is 1.

    Both are scalars on the device: the decision is taken there, so the host never waits.
    """
    asked = vars(optimizer)  # where a fused optimizer looks; PyTorch declares neither
    asked.update(grad_scale=divisor, found_inf=skip)
    optimizer.step()
    del asked["grad_scale"], asked["found_inf"]


class LossScale:
    """Dynamic loss scale for fp16: halved on overflow, doubled after ``growth_interval`` clean iterations.

    It lives on the device. Other precisions keep the scale at 1 and never update it.
    """

    def __init__(self, enabled: bool, device: torch.device, growth_interval: int = 2000):
        self.enabled = enabled
        self.growth_interval = growth_interval
        self.scale = torch.tensor(65536.0 if enabled else 1.0, device=device)
        self.clean = torch.zeros((), device=device)

    def update(self, overflow: Tensor) -> None:
        """``overflow`` is 1 where this iteration's gradients were not finite."""
        if not self.enabled:
            return
        clean = torch.where(overflow > 0, 0.0, self.clean + 1)
        grow = clean >= self.growth_interval
        # in place: the tensors may be captured in a graph
        self.scale.mul_(torch.where(overflow > 0, 0.5, torch.where(grow, 2.0, 1.0)))
        self.clean.copy_(torch.where(grow, 0.0, clean))

    def state_dict(self) -> dict[str, Tensor]:
        return {"scale": self.scale.detach().cpu().clone(), "clean": self.clean.detach().cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.enabled:
            self.scale.copy_(state["scale"])
            self.clean.copy_(state["clean"])


def clip_divisor(norm: Tensor, max_norm: float) -> Tensor:
    """What to divide gradients of L2 norm ``norm`` by so that they have at most ``max_norm``."""
    return 1.0 / torch.clamp(max_norm / (norm + 1e-6), max=1.0)


def clip_by_head(model: nn.Module, scale: Tensor, max_norm: float) -> None:
    """Clips the gradients of every top-level module by their own norm, in place. scale: of the loss, a scalar on their device.

    One norm over all lets the steepest head (forecasts, whose likelihood sharpens) decide how far the others go in each step.
    """
    for head in model.children():
        grads = [p.grad for p in head.parameters() if p.grad is not None]
        if grads:
            torch._foreach_div_(grads, clip_divisor(global_norm(grads) / scale, max_norm))


def upstream_state(
    optimizer: torch.optim.AdamW, model: nn.Module, spec: TrainSpec, take: Callable[[Tensor], Tensor] = Tensor.cpu
) -> dict[str, Any]:
    """The optimizer's state as the upstream stack writes it: one group per parameter, frozen ones included, on the CPU.

    take: brings a tensor there.
    """
    live = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    counts = [moments["step"] for moments in optimizer.state.values()]
    steps = dict(zip(optimizer.state, torch.stack(counts).tolist())) if counts else {}  # at once: each would wait for the device
    state: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for index, (name, parameter) in enumerate(upstream_parameters(model)):
        group = live.get(id(parameter))
        initial = learning_rate_of(name, spec) if group else spec.lr
        groups.append(
            {
                "lr": group["lr"] if group else spec.lr,
                "betas": tuple(optimizer.defaults["betas"]),
                "eps": optimizer.defaults["eps"],
                "weight_decay": optimizer.defaults["weight_decay"],
                "amsgrad": False,
                "maximize": False,
                "foreach": None,
                "capturable": False,
                "initial_lr": initial,
                "params": [index],
            }
        )
        if parameter in optimizer.state:
            moments = optimizer.state[parameter]
            state[index] = {
                # a plain number: older torch keeps a tensor on the device it was loaded to and then refuses it
                "step": steps[parameter],
                "exp_avg": take(moments["exp_avg"].detach()),
                "exp_avg_sq": take(moments["exp_avg_sq"].detach()),
            }
    return {"state": state, "param_groups": groups}


def load_upstream_state(
    optimizer: torch.optim.AdamW, model: nn.Module, saved: Mapping[str, Any], names: Sequence[str] | None = None
) -> None:
    """Puts a state of upstream's layout into ``optimizer``.

    Args:
        names: parameter names in the order of the saved groups; None takes upstream's order.
    """
    own = dict(upstream_parameters(model))
    names = list(own) if names is None else list(names)
    if len(saved["param_groups"]) != len(names):
        raise UserError(
            f"the checkpoint's optimizer holds {len(saved['param_groups'])} parameter groups, the model has {len(names)} "
            "parameters: it was written for another model; start from its weights alone with --resume none and load_from"
        )
    by_name = {}
    for group, name in zip(saved["param_groups"], names):
        (index,) = group["params"]
        if index in saved["state"]:
            by_name[name] = saved["state"][index]
    state: dict[int, dict[str, Any]] = {}
    position = 0
    where = {id(p): name for name, p in own.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = by_name.get(where[id(parameter)])
            if moments is not None:
                if moments["exp_avg"].shape != parameter.shape:
                    raise UserError(
                        f"the checkpoint's optimizer state of {where[id(parameter)]} has shape "
                        f"{list(moments['exp_avg'].shape)}, the parameter {list(parameter.shape)}: "
                        "it was written for another model"
                    )
                # copies: what was read may be mapped from the file, or be another optimizer's own memory
                state[position] = {k: torch.as_tensor(v, dtype=torch.float32).clone() for k, v in moments.items()}
            position += 1
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})
