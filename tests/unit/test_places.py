"""Where results go is tried before the work begins; what the system refuses is one line; nothing half-written stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from uniad.errors import UserError, of_system, run_cli, system_errors_are_one_line
from uniad.files import atomic_path, try_place


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*"))


def test_a_place_that_is_good_is_left_as_it_was(tmp_path: Path) -> None:
    try_place(tmp_path / "a" / "b" / "results.json")
    assert left(tmp_path) == []


def test_a_place_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder is a folder"):
        try_place(tmp_path / "folder")
    with pytest.raises(UserError, match="file is a file, not a folder"):
        try_place(tmp_path / "file" / "results.json")
    with pytest.raises(UserError, match=r"MiB are free there; needed are at least \d+\. Make room"):
        try_place(tmp_path / "results.json", room=1 << 60)
    assert left(tmp_path) == ["file", "folder"]


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    """Root's ``--out /dev/null`` must not leave the machine without one. The pipe stands for it: this test may be root's, too."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dev").symlink_to("/dev")
    for place in (tmp_path / "pipe", tmp_path / "dev/null", *map(Path, ("/dev/null", "/dev/stdout", "/dev/new/results.json"))):
        with pytest.raises(UserError, match="is a device or a pipe, which a result would replace: name a file"):
            try_place(place)
    with pytest.raises(UserError, match="is a device or a pipe"), atomic_path(tmp_path / "pipe"):
        raise AssertionError("nothing is written")
    assert left(tmp_path) == ["dev", "pipe"]


def as_nobody(code: str, *arguments: object) -> subprocess.CompletedProcess:
    """Python code as a user who owns nothing here; needs root."""
    if os.getuid() != 0:
        pytest.skip("another user can only be tried by root")
    words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", code]
    return subprocess.run([*words, *map(str, arguments)], capture_output=True, text=True)


def test_a_folder_of_somebody_else_is_told_by_name(tmp_path: Path) -> None:
    # The test's own folders are closed to others; what counts is the last one.
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    code = "import sys; sys.dont_write_bytecode = True\nfrom uniad.errors import run_cli\nfrom uniad.files import {name}\n{call}"
    place = tmp_path / "run" / "res.json"
    call = "run_cli(lambda: try_place(sys.argv[1]))"
    done = as_nobody(code.format(name="try_place", call=call), place)
    assert done.returncode == 2 and done.stderr == (
        f"error: {place}: cannot be written (Permission denied); change its owner or permissions, or choose another place\n"
    )
    call = "run_cli(lambda: atomic_path(sys.argv[1]).__enter__())"
    done = as_nobody(code.format(name="atomic_path", call=call), tmp_path / "res.json")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}/res.json: Permission denied; change its owner")
    assert left(tmp_path) == []


def test_a_full_disk_is_one_line_with_the_result_s_name_and_leaves_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    def work() -> None:
        with atomic_path(tmp_path / "results.json") as temporary:
            temporary.write_text("half")

    with pytest.raises(SystemExit) as ended:
        run_cli(work)
    path = tmp_path / "results.json"
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {path}: No space left on device; make room there, or choose another place\n"
    assert left(tmp_path) == []


def test_any_error_of_the_system_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}/none: No such file or directory$"), system_errors_are_one_line():
        open(tmp_path / "none")
    with pytest.raises(UserError, match=f"^{tmp_path}/a and {tmp_path}/b: No such"), system_errors_are_one_line():
        os.rename(tmp_path / "a", tmp_path / "b")
    with pytest.raises(BrokenPipeError), system_errors_are_one_line():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    # A library's own, without a number, is no message of the system's.
    with pytest.raises(OSError, match="a text") as raised, system_errors_are_one_line():
        raise OSError("a text")
    assert not isinstance(raised.value, UserError)
    assert str(of_system(OSError(errno.EIO, "Input/output error"))) == "Input/output error"


def test_a_reader_that_had_enough_is_no_error() -> None:
    code = "from uniad.errors import run_cli\nrun_cli(lambda: [print('x' * 999) for _ in range(9999)])"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$0" -c "$1" | head -1', sys.executable, code], capture_output=True, text=True
    )
    assert done.returncode == 141 and done.stderr == ""
