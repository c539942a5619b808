"""A stage-2 training clip: what learns, that nothing visits the host, and that empty and overfull sets are handled."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_map

from helpers.clips import small_clip, small_model, small_stage2_spec, with_future
from helpers.no_host import NoHost
from uniad.config.spec import FreezeSpec, ModelSpec
from uniad.geometry.boxes import encode_boxes
from uniad.interface.types import Clip
from uniad.losses.criterion import Criterion, total_loss
from uniad.training.clip import ClipOutput, forward_clip

HEADS = ("motion_head", "occ_head", "planning_head")
# Weights that published checkpoints hold and upstream's model does not use either.
UNUSED = ("motion_head.layer_track_query_fuser.", "occ_head.transformer_decoder.post_norm.", "seg_head.bev_embedding.")


def run(spec: ModelSpec, clip: Clip, on_target: bool = True):
    """Model, losses and outputs; on_target puts a prediction on every object, so that all are agents."""
    model = small_model(spec)
    if on_target:
        look_on_target(model, clip)
    losses, out = forward_clip(model, clip, Criterion(spec), torch.Generator().manual_seed(0))
    return model, losses, out


def look_on_target(model, clip: Clip) -> None:
    detect, boxes = model.detect, encode_boxes(clip.targets.boxes[:, -1])
    count = boxes.shape[1]

    def exact(bev, rows, all_layers=True):
        det = detect(bev, rows, all_layers)
        found = torch.cat([boxes.expand(len(det.boxes), -1, -1, -1) + 0 * det.boxes[:, :, :count], det.boxes[:, :, count:]], 2)
        return det._replace(boxes=found)

    model.detect = exact


def back(losses: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    total_loss(losses).backward()
    for name, value in losses.items():
        assert torch.isfinite(value), name
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name


def test_every_head_learns_and_only_unused_weights_do_not() -> None:
    clip = with_future(small_clip(samples=2, frames=3, objects=(3, 2)))
    model, losses, out = run(small_stage2_spec(), clip)
    back(losses, model)
    assert {n.split(".")[0] for n in losses} == {"track", "map", "motion", "occ", "planning"}
    assert out.ahead.matched_gt.ge(0).sum(1).tolist() == [3, 2]
    still = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert still and all(n.startswith(UNUSED) for n in still)
    for head in HEADS:
        assert sum(p.grad.abs().sum() for p in getattr(model, head).parameters() if p.grad is not None) > 0


def test_frozen_parts_keep_still_as_in_upstream() -> None:
    """A frozen BEV encoder keeps requires_grad, and gets no gradient, not even from the planner, which looks at its positions."""
    frozen = FreezeSpec(img_backbone=True, img_neck=True, bn=True, bev_encoder=True)
    model, losses, _ = run(small_stage2_spec(freeze=frozen), with_future(small_clip(frames=2)))
    back(losses, model)
    encoder = ("encoder.", "level_embeds", "cams_embeds", "can_bus_mlp.")
    parts = (*(f"pts_bbox_head.transformer.{n}" for n in encoder), "pts_bbox_head.bev_embedding", "pts_bbox_head.positional")
    for name, p in model.named_parameters():
        if name.startswith("img_"):
            assert not p.requires_grad, name
        elif name.startswith(parts):
            assert p.requires_grad and p.grad is None, name
    assert model.pts_bbox_head.reg_branches[0][0].weight.grad is not None


def test_a_batch_loses_the_mean_of_its_samples_in_motion_and_planning() -> None:
    spec, clips = small_stage2_spec(), [with_future(small_clip(frames=2, objects=(n,), seed=n), seed=n) for n in (1, 4)]
    both = Clip(*(tree_map(lambda *pair: torch.cat(pair), *parts) for parts in zip(*(c[:2] for c in clips))), [[{}]] * 2)
    alone = [run(spec, clip)[1] for clip in clips]
    together = run(spec, both)[1]
    for name in together:
        if name.startswith(("motion", "planning")) and "ade" not in name:
            torch.testing.assert_close(together[name], (alone[0][name] + alone[1][name]) / 2, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("objects, on_target", [((0, 3), True), ((0, 0), True), ((3, 3), False)])
def test_no_object_no_lane_and_no_agent_leave_finite_losses_and_gradients(objects: tuple[int, ...], on_target: bool) -> None:
    """The number of lanes is that of the objects here."""
    clip = with_future(small_clip(samples=2, frames=2, objects=objects))
    model, losses, out = run(small_stage2_spec(), clip, on_target)
    back(losses, model)
    if objects == (0, 0):
        assert not out.ahead.occ.valid.any() and losses["occ.loss_dice"] == 0
        assert losses["planning.loss_ade"] > 0


def test_no_future_at_all_is_finite() -> None:
    clip = with_future(small_clip(frames=2))
    ahead = clip.targets.stage2
    none = {
        name: torch.zeros_like(getattr(ahead, name))
        for name in ("fut_traj_mask", "sdc_fut_traj_mask", "occ_img_is_valid", "future_boxes_valid", "sdc_planning_mask")
    }
    model, losses, _ = run(small_stage2_spec(), clip._replace(targets=clip.targets._replace(stage2=ahead._replace(**none))))
    back(losses, model)
    assert losses["planning.loss_ade"] == losses["occ.loss_mask"] == losses["motion.l_reg"] == 0


def test_a_clip_of_one_frame_is_a_clip() -> None:
    model, losses, _ = run(small_stage2_spec(queue_length=1), with_future(small_clip(frames=1)))
    back(losses, model)


def test_agents_beyond_the_slots_are_counted_and_the_best_stay() -> None:
    clip = with_future(small_clip(frames=1, objects=(5,)))
    model, losses, out = run(small_stage2_spec(stage2__agent_capacity=2), clip)
    back(losses, model)
    assert out.ahead.agents.dropped.tolist() == [3] and out.ahead.agents.valid.tolist() == [[True] * 3]
    score = out.det[-1].cls[-1][0, :5].sigmoid().amax(-1)
    assert out.ahead.agents.row[0, :2].tolist() == score.topk(2).indices.tolist()


class Listener(NoHost):
    """Also notes every operator that makes a tensor out of host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if name.startswith("aten.lift_fresh") or name.startswith("aten._to_copy") and (kwargs or {}).get("device") is not None:
            self.fresh.append(f"{name} {tuple(args[0].shape)}")
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_no_value_visits_the_host_and_no_host_memory_is_copied_forward_or_back() -> None:
    spec = small_stage2_spec(use_grid_mask=True, track__fp_ratio=0.3, track__random_drop=0.1)
    clip = with_future(small_clip(samples=2, objects=(3, 0)))
    model, criterion = small_model(spec), Criterion(spec)
    look_on_target(model, clip)

    def iteration() -> ClipOutput:
        losses, out = forward_clip(model, clip, criterion, torch.Generator().manual_seed(0))
        total_loss(losses).backward()
        return out

    with Listener() as listener:
        out = iteration()
    assert out.ahead.matched_gt.ge(0).any(), "some agents, so that every loss has something to do"
    assert not listener.fresh, set(listener.fresh)
    with Listener() as listener:
        torch.tensor([1.0, 2.0]).to("cpu")
    assert listener.fresh, "the listener hears copies of host memory"
    # Some derivatives take another way while a dispatch mode watches; the profiler only listens.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        iteration()
    called = {event.key for event in profile.key_averages()}
    assert "aten::convolution" in called
    forbidden = {"item", "_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "prod_backward"}
    assert not called & {f"aten::{name}" for name in forbidden}
    # Linear algebra goes through an operator of our own, whose kernel a graph can record.
    assert "uniad::solve_spd" in called and not [n for n in called if "linalg_inv" in n or "linalg_solve_ex" in n]
