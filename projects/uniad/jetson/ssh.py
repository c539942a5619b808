"""A device over ssh: run a command, copy a file there or back so that a broken copy goes on where it stopped.

Uses the system's ssh with the person's own configuration and keys, asks no questions, and needs on the other side what every
Linux has: sh, cat, tail, sha256sum, df.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from uniad.errors import UserError
from uniad.files import sha256

LOST = 255  # ssh's own exit status
# Printed before anything of ours: a login's own files may print a greeting first, on the same stream.
BEGIN = "begin-of-uniad-output"
TARGET = re.compile(r"^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(:\d{1,5})?$")
# What ssh says -> what to do about it
REASONS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key changed: was it flashed anew? If so, `ssh-keygen -R {name}`"),
    ("Host key verification failed", "its host key is not known here: connect once by hand, `ssh {name}`, and compare the key"),
    ("Permission denied", "it refused the login: put a key there with `ssh-copy-id {name}`; passwords are not asked for"),
    ("Connection refused", "connection refused: is sshd running there, and is the port right (JETSON=user@host:port)?"),
    ("Could not resolve hostname", "there is no host of that name; check JETSON, or use its address"),
    ("timed out", "no answer: is it on, and in this network?"),
    ("No route to host", "no answer: is it on, and in this network?"),
    ("Network is unreachable", "no answer: is it on, and in this network?"),
)


def _marked(script: str) -> str:
    return f"echo {BEGIN}; {script}"


class ConnectionLost(UserError):
    """The connection ended before the command did."""


@dataclass(frozen=True)
class Remote:
    """``target``: [user@]host[:port]. ``flags``: further words for ssh, such as -i KEY.

    As a context manager it keeps one connection for all its commands.
    """

    target: str
    flags: tuple[str, ...] = ()
    _kept: list = field(default_factory=list, compare=False)  # folder and process of the kept connection

    def __post_init__(self) -> None:
        self._parts()

    def _parts(self) -> re.Match[str]:
        found = TARGET.match(self.target)
        if found is None:
            raise UserError(f"JETSON={self.target}: should be user@host or user@host:port, or bundle")
        return found

    @property
    def _host(self) -> tuple[str, list[str]]:
        found = self._parts()
        user, host, port = found.group(1) or "", found.group(2).strip("[]"), found.group(3)
        return user + host, ["-p", port[1:]] if port else []

    def __enter__(self) -> Remote:
        folder = tempfile.TemporaryDirectory(prefix="ssh-")
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    [*self._ssh(f"ControlPath={folder.name}/c"), "-M", "-N", "--", self._host[0]],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=output,
                )
            except FileNotFoundError:
                raise UserError("ssh was not found: install OpenSSH's client (openssh-client)") from None
            while not os.path.exists(f"{folder.name}/c") and process.poll() is None:
                time.sleep(0.02)
            if process.returncode:
                output.seek(0)
                raise self._failure(subprocess.CompletedProcess([], LOST, b"", output.read()))
        self._kept[:] = [folder, process]
        return self

    def __exit__(self, *_: object) -> None:
        folder, process = self._kept
        self._kept.clear()
        process.terminate()
        process.wait()
        folder.cleanup()

    def _ssh(self, *more: str) -> list[str]:
        options = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4", *more)
        return ["ssh", *(f"-o{o}" for o in options), *self._host[1], *self.flags]

    def command(self, script: str) -> list[str]:
        shared = [f"ControlPath={self._kept[0].name}/c"] if self._kept else []
        return [*self._ssh(*shared), "--", self._host[0], f"sh -c {shlex.quote(script)}"]

    def run(self, script: str, stdin=subprocess.DEVNULL) -> str:
        """What ``script`` prints. Raises UserError when it fails, ConnectionLost when the connection does."""
        done = self._start(script, stdin)
        if done.returncode:
            raise self._failure(done)
        _, begun, output = done.stdout.decode("utf8", "replace").rpartition(f"{BEGIN}\n")
        if not begun:
            raise self._no_shell(done.stdout)
        return output

    def _no_shell(self, output: bytes) -> UserError:
        line = (output.decode("utf8", "replace").strip().splitlines() or ["nothing"])[-1]
        return UserError(f"{self.target}: the login there runs no commands (it says: {line[:80]}); make sh or bash its shell")

    def _numbers(self, script: str, what: str) -> list[int]:
        """The whole numbers that ``script`` prints, one a line or word."""
        output = self.run(script)
        try:
            return [int(word) for word in output.split()]
        except ValueError:
            raise UserError(f"{self.target}: asked for {what}, it says: {' '.join(output.split())[:80]}") from None

    def _start(self, script: str, stdin: int | IO[bytes]) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(self.command(_marked(script)), stdin=stdin, capture_output=True)
        except FileNotFoundError:
            raise UserError("ssh was not found: install OpenSSH's client (openssh-client)") from None

    def _failure(self, done: subprocess.CompletedProcess) -> UserError:
        output = (done.stderr or b"").decode("utf8", "replace")
        if done.returncode == LOST:
            for pattern, advice in REASONS:
                if pattern in output:
                    return ConnectionLost(f"{self.target}: {advice.format(name=self._name())}")
            last = output.strip().splitlines()[-1:] or ["no reason given"]
            return ConnectionLost(f"{self.target}: the connection broke ({last[0].strip()}); run the same again, it goes on")
        if "No space left" in output or "Disk quota" in output:
            return UserError(f"{self.target}: out of disk there; make room, or name another folder with JETSON_DIR")
        last = output.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return UserError(f"{self.target}: {last[0].strip()}")

    def _name(self) -> str:
        """For advice: as known_hosts spells it."""
        host, port = self._host
        host = host.split("@")[-1]
        return f"'[{host}]:{port[1]}'" if port else host

    def free_bytes(self, folder: str) -> int:
        """Free space where ``folder`` is or will be."""
        there = f"d={shlex.quote(folder)}; while [ ! -d \"$d\" ]; do d=$(dirname \"$d\"); done"
        return self._numbers(f"{there}; df -Pk \"$d\" | awk 'END {{print $4}}'", "its free disk")[0] * 1024

    def send(self, source: Path, target: str) -> int:
        """Copy a file there unless it is there; returns the bytes sent. What a broken copy left is continued."""
        digest = sha256(source)
        part = f"{target}.{digest[:16]}.part"
        q, qp = shlex.quote(target), shlex.quote(part)
        there = self.run(
            f"mkdir -p {shlex.quote(os.path.dirname(target) or '.')} && "
            f"if [ -f {q} ]; then sha256sum < {q}; else echo none; fi; if [ -f {qp} ]; then wc -c < {qp}; else echo 0; fi"
        ).split()
        if there[0] == digest:
            return 0
        size, begin = source.stat().st_size, int(there[-1])
        if begin > size:
            begin = 0
        # A broken connection looks like an end of input there: what is short is kept, only what is whole and wrong is removed.
        with open(source, "rb") as handle:
            os.lseek(handle.fileno(), begin, os.SEEK_SET)
            arrived = self.run(
                f"cat {'>>' if begin else '>'} {qp} || exit 1; "
                f"[ $(wc -c < {qp}) -ge {size} ] || exit 0; "
                f"case $(sha256sum < {qp}) in {digest}*) mv -f {qp} {q} && echo whole;; *) rm -f {qp};; esac",
                stdin=handle,
            )
        if arrived.strip() != "whole":
            raise UserError(f"{self.target}:{target}: arrived damaged and was removed; run the same again")
        return size - begin

    def fetch(self, source: str, target: Path) -> None:
        """Copy a file back; the copy takes its place when it is whole."""
        q = shlex.quote(source)
        digest = self.run(f"sha256sum < {q}").split()[0]
        if target.is_file() and sha256(target) == digest:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{digest[:16]}.part")
        begin = part.stat().st_size if part.exists() else 0
        with open(part, "ab") as handle:
            self._receive(f"tail -c +{begin + 1} {q}", handle)
        if sha256(part) != digest:
            part.unlink()
            raise UserError(f"{self.target}:{source}: came back damaged and was removed; run the same again")
        os.replace(part, target)

    def _receive(self, script: str, handle: IO[bytes]) -> None:
        """Write what ``script`` prints to ``handle``."""
        with tempfile.TemporaryFile() as errors:
            command = self.command(_marked(script))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
            assert process.stdout is not None  # a pipe, see above
            try:
                if any(line.rstrip(b"\n") == BEGIN.encode() for line in process.stdout):
                    shutil.copyfileobj(process.stdout, handle)
            except BaseException:
                process.kill()
                raise
            finally:
                process.wait()
            if process.returncode:
                errors.seek(0)
                raise self._failure(subprocess.CompletedProcess([], process.returncode, b"", errors.read()))

    def follow(self, script: str, say) -> int:
        """Run ``script`` and hand on its lines as they come; returns its exit status."""
        process = subprocess.Popen(
            self.command(_marked(script)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None and process.stderr is not None  # pipes, see above
        try:
            begun = False
            for line in process.stdout:
                if begun:
                    say(line.rstrip("\n"))
                begun = begun or line.rstrip("\n") == BEGIN
            error = process.stderr.read()
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode == LOST:
            raise self._failure(subprocess.CompletedProcess([], LOST, b"", error.encode()))
        return process.returncode
