"""Buffers that a process frees are its next ones, where it asks for that: the kernel need not clear them again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helpers.command_line import ENV

PROGRAM = """
import resource, sys
from uniad.processes import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
buffer = b"x" * (64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    del buffer
    buffer = b"x" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    words = [sys.executable, "-c", PROGRAM, word]
    return int(subprocess.run(words, env=ENV, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_buffers_are_used_again():
    handed_back, kept = faults("not"), faults("keep")
    assert kept < handed_back / 8, "with each page cleared once, not nine times"
