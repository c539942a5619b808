"""Several processes train as one would with all their clips, each kernel queued or the whole iteration recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.clips import small_model, small_spec
from helpers.fake_clips import FakeClips
from helpers.host_recording import OnHost
from helpers.ranks import in_ranks
from helpers.specs import edit, nano_spec
from helpers.toy_training import ToyModel, run, toy_trainer
from helpers.training_runs import log_of, same_checkpoint
from uniad.data.collate import collate
from uniad.training import reduce
from uniad.training.capture import EagerStep
from uniad.training.clip import ClipOptions
from uniad.training.distributed import World
from uniad.training.loader import ClipLoader
from uniad.training.options import TrainOptions, prepare_backend
from uniad.training.reduce import GradientReducer
from uniad.training.run import clip_loss
from uniad.training.trainer import Trainer

CLIPS, STEPS = 4, 20  # clips of a step, over all processes


class InOrder:
    """The clips of a step divided among processes: all together, those that one process would get."""

    def __init__(self, world: World):
        share = CLIPS // world.size
        self.indices = [k + world.rank * share + i for k in (0, CLIPS) for i in range(share)]

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self):
        return iter(self.indices)


def small_trainer(world: World, work_dir: Path, recorded: bool, **options: object) -> Trainer:
    """The real model and its losses, small, with nothing random."""
    spec = edit(
        nano_spec(), model=small_spec(), data__max_objects=8, data__max_lanes=4, data__image__height=64, data__image__width=96,
        data__canvas_hw=(10, 10), data__samples_per_gpu=CLIPS // world.size, train__log_interval=1, train__warmup_iters=0,
    )  # fmt: skip
    loader = ClipLoader(
        FakeClips(spec, 2 * CLIPS), InOrder(world), batch_size=CLIPS // world.size, workers=0, collate=collate, seed=0
    )
    settings = TrainOptions(work_dir, max_iters=STEPS, tensorboard=False, save_every_s=None, **options)
    trainer = Trainer(spec, small_model(spec.model), clip_loss(spec, world, ClipOptions()), loader, world, settings)
    if recorded:
        record_here(trainer)
    return trainer


def record_here(trainer: Trainer) -> None:
    """Records although there is no GPU."""
    trainer.options = edit(trainer.options, cuda_graph=True)
    trainer.recorded_step = OnHost


def losses(world: World, work_dir: Path, recorded: bool, **options: object) -> list[dict[str, float]]:
    run(small_trainer(world, work_dir, recorded, **options))
    return log_of(work_dir) if world.is_main else []


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[dict[str, float]]:
    work_dir = tmp_path_factory.mktemp("alone")
    return in_ranks(1, lambda world: losses(world, work_dir, False))[0]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_losses_are_those_of_one_process_with_all_clips(tmp_path: Path, alone, size: int) -> None:
    found = in_ranks(size, lambda world: losses(world, tmp_path, True))[0]
    assert len(found) == len(alone) == STEPS and alone[-1]["loss"] < 0.9 * alone[0]["loss"]
    for line, wanted in zip(found, alone):
        # At step 15 a matching of nearly equal costs turns out otherwise on some processors, as it does on H200s (below).
        assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-4 if line["step"] < 15 else 3e-3), line["step"]
    assert found[0]["grad_norm"] == pytest.approx(alone[0]["grad_norm"], rel=1e-4)  # later ones part with the rounding


@pytest.mark.slow
def test_gradients_in_bf16_are_another_run_that_learns_as_well(tmp_path: Path, alone) -> None:
    found = in_ranks(2, lambda world: losses(world, tmp_path, True, reduce_bf16=True))[0]
    assert [line["loss"] for line in found] != [line["loss"] for line in alone]
    assert found[0]["grad_norm"] == pytest.approx(alone[0]["grad_norm"], rel=1e-2)
    assert found[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.device
@pytest.mark.parametrize(("recorded", "bf16"), [(False, False), (True, False), (True, True)], ids=["eager", "graph", "bf16"])
def test_two_processes_on_gpus_have_the_losses_of_one_with_all_clips(tmp_path: Path, recorded: bool, bf16: bool) -> None:
    """fp32 without TF32; gradients that travel in bf16 part with the rounding. One GPU is shared, but not while it records.

    A matching of nearly equal costs may turn out otherwise with the rounding, and then one step's loss is another: on H200s steps
    1 to 14 were at most 4e-7 apart, step 15 was 1.3e-3, later ones up to 1e-4, over NCCL and over gloo alike.
    """
    if recorded and torch.cuda.device_count() < 2:
        pytest.skip("a CUDA graph cannot hold collectives that go through the CPU: needs two GPUs")

    def work(world: World, folder: Path) -> list[dict[str, float]]:
        trainer = small_trainer(world, folder, False, cuda_graph=recorded, reduce_bf16=bf16 and world.size > 1)
        prepare_backend(trainer.options)
        run(trainer)
        return log_of(folder) if world.is_main else []

    one = in_ranks(1, lambda world: work(world, tmp_path / "one"), device="cuda")[0]
    two = in_ranks(2, lambda world: work(world, tmp_path / "two"), device="cuda")[0]
    assert len(one) == len(two) == STEPS
    apart = [abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in zip(one, two)]
    kind = f"{'recorded' if recorded else 'eager'}{', bf16' * bf16}"
    print(f"two processes, {kind}: losses apart by at most {max(apart):.2e}; by step", *(f"{step:.0e}" for step in apart))
    assert max(apart) < 2e-2
    assert bf16 or sorted(apart)[-3] < 2e-4 and max(apart[:10]) < 1e-5


def test_a_recorded_run_of_two_processes_resumes_exactly(tmp_path: Path) -> None:
    """With norms that learn statistics, dropout, a frozen part and one without a gradient."""

    def train(world: World, folder: Path, recorded: bool, stop: int | None = None) -> None:
        trainer = toy_trainer(folder, world=world, stop_after=stop)
        if recorded:
            record_here(trainer)
        run(trainer, "auto")

    def both(world: World) -> None:
        train(world, tmp_path / "eager", False)
        train(world, tmp_path / "whole", True)
        train(world, tmp_path / "parts", True, 4)
        train(world, tmp_path / "parts", True)

    in_ranks(2, both)
    assert log_of(tmp_path / "eager") == log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    same_checkpoint(tmp_path / "whole/latest.pth", tmp_path / "parts/latest.pth")
    same_checkpoint(tmp_path / "whole/latest.pth", tmp_path / "eager/latest.pth")


class Sent:
    """Counts what goes out, in a world where the others hold the same."""

    def __init__(self, monkeypatch, size: int) -> None:
        self.sizes: list[int] = []
        self.types: set[torch.dtype] = set()
        self.size = size
        monkeypatch.setattr(reduce.dist, "all_reduce", self.all_reduce)

    def all_reduce(self, values: Tensor, async_op: bool = False) -> Sent:
        self.sizes.append(values.numel())
        self.types.add(values.dtype)
        values.mul_(self.size)
        return self

    def wait(self) -> None:
        pass


@pytest.mark.parametrize("kind", [EagerStep, OnHost])
def test_what_has_no_gradient_is_not_sent(monkeypatch, kind: type) -> None:
    sent = Sent(monkeypatch, 2)
    world = World(0, 2, 0, torch.device("cpu"))
    monkeypatch.setattr(reduce, "gather_objects", lambda world, value: [value, value])
    monkeypatch.setattr(reduce.dist, "broadcast", lambda values, src: None)
    model = ToyModel().train()  # its neck is frozen, and no loss reaches its ``unused``

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, clip: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            loss = model(clip).square().mean()
            return loss, loss.detach()[None]

    step = kind(Loss(), torch.Generator(), torch.ones(()), world)
    for _ in range(2):
        step(torch.randn(4, 4), lambda: None)
    learning = sum(p.numel() for part in (model.img_backbone, model.head) for p in part.parameters())
    assert sent.sizes == [learning] * 2 and sent.types == {torch.float32}
    assert all(p.grad is None for part in (model.img_neck, model.unused) for p in part.parameters())


def test_buckets_give_what_reducing_each_gradient_would() -> None:
    shapes = [(3, 5), (7,), (4, 2, 3, 3), (80,), (1,), ()]

    def work(world: World) -> tuple[list[int], list[bool]]:
        reduce.BUCKET_BYTES = 400  # in this process alone
        rng = torch.Generator().manual_seed(world.rank)
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        parameters[2].data = parameters[2].data.to(memory_format=torch.channels_last)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=rng)
        if world.rank:
            parameters[1].grad = None  # here no loss reaches it; elsewhere one does
        wanted = []
        for p in parameters:
            mean = torch.zeros(p.shape) if p.grad is None else p.grad / world.size
            torch.distributed.all_reduce(mean)
            wanted.append(mean)
        reducer = GradientReducer.of(((str(i), p) for i, p in enumerate(parameters)), world, None)
        reducer.gather()
        reducer.reduce()
        laid = all(p.grad.stride() == p.stride() for p in parameters)
        return [b.numel() for b in reducer.buckets], [
            torch.allclose(p.grad, w, rtol=1e-6, atol=1e-7) for p, w in zip(parameters, wanted)
        ] + [laid]

    for sizes, equal in in_ranks(3, work):
        assert sizes == [22 + 72, 80 + 1 + 1] and all(equal)


def test_bf16_halves_what_is_sent_and_leaves_fp32_gradients(monkeypatch) -> None:
    sent = Sent(monkeypatch, 2)
    parameter = nn.Parameter(torch.zeros(5))
    parameter.grad = torch.tensor([1.0, 1 / 3, -2.5, 1e-3, 0.0])
    wanted = parameter.grad.bfloat16().float()
    reducer = GradientReducer([parameter], World(0, 2, 0, torch.device("cpu")), torch.bfloat16)
    reducer.gather()
    reducer.reduce()
    assert sent.types == {torch.bfloat16}
    assert parameter.grad.dtype == torch.float32 and torch.equal(parameter.grad, wanted)


def test_a_gradient_that_comes_up_later_is_an_error() -> None:
    first, second = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    reducer = GradientReducer([first], World(0, 2, 0, torch.device("cpu")))
    second.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="b has a gradient now"):
        reducer.check([("a", first), ("b", second)])
