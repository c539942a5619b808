#!/usr/bin/env python3
"""Takes the lock of a place for the shell that opened it, so that two makes do not write there at once. Standard library only.

    exec 8>> FILE && hold.py 8 FILE --holder $PPID --what TEXT [--wait PRODUCT --since TIME]

The lock belongs to the open file: the shell and what it starts keep it, and when all of them have ended, however they did, it is
gone; no file has to be removed. It holds between containers and, where the file system has locks, between machines. FILE says who
holds it. With --wait: until it is free; status 3 then says that another make made PRODUCT since this one looked.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

MADE_MEANWHILE = 3
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def seconds(text: str) -> float:
    """A shell writes the decimal comma of its language."""
    return float(text.replace(",", "."))


def locked(handle: int, *, wait: bool) -> bool:
    """Whether the lock was taken. A file system without locks gives it to everybody, after a note."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in NO_LOCKS:
            print("note: this file system has no locks: see that no other make writes here", file=sys.stderr)
        elif error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        else:
            raise
    return True


def holder(path: Path) -> str:
    """Who holds it, in words. The holder may be about to say so."""
    for _ in range(20):
        try:
            who = json.loads(path.read_text())
            return f"pid {who['pid']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return "another process"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("handle", type=int, help="descriptor that the shell opened FILE at")
    parser.add_argument("file", type=Path)
    parser.add_argument("--holder", type=int, required=True, help="process to name: make")
    parser.add_argument("--what", required=True, help="what is done under the lock")
    parser.add_argument("--wait", type=Path, metavar="PRODUCT")
    parser.add_argument("--since", type=seconds, default=0.0, help="when make looked at PRODUCT")
    args = parser.parse_args()
    if not locked(args.handle, wait=False):
        who = holder(args.file)
        if args.wait is None:
            print(f"error: another make is {args.what} ({who}): wait for it to end, or stop it", file=sys.stderr)
            return 2
        print(f"another make is {args.what} ({who}): waiting for it", file=sys.stderr)
        locked(args.handle, wait=True)
    if args.wait and args.wait.exists() and args.wait.stat().st_mtime >= args.since:
        return MADE_MEANWHILE
    record = {"pid": args.holder, "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "what": args.what}
    os.ftruncate(args.handle, 0)
    os.write(args.handle, (json.dumps(record) + "\n").encode())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
