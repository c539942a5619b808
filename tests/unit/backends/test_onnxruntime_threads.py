"""onnxruntime shares the cores with other work as PyTorch does: by OMP_NUM_THREADS, where nobody says a number of threads."""

from __future__ import annotations

import pytest

from uniad.backends.onnxruntime import threads_asked


@pytest.mark.parametrize("said, threads", [(None, 0), ("", 0), ("3", 3), ("2,1", 2), ("many", 0)])
def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch, said: str | None, threads: int) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_asked() == threads
