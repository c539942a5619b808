"""Images: pins that agree, contexts cut into layers, builds only when something changed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from helpers import REPO
from helpers.upstream_tree import Upstream

IMAGES = ("torch1.12", "deploy", "jetson")


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^\s*\"?([A-Za-z0-9_.-]+)==([^\s\",]+)", text, re.M)
    return {name.lower().replace("_", "-"): version for name, version in found}


def stage(image: str, out: Path, *more: str) -> None:
    subprocess.run(["bash", REPO / "mk/lib/stage_context.sh", REPO / "docker" / image, out, *more], check=True)


def test_the_deployment_image_has_the_pins_of_the_native_stack():
    text = re.sub(r"^mutation = .*$", "", (REPO / "pyproject.toml").read_text(), flags=re.M)  # an extra that no image has
    project = pins(text)
    image = pins((REPO / "docker/deploy/requirements.txt").read_text())
    assert {name: image.get(name) for name in project} == project


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_is_pinned_once_and_in_a_layer_that_the_image_installs(image: str, tmp_path: Path):
    text = (REPO / "docker" / image / "requirements.txt").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+]+", line) for line in lines)
    names = [line.split("==")[0].lower() for line in lines]
    assert len(set(names)) == len(names)
    stage(image, tmp_path / "context")
    layers = {p.name for p in (tmp_path / "context/layers").iterdir()}
    dockerfile = (REPO / "docker" / image / "Dockerfile").read_text()
    assert layers == set(re.findall(r"COPY layers/(\S+)", dockerfile))
    assert sum(len(pins((tmp_path / "context/layers" / name).read_text())) for name in layers) == len(lines)
    for source in re.findall(r"^COPY ((?!--from).*) \S+$", dockerfile, re.M):
        for name in source.split():
            assert (tmp_path / "context" / name).exists(), name


@pytest.mark.parametrize("image", IMAGES)
def test_everything_from_outside_is_an_argument_and_enter_decides_who_runs(image: str):
    text = (REPO / "docker" / image / "Dockerfile").read_text()
    last = text[text.rindex("\nFROM "):]
    assert re.search(r"^USER root$", last, re.M) and re.search(r'^ENTRYPOINT \["sh", "/opt/setup/enter.sh"\]$', last, re.M)
    for name in ("BASE_IMAGE", "BASE_DIGEST", "PIP_INDEX_URL", "PIP_TRUSTED_HOST", "APT_MIRROR", "TORCH_INDEX_URL"):
        assert re.search(rf"^ARG {name}\b", text, re.M), name
    for label in ("title", "description", "licenses", "base.name", "base.digest"):
        assert f"org.opencontainers.image.{label}=" in last
    # Engines let proxies through unnamed; a declared one would be kept in the image's history.
    assert "proxy" not in text


def test_wheels_at_hand_are_taken_only_where_their_version_is_pinned(tmp_path: Path):
    have = tmp_path / "have"
    have.mkdir()
    for name in ("mmcv_full-1.5.0-cp38-cp38-linux_x86_64.whl", "torch-1.12.1+cu116-cp38-cp38-linux_x86_64.whl",
                 "torch-2.0.0-cp38-cp38-linux_x86_64.whl", "torchx-1.12.1-py3-none-any.whl"):  # fmt: skip
        (have / name).write_text("wheel")
    ca = tmp_path / "company.pem"
    ca.write_text("certificate")
    stage("torch1.12", tmp_path / "context", str(ca), str(have))
    wheels = {p.name for p in (tmp_path / "context/extra/wheels").glob("*.whl")}
    assert wheels == {"mmcv_full-1.5.0-cp38-cp38-linux_x86_64.whl", "torch-1.12.1+cu116-cp38-cp38-linux_x86_64.whl"}
    assert (tmp_path / "context/extra/ca.crt").read_text() == "certificate"


def test_absent_certificates_are_one_line(tmp_path: Path):
    command = ["bash", REPO / "mk/lib/stage_context.sh", REPO / "docker/deploy", tmp_path / "c", "/no/such.pem"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: CA_CERTS=/no/such.pem is not there: give a file of certificates in PEM form\n"
    assert not (tmp_path / "c").exists()


def test_an_image_is_built_again_only_when_its_inputs_changed_or_it_is_gone(upstream: Upstream):
    def builds(*more: str) -> int:
        upstream.done("image", "STACK=torch1.12", "RUNTIME=docker", *more)
        return sum(line[0] == "build" for line in upstream.engine_log())

    assert builds() == 1
    assert builds() == 0
    requirements = upstream.root / "docker/torch1.12/requirements.txt"
    requirements.touch()
    assert builds() == 0, "a fresh checkout touches files without changing them"
    requirements.write_text(requirements.read_text().replace("tqdm==4.64.0", "tqdm==4.65.0"))
    assert builds() == 1
    assert builds("TORCH112_BASE=debian:bullseye") == 1
    (upstream.root / "engine/images").unlink()  # `docker system prune`
    assert builds("TORCH112_BASE=debian:bullseye") == 1


def test_build_arguments_reach_the_engine(upstream: Upstream):
    text = upstream.done(
        "-n", "image", "STACK=torch1.12", "RUNTIME=docker", "TORCH112_BASE=debian:bullseye", "TORCH112_INDEX_URL=none",
        "PIP_INDEX_URL=https://index.example/simple", "PIP_TRUSTED_HOST=index.example", "APT_MIRROR=http://apt.example/debian",
        "https_proxy=http://proxy.example:3128", "BUILD_ARGS=MAX_JOBS=2", "BUILD_FLAGS=--network host", PIP_CERT="",
    ).replace("'", "")  # fmt: skip
    for part in ("BASE_IMAGE=debian:bullseye", "TORCH_INDEX_URL= ", "PIP_INDEX_URL=https://index.example/simple", "MAX_JOBS=2",
                 "PIP_TRUSTED_HOST=index.example", "APT_MIRROR=http://apt.example/debian", "https_proxy "):  # fmt: skip
        assert f"--build-arg {part}" in text
    assert "--network host .make/context/torch1.12" in text
    assert "proxy.example" not in text, "a proxy's address (and password) stays in the environment"
    plain = upstream.done("-n", "image", "STACK=torch1.12", "RUNTIME=docker", PIP_INDEX_URL="", PIP_CERT="", https_proxy="")
    assert "--build-arg" not in plain, "the Dockerfile's own defaults are public ones"


@pytest.mark.parametrize("image", IMAGES)
def test_downloads_are_cached_where_the_builder_can_and_the_build_is_the_same_elsewhere(image: str, tmp_path: Path):
    text = (REPO / "docker" / image / "Dockerfile").read_text()
    for command in re.findall(r"^RUN .*?[^\\]$", text, re.M | re.S):
        assert ("--mount=type=cache" in command) == ("packages.sh" in command or "system.sh" in command), command
    stage(image, tmp_path / "with")
    assert (tmp_path / "with/Dockerfile").read_text() == text
    command = ["bash", REPO / "mk/lib/stage_context.sh", "--no-cache-mounts", REPO / "docker" / image, tmp_path / "without"]
    subprocess.run(command, check=True)
    plain = (tmp_path / "without/Dockerfile").read_text()
    assert "--mount" not in plain
    assert plain == re.sub(r"--mount=\S+ ", "", text)


def test_the_builder_is_the_one_that_the_engine_has(upstream: Upstream):
    def line(**environment: str) -> str:
        text = upstream.done("-n", "image", "STACK=torch1.12", "RUNTIME=docker", **environment)
        return next(line for line in text.splitlines() if " build --tag " in line)

    (upstream.root / "engine/info.json").write_text('{"ServerVersion":"20.10.24","SecurityOptions":["name=seccomp"]}')
    assert line(ENGINE_VERSION="20.10.24+dfsg1").startswith("DOCKER_BUILDKIT=1 docker build ")
    assert line(ENGINE_VERSION="28.2.2").startswith("DOCKER_BUILDKIT=0 docker build "), "BuildKit without its plugin"
    assert line(ENGINE_VERSION="20.10.24", DOCKER_BUILDKIT="0").startswith("DOCKER_BUILDKIT=0 docker build ")
    (upstream.root / "engine/info.json").write_text('{"host":{"buildahVersion":"1.28.2"}}')
    assert line().startswith("docker build "), "docker is podman's other name here"


def test_a_base_image_can_be_held_to_a_digest(upstream: Upstream):
    digest = f"sha256:{'0123456789abcdef' * 4}"
    text = upstream.done("-n", "image", "STACK=torch1.12", "RUNTIME=docker", f"TORCH112_DIGEST={digest}").replace("'", "")
    assert f"--build-arg BASE_DIGEST={digest} " in text
    for wrong in ("sha256:12", digest.upper(), digest[7:], f"{digest}0"):
        done = upstream.make("-n", "image", "STACK=torch1.12", "RUNTIME=docker", f"TORCH112_DIGEST={wrong}")
        assert done.returncode != 0 and f"TORCH112_DIGEST={wrong} is no digest: " in done.stderr, done.stderr


def test_the_jetson_image_is_built_for_arm(upstream: Upstream):
    text = upstream.done("-n", "image", "IMAGE=jetson", "RUNTIME=docker", "STACK=native")
    assert "--tag uniad_jetson" in text and "--platform linux/arm64" in text
