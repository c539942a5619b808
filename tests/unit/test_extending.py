"""The walks of docs/extending.md are true: their diffs apply to this tree, one after the other, and do what they are for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO

PAGE = (REPO / "docs/extending.md").read_text()


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)[1]


def apply(diff: str, root: Path) -> None:
    """Replaces the lines that stand with a blank or - by those with a blank or +; they must stand once. +++ is a new file."""
    head, *lines = diff.splitlines()
    path = root / head[4:]
    new = "".join(line[1:] + "\n" for line in lines if line[:1] != "-")
    if head.startswith("+++"):
        assert not path.exists(), path
        path.write_text(new)
        return
    old = "".join(line[1:] + "\n" for line in lines if line[:1] != "+")
    text = path.read_text()
    assert text.count(old) == 1, f"docs/extending.md: these lines stand {text.count(old)} times in {head[4:]}:\n{old}"
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("extended")
    for folder in ("projects", "weights", "mk", "tools"):
        shutil.copytree(REPO / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "work_dirs", "*.pth"))
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(REPO / file, root / file)
    for title in ("A config key", "A loss", "A head", "A back end"):
        found = re.findall(r"```diff\n(.*?)```", section(title), re.S)
        assert found, title
        for diff in found:
            apply(diff, root)
    return root


def run(root: Path, code: str) -> str:
    env = os.environ | {"PYTHONPATH": f"{root / 'projects'}:{REPO / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


VARIANT = """
from uniad.config.read import load_spec
for config in ("stage1_track_map/mine_track_map.py", "stage2_e2e/mine_e2e.py"):
    bev = load_spec(f"projects/configs/{config}").model.bev
    assert (bev.height, bev.width) == (40, 40), config
"""


def test_a_variant(copy: Path) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", section("A variant"), re.S)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "UNIAD")) and k != "VARIANT"}
    block = block.replace("make -n train", "make -n train STACK=native RUNTIME=host DATASET=synthetic FROM_SCRATCH=1")
    done = subprocess.run(["bash", "-euc", block], cwd=copy, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "stage2_e2e/mine_e2e.py" in done.stdout, done.stderr
    run(copy, VARIANT)


KEY_AND_LOSS = """
import torch, uniad
from uniad.config.read import load_spec
from uniad.config.file import ConfigError
from uniad.losses.planning import plan_losses
config = "projects/configs/stage2_e2e/nano_e2e.py"
plan = load_spec(config, ["native.plan_smoothness=0.5"]).model.stage2.plan
assert plan.smoothness == 0.5 and load_spec(config).model.stage2.plan.smoothness == 0.0
try:
    load_spec(config, ["native.plan_smoothness=-1"])
    raise SystemExit("a negative weight was taken")
except ConfigError as error:
    assert "native.plan_smoothness" in str(error)
from types import SimpleNamespace
traj = torch.randn(2, plan.steps, 2, requires_grad=True)
truth = SimpleNamespace(
    sdc_planning=torch.zeros(2, 1, plan.steps, 3), sdc_planning_mask=torch.zeros(2, 1, plan.steps, 2),
    future_boxes=torch.zeros(2, plan.steps + 1, 0, 9),
    future_boxes_valid=torch.zeros(2, plan.steps + 1, 0, dtype=torch.bool),
)
losses = plan_losses(SimpleNamespace(traj=traj), truth, plan)
losses["planning.loss_smooth"].backward()
assert losses["planning.loss_smooth"] > 0 and traj.grad.isfinite().all()
print(uniad.__file__)
"""


def test_a_config_key_and_a_loss(copy: Path) -> None:
    assert run(copy, KEY_AND_LOSS).startswith(str(copy))


HEAD = """
import torch
from uniad.config.read import load_spec
from uniad.models.uniad import UniAD
spec = load_spec("projects/configs/stage2_e2e/nano_e2e.py", ["native.speed_head=True"])
motion, bev = spec.model.stage2.motion, spec.model.bev
model = UniAD(spec.model, torch.zeros(len(motion.group_ids), motion.predict_modes, motion.predict_steps, 2)).eval()
assert any(name.startswith("speed_head.") for name in model.state_dict())
speed = model.speed_head(torch.zeros(2, bev.height * bev.width, spec.model.stage2.plan.embed_dims))
assert speed.shape == (2, spec.model.stage2.plan.steps)
"""


def test_a_head(copy: Path) -> None:
    run(copy, HEAD)


BACK_END = """
import numpy as np, onnx
from onnx import helper, TensorProto
from uniad.backends.open import BACKENDS, open_onnx
from uniad.backends.plain import PlainRunner
from types import SimpleNamespace
value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("a", "b")]
graph = helper.make_graph([helper.make_node("Neg", ["a"], ["b"])], "g", value[:1], value[1:])
contract = SimpleNamespace(initial_state=dict, output_names=("b",))
assert "plain" in BACKENDS
model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
runner = open_onnx(contract, model, backend="plain")
assert isinstance(runner, PlainRunner)
with runner:
    assert runner._infer({"a": np.float32([1, 2])})["b"].tolist() == [-1, -2]
"""


def test_a_back_end(copy: Path) -> None:
    run(copy, BACK_END)


def test_what_is_added_still_stands_in_layers(copy: Path) -> None:
    lint = re.search(r"-c '(from importlinter.*)'", (REPO / "mk/test.mk").read_text())[1]
    assert "kept, 0 broken" in run(copy, lint)
