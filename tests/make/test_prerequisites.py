"""A product is made again when a package that its tool imports has changed, and not when another has."""

from __future__ import annotations

from pathlib import Path

import pytest

import imports
from helpers import REPO
from helpers.make_tree import Tree, bring_sources, lay_tree

# Tools -> what make makes with them
PRODUCTS = {
    "test": "projects/work_dirs/stage2_e2e/nano_e2e/results.json", "export_onnx": "onnx/uniad_nano_cp.onnx",
    "verify": "onnx/uniad_nano_cp.onnx.verify.json", "convert_precision": "onnx/uniad_nano_cp_fp16.onnx",
    "quantize": "onnx/uniad_nano_cp_int8.onnx", "build_engine": "engines/uniad_nano_cp.fp16.tensorrt_rtx.engine",
    "infer": "outputs/infer/nano_e2e.torch/0/.finished", "visualize": "outputs/nano_e2e.png",
    "jetson_engine": "engines/jetson/uniad_nano_cp.fp16.engine",
}  # fmt: skip
RUN_A_GRAPH = {"convert_precision", "quantize", "build_engine", "jetson_engine"}
SETTINGS = ("VARIANT=nano", "BACKEND=torch", "PRECISION=fp16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree in which a checkpoint, a graph and a run of it are made."""
    tree = bring_sources(lay_tree(tmp_path_factory.mktemp("made")))
    tree.done("verify", "infer", *SETTINGS)
    return tree


@pytest.fixture(scope="module")
def needs(made: Tree) -> dict[str, set[str]]:
    """Of each tool, the packages whose files its product follows from, as make itself understands its rules."""
    goals = ("eval", "verify", "engine", "quantize", "infer", PRODUCTS["visualize"], "jetson-engine", "JETSON=local")
    found: dict[str, set[str]] = {}
    for line in made.done("-pn", *goals, *SETTINGS).splitlines():
        product, colon, words = line.partition(": ")
        for tool in [tool for tool, name in PRODUCTS.items() if colon and name == product]:
            files = [word for word in words.partition(" | ")[0].split() if word.startswith("projects/uniad/")]
            found[tool] = {str(Path(name).relative_to("projects/uniad").parent) for name in files} - {"."}
    assert set(found) == set(PRODUCTS)
    return found


def test_a_product_follows_from_the_packages_that_its_tool_imports(needs: dict[str, set[str]], monkeypatch) -> None:
    monkeypatch.chdir(REPO)
    for tool, packages in needs.items():
        patterns = imports.patterns(Path(f"tools/{tool}.py"), imports.IN_PYTORCH if tool in RUN_A_GRAPH else frozenset())
        assert packages == {name[len("projects/uniad/") : -len("/*.py")] for name in patterns if name.endswith("/*.py")}, tool


def test_torch_follows_from_the_model_and_nothing_from_what_it_never_runs(needs: dict[str, set[str]]) -> None:
    for tool in ("test", "export_onnx", "infer", "verify", "visualize"):
        assert {"models", "ops", "interface", "config"} <= needs[tool], tool
    assert {"precision", "backends", "verify"} <= needs["convert_precision"] & needs["quantize"]
    assert {"engines", "backends", "verify"} <= needs["build_engine"]
    assert not any({"losses", "data/synthetic"} & packages for packages in needs.values())
    assert [tool for tool, packages in needs.items() if "viz" in packages] == ["visualize"]


@pytest.mark.parametrize("package, tools", [
    ("models", {"export_onnx", "verify", "infer"}), ("verify", {"export_onnx", "verify"}),
    ("deploy", {"infer"}), ("losses", set()),
])  # fmt: skip
def test_a_changed_file_runs_what_follows_from_it(made: Tree, package: str, tools: set[str]) -> None:
    shown = made.done("-n", "-W", f"projects/uniad/{package}/__init__.py", "verify", "infer", *SETTINGS)
    assert {tool for tool in PRODUCTS if f"tools/{tool}.py" in shown} == tools


def test_a_comment_in_a_config_or_a_change_of_code_trains_nothing_again(made: Tree) -> None:
    config = made.root / "projects/configs/stage2_e2e/nano_e2e.py"
    config.write_text(config.read_text() + "# a thought\n")
    changed = [word for name in ("models/uniad.py", "training/run.py") for word in ("-W", f"projects/uniad/{name}")]
    shown = made.done("-n", *changed, "train", "VARIANT=nano")
    assert "tools/train.py" not in shown


def test_an_import_inside_a_function_or_over_several_lines_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "tools/t.py": "def main():\n    from uniad.a.x import (\n        one,\n        two,\n    )\n",
        "projects/uniad/__init__.py": "", "projects/uniad/a/__init__.py": "", "projects/uniad/a/x.py": "from uniad import b\n",
        "projects/uniad/a/beside.py": "import uniad.never\n", "projects/uniad/b/__init__.py": "import uniad.c.y as y  # text\n",
        "projects/uniad/c/y.py": "", "projects/uniad/never.py": "", "projects/uniad/d/z.py": "",
    }.items():  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    found = set(imports.patterns(Path("tools/t.py")))
    folders = {f"projects/uniad/{name}/*.py" for name in "abc"}
    assert found == {"tools/t.py", "projects/uniad/__init__.py", *folders}, "never.py is imported by a file that nobody imports"
    without = set(imports.patterns(Path("tools/t.py"), frozenset("b")))
    assert without == found - {"projects/uniad/b/*.py", "projects/uniad/c/*.py"}
