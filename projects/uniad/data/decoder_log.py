"""What the image decoder says of a file: it reads damaged data, fills the rest with something, and complains on stderr alone.

libjpeg and libpng print to file descriptor 2, without the name of the file, and cv2 returns the image as if it were good.
So descriptor 2 leads to a file in memory while images are decoded; what others wrote meanwhile goes on to the real one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

_DECODERS = ("Corrupt JPEG data", "Premature end of JPEG", "Unsupported marker", "Invalid JPEG", "Bogus", "libpng ", "JPEG")
# The descriptor is the process's: one at a time.
_lock = threading.Lock()
_owner = os.getpid()


@contextmanager
def decoder_messages() -> Generator[list[str], None, None]:
    """Collects the decoder's lines while the block runs; the list is filled at its end."""
    global _lock, _owner
    if _owner != os.getpid():  # forked, perhaps while another thread held it
        _lock, _owner = threading.Lock(), os.getpid()
    messages: list[str] = []
    with _lock:
        try:
            real = os.dup(2)
        except OSError:  # a daemon without stderr
            yield messages
            return
        memory = os.memfd_create("decoder")
        try:
            os.dup2(memory, 2)
            yield messages
        finally:
            os.dup2(real, 2)
            size = os.lseek(memory, 0, os.SEEK_END)
            content = os.pread(memory, size, 0) if size else b""
            os.close(memory)
            os.close(real)
            lines = content.decode(errors="replace").splitlines(keepends=True)
            messages += [line.strip() for line in lines if line.startswith(_DECODERS)]
            others = "".join(line for line in lines if not line.startswith(_DECODERS))
            if others:
                os.write(2, others.encode())
