"""A tree and a person who types make in it, on a machine with a real container engine."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Machine:
    root: Path
    engine: str
    settings: tuple[str, ...]
    person: dict[str, Any]

    @property
    def uid(self) -> int:
        return self.person.get("user", os.getuid())

    def owners(self) -> set[int]:
        """Whose files there are in the checkout and beside it."""
        return {path.lstat().st_uid for path in [self.root.parent, *self.root.parent.rglob("*")]}

    def start(self, *goals: str, **more: Any) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | {"HOME": str(self.root.parent)}
        return subprocess.Popen(
            self.command(*goals), cwd=self.root, env={**env, **more.pop("env", {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, **self.person, **more,
        )  # fmt: skip

    def command(self, *goals: str) -> list[str]:
        return ["make", *self.settings, *goals]

    def make(self, *goals: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*goals, stderr=subprocess.PIPE)
        out, error = process.communicate(timeout=1500)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def running(self) -> set[str]:
        """Containers of any image, those of a build too."""
        return set(subprocess.run([self.engine, "ps", "--quiet"], capture_output=True, text=True, check=True).stdout.split())

    def containers(self) -> list[str]:
        command = [self.engine, "ps", "--all", "--format", "{{.ID}} {{.Image}}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [line.split()[0] for line in done.stdout.splitlines() if "uniad_test" in line]
