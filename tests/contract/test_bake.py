"""docker-bake.hcl builds what `make image` builds: the same Dockerfiles, names, arguments and labels."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

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
    assert "DEPLOY_BASE='debian:bookworm'" in text and re.search(r"docker buildx bake --load +torch1_12 jetson", text)
    refused = upstream.make("images", "IMAGES_OF=jetsen")
    assert refused.returncode == 2 and "IMAGES_OF=jetsen is unknown: choose among torch1.12, deploy, jetson" in refused.stderr
    upstream.done("contexts", "IMAGES_OF=jetson", *native)
    assert (upstream.root / ".make/context/jetson/Dockerfile").exists()


def test_buildx_itself_reads_the_graph(tmp_path: Path) -> None:
    if subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode:
        pytest.skip("docker buildx is not installed")
    done = subprocess.run(["docker", "buildx", "bake", "--print"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
