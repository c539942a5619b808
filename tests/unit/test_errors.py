"""One line, whatever the message quotes."""

from __future__ import annotations

import pytest
from uniad.errors import LONGEST_LINE, UserError, run_cli


@pytest.mark.parametrize("quoted", ["a\nb\rc", "\x1b[2J", "x" * 10**6, "\u202e", "\ud800"])
def test_a_quoted_text_stays_one_printable_line(quoted: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError(f"a.json: key {quoted} is unknown")

    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: a.json: key ") and said.endswith("\n")
    assert said[:-1].isprintable() and len(said) < LONGEST_LINE + 20
