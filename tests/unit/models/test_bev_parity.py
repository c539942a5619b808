"""Images to BEV, against numbers recorded from upstream: every stage, frame after frame."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.images_to_bev import ImagesToBev
from helpers.recorded import Recorded
from helpers.specs import full_spec, tiny_spec
from helpers.tolerances import close
from helpers.weights import fill
from uniad.config.spec import ModelSpec
from uniad.interface.pillars import check_rig
from uniad.models.bev_encoder import PerceptionTransformer, _project
from uniad.ops.rotate import rotate_bev


def recorded_images(inputs: Recorded, frame: int) -> Tensor:
    """Images are noise by seed, not stored."""
    cams, _, h, w = (int(n) for n in inputs["image_shape"])
    noise = np.random.RandomState(int(inputs["image_seeds"][frame])).standard_normal(cams * 3 * h * w).astype(np.float32)
    return torch.from_numpy(noise.reshape(1, cams, 3, h, w))


def record(spec: ModelSpec, inputs: Recorded, kind: str, frames: int) -> dict[str, Tensor]:
    """Run frame after frame, own BEV fed back, under the names of the recorded tensors."""
    model = fill(ImagesToBev(spec), kind=kind)
    encoder, seen, out = model.pts_bbox_head.transformer.encoder, {}, {}
    encoder.register_forward_pre_hook(lambda _, args: seen.update(args=args))
    layer = encoder.layers[0]
    for name, part in (("layer0_tsa_out", layer.attentions[0]), ("layer0_sca_out", layer.attentions[1]), ("layer0_out", layer)):
        part.register_forward_hook(lambda _, __, result, name=name: seen.update({name: result}))
    lidar2img = inputs["lidar2img"].float()[None]
    cells = spec.bev.height * spec.bev.width
    bev, has_prev = torch.zeros(1, cells, spec.bev.embed_dims), torch.zeros(1, dtype=torch.bool)
    with torch.no_grad():
        for f in range(frames):
            can_bus, prev = inputs[f"f{f}/can_bus_seen"].float(), bev
            feats, bev = model(recorded_images(inputs, f), prev, has_prev, can_bus, lidar2img)
            has_prev = torch.ones(1, dtype=torch.bool)
            query, _, rotated, _, shift, keys = seen["args"][:6]
            out |= {f"f{f}/img_feats{i}": x for i, x in enumerate(feats)}
            out |= {f"f{f}/enc/{n}": seen[n] for n in ("layer0_tsa_out", "layer0_sca_out", "layer0_out")}
            out[f"f{f}/bev_embed"], out[f"f{f}/prev_bev_rotated"] = bev, rotated.transpose(0, 1)
            out[f"f{f}/enc/bev_query_in"], out[f"f{f}/enc/key"] = query.transpose(0, 1), keys.transpose(0, 1).transpose(1, 2)
            out[f"f{f}/enc/shift"] = shift
            out[f"f{f}/enc/layer0_ref_2d"] = (encoder.cells_S2 + shift).expand(2, -1, -1).unsqueeze(2)
        out["bev_pos"] = model.pts_bbox_head.positional_encoding()[None]
    return out


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    return record(tiny_spec().model, Recorded.extract("bev_tiny"), "tiny", frames=2)


@pytest.fixture(scope="module", params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    if request.param == "extract":
        return Recorded.extract("bev_tiny")
    return Recorded.golden(request.getfixturevalue("golden"), "tiny_stage2", ("inputs", "forward", "modules"))


@pytest.mark.parametrize("frame", range(2))
def test_image_features_and_bev_are_the_recorded_ones(tiny, recorded, frame) -> None:
    for name, row in ((f"f{frame}/img_feats0", "image"), (f"f{frame}/bev_embed", "encoder")):
        close(recorded.thin(name, tiny[name]), recorded[name], row)


@pytest.mark.parametrize("frame", range(2))
def test_every_stage_of_the_first_encoder_layer_is_the_recorded_one(tiny, recorded, frame) -> None:
    for stage in ("bev_query_in", "key", "shift", "layer0_ref_2d", "layer0_tsa_out", "layer0_sca_out", "layer0_out"):
        name = f"f{frame}/enc/{stage}"
        close(recorded.thin(name, tiny[name]), recorded[name], "encoder")


def test_positional_encoding_is_the_recorded_one(tiny, recorded) -> None:
    close(recorded.thin("bev_pos", tiny["bev_pos"]), recorded["bev_pos"], "exact")


def test_previous_bev_is_turned_cell_by_cell_as_recorded(tiny, recorded) -> None:
    close(recorded.thin("f1/prev_bev_rotated", tiny["f1/prev_bev_rotated"]), recorded["f1/prev_bev_rotated"], "encoder")


def test_the_recorded_bev_turns_into_the_recorded_rotated_bev_bit_for_bit(golden) -> None:
    recorded = Recorded.golden(golden, "tiny_stage2", ("forward", "modules"))
    turned = rotate_bev(recorded["f0/bev_embed"], recorded["f1/can_bus_seen"][:, 17], (50, 50), (100, 100))
    assert torch.equal(turned.transpose(0, 1), recorded["f1/prev_bev_rotated"])


def test_pillars_hit_exactly_the_recorded_cameras(recorded) -> None:
    spec = tiny_spec().model.bev
    encoder = PerceptionTransformer(spec, nn.Identity()).encoder
    lidar2img = recorded["lidar2img"].float()[None]
    seen, ref = _project(encoder.pillars_SZ3, lidar2img, (256, 416))
    assert torch.equal(seen.transpose(0, 1), recorded["f0/enc/bev_mask"].bool())
    name = "f0/enc/reference_points_cam"
    got, want = recorded.thin(name, ref.transpose(0, 1)), recorded[name]
    near = want.abs() < 10.0  # those beside the camera plane are quotients of rounding errors, and are clamped
    close(got[near], want[near], "exact")
    assert check_rig(spec, lidar2img, (256, 416)) == int(seen.any(-1).sum(-1).max())


@pytest.mark.slow
def test_noise_of_the_fed_back_bev_does_not_grow() -> None:
    recorded = Recorded.extract("bev_tiny")
    got = record(tiny_spec().model, recorded, "tiny", frames=3)
    close(recorded.thin("f2/bev_embed", got["f2/bev_embed"]), recorded["f2/bev_embed"], "encoder")


@pytest.mark.slow
def test_full_model_with_deformable_backbone_and_four_levels_is_the_recorded_one() -> None:
    recorded = Recorded.extract("bev_base")
    spec = full_spec(model__bev__height=50, model__bev__width=50).model
    got = record(spec, recorded, "base", frames=1)  # the next frame is compared in test_frames
    names = [n for n in recorded.arrays if n.startswith("f0/") and ("img_feats" in n or "bev_embed" in n)]
    assert len(names) == 5
    for name in names:
        close(recorded.thin(name, got[name]), recorded[name], "encoder" if "bev" in name else "image")


@pytest.mark.parametrize("has_prev", [False, True])
def test_a_sample_of_a_batch_gets_what_it_gets_alone(has_prev) -> None:
    """Batch elements with and without a BEV before share a step."""
    g = torch.Generator().manual_seed(3)
    spec = tiny_spec(model__bev__height=10, model__bev__width=10, model__bev__num_layers=2).model.bev
    transformer = fill(PerceptionTransformer(spec, nn.Identity()), "pts_bbox_head.transformer.")
    inputs = Recorded.extract("bev_tiny")
    args = SimpleNamespace(
        feats=torch.randn(2, 6, 256, 8, 13, generator=g),
        query=torch.randn(100, 256, generator=g),
        pos=torch.randn(256, 10, 10, generator=g),
        prev=torch.randn(2, 100, 256, generator=g),
        can_bus=torch.randn(2, 18, generator=g),
        lidar2img=inputs["lidar2img"].float().expand(2, -1, -1, -1) * torch.tensor([1.0, 1.1]).view(2, 1, 1, 1),
    )

    def run(i: slice, has: list[bool]) -> Tensor:
        with torch.no_grad():
            return transformer.bev_features(
                [args.feats[i]], args.query, args.pos, args.prev[i], torch.tensor(has), args.can_bus[i], args.lidar2img[i],
                (256, 416),
            )  # fmt: skip

    both = run(slice(0, 2), [has_prev, not has_prev])
    close(both[:1], run(slice(0, 1), [has_prev]), "exact")
    close(both[1:], run(slice(1, 2), [not has_prev]), "exact")
    # Without a BEV before, its content must not matter.
    args.prev = args.prev * 100.0
    changed = (run(slice(0, 2), [has_prev, not has_prev]) - both).abs().amax((1, 2))
    assert bool(changed[0] > 1e-3) == has_prev
    assert bool(changed[1] > 1e-3) != has_prev


def test_half_precision_changes_the_bev_by_rounding_only() -> None:
    spec = tiny_spec(model__bev__height=10, model__bev__width=10, model__bev__num_layers=2).model.bev
    transformer = fill(PerceptionTransformer(spec, nn.Identity()), "pts_bbox_head.transformer.")
    g = torch.Generator().manual_seed(4)
    feats, query, pos = torch.randn(1, 6, 256, 8, 13, generator=g), torch.randn(100, 256, generator=g), torch.zeros(256, 10, 10)
    prev, can_bus = torch.randn(1, 100, 256, generator=g), torch.randn(1, 18, generator=g)
    lidar2img = Recorded.extract("bev_tiny")["lidar2img"].float()[None]
    args = (query, pos, prev, torch.ones(1, dtype=torch.bool), can_bus, lidar2img, (256, 416))
    with torch.no_grad():
        full = transformer.bev_features([feats], *args)
        with torch.autocast("cpu", torch.bfloat16):
            half = transformer.bev_features([feats.bfloat16()], *args)
    assert half.dtype == torch.float32
    error = (half - full).abs()
    assert error.mean() < 0.02 * full.abs().mean() and error.max() < 0.1 * full.abs().max()
