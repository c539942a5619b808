"""Layers and losses behind a compiler: the same losses, and a way back that one line tells. Compilers here make no code."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.clips import small_clip, small_model, small_spec, small_stage2_spec, with_future
from helpers.host_recording import OnHost
from helpers.ranks import in_ranks
from helpers.specs import edit, nano_spec
from helpers.toy_training import ToyModel, run, toy_trainer
from helpers.training_runs import log_of, same_checkpoint
from uniad.models.precision import to_channels_last
from uniad.training.capture import EagerStep, RecordedStep
from uniad.training.clip import ClipOptions
from uniad.training.compiled import Compiled, compile_parts
from uniad.training.distributed import World
from uniad.training.folding import fold_norms
from uniad.training.loader import map_tensors
from uniad.training.optim import global_norm
from uniad.training.recompute import recompute_layers
from uniad.training.run import clip_loss, criterion_of
from uniad.training.seeding import seed_iteration
from uniad.training.trainer import ClipLoss

ALONE = World(0, 1, 0, torch.device("cpu"))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def losses_and_gradients(step_kind: type, compiled: Compiled | None, output: list[str]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Of three clips with other numbers of objects, by the real model, small."""
    spec = edit(nano_spec(), model=small_spec())
    model, criterion = small_model(spec.model), criterion_of(spec, ALONE)
    model.img_backbone.layer1.requires_grad_(False)
    for pair in fold_norms(model.img_backbone):
        pair.keep(torch.bfloat16)
    if compiled is not None:
        compile_parts(model, criterion, compiled, alone=True)
    generator, found, graphs = torch.Generator(), [], torch._dynamo.utils.counters["stats"]
    loss = ClipLoss(model, clip_loss(spec, ALONE, ClipOptions(), criterion), "bf16")
    step = step_kind(loss, generator, torch.ones(()), ALONE, None, compiled, output.append)
    compiled_first = None
    for number, objects in enumerate((5, 0, 3)):
        total, _ = step(small_clip(frames=2, objects=(objects,), seed=number), partial(seed_iteration, 0, number, 0, generator))
        found.append((total.clone(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        compiled_first = graphs["unique_graphs"] if compiled_first is None else compiled_first
    assert graphs["unique_graphs"] == compiled_first, "another number of objects was compiled again"
    return found


@pytest.mark.slow
def test_a_recorded_step_compiles_every_part_once_and_learns_the_same() -> None:
    """Each part as one graph, under autocast, with folded norms, whatever the number of objects and tracks."""
    torch._dynamo.reset()
    output: list[str] = []
    compiled = Compiled("eager")
    plain = losses_and_gradients(EagerStep, None, [])
    found = losses_and_gradients(OnHost, compiled, output)
    assert compiled.on and not compiled.failed and compiled.count > 15
    assert len(output) == 1 and output[0].startswith(f"compiled {compiled.count} parts in ")
    for (total, grads), (other, others) in zip(plain, found):
        assert torch.equal(total, other) and grads.keys() == others.keys()
        assert all(torch.equal(grad, others[name]) for name, grad in grads.items())


@needs_gpu
@pytest.mark.device
@pytest.mark.parametrize(
    ("kind", "recompute", "stage"),
    [(RecordedStep, False, 1), (RecordedStep, True, 1), (EagerStep, False, 1), (RecordedStep, False, 2)],
)
def test_a_gpu_compiles_every_part_and_learns_nearly_the_same(kind: type, recompute: bool, stage: int) -> None:
    """Without dropout, in bf16, channels last, norms folded, as picked; the exact step is in fp32."""
    device, found = torch.device("cuda"), []
    world, output = World(0, 1, 0, device), []
    spec = edit(nano_spec(stage), model=small_spec() if stage == 1 else small_stage2_spec())
    for fast in (False, True):
        model = small_model(spec.model).to(device)
        compiled = Compiled() if fast else None
        if fast:
            to_channels_last(model.img_backbone, model.img_neck)
            fold_norms(model.img_backbone)
        if recompute:
            recompute_layers(model, kind is RecordedStep, compiled)
        criterion = criterion_of(spec, world)
        if compiled is not None:
            compile_parts(model, criterion, compiled, alone=True)
        generator = torch.Generator(device)
        loss = ClipLoss(model, clip_loss(spec, world, ClipOptions(), criterion), "bf16" if fast else "fp32")
        step = (kind if fast else EagerStep)(loss, generator, torch.ones((), device=device), world, None, compiled, output.append)
        for number, objects in enumerate((5, 0, 3)):
            clip = small_clip(frames=2, objects=(objects,), seed=number)
            clip = map_tensors(lambda x: x.to(device), clip if stage == 1 else with_future(clip, seed=number))
            total, _ = step(clip, partial(seed_iteration, 0, number, 0, generator))
            norm = global_norm([p.grad for p in model.parameters() if p.grad is not None])
            found.append((total.item(), norm.item()))
        if compiled is not None:
            assert compiled.on and not compiled.failed, output
    for (total, norm), (other, others) in zip(found[:3], found[3:]):
        assert other == pytest.approx(total, rel=0.1) and others == pytest.approx(norm, rel=0.5)


# Toys ------------------------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """Named as a layer that is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop, self.again = nn.Linear(8, 8), nn.Dropout(0.3), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.again(torch.relu(self.drop(self.linear(x))))


class Toy(ToyModel):
    """The toy with two layers alike where those lie that recompute."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.ModuleList([BasicBlock(), BasicBlock()])
        self.pts_bbox_head = nn.ModuleDict({"transformer": nn.ModuleDict({"encoder": nn.ModuleDict({"layers": layers})})})

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.img_neck(self.img_backbone(x)))
        for layer in self.get_submodule("pts_bbox_head.transformer.encoder.layers"):
            y = layer(y)
        return self.head(y)


def toy_run(folder: Path, backend: Any, world: World = ALONE, recompute: bool = False, recorded: bool = False,
            **options: object) -> tuple[list[str], Compiled | None]:  # fmt: skip
    """backend: None trains plainly."""
    torch.manual_seed(7)
    model, compiled = Toy(), Compiled(backend) if backend is not None else None
    if recompute:
        assert recompute_layers(model, recorded, compiled) == 2
    if compiled is not None:
        compile_parts(model, None, compiled, alone=world.size == 1)
    trainer = toy_trainer(folder, world=world, model=model, **options)
    trainer.compiled = compiled
    if recorded:
        trainer.options, trainer.recorded_step = edit(trainer.options, cuda_graph=True), OnHost
    return run(trainer, "auto")[1], compiled


@pytest.mark.parametrize("recorded", [False, True])
def test_recomputed_layers_run_compiled_with_the_same_dropout(tmp_path: Path, recorded: bool) -> None:
    """To the bit: masks are drawn as by the plain layers, once for both passes."""
    toy_run(tmp_path / "plain", None, recompute=True, recorded=recorded)
    output, compiled = toy_run(tmp_path / "compiled", "aot_eager", recompute=True, recorded=recorded)
    assert compiled.on and not compiled.failed and any(line.startswith("compiled ") for line in output)
    losses = [[line["loss"] for line in log_of(tmp_path / name)] for name in ("plain", "compiled")]
    assert len(losses[0]) > 4 and losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_compiled_run_resumes_exactly(tmp_path: Path, recorded: bool) -> None:
    toy_run(tmp_path / "whole", "aot_eager", recorded=recorded)
    toy_run(tmp_path / "parts", "aot_eager", recorded=recorded, stop_after=4)
    toy_run(tmp_path / "parts", "aot_eager", recorded=recorded)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    same_checkpoint(tmp_path / "whole/latest.pth", tmp_path / "parts/latest.pth")


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no C compiler\nand a long story")


def wrong(graph: Any, inputs: Any) -> Any:
    return lambda *args: tuple(value * 9 for value in graph(*args))


def broken_backward(graph: Any, inputs: Any) -> Any:
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=broken)(graph, inputs)


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        (broken, r"compiled 2 parts in \d+ s; BasicBlock runs as it is: BackendCompilerFailed: .*no C compiler"),
        (wrong, "nothing runs compiled: on the first clip loss and gradient norm are .* compiled, .* plainly; .*--no-compile"),
        (broken_backward, "nothing runs compiled: a gradient failed: .*no C compiler"),
    ],
    ids=["fails", "is wrong", "fails backward"],
)
def test_a_compiler_that_fails_costs_a_line_and_no_number(tmp_path: Path, backend: Any, line: str) -> None:
    toy_run(tmp_path / "plain", None)
    output, compiled = toy_run(tmp_path / "compiled", backend)
    said = [text for text in output if "compiled" in text and "parts" in text or "nothing runs" in text]
    assert len(said) == 1 and re.search(line, said[0]) and "\n" not in said[0], said
    assert log_of(tmp_path / "plain") == log_of(tmp_path / "compiled")
    same_checkpoint(tmp_path / "plain/latest.pth", tmp_path / "compiled/latest.pth")


def test_all_processes_run_alike_where_one_compiler_fails(tmp_path: Path) -> None:
    def both(world: World) -> bool:
        toy_run(tmp_path / "plain", None, world)
        _, compiled = toy_run(tmp_path / "one", broken if world.rank else "aot_eager", world)
        return compiled.runs("BasicBlock")

    assert in_ranks(2, both) == [False, False]
    assert log_of(tmp_path / "plain") == log_of(tmp_path / "one")
