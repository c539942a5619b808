"""The recorded data operations: the whole golden file where it is, else the committed extract. Names are the golden ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import TESTS

EXTRACT = TESTS / "golden" / "data.npz"


def load(golden: Path | None) -> dict[str, np.ndarray]:
    """Arrays by name; ``img/base_padded_every4`` is in both."""
    with np.load(golden / "data_ops.npz" if golden else EXTRACT) as file:
        found = {name: file[name] for name in file.files}
    if golden:
        found["img/base_padded_every4"] = found["img/base_padded"][::4, ::4]
    return found
