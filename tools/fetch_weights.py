#!/usr/bin/env python3
"""Brings one published file to its place: resumable, complete or not there, its digest recorded and checked ever after.

    fetch_weights.py --out ckpts/NAME --url URL [--url MIRROR ...] [--have FOLDER] [--sha256 HEX]

Standard library only. A file that is there is checked against NAME.sha256, which the first run writes. --have is a folder of
files that you already have. Google Drive addresses go through gdown (pip install gdown).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from _refusal import Refused, ended

BLOCK = 1 << 20
TRIES = 3


class CutOff(Refused):
    """The connection ended early; what came is kept."""


def digest(path: Path) -> str:
    value = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(BLOCK):
            value.update(block)
    return value.hexdigest()


def note_of(out: Path) -> Path:
    return out.with_name(out.name + ".sha256")


def recorded_in(note: Path) -> str | None:
    """The digest that was recorded when the file came first; None where there is none."""
    words = note.read_text(errors="replace").split() if note.exists() else []
    return words[0] if words else None


def check(out: Path, expected: str | None) -> None:
    note = note_of(out)
    recorded = recorded_in(note)
    found = digest(out)
    for what, value in (("the published file", expected), ("what was recorded when it came", recorded)):
        if value and value != found:
            raise Refused(f"{out} is not {what} (sha256 {found[:12]}, not {value[:12]}): remove it and {note}, then run again")
    if not recorded:
        note.write_text(f"{found}  {out.name}\n")
        print(f"{out}: sha256 {found} recorded")


def plausible(path: Path, name: str) -> None:
    with path.open("rb") as handle:
        start = handle.read(64)
    if start.lstrip()[:1] == b"<":
        raise Refused(f"what came for {name} is a web page, not the file: log in with a browser and use WEIGHTS_DIR")
    if name.endswith((".pth", ".pkl")) and start[:2] != b"PK" and start[:1] != b"\x80":
        raise Refused(f"what came for {name} is neither a zip nor a pickle: the address is wrong, or it was changed on its way")


def from_drive(url: str, partial: Path) -> None:
    try:
        done = subprocess.run([sys.executable, "-m", "gdown", "--continue", "--fuzzy", "-O", str(partial), url], check=False)
    except OSError as error:
        raise Refused(f"gdown cannot be started: {error}") from None
    if done.returncode:
        raise Refused("gdown could not fetch it (pip install gdown where it is absent)")


def state_of(path: Path) -> dict[str, Any]:
    """What an earlier try noted of a part that came; empty where that is absent or damaged."""
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) and isinstance(known.get("etag", ""), (str, type(None))) else {}


def from_web(url: str, partial: Path) -> None:
    state = partial.with_name(partial.name + ".json")
    known = state_of(state)
    have = partial.stat().st_size if partial.exists() and known.get("url") == url else 0
    request = urllib.request.Request(url, headers={"User-Agent": "uniad-make"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if known.get("etag"):
            request.add_header("If-Range", known["etag"])  # another version on the server starts anew
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            if have == known.get("total"):
                return
            partial.unlink()
        raise Refused(f"{url} answers {error.code} {error.reason}") from None
    with answer:
        resumed = answer.status == 206
        rest = answer.headers.get("Content-Length")
        total = (have if resumed else 0) + int(rest) if rest else None
        state.write_text(json.dumps({"url": url, "etag": answer.headers.get("ETag"), "total": total}))
        if resumed:
            print(f"going on at {have} of {total} bytes")
        with partial.open("ab" if resumed else "wb") as handle:
            try:
                while block := answer.read(BLOCK):
                    handle.write(block)
            except OSError as error:
                if error.errno == 28:
                    raise Refused(f"the disk is full: {partial}") from None
    size = partial.stat().st_size
    if total is not None and size != total:
        raise CutOff(f"the download was cut off at {size} of {total} bytes: run again to go on from there")


def fetch(out: Path, urls: list[str], have: Path | None, expected: str | None) -> None:
    if have is not None and not have.is_dir():
        raise Refused(f"{have} is no folder: WEIGHTS_DIR (--have) names one of files that you have")
    if out.exists():
        check(out, expected)
        print(f"{out}: is there")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    if have and (have / out.name).is_file():
        shutil.copyfile(have / out.name, partial)
        source = str(have / out.name)
    else:
        if have:
            print(f"{have} has no {out.name}: downloading")
        reasons = []
        for url in urls:
            print(f"{out.name} from {url}", flush=True)
            try:
                for last in [False] * (TRIES - 1) + [True]:
                    try:
                        (from_drive if "drive.google." in urllib.parse.urlsplit(url).netloc else from_web)(url, partial)
                        break
                    except CutOff:
                        if last:
                            raise
                source = url
                break
            except Refused as error:
                reasons.append(str(error))
            # An address that is none is a ValueError or of http.client's own kind.
            except (OSError, ValueError, http.client.HTTPException) as error:
                reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
        else:
            hint = f"put {out.name} into a folder and say WEIGHTS_DIR=folder, or name another address: WEIGHTS_URL=..."
            raise Refused(f"{out} is missing and could not be fetched: {'; '.join(reasons) or 'no address is known'}; {hint}")
    try:
        plausible(partial, out.name)
        found = digest(partial)
        if expected and found != expected:
            raise Refused(f"{source} has sha256 {found[:12]}, not the published {expected[:12]}: tampered with, or replaced")
        note = note_of(out)
        if recorded_in(note) not in (None, found):
            raise Refused(f"{source} is not the file that {note} recorded earlier: remove that note if the new one is right")
    except Refused:
        partial.unlink()
        raise
    finally:
        partial.with_name(partial.name + ".json").unlink(missing_ok=True)
    note_of(out).write_text(f"{found}  {out.name}\n")
    os.replace(partial, out)
    print(f"{out}: {out.stat().st_size} bytes, sha256 {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--url", action="append", default=[])
    parser.add_argument("--have", type=Path)
    parser.add_argument("--sha256")
    args = parser.parse_args()
    try:
        fetch(args.out, args.url, args.have, args.sha256)
    except OSError as error:
        raise Refused(f"{error.filename or args.out}: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.exit(ended(main))
