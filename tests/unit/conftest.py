"""A nano model of stage 2 whose agents live, on the session's small world, and how to open it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from helpers.nano import Nano
from helpers.shared import shared
from uniad.artifacts.card import config_entries, write_card
from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.deploy.sensors import prepare
from uniad.deploy.sources import DatasetFrames
from uniad.export.to_onnx import export_onnx
from uniad.interface.contract import Contract, contract_for, pack_frame


@pytest.fixture(scope="session")
def nano(synthetic_root: Path, synthetic_infos: Path) -> Nano:
    return Nano(synthetic_root, synthetic_infos)


@pytest.fixture(scope="session")
def spec(nano: Nano) -> Spec:
    return load_spec(nano.config, nano.options)


@pytest.fixture(scope="session")
def contract(spec: Spec) -> Contract:
    return contract_for(spec)


@pytest.fixture(scope="session")
def frames(spec: Spec, contract: Contract) -> list[tuple[Tensor, ...]]:
    """The first three frames of a scene, as they cross the border of the step."""
    records = list(DatasetFrames(spec.data).scene("0", 3))
    start = records[0].sensors.time_s
    return [pack_frame(contract, prepare(record.sensors, spec.data, start, record.number == 0)) for record in records]


@pytest.fixture(scope="session")
def feeds(contract: Contract, frames: list[tuple[Tensor, ...]]) -> list[dict[str, np.ndarray]]:
    """The same, by name, for a runner."""
    return [{port.name: tensor.numpy() for port, tensor in zip(contract.frame, frame)} for frame in frames]


@pytest.fixture(scope="session")
def onnx(nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano step as an ONNX with its card."""

    def export(folder: Path) -> None:
        path = folder / "uniad_nano_cp.onnx"
        with nano.open() as runtime:
            contract = runtime.contract
            export_onnx(runtime.runner.model, contract, path)
        card = {
            "kind": "onnx", "variant": "nano", "stage": 2, **config_entries(nano.config, nano.options),
            "checkpoint": str(nano.checkpoint), "contract": contract.to_json(),
        }  # fmt: skip
        write_card(path, card)

    return shared(tmp_path_factory, "onnx", export) / "uniad_nano_cp.onnx"
