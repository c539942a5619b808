"""Every block of commands on a page is run, as a reader would paste it: by the real make, with stand-ins for what takes hours.

Behind make stand the stub of ``helpers.make_tree`` for the environment's Python, and stand-ins for a container engine and
upstream's repository. Whether a command finds its parts and files is what is seen here. That the options of a tool are its own is
the business of tests/make/test_commands.py; what the tools make, of their own tests.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from helpers import REPO
from helpers.upstream_tree import Upstream

pytestmark = [pytest.mark.slow, pytest.mark.long]

PAGES = [REPO / "README.md", REPO / "benchmarks/README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LANGUAGES = {"bash", "console", "python", "text", "diff", "json", "yaml", "xml", "make", "toml"}
# What cannot run here, by the first words of its line, and why
ELSEWHERE = {
    "make test": "is what runs this test",
    "make lint": "CI runs it beside the tests",
    "make env lint": "the same",
    "make docs": "builds the site: its own packages",
    "make types": "CI runs it as a part of lint",
    "make doctor": "looks at the machine itself: tests/make/test_environment.py",
    "make weights": "fetches published files: tests/contract/test_weights.py",
    "make train-stage0 VARIANT=full DATASET=nuscenes": "fetches published weights",
    "debootstrap": "needs root and a mirror",
    "tar -C root": "packs what debootstrap made",
    "docker run -it": "is a shell for a person",
    "pip install": "needs an index",
    "drive/bin/pip": "needs an index",
    ".venv/bin/python -m pytest": "is a test",
    ".venv/bin/python -m pip": "builds the wheel: tests/contract/test_packages.py",
    ".venv/bin/rerun": "opens a window",
}
# A word of ours that the block's reader has: this machine has not.
SOMEBODYS = {"/where/nuscenes/is": "elsewhere/nuscenes", "/from/somebody": "elsewhere", "/path/to/a/clone/of/UniAD": "{url}"}
SETS = r"""\w+=("[^"]*"|'[^']*'|[^\s"']*)\s*(;|#|$)|\w+\(\)"""  # a line that sets a variable or makes a function
# No Jetson and no other machine answers, and this one has no eight GPUs: what make would do
PLANNED = re.compile(r"\bmake\b(?=.*(?:JETSON=user@host|NNODES=[2-9]|GPUS=[1-9](?!.*torch1)))")


def blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        if page.is_file():
            bodies = [body for language, body in FENCE.findall(page.read_text()) if language == "bash"]
            known = ""  # variables and functions that earlier blocks of the page have set
            for number, body in enumerate(bodies, 1):
                yield f"{page.relative_to(REPO)}-{number}", known + body
                known += "".join(f"{line}\n" for line in logical_lines(body) if re.match(SETS, line))


def logical_lines(body: str) -> list[str]:
    return [line.strip() for line in re.sub(r"\\\n", " ", body).splitlines() if line.strip() and not line.startswith("#")]


def script(body: str, url: str) -> str:
    """The block as this tree can run it; empty where nothing of it can."""
    lines = []
    for line in logical_lines(body):
        bare = re.sub(r"^(?:[A-Z_0-9]+=\S* +)*", "", line)
        if any(bare.startswith(words) for words in ELSEWHERE):
            continue
        for theirs, ours in SOMEBODYS.items():
            line = line.replace(theirs, ours.format(url=url))
        line = PLANNED.sub("make -n", line)
        if re.search(r"\bNNODES=\d.*tools/\w+\.sh", line):
            continue  # waits for the other machines
        line = re.sub(r"(?<![\w/.{])(?:python3? )?(?:\./)?((?:tools|benchmarks)/\w+\.py)", r"stub \1", line)
        lines.append(line)
    return "\n".join(lines)


