"""One line, whatever the message quotes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helpers import REPO
from uniad.errors import LONGEST_LINE, UserError, run_cli

PROJECTS = REPO / "projects"


@pytest.mark.parametrize("quoted", ["a\nb\rc", "\x1b[2J", "x" * 10**6, "\u202e", "\ud800"])
def test_a_quoted_text_stays_one_printable_line(quoted: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError(f"a.json: key {quoted} is unknown")

    assert str(UserError(f"key {quoted}")).isprintable(), "also for who shows it by other means"

    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    output = capsys.readouterr().err
    assert ended.value.code == 2 and output.startswith("error: a.json: key ") and output.endswith("\n")
    assert output[:-1].isprintable() and len(output) < LONGEST_LINE + 20


def test_a_warning_of_this_package_is_a_note_and_anothers_stays_a_warning() -> None:
    code = (
        "import os, warnings, uniad.errors as e\n"
        "ours = os.path.join(os.path.dirname(e.__file__), 'data', 'targets.py')\n"
        "warn = lambda text, where: warnings.warn_explicit(text, UserWarning, where, 7)\n"
        "e.run_cli(lambda: [warn('65 objects, 64 slots', ours), warn('somebody else', '/other.py')])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(PROJECTS)})
    first, *rest = result.stderr.splitlines()
    assert result.returncode == 0 and first == "note: 65 objects, 64 slots"
    assert rest[0] == "/other.py:7: UserWarning: somebody else"
