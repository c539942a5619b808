"""The inside of a container, for the stand-in engine: the command runs for real on the mounted folders.

    container.py STATE run FLAG... IMAGE COMMAND...

The image's Python is a stand-in too: `-m torch.distributed.launch` starts one process for all, with the ranks that the real one
would hand out; `setup.py build` leaves a note; tools of the deployment tree go to that tree's stand-in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PYTHON = """#!/usr/bin/env bash
exec "{python}" "{here}" --python "$@"
"""


def image_python(words: list[str]) -> int:
    """What `python` in the image does."""
    if words[:2] == ["-m", "torch.distributed.launch"]:
        options = dict(word.removeprefix("--").split("=", 1) for word in words[2:] if word.startswith("--") and "=" in word)
        script = next(i for i, word in enumerate(words) if i > 1 and not word.startswith("-"))
        names = {"nproc_per_node", "nnodes", "node_rank", "master_addr", "master_port"}
        head = {word.removeprefix("--").split("=")[0] for word in words[2:script]}
        if head - names:
            print(f"launch.py: error: unrecognized arguments: {head - names}", file=sys.stderr)
            return 2
        each, nodes = int(options["nproc_per_node"]), int(options.get("nnodes", 1))
        ranks = {"WORLD_SIZE": str(each * nodes), "RANK": str(int(options.get("node_rank", 0)) * each), "LOCAL_RANK": "0"}
        print(f"launch: {ranks['WORLD_SIZE']} processes, port {options['master_port']}", flush=True)
        command = [sys.executable, words[script], "--local_rank=0", *words[script + 1 :]]
        return subprocess.run(command, env={**os.environ, **ranks}, check=False).returncode
    if words[0] == "setup.py":
        Path("build").mkdir(exist_ok=True)
        return 0
    if words[0].startswith("tools/"):  # of the deployment tree, which is where a container runs it
        return subprocess.run([".venv/bin/python", *words], check=False).returncode
    return subprocess.run([sys.executable, *words], check=False).returncode


def run(state: Path, words: list[str]) -> int:
    images = (state / "images").read_text().split()
    at = next(i for i, word in enumerate(words) if word in images)
    flags, command = words[:at], words[at + 1 :]
    pairs = list(zip(flags, [*flags[1:], ""]))
    mounts = dict(reversed(value.removesuffix(":ro").split(":")) for flag, value in pairs if flag == "--volume")
    env = dict(value.split("=", 1) for flag, value in pairs if flag == "--env" and "=" in value)

    def host(path: str) -> Path:
        inside = max((m for m in mounts if path == m or path.startswith(f"{m}/")), key=len, default="")
        if not inside:
            raise SystemExit(f"the container has no {path}")
        return Path(mounts[inside]) / path.removeprefix(inside).lstrip("/")

    if command[0] == "SLEEP":
        time.sleep(60)
    if command[0] == "/bin/bash":
        return 0
    programs = state / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("python", "python3"):
        (programs / name).write_text(PYTHON.format(python=sys.executable, here=__file__))
        (programs / name).chmod(0o755)
    # A mount below a mount hides the empty folder that is there.
    linked = []
    for inside, place in mounts.items():
        folder, name = inside.rsplit("/", 1)
        hidden = host(folder) / name if any(inside.startswith(f"{mount}/") for mount in mounts) else None
        if hidden and hidden.is_dir() and not hidden.is_symlink() and not any(hidden.iterdir()):
            hidden.rmdir()
            hidden.symlink_to(place)
            linked.append(hidden)
    asked = {key: os.environ[key] for key in os.environ if key.startswith("STAND_IN_")}
    path = f"{programs}:{os.environ['PATH']}"
    if "PYTHONPATH" in env:
        env["PYTHONPATH"] = str(host(env["PYTHONPATH"]))
    workdir = host(next(value for flag, value in pairs if flag == "--workdir"))
    try:
        return subprocess.run(command, cwd=workdir, env={"PATH": path, **asked, **env}, check=False).returncode
    finally:
        for folder in linked:
            folder.unlink()
            folder.mkdir()


if __name__ == "__main__":
    if sys.argv[1] == "--python":
        sys.exit(image_python(sys.argv[2:]))
    sys.exit(run(Path(sys.argv[1]), sys.argv[3:]))
