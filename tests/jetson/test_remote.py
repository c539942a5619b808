"""What a person may write for a device, and copies that arrive damaged or stop half-way."""

from __future__ import annotations

import pytest

from helpers.command_line import refused
from uniad.errors import UserError
from uniad.jetson.ssh import Remote


@pytest.mark.parametrize("target", ["orin", "me@orin", "me@10.0.0.7:2222", "me@[fe80::1%eth0]:22", "a-b.example.org"])
def test_targets_are_hosts_with_user_and_port(target):
    assert "--" in Remote(target).command("true")


@pytest.mark.parametrize("target", ["", "-oProxyCommand=x", "me@", "me@host:port", "me@host;reboot", "a b", "me@-x"])
def test_other_targets_are_refused(target):
    with pytest.raises(UserError, match="should be user@host"):
        Remote(target)


@pytest.mark.skipif("not __import__('shutil').which('sh')", reason="needs sh")
def test_a_copy_goes_on_where_it_stopped_and_a_damaged_one_is_removed(tmp_path, monkeypatch):
    """The commands of a copy, run here instead of there."""
    monkeypatch.setattr(Remote, "command", lambda self, script: ["sh", "-c", script])
    from uniad.files import sha256

    source, there = tmp_path / "model", tmp_path / "there"
    source.write_bytes(bytes(range(256)) * 40)
    target = there / "a b'c"
    part = there / f"a b'c.{sha256(source)[:16]}.part"
    remote = Remote("device")
    there.mkdir()
    part.write_bytes(source.read_bytes()[:1000])
    assert remote.send(source, str(target)) == 9240 and target.read_bytes() == source.read_bytes()
    assert remote.send(source, str(target)) == 0
    target.unlink()
    part.write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="arrived damaged"):
        remote.send(source, str(target))
    assert list(there.iterdir()) == []
    remote.send(source, str(target))
    remote.fetch(str(target), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    with pytest.raises(UserError, match="No such file"):
        remote.fetch(str(there / "absent"), tmp_path / "absent")


@pytest.mark.skipif("not __import__('shutil').which('sh')", reason="needs sh")
@pytest.mark.parametrize("more, sent", [(-1000, 1000), (0, 0), (5, 10240), (99999, 10240)])
def test_a_part_is_continued_unless_it_is_longer_than_its_source(tmp_path, monkeypatch, more, sent):
    """Then it is none of it, and the copy starts again."""
    monkeypatch.setattr(Remote, "command", lambda self, script: ["sh", "-c", script])
    from uniad.files import sha256

    source, there = tmp_path / "model", tmp_path / "there"
    content = bytes(range(256)) * 40
    source.write_bytes(content)
    there.mkdir()
    part = there / f"model.{sha256(source)[:16]}.part"
    part.write_bytes((content + b"x" * 99999)[: len(content) + more])
    assert Remote("device").send(source, str(there / "model")) == sent
    assert (there / "model").read_bytes() == content and not part.exists()
    (there / "model").write_bytes(content[::-1])
    assert Remote("device").send(source, str(there / "model")) == len(content), "a target that differs is replaced"
    assert (there / "model").read_bytes() == content


@pytest.mark.parametrize(
    "output, why",
    [
        ("ssh: connect to host x port 22: Connection timed out", "no answer"),
        ("ssh: Could not resolve hostname x: Name or service not known", "no host of that name"),
        ("client_loop: send disconnect: Broken pipe", "run the same again, it goes on"),
    ],
)
def test_what_ssh_says_becomes_advice(output, why, monkeypatch):
    monkeypatch.setattr(Remote, "command", lambda self, script: ["sh", "-c", f"echo '{output}' >&2; exit 255"])
    with pytest.raises(UserError, match=why):
        Remote("x").run("true")


def test_a_full_disk_there_is_said(monkeypatch):
    full = "echo 'cat: write error: No space left on device' >&2; exit 1"
    monkeypatch.setattr(Remote, "command", lambda self, script: ["sh", "-c", full])
    with pytest.raises(UserError, match="out of disk there"):
        Remote("x").run("true")


GREETING = "echo 'Welcome to Ubuntu 20.04'; echo 'begin your day'; "


def test_a_login_that_greets_is_not_taken_for_an_answer(tmp_path, monkeypatch):
    """What a login's own files print comes before all that a command prints, on the same stream."""
    monkeypatch.setattr(Remote, "command", lambda self, script: ["sh", "-c", GREETING + script])
    remote, source, there = Remote("device"), tmp_path / "model", tmp_path / "there"
    source.write_bytes(b"\n\0" + bytes(range(256)) * 400)
    assert remote.run("echo a; echo b") == "a\nb\n"
    assert remote.free_bytes(str(there / "deep")) > 0
    assert remote.send(source, str(there / "model")) == source.stat().st_size and remote.send(source, str(there / "model")) == 0
    remote.fetch(str(there / "model"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    lines = []
    assert remote.follow("echo one; echo two; exit 3", lines.append) == 3 and lines == ["one", "two"]


def test_a_login_without_a_shell_is_said(monkeypatch):
    monkeypatch.setattr(Remote, "command", lambda self, script: ["sh", "-c", "echo 'This account is not available.'"])
    with pytest.raises(UserError, match="runs no commands .it says: This account is not available"):
        Remote("x").run("true")


@pytest.mark.parametrize("folder", ["~", "~/", "~root/x", "", "/", ".", "..", "a/../..", "-rf", "a\nb"])
def test_a_folder_on_the_device_that_is_none_is_refused(folder, tmp_path):
    graph, out = tmp_path / "a.onnx", tmp_path / "a.engine"
    output = refused("tools/jetson_engine.py", graph, "--out", out, "--where", "me@orin", f"--folder={folder}")
    assert "JETSON_DIR=" in output and "name a folder of its own" in output
