"""`make JETSON=user@host jetson-engine` against a real sshd: builds, verifies, rejects, goes on, and tidies up."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from helpers import REPO
from helpers.waiting import eventually

ENGINE = "engines/jetson/uniad_nano_track_map.fp32.engine"
KEPT = {f"engines/uniad_nano_track_map.fp32.{end}" for end in ("engine", "engine.json")} | {"engines/timing.cache"}


def error_of(result: tuple[int, str, str]) -> str:
    code, out, err = result
    output = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(output) == 1 and "Traceback" not in err, (code, out, err)
    return output[0]


def test_builds_verifies_and_times_there_and_brings_engine_and_card_back(tree, device):
    code, out, err = tree.build()
    assert code == 0, out + err
    card = json.loads((tree.root / f"{ENGINE}.json").read_text())
    assert card["builder"] == "trtexec" and card["builder_version"] == "10.3.0" and card["precision"] == "fp32"
    assert card["device"]["jetpack"] == "6.1/6.2" and card["verified"]["ok"] and card["verified"]["frames"] == 2
    assert card["latency"]["median_ms"] == 40.9 and card["latency"]["p99_ms"] == 43.7
    assert "--noTF32" in card["command"]
    # What it leaves there it has announced, and nothing else.
    assert device.left() == KEPT
    assert f"will stay in {device.home}/engines" in out and "removed when it is done" in out
    assert "power mode" in out and "left as they are" in out
    # A second time there is nothing to do; another option builds anew.
    device.trtexec.calls()
    assert tree.build()[0] == 0 and device.trtexec.calls() == []
    assert tree.build("PRECISION=fp16")[0] == 0
    (words,) = device.trtexec.builds()
    assert "--stronglyTyped" in words and "--noTF32" not in words and "--fp16" not in words
    card = json.loads((tree.root / ENGINE.replace("fp32", "fp16")).with_suffix(".engine.json").read_text())
    assert card["precision_of_groups"] == {"glue": "fp32", "img_neck": "fp16"}


def test_an_engine_with_wrong_numbers_is_rejected_there(tree, device):
    device.trtexec.behave(wrong=True)
    output = error_of(tree.build())
    assert "wrong on this device" in output and "boxes differs by 0.01" in output and "kept for a look" in output
    assert not (tree.root / ENGINE).exists()
    assert not any(name.endswith(".engine") for name in device.left())
    device.trtexec.behave()
    assert tree.build()[0] == 0 and device.left() == KEPT


def test_a_connection_that_breaks_while_copying_is_continued(tree, device):
    proxy = f"-o 'ProxyCommand={sys.executable} {REPO}/tests/helpers/dying_proxy.py %h %p 600000'"
    output = error_of(tree.build(flags=proxy))
    assert "run the same again" in output
    (part,) = [p for p in device.home.rglob("*.part")]
    begun = part.stat().st_size
    assert begun > 50_000
    code, out, err = tree.build()
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.endswith("MiB sent"))
    sent, whole = float(line.split()[-5]), float(line.split()[-3])
    assert sent < whole - 0.9 * begun / 2**20 and device.left() == KEPT


@pytest.mark.slow
def test_a_connection_that_breaks_while_building_is_joined_again(tree, device):
    device.trtexec.behave(delay_s=4)
    first = tree.start()
    calls = device.trtexec.folder / "calls.log"
    eventually(lambda: calls.exists() and "--onnx" in calls.read_text(), 30, "nothing is built", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    code, out, err = tree.build()
    assert code == 0, err
    assert "joining the work that goes on there" in out
    assert len(device.trtexec.builds()) == 1 and device.left() == KEPT


def test_what_cannot_work_is_said_before_anything_is_copied(tree, device):
    device.runs_jetpack("R35 (release), REVISION: 1.0")
    assert "JetPack too old" in error_of(tree.build())
    device.runs_jetpack("R36 (release), REVISION: 4.0")
    assert "out of disk there" in error_of(tree.build("JETSON_SPARE_MIB=99999999"))
    hidden = device.trtexec.path.with_name("hidden")
    device.trtexec.path.rename(hidden)
    try:
        assert "trtexec was not found there" in error_of(tree.build())
    finally:
        hidden.rename(device.trtexec.path)
    assert device.left() == set()


def test_a_login_that_fails_says_why(tree, device):
    good = (device.root / "authorized_keys").read_text()
    (device.root / "authorized_keys").write_text("")
    try:
        assert "refused the login" in error_of(tree.build())
    finally:
        (device.root / "authorized_keys").write_text(good)
    known = (device.root / "known_hosts").read_text()
    (device.root / "known_hosts").write_text("")
    assert "host key is not known" in error_of(tree.build())
    own = (device.root / "key.pub").read_text().split()
    (device.root / "known_hosts").write_text(f"[127.0.0.1]:{device.port} {own[0]} {own[1]}\n")
    output = error_of(tree.build())
    assert "host key changed" in output and f"ssh-keygen -R '[127.0.0.1]:{device.port}'" in output
    (device.root / "known_hosts").write_text(known)
    device.stop()
    try:
        assert "connection refused" in error_of(tree.build())
    finally:
        device.start()
    assert "should be user@host" in error_of(tree.build("JETSON=-oProxyCommand=evil"))
