"""Randomness that a position decides, not a history.

Every iteration seeds all generators from (seed, iteration, rank), and every training sample from (seed, epoch, index). What is
drawn at iteration 1000 is therefore the same whether the run came there in one go or after ten restarts, with any number of
data-loader workers; a checkpoint needs to hold the seed and the position only.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def mix(*parts: int | str) -> int:
    """A well-spread 63-bit seed from any number of parts."""
    text = "/".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seeds Python's, numpy's and torch's global generators (CPU and every GPU). Does not wait for a GPU."""
    seed_host(seed)
    torch.manual_seed(seed)


def seed_host(seed: int) -> None:
    """The same without GPUs, for a process that has none: torch formats tracebacks for each that it has not opened yet."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_iteration(seed: int, iteration: int, rank: int, generator: torch.Generator) -> None:
    """Seeds the global generators and ``generator`` for one training iteration of one process."""
    value = mix("iteration", seed, iteration, rank)
    seed_all(value)
    generator.manual_seed(value)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of the augmentations of one training sample in one epoch."""
    return mix("sample", seed, epoch, index)
