"""What the pages promise: links lead somewhere, commands are real, every page is listed and leads on. No network, no site."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import pytest

from helpers import REPO
from uniad.config.spec import CompatSpec

LIST = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
LISTED = subprocess.run(LIST, cwd=REPO, capture_output=True, text=True)
PAGES = [REPO / name for name in LISTED.stdout.split() if (REPO / name).is_file()] or sorted(REPO.glob("docs/*.md"))
DOCS = sorted(page for page in PAGES if page.parent == REPO / "docs")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.S | re.M)
WITHOUT_EXAMPLE = {"glossary.md"}  # words alone
COLUMNS = {"STEM", "SHM", "RAW", "INIT", "DEMO_ITERS", "WEIGHTS_URL"}  # settings with a name behind a dot


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(REPO)) for page in pages]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def slug(heading: str) -> str:
    """The anchor that GitHub and our site give a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@lru_cache
def anchors(page: Path) -> set[str]:
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.M):
        name = slug(heading)
        found[name] = found.get(name, -1) + 1
        found |= {f"{name}-{found[name]}": 0} if found[name] else {}
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            broken.append(target)
        elif anchor and anchor not in anchors(there):
            broken.append(f"{target}: its headings are {', '.join(sorted(anchors(there)))}")
    assert not broken, broken


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_source_file_that_a_page_names_is_there(page: Path) -> None:
    """Files of ours by their path from the root; what a run makes lies in other folders."""
    pattern = r"`((?:projects/uniad|tools|mk|tests|benchmarks|docker|patch)/[\w./-]+\.(?:py|sh|mk|patch))`"
    gone = [name for name in re.findall(pattern, prose(page)) if not (REPO / name).is_file()]
    assert page.name == "CHANGELOG.md" or not gone, gone


@pytest.mark.parametrize("page", DOCS, ids=names(DOCS))
def test_a_page_says_what_it_is_for_shows_an_example_and_leads_on(page: Path) -> None:
    text = page.read_text()
    title, purpose = [line for line in text.splitlines() if line.strip()][:2]
    assert title.startswith("# ") and purpose[0] not in "`|#-*", "a title, then a sentence on what the page is for"
    assert FENCE.search(text) or page.name in WITHOUT_EXAMPLE, "an example"
    assert re.search(r"^Next: .*\]\(.*\)", text[-400:], re.M), "the last line says where to go on: Next: [page](page.md)"


