#!/usr/bin/env python3
"""Lay the pages of the docs site in a folder.

README is its index; then docs/, what these pages link to, and a page of the API for each package. A link to a file that is no
page becomes its path, since the site holds no code.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"(^```.*?^```)", re.S | re.M)
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")


def place(page: Path) -> Path:
    """Where a page of the repository lies in the site."""
    name = page.relative_to(ROOT)
    if name == Path("README.md"):
        return Path("index.md")
    return name.relative_to("docs") if name.parts[0] == "docs" else name


def pages() -> list[Path]:
    """README, CONTRIBUTING and CHANGELOG, docs/, and pages elsewhere that one of these links to."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
    for page in found:  # grows while it is read
        for _, _, target in LINK.findall(FENCE.sub("", page.read_text())):
            other = (page.parent / target.partition("#")[0]).resolve()
            if other.suffix == ".md" and other.is_file() and other not in found:
                found.append(other)
    return found


def moved(page: Path, known: set[Path], out: Path) -> str:
    """A page's text with links as they are in the site; pictures are copied."""
    here = place(page).parent

    def link(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, mark, anchor = target.partition("#")
        there = (page.parent / path).resolve()
        if there in known:
            to = place(there)
        elif picture:
            to = place(there)
            (out / to).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there, out / to)
        else:
            name = str(there.relative_to(ROOT))
            return text if name.rsplit("/")[-1] in text else f"{text} (`{name}`)"
        up = "../" * len(here.parts)
        return f"{picture}[{text}]({up}{to}{mark}{anchor})"

    parts = FENCE.split(page.read_text())
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def api(out: Path) -> list[str]:
    """A page for each package of uniad, its modules one after the other."""
    package = ROOT / "projects" / "uniad"
    lines = []
    for folder in sorted(path.parent for path in package.glob("*/__init__.py")):
        modules = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
        names = [".".join(path.relative_to(ROOT / "projects").with_suffix("").parts) for path in modules]
        body = "\n\n".join(f"::: {name}" for name in names)
        (out / "api" / f"{folder.name}.md").write_text(f"# uniad.{folder.name}\n\n{body}\n")
        lines.append(f"- [uniad.{folder.name}]({folder.name}.md)")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write, made anew")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    (out / "api").mkdir(parents=True)
    known = pages()
    for page in known:
        target = out / place(page)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = moved(page, set(known), out)
        if page == ROOT / "README.md":
            text += "\n[The API, package by package](api/index.md).\n"
        target.write_text(text)
    (out / "api" / "index.md").write_text("# API\n\nFrom the docstrings of the code.\n\n" + "\n".join(api(out)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
