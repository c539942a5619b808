"""The captured iteration: the same numbers as without a graph, and one clear line where it cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from uniad.errors import UserError
from uniad.interface.types import Tracks
from uniad.training.capture import EagerStep, RecordedStep, copy_tensors
from uniad.training.distributed import World
from uniad.training.loader import map_tensors
from uniad.training.options import TrainOptions, check_graph

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_buffers_of_a_clip_are_its_own_and_take_the_next_clip():
    first = {"a": torch.zeros(2), "b": [torch.ones(3), ("text", Tracks(*(torch.full((1,), i) for i in range(8))))]}
    held = map_tensors(torch.Tensor.clone, first)
    first["a"].fill_(7)
    assert held["a"].eq(0).all()
    second = {"a": torch.full((2,), 5.0), "b": [torch.zeros(3), ("other", Tracks(*(torch.full((1,), -i) for i in range(8))))]}
    kept = held["b"][1][1].obj_id
    copy_tensors(second, held)
    assert held["a"].eq(5).all()
    assert kept.item() == -3  # the same memory


def test_a_clip_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"float32\[3\] for torch.float32\[2\]"):
        copy_tensors({"a": torch.zeros(3)}, {"a": torch.zeros(2)})


@pytest.mark.parametrize("compiled", [False, True])
def test_a_graph_is_refused_where_there_is_no_gpu(compiled):
    options = TrainOptions(Path("x"), cuda_graph=True, compile=compiled)
    with pytest.raises(UserError, match="needs a GPU"):
        check_graph(options, torch.device("cpu"))
    check_graph(options, torch.device("cuda"))
    check_graph(TrainOptions(Path("x")), torch.device("cpu"))


class Noisy(nn.Module):
    """A loss with a weight, a norm that learns statistics, dropout and draws of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, clip: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.rand(clip.shape, generator=generator, device=clip.device)
        loss = self.drop(self.norm(self.layer(clip + noise))).square().mean()
        return loss, loss.detach()[None]


@needs_gpu
def test_a_captured_iteration_draws_and_learns_as_without_a_graph():
    results = []
    for graph in (False, True):
        torch.manual_seed(0)
        module = Noisy().cuda()
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        generator, scale = torch.Generator("cuda"), torch.ones((), device="cuda")
        step = (RecordedStep if graph else EagerStep)(module, generator, scale, World(0, 1, 0, torch.device("cuda")))
        losses = []
        for iteration in range(4):
            clip = torch.full((8, 4), float(iteration), device="cuda")

            def seed(iteration: int = iteration, generator: torch.Generator = generator) -> None:
                torch.manual_seed(iteration)
                generator.manual_seed(iteration)

            total, _ = step(clip, seed)
            losses.append(total.item())
            optimizer.step()
        results.append((losses, module.norm.running_mean.clone(), int(module.norm.num_batches_tracked)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[1][2] == 4