def test_readme_lists_every_page() -> None:
    rows = re.findall(r"^\|.*$", (REPO / "README.md").read_text(), re.M)
    listed = set(re.findall(r"\]\(([\w./-]+)\)", "".join(rows)))
    assert {f"docs/{page.name}" for page in DOCS} | {"CONTRIBUTING.md", "CHANGELOG.md"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_python_is_python_and_imports_what_is_there(page: Path) -> None:
    for body in (body for language, body in FENCE.findall(page.read_text()) if language == "python"):
        tree = ast.parse(re.sub(r", \.\.\.\}", "}", body))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uniad"):
                source = Path(importlib.util.find_spec(node.module).origin).read_text()
                for alias in node.names:
                    there = re.search(rf"^(?:class|def) {alias.name}\b|^{alias.name}\b.*=", source, re.M)
                    assert there, f"{node.module}.{alias.name}"


def test_every_file_that_a_comment_names_is_there() -> None:
    """By its path, or by the end of it: ``training/clip.py``, ``docs/export.md``."""
    listed = subprocess.run(LIST[:-1], cwd=REPO, capture_output=True, text=True).stdout.split()
    files = [name for name in listed if (REPO / name).is_file()]
    if not files:
        pytest.skip("no git checkout")
    ends = {"/".join(parts[at:]) for parts in (Path(name).parts for name in files) for at in range(len(parts))}
    ours = [name for name in files if re.match(r"(projects/uniad|tools|mk|benchmarks|docker|ros2)/.*\.(py|mk|sh)$", name)]
    gone = []
    for name in ours:
        for line in (REPO / name).read_text().splitlines():
            told = re.search(r"#.*|.*``.*|.*\"{3}.*", line)
            if told and not re.search(r"upstream's|STEM", line):
                cited = re.findall(r"(?<![\w./{<*-])((?:[\w-]+/)+[\w-]+\.(?:py|sh|mk|md))\b", told[0])
                gone += [f"{name}: {file}" for file in cited if file not in ends]
    assert ours and not gone, gone


# architecture.md ---------------------------------------------------------------------------------------------------------


def test_every_switch_of_an_oddity_stands_in_both_tables_and_where_it_is_read() -> None:
    architecture, configs = ((REPO / "docs" / name).read_text() for name in ("architecture.md", "configs.md"))
    table = architecture.split("## Upstream's oddities")[1].split("\n## ")[0]
    for key in (field.name for field in fields(CompatSpec)):
        assert f"| `{key}` |" in configs, key
        row = re.search(rf"^\| `{key}` \|.*\|(.*)\|$", table, re.M)
        assert row, f"{key} has no row in docs/architecture.md"
        read, _, used = row[1].partition("used in")
        for place in re.findall(r"`([\w/]+\.py)`", read):
            assert re.search(rf"\b{key}\b", (REPO / "projects/uniad" / place).read_text()), f"{place} does not read {key}"
        for place in re.findall(r"`([\w/]+\.py)`", used):
            assert (REPO / "projects/uniad" / place).is_file(), f"{key}: {place}"


def test_every_file_and_name_that_the_page_on_architecture_has_is_there() -> None:
    """Paths below projects/uniad are written without it there, and a file's name alone follows the folder it lies in."""
    text, package = (REPO / "docs/architecture.md").read_text(), REPO / "projects/uniad"
    sources = [*package.rglob("*.py"), *REPO.glob("tools/*.py"), REPO / "pyproject.toml", *REPO.glob("mk/*.mk")]
    paths = {str(path.relative_to(place)) for path in sources for place in (REPO, package) if place in path.parents}
    known = paths | {path.name for path in sources}
    assert [file for file in re.findall(r"([\w/]+\.(?:py|mk|toml))\b", text) if file not in known] == []
    drawn = re.findall(r"\b(\w+/\w+)\b(?!\.)", text.split("## The picture")[1].split("## Packages")[0])
    assert drawn and [part for part in drawn if not (package / part).is_dir() and f"{part}.py" not in paths] == []
    code = "".join(path.read_text() for path in sources)
    names_in_code = re.findall(r"`([A-Za-z_][\w.]*)`", FENCE.sub("", text))
    parts = {part for name in names_in_code for part in name.split(".")} - {"json"}
    assert [part for part in sorted(parts) if not re.search(rf"\b{part}\b", code)] == []


def test_the_ways_of_the_ten_questions_are_there() -> None:
    table = (REPO / "docs/architecture.md").read_text().split("## Ten questions")[1]
    rows = [row.split("|")[1:4] for row in re.findall(r"^\| [A-Z].*\?.*$", table, re.M)]
    assert len(rows) == 10
    for question, first, then in rows:
        folder = next(iter(re.findall(r"`(projects/[\w/]+/)`", first)), "")
        start = re.search(r"`([\w/.]+)`|\]\(([\w.]+)", first)
        assert "this page" in first or (REPO / (start[1] or f"docs/{start[2]}")).exists(), f"{question}: {first}"
        for file, name in re.findall(r"`([\w/]+\.(?:py|mk))`(?:, `(\w+)`)?", then):
            places = [REPO / folder / file, REPO / file, REPO / "projects/uniad" / file]
            path = next((p for p in places if p.is_file()), None)
            assert path, f"{question}: {file}"
            assert not name or re.search(rf"\b(?:def|class) {name}\b", path.read_text()), f"{question}: {name}"
        for name, file in re.findall(r"`(\w+)` in `([\w/]+\.py)`", then):
            assert re.search(rf"\b(?:def|class) {name}\b", (REPO / "projects/uniad" / file).read_text()), f"{question}: {name}"


# The site ------------------------------------------------------------------------------------------------------------------


def test_every_link_of_the_site_s_pages_leads_to_a_page_of_the_site(tmp_path: Path) -> None:
    """What `make docs` hands to mkdocs; mkdocs itself, where it is installed, is as strict."""
    stage = [sys.executable, "mk/lib/stage_docs.py", str(tmp_path)]
    done = subprocess.run(stage, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.rglob("*.md"))
    assert {"index.md", "architecture.md", "CONTRIBUTING.md", "api/index.md"} <= {str(p.relative_to(tmp_path)) for p in pages}
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            found = there.is_file() and (not anchor or anchor in anchors(there))
            assert found or re.match(r"[a-z]+:", target), f"{page}: {target}"
    modules = {m for page in (tmp_path / "api").glob("*.md") for m in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)}
    assert {"uniad.deploy.runtime", "uniad.models.uniad", "uniad.precision.int8.calibrate"} <= modules
    assert all((REPO / "projects" / m.replace(".", "/")).with_suffix(".py").is_file() for m in modules)
