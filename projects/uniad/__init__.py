"""UniAD in modern PyTorch: one pure step for training, evaluation and export."""

__version__ = "0.1.0"
