"""Published files: resumable, complete or absent, checked ever after. The server is ours, on loopback."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers import REPO

BODY = b"PK\x03\x04" + bytes(range(256)) * 4000


class Server:
    """Serves BODY, as told: ending early, without ranges, or something else."""

    def __init__(self) -> None:
        self.cut: list[int] = []  # bytes after which each of the next answers ends
        self.body, self.status, self.ranges = BODY, 200, True
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                wanted = self.headers.get("Range")
                outer.asked.append(wanted)
                start = int(wanted.split("=")[1].rstrip("-")) if wanted and outer.ranges else 0
                self.send_response(outer.status if not start else 206)
                self.send_header("Content-Length", str(len(outer.body) - start))
                self.send_header("ETag", f'"{hashlib.md5(outer.body).hexdigest()}"')
                self.end_headers()
                rest = outer.body[start:]
                self.wfile.write(rest[: outer.cut.pop(0)] if outer.cut else rest)

            def log_message(self, *words: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/weights.pth"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def fetch(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "tools/fetch_weights.py"), "--out", str(out), *words]
    env = {"no_proxy": "127.0.0.1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
    return done.stderr


def test_a_file_comes_whole_and_its_digest_is_recorded(server: Server, tmp_path: Path):
    out = tmp_path / "ckpts" / "weights.pth"
    assert fetch(out, "--url", server.url).returncode == 0
    assert out.read_bytes() == BODY
    assert out.with_name("weights.pth.sha256").read_text().split()[0] == hashlib.sha256(BODY).hexdigest()
    assert {p.name for p in out.parent.iterdir()} == {"weights.pth", "weights.pth.sha256"}
    assert fetch(out, "--url", server.url).returncode == 0 and len(server.asked) == 1


def test_a_download_that_is_cut_off_goes_on_where_it_ended(server: Server, tmp_path: Path):
    out = tmp_path / "weights.pth"
    server.cut = [1000, 2000, 3000]
    assert "cut off at" in refused(fetch(out, "--url", server.url))
    assert not out.exists()
    assert fetch(out, "--url", server.url).returncode == 0
    assert out.read_bytes() == BODY and server.asked[0] is None and server.asked[-1] == "bytes=6000-"


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path):
    out = tmp_path / "weights.pth"
    server.ranges, server.cut = False, [1000]
    assert fetch(out, "--url", server.url).returncode == 0 and out.read_bytes() == BODY


def test_a_file_that_was_changed_later_is_found_out(server: Server, tmp_path: Path):
    out = tmp_path / "weights.pth"
    fetch(out, "--url", server.url)
    out.write_bytes(BODY[:-1] + b"x")
    line = refused(fetch(out, "--url", server.url))
    assert "is not what was recorded when it came" in line and "remove it" in line


def test_a_download_that_is_not_the_published_file_is_thrown_away(server: Server, tmp_path: Path):
    out = tmp_path / "weights.pth"
    assert "tampered with, or replaced" in refused(fetch(out, "--url", server.url, "--sha256", "0" * 64))
    assert list(tmp_path.iterdir()) == []
    assert fetch(out, "--url", server.url, "--sha256", hashlib.sha256(BODY).hexdigest()).returncode == 0


def test_another_file_than_last_time_is_refused(server: Server, tmp_path: Path):
    out = tmp_path / "weights.pth"
    fetch(out, "--url", server.url)
    out.unlink()
    server.body = BODY + b"more"
    assert "is not the file that" in refused(fetch(out, "--url", server.url)) and not out.exists()


@pytest.mark.parametrize("body, hint", [(b"<!DOCTYPE html><html>", "a web page"), (b"hello", "neither a zip nor a pickle")])
def test_what_is_no_checkpoint_is_refused(server: Server, tmp_path: Path, body: bytes, hint: str):
    server.body = body
    assert hint in refused(fetch(tmp_path / "weights.pth", "--url", server.url))
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_is_asked_where_the_first_address_fails(server: Server, tmp_path: Path):
    out = tmp_path / "weights.pth"
    assert fetch(out, "--url", "http://127.0.0.1:9/weights.pth", "--url", server.url).returncode == 0


def test_an_address_that_does_not_answer_says_how_else(server: Server, tmp_path: Path):
    server.status = 404
    line = refused(fetch(tmp_path / "weights.pth", "--url", server.url, "--url", "http://127.0.0.1:9/weights.pth"))
    assert "404" in line and "WEIGHTS_DIR" in line and "refused" in line.lower()


@pytest.mark.parametrize(
    "url", ["nonsense", "http://", "http://[::1", "http://host:port/x.pth", "http://a b/x.pth", "gopher://x"]
)
def test_what_is_no_address_is_one_line(tmp_path: Path, url: str):
    output = refused(fetch(tmp_path / "weights.pth", "--url", url))
    assert url in output and "WEIGHTS_URL" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("note", [b"", b"\xff\xfe\x00", b"[" * 100_000, b"[1]", b'{"url": 3}', b'{"url": "URL", "etag": 3}'])
def test_damaged_notes_of_an_earlier_try_start_anew(server: Server, tmp_path: Path, note: bytes):
    (tmp_path / "weights.pth.partial").write_bytes(b"half")
    (tmp_path / "weights.pth.partial.json").write_bytes(note.replace(b"URL", server.url.encode()))
    assert fetch(tmp_path / "weights.pth", "--url", server.url).returncode == 0
    assert (tmp_path / "weights.pth").read_bytes() == BODY and server.asked == [None]
    (tmp_path / "weights.pth.sha256").write_bytes(note)
    done = fetch(tmp_path / "weights.pth", "--url", server.url)
    assert "Traceback" not in done.stderr and (done.returncode == 0 or "is not what was recorded" in refused(done))


def test_files_at_hand_are_taken(server: Server, tmp_path: Path):
    have = tmp_path / "have"
    have.mkdir()
    (have / "weights.pth").write_bytes(BODY)
    assert fetch(tmp_path / "weights.pth", "--url", server.url, "--have", str(have)).returncode == 0
    assert server.asked == [] and (tmp_path / "weights.pth").read_bytes() == BODY


def test_a_folder_of_files_that_is_none_is_told_before_anything_is_downloaded(server: Server, tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    for name in ("absent", "file", "circle"):
        done = fetch(tmp_path / "weights.pth", "--url", server.url, "--have", str(tmp_path / name))
        assert f"{tmp_path / name} is no folder: WEIGHTS_DIR" in refused(done)
    assert server.asked == [] and not (tmp_path / "weights.pth").exists()


def test_a_google_drive_address_goes_through_gdown(tmp_path: Path):
    module = tmp_path / "gdown.py"
    module.write_text("import sys\nopen(sys.argv[sys.argv.index('-O') + 1], 'wb').write(b'PK\\x03\\x04')\nprint(sys.argv[-1])\n")
    done = subprocess.run(
        [sys.executable, str(REPO / "tools/fetch_weights.py"), "--out", "w.pth", "--url", "https://drive.google.com/file/d/ID/view"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w.pth").read_bytes() == b"PK\x03\x04" and "drive.google.com" in done.stdout
