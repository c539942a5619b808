"""A nano model of stage 2 whose agents live, on the session's small world, and how to open it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from specs import config_path, nano_spec
from torch import Tensor
from uniad.contract import Contract, contract_for, pack_frame
from uniad.data.anchors import save_motion_anchors
from uniad.data.infos import create_infos
from uniad.deploy.card import config_entries, write_card
from uniad.deploy.runtime import Runtime
from uniad.deploy.sensors import prepare
from uniad.deploy.sources import DatasetFrames
from uniad.export.to_onnx import export_onnx
from uniad.models.uniad import UniAD
from uniad.spec import Spec, load_spec
from uniad.training.checkpoint import save_checkpoint
from weights import rule_state_dict


class Nano:
    """Where its files lie, and the options that point a config at them."""

    config = config_path("nano", 2)

    def __init__(self, folder: Path, world: Path) -> None:
        self.folder, self.world, self.checkpoint = folder, world, folder / "nano.pth"
        spec = nano_spec(2)
        motion, rng = spec.model.motion, np.random.default_rng(0)
        shape = (motion.predict_modes, motion.predict_steps, 2)
        anchors = [np.cumsum(rng.uniform(-0.5, 1.5, shape), axis=1) for _ in motion.group_ids]
        save_motion_anchors(folder / "motion_anchor_infos_mode6.pkl", anchors, motion, spec.data.class_names)
        state = UniAD(spec.model, torch.from_numpy(np.stack(anchors))).state_dict()
        state.update(rule_state_dict(state))
        save_checkpoint(self.checkpoint, {"meta": {"uniad": {"variant": "nano"}}, "state_dict": state})
        create_infos(world, folder / "infos", workers=1, progress=False)
        # With weights of a rule every score lies between 0.8 and 0.9; these thresholds let some tracks live and die.
        self.options = [
            f"data_root={world}/", f"info_root={folder}/infos/", f"anchor_root={folder}/",
            "data.workers_per_gpu=0", "model.score_thresh=0.88", "model.filter_score_thresh=0.86",
        ]  # fmt: skip

    def open(self) -> Runtime:
        return Runtime.open(self.checkpoint, "cpu", config=self.config, options=self.options)


@pytest.fixture(scope="session")
def nano(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Nano:
    return Nano(tmp_path_factory.mktemp("nano"), synthetic_root)


@pytest.fixture(scope="session")
def spec(nano: Nano) -> Spec:
    return load_spec(nano.config, nano.options)


@pytest.fixture(scope="session")
def contract(spec: Spec) -> Contract:
    return contract_for(spec)


@pytest.fixture(scope="session")
def frames(spec: Spec, contract: Contract) -> list[tuple[Tensor, ...]]:
    """The first three frames of a scene, as they cross the border of the step."""
    shots = list(DatasetFrames(spec.data).scene("0", 3))
    start = shots[0].sensors.time_s
    return [pack_frame(contract, prepare(shot.sensors, spec.data, start, shot.number == 0)) for shot in shots]


@pytest.fixture(scope="session")
def feeds(contract: Contract, frames: list[tuple[Tensor, ...]]) -> list[dict[str, np.ndarray]]:
    """The same, by name, for a runner."""
    return [{port.name: tensor.numpy() for port, tensor in zip(contract.frame, frame)} for frame in frames]


@pytest.fixture(scope="session")
def onnx(nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano step as an ONNX with its card."""
    path = tmp_path_factory.mktemp("onnx") / "uniad_nano_cp.onnx"
    with nano.open() as runtime:
        contract = runtime.contract
        export_onnx(runtime.runner.model, contract, path)
    card = {
        "kind": "onnx", "variant": "nano", "stage": 2, **config_entries(nano.config, nano.options),
        "checkpoint": str(nano.checkpoint), "contract": contract.to_json(),
    }  # fmt: skip
    write_card(path, card)
    return path
