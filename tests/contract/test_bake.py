"""docker-bake.hcl builds what `make image` builds: the same Dockerfiles, names, arguments and labels."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest

from helpers import REPO
from helpers.upstream_tree import Upstream

BAKE = (REPO / "docker-bake.hcl").read_text()
MK = (REPO / "mk/container.mk").read_text()
IMAGES = {"torch1.12": "linux/amd64", "deploy": "linux/amd64", "jetson": "linux/arm64"}


def block(kind: str, name: str) -> str:
    found = re.search(rf'^{kind} "{re.escape(name)}" \{{\n(.*?)^\}}', BAKE, re.M | re.S)
    assert found, f"docker-bake.hcl has no {kind} {name}"
    return found[1]


def of_make(name: str, image: str) -> str:
    found = re.search(rf"^{name}\.{re.escape(image)} := (.*)$", MK, re.M)
    return found[1] if found else ""


def test_the_graph_has_every_image_of_make_and_no_other() -> None:
    assert re.search(r"^IMAGES := (.*)$", MK, re.M)[1].split() == list(IMAGES)
    targets = set(re.findall(r'^target "(\w+)"', BAKE, re.M)) - {"common"}
    assert targets == {image.replace(".", "_") for image in IMAGES}
    assert set(re.findall(r'"(\w+)"', block("group", "default"))) == targets


@pytest.mark.parametrize("image", IMAGES)
def test_a_target_is_the_image_that_make_builds(image: str) -> None:
    text = block("target", image.replace(".", "_"))
    assert f'context   = ".make/context/{image}"' in text and 'inherits  = ["common"]' in text
    assert f'tags      = ["${{REGISTRY}}{of_make("IMAGE_TAG", image)}"]' in text
    assert f'platforms = ["{IMAGES[image]}"]' in text
    assert ("arm64" in of_make("FLAGS", image)) == ("arm64" in text)
    # each argument comes from the setting that make takes it from, and the Dockerfile knows it
    for argument, name in (("BASE_IMAGE", "BASE"), ("BASE_DIGEST", "DIGEST"), ("TORCH_INDEX_URL", "TORCH_INDEX")):
        setting = of_make(name, image).strip("$()")
        assert re.search(rf"^    {argument} += .*\b{setting}\b", text, re.M), (argument, setting)
        assert f'variable "{setting}" {{ default = "" }}' in BAKE
    dockerfile = (REPO / "docker" / image / "Dockerfile").read_text()
    given = set(re.findall(r"^    (\w+) +=", text + block("target", "common"), re.M))
    assert given <= set(re.findall(r"^ARG (\w+)", dockerfile, re.M))


def test_what_is_set_for_make_reaches_the_graph(upstream: Upstream) -> None:
    """make hands on every variable of the graph that a person may set, and lays out each context."""
    variables = set(re.findall(r'^variable "(\w+)"', BAKE, re.M))
    baked = re.search(r"^BAKED := ((?:.*\\\n)*.*)$", MK, re.M)[1].replace("\\\n", " ").split()
    assert set(baked) == variables - {"REVISION", "REGISTRY"}
    native = ("STACK=native", "RUNTIME=host")
    text = upstream.done("-n", "images", "IMAGES_OF=torch1.12 jetson", "DEPLOY_BASE=debian:bookworm", *native)
    assert "DEPLOY_BASE='debian:bookworm'" in text and re.search(r"docker buildx bake --load .* torch1_12 jetson\n", text, re.S)
    refused = upstream.make("images", "IMAGES_OF=jetsen")
    assert refused.returncode == 2 and "IMAGES_OF=jetsen is unknown: choose among torch1.12, deploy, jetson" in refused.stderr
    upstream.done("contexts", "IMAGES_OF=jetson", *native)
    assert (upstream.root / ".make/context/jetson/Dockerfile").exists()


# Each with a value of its own, so that none can stand for another
SETTINGS = {
    "plain": [],
    "set": [
        *(f"{name}_BASE=registry.example/{name.lower()}:1" for name in ("TORCH112", "DEPLOY", "JETSON")),
        *(f"{name}_DIGEST=sha256:{digit * 64}" for name, digit in (("TORCH112", "1"), ("DEPLOY", "2"), ("JETSON", "3"))),
        "TORCH112_INDEX_URL=none", "DEPLOY_INDEX_URL=https://index.example/deploy", "JETSON_INDEX_URL=https://index.example/jetson",
        "PIP_INDEX_URL=https://index.example/simple", "PIP_TRUSTED_HOST=index.example", "APT_MIRROR=http://apt.example/debian",
        "BUILD_ARGS=MAX_JOBS=2 TORCH_CUDA_ARCH_LIST=8.6",
    ],
}  # fmt: skip
PROXY = "http://proxy.example:3128"


def command_line(text: str, start: str) -> list[str]:
    """The words of the one command of `make -n` in which `start` stands."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if start in line]
    assert len(lines) == 1, lines
    return shlex.split(lines[0])


def built_by_make(words: list[str]) -> dict[str, Any]:
    """What a `docker build` command asks for, in the words of bake's graph."""
    built: dict[str, Any] = {"context": words[-1], "dockerfile": "Dockerfile", "args": {}, "labels": {}}
    built["platforms"] = ["linux/amd64"]
    for option, value in itertools.pairwise(words):
        name, _, given = value.partition("=")
        if option == "--tag":
            built["tags"] = [value]
        elif option == "--platform":
            built["platforms"] = [value]
        elif option == "--label":
            built["labels"][name] = given
        elif option == "--build-arg":
            built["args"][name] = given if "=" in value else PROXY  # as the environment has it
    return {key: value for key, value in built.items() if value}


@pytest.mark.parametrize("kind", SETTINGS)
def test_buildx_itself_reads_the_graph_as_make_builds_it(upstream: Upstream, kind: str) -> None:
    """What `make images` hands to the real buildx, against the command of `make image`: everything that either is told."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "buildx", "version"], capture_output=True).returncode:
        pytest.skip("docker buildx is not installed")
    if subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("no docker engine answers, which older buildx asks before it prints")
    environment = {"https_proxy": PROXY if kind == "set" else "", "PIP_CERT": ""}
    if kind == "plain":
        environment |= {name: "" for name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "APT_MIRROR", "http_proxy", "no_proxy")}
    native = ("-n", "STACK=native", "RUNTIME=docker", *SETTINGS[kind])
    words = command_line(upstream.done(*native, "images", **environment), "docker buildx bake")
    at = words.index("docker")
    given = dict(word.split("=", 1) for word in words[:at])
    environment_of_bake = {**os.environ, **environment, **given}
    command = [docker, *words[at + 1 :], "--print"]
    done = subprocess.run(command, cwd=REPO, env=environment_of_bake, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    targets = json.loads(done.stdout)["target"]
    assert set(targets) == {image.replace(".", "_") for image in IMAGES}
    for image in IMAGES:
        target = targets[image.replace(".", "_")]
        target.pop("output")  # --load
        ours = built_by_make(command_line(upstream.done(*native, "image", f"IMAGE={image}", **environment), "docker build --tag"))
        assert target == ours, image
        assert target["platforms"] == [IMAGES[image]]


def test_an_older_buildx_can_read_the_graph() -> None:
    """Before 0.10 it takes no null for an argument or a label."""
    assert not re.search(r"\bnull\b", re.sub(r"#.*", "", BAKE))
