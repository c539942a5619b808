"""What upstream's training container runs of this repository, it runs with Python 3.8: data preparation and one script."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import REPO

SCRIPT = REPO / "tools/postprocess_bevformer_tiny_epoch_24_pth.py"
TOOLS = [REPO / "tools" / f"{name}.py" for name in ("make_synthetic_nuscenes", "create_data", "make_motion_anchors")]

# Of Python 3.9 and later: methods, keywords, and what modules have
METHODS = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "bit_count", "lcm", "readlink"}
KEYWORDS = {"strict", "slots", "kw_only"}
NAMES = {("functools", "cache"), ("itertools", "pairwise"), ("typing", "TypeAlias"), ("typing", "Self"), ("typing", "Annotated")}
GENERIC = {"dict", "list", "tuple", "set", "frozenset", "type", "Callable", "Iterable", "Iterator", "Mapping", "Sequence"}


def modules_of(path: Path, found: dict[Path, ast.Module]) -> dict[Path, ast.Module]:
    """A file and all of ours that it imports, at once or later, but where it refuses Python 3.8."""
    if path in found:
        return found
    found[path] = ast.parse(path.read_text(), filename=str(path))
    newer = {
        id(inner) for node in ast.walk(found[path])
        if isinstance(node, ast.If) and ast.unparse(node.test) == "sys.version_info < (3, 10)"
        for later in node.orelse for inner in ast.walk(later)
    }  # fmt: skip
    for node in ast.walk(found[path]):
        names = []
        if id(node) in newer:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            place = REPO / "projects" / name.replace(".", "/")
            for candidate in (place.with_suffix(".py"), place / "__init__.py"):
                if name.split(".")[0] == "uniad" and candidate.is_file():
                    modules_of(candidate, found)
    return found


def too_new(path: Path, tree: ast.Module) -> list[str]:
    """What Python 3.8 cannot read or run, with its place."""
    found = []

    def note(node: ast.AST, what: str) -> None:
        found.append(f"{path.relative_to(REPO)}:{getattr(node, 'lineno', 1)}: {what}")

    try:
        ast.parse(path.read_text(), feature_version=(3, 8))
    except SyntaxError as error:
        found.append(f"{path.relative_to(REPO)}:{error.lineno}: {error.msg}")
    only_for_readers = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }  # fmt: skip
    lazy = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Match):
            note(node, "match")
        elif isinstance(node, ast.Attribute) and node.attr in METHODS and isinstance(node.ctx, ast.Load):
            note(node, node.attr)
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            note(node.value, f"{node.arg}=")
        elif isinstance(node, ast.ImportFrom) and id(node) not in only_for_readers:
            for alias in node.names:
                if (node.module, alias.name) in NAMES:
                    note(node, f"{node.module}.{alias.name}")
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
            if isinstance(node.value, (ast.Dict, ast.DictComp, ast.Call)):
                note(node, "|= of dicts")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and isinstance(node.left, (ast.Dict, ast.DictComp)):
            note(node, "| of dicts")
        elif isinstance(node, (ast.Assign, ast.ClassDef)) and id(node) not in only_for_readers:
            for value in [node.value] if isinstance(node, ast.Assign) else node.bases:  # evaluated, annotations are not
                if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id in GENERIC:
                    note(value, ast.unparse(value))
        elif isinstance(node, (ast.FunctionDef, ast.AnnAssign)) and not lazy:
            note(node, "annotations without `from __future__ import annotations`")
    return found


def test_what_prepares_data_is_python_3_8():
    found: dict[Path, ast.Module] = {}
    for tool in TOOLS:
        modules_of(tool, found)
    assert len(found) > 40, "the tools and what they import"
    assert sum((too_new(path, tree) for path, tree in found.items()), []) == []


@pytest.mark.parametrize("line", [
    "match x:\n  case 1: pass", "a.removeprefix('b')", "zip(a, b, strict=True)", "X = tuple[int, int]", "a |= f()",
    "with (a as b, c as d): pass", "from functools import cache", "a = {} | b", "def f(a: int | None): pass",
])  # fmt: skip
def test_the_check_sees_what_is_too_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str):
    monkeypatch.setitem(globals(), "REPO", tmp_path)
    (tmp_path / "x.py").write_text(line)
    assert too_new(tmp_path / "x.py", ast.parse(line))


def test_the_post_processing_script_stands_alone():
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
    assert too_new(SCRIPT, tree) == []
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert roots - sys.stdlib_module_names == {"torch"}


def python38(*packages: str) -> str:
    """An interpreter like the container's: UPSTREAM_PYTHON, or a Python 3.8 of this machine, that has these packages."""
    home = Path.home() / ".pyenv/versions"
    named = os.environ.get("UPSTREAM_PYTHON") or os.environ.get("DOCUMENTED_PYTHON")
    places = [named, *map(str, sorted(home.glob("3.8*/bin/python"))), shutil.which("python3.8")]
    code = f"import sys; assert sys.version_info[:2] in ((3, 8), (3, 9)); import {', '.join(packages or ('sys',))}"
    for python in filter(None, places):
        if subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip(f"no Python 3.8 with {', '.join(packages) or 'anything'} here: UPSTREAM_PYTHON names one")