@pytest.fixture
def reader(upstream: Upstream) -> Upstream:
    """The tree of somebody who follows the pages: nuScenes, checkpoints of others, and recordings lie where the pages say."""
    bin_dir = upstream.root / "bin"
    stub = '#!/usr/bin/env bash\nexec .venv/bin/python "$@"\n'
    more = '  postprocess*) echo "901 queries" > "$3" ;;\n  infer) mkdir -p "$out"; echo "{}" > "$out/summary.json" ;;\n'
    more += '  make_synthetic_bench2drive) infos=${line#*--infos] [}; infos=${infos%%]*}; mkdir -p "$out" "$infos"\n'
    more += '    touch "$out/synthetic.json" "$infos"/b2d_infos_{train,val}.pkl ;;\n'
    python = upstream.root / ".venv/bin/python"
    python.write_text(python.read_text().replace("  create_data)", f"{more}  create_data)"))
    for name in ("stub", "python", "uniad"):
        (bin_dir / name).write_text(stub)
        (bin_dir / name).chmod(0o755)
    (upstream.root / "ckpts").mkdir(exist_ok=True)
    theirs = upstream.root / "elsewhere"
    theirs.mkdir()
    for name in ("full_e2e_ep20.pth", "tiny_imgx0.25_e2e.pth", "tiny_e2e.pth", "tiny.pth"):
        (theirs / name).write_text(f"of somebody: {name}")
        (upstream.root / name).write_text(f"of somebody: {name}")
    (upstream.root / "ckpts/resnet101-63fe2227.pth").write_text("torchvision's")
    shipped = upstream.root / "weights/nano"
    shipped.mkdir(parents=True, exist_ok=True)
    for name in ("nano_e2e.pth", "motion_anchor_infos_mode6.pkl"):
        (shipped / name).write_text(f"stands for {name}")
    configs = upstream.root / "projects/configs/stage2_e2e"
    (configs / "theirs.py").write_text((configs / "tiny_imgx0.25_e2e.py").read_text())
    os.rename(upstream.root / "data/nuscenes", theirs / "nuscenes")
    for name in ("v1.0-trainval", "samples", "maps", "can_bus"):
        (upstream.root / "recordings" / name).mkdir(parents=True)
        (upstream.root / "recordings" / name / "sample.json").write_text("[]")
    return upstream


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in blocks()])
def test_a_block_runs_as_it_stands(reader: Upstream, body: str):
    text = script(body, dict(s.split("=", 1) for s in reader.settings)["UNIAD_GIT_URL"])
    if not text.strip():
        return  # each line of it is one of ELSEWHERE
    if "ln -s" not in text:
        (reader.root / "data/nuscenes").symlink_to("../elsewhere/nuscenes")
    for name in re.findall(r"\b(?:CKPT|CONFIG|BAG)=(\w[\w.-]*)(?![\w/.-])", text):  # the reader's own file, where the reader is
        (reader.root / name).write_text(f"of somebody: {name}")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "UNIAD")) and k not in ("VARIANT", "PYTHON")}
    env |= dict(s.split("=", 1) for s in reader.settings) | dict(reader.environment)
    if "torch1.12" not in body:  # a machine without a container engine
        for engine in ("docker", "podman"):
            (reader.root / "bin" / engine).unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=reader.root, env=env, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n---\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"


def test_every_block_says_what_it_is():
    """A shell's commands, a transcript, or a text: a block without a language would be run by nobody."""
    unknown = [
        f"{page.name}: {body.splitlines()[0][:60]}"
        for page in PAGES if page.is_file()
        for language, body in FENCE.findall(page.read_text()) if language not in LANGUAGES
    ]  # fmt: skip
    assert not unknown, f"needed is one of {sorted(LANGUAGES)}: {unknown}"


def test_what_is_not_run_stands_on_some_page():
    said = "\n".join("\n".join(logical_lines(body)) for _, body in blocks())
    assert not [words for words in ELSEWHERE if words not in said]


def test_a_block_that_is_wrong_is_found(reader: Upstream):
    with pytest.raises(AssertionError, match="trian"):
        test_a_block_runs_as_it_stands(reader, "make trian VARIANT=tiny\n")
    (reader.root / "data/nuscenes").unlink()
    with pytest.raises(AssertionError, match="nothing.pth"):
        test_a_block_runs_as_it_stands(reader, "cp /from/somebody/nothing.pth ckpts/\n")
