"""UniAD in modern PyTorch: one pure step for training, evaluation and export."""

import os

__version__ = "0.1.0"

# onnxruntime's wheels for Linux send usage data to their maker from import on (1.29 does, 1.26 did not). Nothing of ours does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