def run(python: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    own = {"PYTHON": python, "PYTHONPATH": str(REPO / "projects"), "OMP_NUM_THREADS": "1", "HOME": tempfile.gettempdir()}
    env = {"PATH": os.environ["PATH"], **own}
    return subprocess.run([python, *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_python_3_8_starts_the_script_and_gets_its_errors(tmp_path: Path):
    python = python38()
    done = run(python, SCRIPT, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "bevformer_tiny_epoch_24_updated2.pth" in done.stdout, done.stderr
    done = run(python, SCRIPT, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ckpts/bevformer_tiny_epoch_24.pth not found")


def test_torch_1_12_makes_the_same_of_a_checkpoint(tmp_path: Path):
    python = python38("torch")
    (tmp_path / "ckpts").mkdir()
    weights = {"pts_bbox_head.query_embedding.weight": torch.randn(900, 8), "n": torch.tensor(3), "h": torch.randn(2).half()}
    content = {"meta": {"epoch": 24, "time": np.float64(1.5)}, "state_dict": weights}
    torch.save(content, tmp_path / "ckpts/bevformer_tiny_epoch_24.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    made = []
    for interpreter, words in ((python, ()), (python, ("old.pth", "from_old.pth")), (sys.executable, ("old.pth", "here.pth"))):
        done = run(interpreter, SCRIPT, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        out = tmp_path / (words[1] if words else "ckpts/bevformer_tiny_epoch_24_updated2.pth")
        made.append(torch.load(out, weights_only=False))
    for one in made:
        assert one["meta"] == content["meta"] and one["state_dict"]["query_embedding.weight"].shape == (901, 8)
        assert all(torch.equal(one["state_dict"][name], value) for name, value in weights.items())


@pytest.mark.slow
def test_the_container_s_python_makes_the_world_that_ours_makes(tmp_path: Path):
    """Boxes and poses to rounding, the same infos and anchors. Of maps and pictures, other versions round otherwise."""
    python = python38("torch", "cv2", "nuscenes", "shapely", "scipy")
    for name, interpreter in (("theirs", python), ("ours", sys.executable)):
        world = tmp_path / name
        for tool, *words in (
            (TOOLS[0], "--out", world / "n", "--train-scenes", 1, "--val-scenes", 1, "--frames", 14, "--workers", 1),
            (TOOLS[1], "nuscenes", "--root-path", world / "n", "--out-dir", world / "infos", "--canbus", world / "n"),
            (TOOLS[2], REPO / "projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py", "--out", world / "anchors.pkl", "--cfg-options",
             f"data_root={world / 'n'}/", f"info_root={world / 'infos'}/"),
        ):  # fmt: skip
            done = run(interpreter, tool, *words, cwd=REPO)
            assert done.returncode == 0, done.stderr
    tables = [json.loads((tmp_path / name / "n/v1.0-trainval/sample_annotation.json").read_text()) for name in ("theirs", "ours")]
    assert [row["token"] for row in tables[0]] == [row["token"] for row in tables[1]]
    np.testing.assert_allclose(*([row["translation"] for row in table] for table in tables), atol=1e-6)
    anchors = [pickle.loads((tmp_path / name / "anchors.pkl").read_bytes()) for name in ("theirs", "ours")]
    assert anchors[0]["grouped_classes"] == anchors[1]["grouped_classes"]
    np.testing.assert_allclose(anchors[0]["anchors_all"], anchors[1]["anchors_all"], atol=1e-6)
    val = "infos/nuscenes_infos_temporal_val.pkl"
    infos = [pickle.loads((tmp_path / name / val).read_bytes())["infos"] for name in ("theirs", "ours")]
    assert [info["token"] for info in infos[0]] == [info["token"] for info in infos[1]]
    for one, other in zip(*infos, strict=True):
        np.testing.assert_allclose(one["gt_boxes"], other["gt_boxes"], atol=1e-6)
        np.testing.assert_allclose(one["can_bus"], other["can_bus"], atol=1e-6)
