"""Where results go is tried before the work begins; what the system refuses is one line; nothing half-written stays."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from uniad.errors import UserError, of_system, run_cli, system_errors_are_one_line
from uniad.files import alone_in, atomic_path, try_place, write_npz, write_results


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


def test_one_process_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    """Until it has ended, however it did. A mistake leaves no folder, and the lock no file."""
    out = tmp_path / "a" / "out"
    hold = "import sys, time\nfrom uniad.files import alone_in\n"
    hold += "with alone_in(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="out: another process writes results there: wait for it to end"), alone_in(out):
            raise AssertionError("two at once")
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with alone_in(out):
        assert left(tmp_path) == ["a", "out"]
    with pytest.raises(ValueError), alone_in(tmp_path / "b" / "c"):
        raise ValueError
    assert left(tmp_path) == ["a", "out"], "of a process that was killed; the folders of a mistake are gone"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; results need a folder"), alone_in(tmp_path / "file"):
        raise AssertionError("in a file")
    with alone_in(out):
        (out / "results.json").write_text("{}")
    assert (out / "results.json").is_file()


def written(folder: Path) -> int:
    with atomic_path(folder / "results.json") as temporary:
        temporary.write_text("scores of hours")
    return 5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
def test_what_took_hours_is_written_elsewhere_where_its_place_takes_it_no_more(tmp_path: Path, monkeypatch, number: int) -> None:
    for name in ("disk", "home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    full = [tmp_path / "disk", tmp_path / "here"]
    replace = os.replace

    def refusing(source, target) -> None:
        if any(folder in Path(target).resolve().parents for folder in full):
            raise OSError(number, os.strerror(number))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(UserError) as error:
        write_results(tmp_path / "disk/run", written, lambda: "")
    (kept,) = (tmp_path / "home").glob("run.*")
    disk = tmp_path / "disk/run/results.json"
    assert str(error.value).startswith(f"{disk}: {os.strerror(number)}")
    assert str(error.value).endswith(f". Nothing is lost: the results are in {kept}, move them from there")
    assert (kept / "results.json").read_text() == "scores of hours" and kept.stat().st_mode & 0o777 == 0o755
    assert left(tmp_path) == sorted(["disk", "here", "home", kept.name, "results.json", "run"]), "and nothing half-written"
    full.clear()
    assert write_results(tmp_path / "disk/run", written, lambda: "") == 5


def test_arrays_on_a_full_disk_are_an_error_and_no_traceback_of_the_collector(tmp_path: Path) -> None:
    """NumPy leaves its archive open then. A limit on the size of files stands for the disk."""
    import numpy as np

    arrays = {"lanes": np.arange(12).reshape(3, 4), "f0/x": np.float32(2.5)}
    write_npz(tmp_path / "ours.npz", arrays)
    np.savez_compressed(tmp_path / "numpys.npz", **arrays)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "numpys.npz").read_bytes()
    code = """import resource, sys
import numpy as np
from uniad.files import atomic_path, write_npz
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with atomic_path(sys.argv[1]) as temporary:
        write_npz(temporary, {"noise": np.random.default_rng(0).random(99_999)})
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "full.npz")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert left(tmp_path) == ["numpys.npz", "ours.npz"]


def test_what_no_place_takes_is_printed(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No other place takes the results either: they are printed above"):
        write_results(tmp_path / "run", written, lambda: "NDS 0.5")
    assert capsys.readouterr().out == "NDS 0.5\n" and left(tmp_path) == ["run"]
    # A fault of ours, or of the data, is no matter of the place.
    for fault in (FileNotFoundError(errno.ENOENT, "gone", "maps/x.png"), ValueError("ours")):
        with pytest.raises(type(fault)):
            write_results(tmp_path / "run", lambda folder, fault=fault: (_ for _ in ()).throw(fault), lambda: "")
    assert left(tmp_path) == ["run"]


@pytest.mark.parametrize("tool, words", [
    ("locate", "absent.onnx"), ("verify", "absent.onnx"), ("pack_clips", "absent.py"), ("pack_images", "absent.py"),
    ("compare_sampling", "absent.onnx other.onnx"),
])  # fmt: skip
def test_a_tool_tries_its_place_before_it_reads_anything(tmp_path: Path, monkeypatch, tool: str, words: str) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "x"
    for place, told in ((tmp_path, "is a folder; a file is to be written there"), (below, "is a file, not a folder")):
        monkeypatch.setattr(sys, "argv", [f"{tool}.py", *words.split(), "--out", str(place)])
        with pytest.raises(UserError, match=told):
            importlib.import_module(tool).main()
