"""A device on loopback: a real sshd with keys and settings of its own, in a network namespace where one can be had, and a
trtexec that only seems to be one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


class StandIn:
    """A folder with a stand-in trtexec that can be told how to behave."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.path = folder, folder / "trtexec"
        text = (HERE / "stand_in_trtexec.py").read_text()
        self.path.write_text(text.replace("/usr/bin/env python3", sys.executable, 1))
        self.path.chmod(0o755)
        self.behave()

    def behave(self, version: int = 100300, **settings: object) -> None:
        (self.folder / "stand_in.json").write_text(json.dumps({"version": version, **settings}))

    def calls(self) -> list[list[str]]:
        """Arguments of each call since the last time."""
        log = self.folder / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def builds(self) -> list[list[str]]:
        return [words for words in self.calls() if any(w.startswith("--onnx=") for w in words)]


class Device:
    """sshd, and what a test needs to reach it: ``target``, ``flags`` for ssh, ``prefix`` for commands that connect."""

    def __init__(self, root: Path) -> None:
        if not SSHD:
            pytest.skip("sshd is absent: install openssh-server")
        self.root, self.home = root, root / "home"
        self.home.mkdir(parents=True)
        self.trtexec = StandIn(root / "bin")
        self.release = root / "nv_tegra_release"
        self.runs_jetpack("R36 (release), REVISION: 4.0")
        for name in ("host_key", "key"):
            self.new_key(name)
        shutil.copy(root / "key.pub", root / "authorized_keys")
        self._namespace()
        self.port = free_port()
        self.settings = root / "sshd_config"
        self.settings.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {root}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {root}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"SetEnv PATH={self.trtexec.folder}:{Path(sys.executable).parent}:{os.environ['PATH']} "
            f"NV_TEGRA_RELEASE={self.release} OMP_NUM_THREADS=1\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd as root will not start without
        self.daemon: subprocess.Popen | None = None
        self.start()
        self.trust()

    def _namespace(self) -> None:
        self.name, self.prefix = f"uniad-test-{os.getpid()}", []
        made = shutil.which("ip") and subprocess.run(["ip", "netns", "add", self.name], capture_output=True).returncode == 0
        if made:
            prefix = ["ip", "netns", "exec", self.name]
            if subprocess.run([*prefix, "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0:
                self.prefix = prefix
            else:
                subprocess.run(["ip", "netns", "del", self.name], check=False)

    @property
    def target(self) -> str:
        return f"{subprocess.check_output(['id', '-un'], text=True).strip()}@127.0.0.1:{self.port}"

    @property
    def flags(self) -> str:
        known = f"-o UserKnownHostsFile={self.root}/known_hosts -o StrictHostKeyChecking=yes"
        return f"-F /dev/null -i {self.root}/key -o IdentitiesOnly=yes {known}"

    def new_key(self, name: str) -> None:
        for old in self.root.glob(f"{name}*"):
            old.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / name)], check=True)

    def trust(self) -> None:
        key = (self.root / "host_key.pub").read_text()
        (self.root / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    def runs_jetpack(self, line: str) -> None:
        self.release.write_text(f"# {line}, GCID: 1, BOARD: generic, EABI: aarch64\n")

    def start(self) -> None:
        self.daemon = subprocess.Popen(
            [*self.prefix, SSHD, "-D", "-e", "-f", str(self.settings)], stderr=open(self.root / "sshd.log", "ab")
        )
        for _ in range(100):
            if "Server listening" in (self.root / "sshd.log").read_text():
                return
            time.sleep(0.05)
        pytest.skip(f"sshd does not start here: {(self.root / 'sshd.log').read_text()[-300:]}")

    def stop(self) -> None:
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait()
            self.daemon = None
            (self.root / "sshd.log").write_text("")

    def end(self) -> None:
        self.stop()
        if self.prefix:
            subprocess.run(["ip", "netns", "del", self.name], check=False)

    def left(self) -> set[str]:
        """Files on the device."""
        return {str(p.relative_to(self.home)) for p in self.home.rglob("*") if not p.is_dir()}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
