"""Slots per camera give what attending everywhere under a mask gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.specs import tiny_spec
from uniad.errors import UserError
from uniad.interface.pillars import camera_slots, check_rig
from uniad.ops import camera_attention as ops
from uniad.ops.camera_attention import camera_attention

GRID, CAMS, SHAPES = (7, 9), 3, ((4, 5), (2, 3))
CELLS = GRID[0] * GRID[1]


def example(share: float, batch: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    heads, dim, points, z = 2, 4, 4, 2
    return {
        "value_BNVHD": torch.randn(batch, CAMS, 26, heads, dim, generator=g),
        "ref_BNSZ2": torch.rand(batch, CAMS, CELLS, z, 2, generator=g) * 1.4 - 0.2,
        "hit_BNS": torch.rand(batch, CAMS, CELLS, generator=g) < share,
        "offset_BSHLP2": torch.randn(batch, CELLS, heads, 2, points, 2, generator=g),
        "weight_BSHLP": torch.rand(batch, CELLS, heads, 2, points, generator=g),
    }


def run(inputs: dict[str, Tensor], slots: int) -> Tensor:
    return camera_attention(spatial_shapes=SHAPES, grid_hw=GRID, slots=slots, **inputs)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_slots_lose_nothing_that_they_have_room_for(share) -> None:
    inputs = example(share)
    most = int(inputs["hit_BNS"].sum(-1).max())
    everywhere = run(inputs, CELLS)
    for slots in {max(most, 1), 40}:
        torch.testing.assert_close(run(inputs, slots), everywhere, rtol=1e-6, atol=1e-6)


def test_gradients_through_slots_are_those_of_attending_everywhere() -> None:
    grads = []
    for slots in (CELLS, 30):
        inputs = example(0.3)
        for name, t in inputs.items():
            if name != "hit_BNS":
                t.requires_grad_()
        run(inputs, slots).square().sum().backward()
        grads.append([t.grad for t in inputs.values() if t.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_cell_that_no_camera_sees_gets_nothing_and_one_seen_twice_the_mean() -> None:
    inputs = example(1.0)
    inputs["hit_BNS"][:, :, 5] = False
    inputs["hit_BNS"][:, 2, 6] = False
    out = run(inputs, 62)
    assert out[:, 5].eq(0).all()
    alone = []
    for camera in range(2):
        only = dict(inputs, hit_BNS=inputs["hit_BNS"] & (torch.arange(CAMS) == camera).view(1, -1, 1))
        alone.append(run(only, CELLS)[:, 6])
    torch.testing.assert_close(out[:, 6], (alone[0] + alone[1]) / 2, rtol=1e-5, atol=1e-6)


def test_too_few_slots_drop_the_last_cells_only() -> None:
    inputs = example(0.5)
    full, cut = run(inputs, CELLS), run(inputs, 10)
    rank = inputs["hit_BNS"].cumsum(-1) - 1
    kept = (~inputs["hit_BNS"] | (rank < 10)).all(1)
    torch.testing.assert_close(cut[kept], full[kept], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(cut, full)


def test_counting_by_doubling_equals_a_cumulative_sum(monkeypatch) -> None:
    x = torch.randint(0, 2, (2, 3, 13), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(ops, "exporting", lambda: True)
    assert torch.equal(ops._running_count(x), x.cumsum(-1, dtype=torch.int32))


def nuscenes_like_rig() -> Tensor:
    """Six cameras where a nuScenes car carries them, with its focal lengths: the rear one sees most."""
    rig = [(0, 1266.0, 0.0, 0.8), (-55, 1260.0, 0.5, 0.6), (55, 1272.0, -0.5, 0.6), (180, 809.0, 0.0, -1.0),
           (108, 1256.0, -0.5, 0.0), (-108, 1259.0, 0.5, 0.0)]  # fmt: skip
    out = []
    for degrees, focal, x, y in rig:
        a = torch.deg2rad(torch.tensor(float(degrees)))
        rotation = torch.stack([
            torch.stack([a.cos(), a.sin(), torch.zeros(())]),
            torch.tensor([0.0, 0.0, -1.0]),
            torch.stack([-a.sin(), a.cos(), torch.zeros(())]),
        ])  # fmt: skip
        camera = torch.eye(4)
        camera[:3, :3], camera[:3, 3] = rotation, -rotation @ torch.tensor([x, y, -0.3])
        intrinsic = torch.eye(4)
        intrinsic[0, 0] = intrinsic[1, 1] = focal
        intrinsic[0, 2], intrinsic[1, 2] = 800.0, 450.0
        out.append(intrinsic @ camera)
    return torch.stack(out)


def test_slots_have_room_for_a_nuscenes_rig_and_a_rig_that_sees_more_is_refused() -> None:
    spec = tiny_spec().model.bev
    rig = nuscenes_like_rig()
    most = check_rig(spec, rig, (900, 1600))
    assert 0.2 * 2500 < most < camera_slots(spec)
    wide = rig.clone()
    wide[3, :2] = torch.diag(torch.tensor([0.4, 0.4])) @ wide[3, :2] + 0.6 * torch.tensor([[800.0], [450.0]]) * wide[3, 2]
    with pytest.raises(UserError, match="set native.sca_capacity=0.39 in the config"):
        check_rig(spec, wide, (900, 1600))
