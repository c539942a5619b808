"""A bundle on a machine that has sh, python3 and numpy and nothing else of ours: it tells right outputs from wrong ones."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import uniad
from helpers.toy_graph import contract
from uniad.artifacts.card import read_card, sequence_path, write_card
from uniad.errors import UserError
from uniad.files import sha256
from uniad.jetson import bundle as bundles
from uniad.jetson.build import make_bundle
from uniad.jetson.bundle import write_bundle

QUICK = bundles.DeviceOptions(iterations=1, seconds=0)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PATH with sh's few tools and a python3 that finds numpy and no other package. BARE_PYTHON names another interpreter."""
    folder = tmp_path_factory.mktemp("bare")
    tools = folder / "bin"
    tools.mkdir()
    for name in ("sh", "dirname"):
        (tools / name).symlink_to(Path("/bin") / name)
    packages = folder / "packages"
    packages.mkdir()
    for found in Path(np.__file__).parent.parent.glob("numpy*"):
        (packages / found.name).symlink_to(found)
    named = os.environ.get("BARE_PYTHON")
    base = named or f"{sys.base_prefix}/bin/python3"
    path = "" if named else f'PYTHONPATH="$PYTHONPATH:{packages}" '
    (tools / "python3").write_text(f'#!/bin/sh\n{path}exec {base} {"" if named else "-S "}"$@"\n')
    (tools / "python3").chmod(0o755)
    return tools


@pytest.fixture(scope="module")
def unpacked(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(toy, folder / "toy.bundle.tar", QUICK, say=lambda line: None)
    with tarfile.open(folder / "toy.bundle.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder / "toy.bundle"


@pytest.fixture
def outputs(unpacked: Path, stand_in, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Outputs of all frames, made elsewhere."""
    stand_in.behave(**getattr(request, "param", {}))
    done = subprocess.run(
        [sys.executable, "-m", "uniad.jetson.ondevice", "--bundle", unpacked, "--keep", tmp_path / "outputs"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(unpacked / "lib")},
    )  # fmt: skip
    assert (tmp_path / "outputs" / "001").is_dir(), done.stdout + done.stderr
    return tmp_path / "outputs"


def run(bare: Path, unpacked: Path, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", unpacked / "run.sh", *map(str, words)], env={"PATH": str(bare), **env}, capture_output=True, text=True
    )


@pytest.mark.parametrize("outputs", [{"version": 8502}, {"version": 100300}], indirect=True, ids=["text", "bytes"])
def test_right_outputs_pass_and_wrong_ones_fail_with_nothing_but_numpy(bare, unpacked, outputs):
    done = run(bare, unpacked, "compare", outputs)
    assert done.returncode == 0 and done.stdout.startswith("right over 2 frames, 8 tracks"), done.stdout + done.stderr
    written = outputs / "001" / "outputs.json"
    if written.exists():
        text = written.read_text()
        written.write_text(text.replace('"values" : [ ', '"values" : [ nan, ', 1))
        done = run(bare, unpacked, "compare", outputs)
        assert done.returncode == 2 and "values, the card says" in done.stderr
        written.write_text(text.replace("0.", "0.5", 40))
    else:
        (boxes,) = (outputs / "001").glob("boxes.output.*.raw")
        (np.fromfile(boxes, np.float32) + np.float32(0.002)).tofile(boxes)
    done = run(bare, unpacked, "compare", outputs)
    assert done.returncode == 2 and "wrong outputs: frame 1: " in done.stderr, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_bundle_that_was_changed_or_has_no_trtexec_says_so(bare, unpacked):
    done = run(bare, unpacked)
    assert done.returncode == 2 and done.stderr.startswith("error: trtexec was not found"), done.stderr
    lines = unpacked / "lib" / "uniad" / "postprocess" / "map_merge.py"
    text = lines.read_text()
    lines.write_text(text + "\n")
    try:
        assert "changed after the bundle was made" in run(bare, unpacked).stderr
    finally:
        lines.write_text(text)


def test_without_numpy_it_says_what_to_install(bare, unpacked, tmp_path):
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(Path("/bin") / name)
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -S "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    assert run(tmp_path, unpacked).stderr == "error: python3 has no numpy: sudo apt install python3-numpy\n"


def test_an_engine_of_another_release_device_or_graph_is_refused(bare, unpacked, stand_in, tmp_path):
    from uniad.jetson import ondevice

    plan = ondevice.read_plan(unpacked)
    card = ondevice.run(unpacked, plan, say=lambda line: None)
    engine = unpacked / "out" / card["file"]
    ondevice._verify_card(engine, plan)
    stand_in.behave(version=101303)
    with pytest.raises(UserError, match="built for TensorRT 10.3.0, here is 10.13.3"):
        ondevice._verify_card(engine, plan)
    with pytest.raises(UserError, match="another TensorRT or another GPU"):
        ondevice.verify(unpacked, plan, ondevice.trtexec.probe(), engine)
    stand_in.behave()
    sheet = Path(f"{engine}.json")
    text = sheet.read_text()
    sheet.write_text(text.replace(f'"model": "{card["device"]["model"]}"', '"model": "Orin Nano"'))
    with pytest.raises(UserError, match="built on Orin Nano"):
        ondevice._verify_card(engine, plan)
    sheet.write_text(text.replace(card["onnx_sha256"], "0" * 64))
    with pytest.raises(UserError, match="another ONNX"):
        ondevice._verify_card(engine, plan)
    sheet.write_text(text)
    ondevice._verify_card(engine, plan)
    content = engine.read_bytes()
    engine.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="changed after its card was written"):
        ondevice._verify_card(engine, plan)
    engine.write_bytes(content)
    sheet.unlink()
    with pytest.raises(UserError, match="the card of .* is missing"):
        ondevice._verify_card(engine, plan)


def test_a_sequence_that_changed_after_its_card_is_in_no_bundle(own_toy, tmp_path):
    recorded = sequence_path(own_toy)
    write_card(own_toy, read_card(own_toy) | {"sequence_sha256": sha256(recorded)})
    write_bundle(own_toy, tmp_path / "whole")
    recorded.write_bytes(recorded.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"sequence\.npz: changed after its card was written"):
        write_bundle(own_toy, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    recorded.unlink()
    with pytest.raises(UserError, match="no recorded sequence"):
        write_bundle(own_toy, tmp_path / "bundle")


def test_what_travels_needs_only_python_3_8_and_numpy():
    package = Path(uniad.__file__).parent
    travels = {f"uniad.{m.replace('/', '.')}" for m in bundles.MODULES}
    travels |= {module.rpartition(".")[0] for module in travels} - {"uniad"}  # from uniad.engines import jetpack
    for module in bundles.MODULES:
        tree = ast.parse((package / f"{module}.py").read_text(), feature_version=(3, 8))
        typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
        guarded = {id(inner) for node in typing for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) in guarded or not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            for name in names:
                assert name in travels or name == "numpy" or name.split(".")[0] in sys.stdlib_module_names, (module, name)


def test_inputs_that_are_handed_on_are_those_of_the_contract():
    io = contract()
    frame = {p.path for p in io.frame}
    expected = {f"next_{p.name}" for p in io.state if p.path.removeprefix("prev_") in frame and p.path.startswith("prev_")}
    expected |= {f"next_{p.name}" for p in io.state if p.path in ("prev_pos", "prev_angle")}
    assert set(bundles.passed_on(io.to_json())) == expected
