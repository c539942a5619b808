"""Recomputing activations changes memory, not numbers."""

from __future__ import annotations

import pytest
import torch

from helpers.fake_clips import fake_loader
from helpers.specs import nano_spec
from uniad.losses.criterion import total_loss
from uniad.models.uniad import UniAD
from uniad.training.clip import ClipOptions
from uniad.training.distributed import World
from uniad.training.loader import to_device
from uniad.training.recompute import recompute_layers
from uniad.training.run import clip_loss
from uniad.training.seeding import seed_iteration

WORLD = World(0, 1, 0, torch.device("cpu"))


def losses_and_gradients(recompute: bool, recorded: bool = False):
    rates = dict.fromkeys((f"model__{part}dropout" for part in ("bev__", "bev__ffn_", "decoder__", "decoder__ffn_", "map__",
                                                              "map__ffn_")), 0.1)  # fmt: skip
    spec = nano_spec(model__queue_length=2, data__queue_length=2, data__samples_per_gpu=1, data__max_objects=8, data__max_lanes=4,
                     **rates)  # fmt: skip
    torch.manual_seed(0)
    model = UniAD(spec.model).train()
    if recompute:
        maps = spec.model.map
        encoders, decoders = spec.model.bev.num_layers + maps.encoder_layers, spec.model.decoder.num_layers + maps.decoder_layers
        assert recompute_layers(model, recorded) == (encoders if recorded else encoders + decoders)
    clip = to_device(next(fake_loader(spec, WORLD, seed=0).stream(0)), WORLD.device)
    generator = torch.Generator()
    seed_iteration(0, 0, 0, generator)
    losses = clip_loss(spec, WORLD, ClipOptions())(model, clip, generator)
    total_loss(losses).backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def plain_pass():
    return losses_and_gradients(False)


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [False, True])
def test_losses_and_gradients_are_the_same_with_dropout_on(plain_pass, monkeypatch, recorded: bool):
    """For a recording without ever asking for a generator's state, which a CUDA graph could not give."""
    if recorded:
        monkeypatch.setattr(torch, "get_rng_state", lambda: pytest.fail("a recording cannot ask for this"))
    plain, gradients = plain_pass
    again, others = losses_and_gradients(True, recorded)
    assert all(torch.equal(v, again[k]) for k, v in plain.items())
    assert gradients.keys() == others.keys()
    assert all(torch.equal(v, others[k]) for k, v in gradients.items())
