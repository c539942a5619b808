"""Configure and doctor: what they choose, what they refuse, and that they need nothing installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO
from helpers.make_tree import Tree, lay_tree

sys.path[:0] = [str(REPO / "tools"), str(REPO / "mk/lib")]
import configure  # noqa: E402
import machine  # noqa: E402


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return lay_tree(tmp_path)


def test_configure_says_in_one_line_what_and_why_and_writes_it(tree: Tree):
    text = tree.done("configure")
    assert len(text.splitlines()) == 1
    assert text.startswith("configured: STACK=native RUNTIME=host DATASET=synthetic (")
    written = (tree.root / "config.mk").read_text()
    assert "CONFIGURED_STACK := native" in written and "CONFIGURED_DATASET := synthetic" in written


def test_the_first_target_that_needs_it_configures(tree: Tree):
    assert "configured:" in tree.done("data")
    assert "configured:" not in tree.done("data")


def test_the_command_line_wins_over_what_was_configured(tree: Tree):
    (tree.root / "config.mk").write_text("CONFIGURED_DATASET := nuscenes\nCONFIGURED_GPUS := 4\n")
    assert "DATASET=nuscenes" in tree.done("help")
    shown = tree.done("-n", "train", "DATASET=synthetic", "GPUS=1", "VARIANT=nano")
    assert "make_synthetic_nuscenes" in shown and "uniad_dist_train" not in shown


def test_configure_finds_nuscenes(tree: Tree):
    tables = tree.root / "data/nuscenes/v1.0-mini"
    tables.mkdir(parents=True)
    (tables / "sample.json").write_text("[]")
    assert "DATASET=nuscenes" in tree.done("configure")
    assert "DATASET=synthetic" in tree.done("configure", "DATASET=synthetic")


@pytest.mark.parametrize("asked, hint", [
    ({"STACK": "torch1.12"}, "neither docker nor podman is installed.*use STACK=native"),
    ({"STACK": "torch1.12", "RUNTIME": "host"}, "RUNTIME=docker or podman, or STACK=native"),
    ({"RUNTIME": "podman"}, "use RUNTIME=host"),
    ({"DATASET": "nuscenes"}, "DATASET=synthetic"),
    ({"STACK": "x"}, "choose native, torch1.12"),
])  # fmt: skip
def test_what_cannot_work_is_refused_with_what_can(asked: dict[str, str], hint: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "engines", dict)
    with pytest.raises(configure.Refused, match=hint):
        configure.choose(asked, sys.executable)


A40, H200 = machine.Gpu("A40", (8, 6), 48), machine.Gpu("H200", (9, 0), 140)


@pytest.mark.parametrize("gpus, engine, engine_gpus, asked, expected", [
    ([A40], "answers", True, {}, ("torch1.12", "docker")),
    ([H200], "answers", True, {}, ("native", "docker")),
    ([A40], "answers", False, {}, ("native", "host")),
    ([A40], "permission denied", True, {}, ("native", "host")),
    ([], "answers", False, {}, ("native", "host")),
    ([], "answers", False, {"RUNTIME": "docker"}, ("native", "docker")),
    ([], "answers", False, {"STACK": "torch1.12"}, ("torch1.12", "docker")),
    ([H200], "answers", True, {"STACK": "torch1.12", "GPUS": "0"}, ("torch1.12", "docker")),
    ([A40], "answers", True, {"STACK": "native", "RUNTIME": "host"}, ("native", "host")),
])  # fmt: skip
def test_the_upstream_stack_is_chosen_where_it_can_work(gpus, engine, engine_gpus, asked, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr(machine, "engines", lambda: {"docker": engine})
    monkeypatch.setattr(machine, "engine_has_gpus", lambda name: engine_gpus)
    settings, _ = configure.choose(asked, sys.executable)
    assert (settings["STACK"], settings["RUNTIME"]) == expected


def test_a_gpu_newer_than_the_upstream_stack_names_the_native_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "gpus", lambda: [H200])
    monkeypatch.setattr(machine, "engines", lambda: {"docker": "answers"})
    with pytest.raises(configure.Refused, match="H200.*sm_90.*sm_86.*STACK=native"):
        configure.choose({"STACK": "torch1.12"}, sys.executable)


def test_a_host_without_a_fitting_python_uses_the_engine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "find_python", lambda first: None)
    monkeypatch.setattr(machine, "engines", lambda: {"podman": "answers"})
    settings, _ = configure.choose({}, "python3")
    assert (settings["STACK"], settings["RUNTIME"]) == ("native", "podman")


def test_gpus_that_torch_can_use_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, new = machine.Gpu("Old", (6, 1), 8), machine.Gpu("New", (9, 0), 80)
    monkeypatch.setattr(machine, "gpus", lambda: [old])
    settings, why = configure.choose({}, sys.executable)
    assert settings["GPUS"] == "0" and "too old" in why
    monkeypatch.setattr(machine, "gpus", lambda: [new, new])
    settings, why = configure.choose({}, sys.executable)
    assert settings["GPUS"] == "2" and "sm_90" in why


def test_a_machine_without_a_fitting_python_is_told_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "python_version", lambda command: (3, 14))
    monkeypatch.setattr(machine, "engines", dict)
    with pytest.raises(configure.Refused, match="3.10, 3.11 or 3.12"):
        configure.choose({}, sys.executable)


def test_gpu_lines_of_the_driver_are_read(monkeypatch):
    monkeypatch.setattr(machine, "run", lambda *a, **k: "NVIDIA H200, 9.0, 143771\nbroken line\nOrin, 8.7, [N/A]\n")
    found = machine.gpus()
    assert [(g.name, g.capability) for g in found] == [("NVIDIA H200", (9, 0)), ("Orin", (8, 7))]


def test_doctor_needs_nothing_installed(tree: Tree):
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, 'tools'); import doctor; "
         "sys.argv = ['doctor', '--venv', 'absent']; sys.exit(doctor.main())"],
        cwd=tree.root, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    for what in ("Python", "Environment", "torch", "GPU", "Containers", "nuScenes", "Disk"):
        assert what in done.stdout
    assert "make env" in done.stdout


def lay_tables(tree: Tree, *versions: str) -> None:
    for version in versions:
        (tree.root / "data/nuscenes" / version).mkdir(parents=True)
        (tree.root / "data/nuscenes" / version / "sample.json").write_text("[]")


def test_doctor_asks_for_what_make_env_installs_and_for_nothing_else(monkeypatch):
    """Of the site and of mutation tests, which other targets install, it says nothing."""
    import doctor

    pins = machine.pins((REPO / "pyproject.toml").read_text(), *machine.INSTALLED)
    assert {"numpy", "onnxruntime", "torch", "nuscenes-devkit", "tensorrt-rtx", "pytest"} <= pins.keys()
    assert not {"mkdocs", "mkdocs-material", "cosmic-ray"} & pins.keys()
    assert pins["numpy"].startswith("1.")
    monkeypatch.setattr(doctor.machine, "installed", lambda interpreter, wanted: {name: pins[name] for name in wanted})
    assert doctor.environment(Path(sys.prefix)).state == doctor.OK


def test_mini_alone_is_what_every_target_uses(tree: Tree):
    lay_tables(tree, "v1.0-mini")
    assert "DATASET=nuscenes NUSC_VERSION=v1.0-mini (" in tree.done("configure")
    assert "--version v1.0-mini" in tree.done("-n", "data")
    tree.done("data")
    assert "[--version] [v1.0-mini]" in tree.calls()[0]
    refused = tree.make("configure", "DATASET=nuscenes", "NUSC_VERSION=v1.0-trainval")
    assert refused.returncode != 0 and "holds v1.0-mini: NUSC_VERSION=v1.0-mini" in refused.stderr


def test_the_whole_release_is_chosen_where_both_are(tree: Tree):
    lay_tables(tree, "v1.0-mini", "v1.0-trainval", "v1.0-test")
    tree.done("configure")
    assert "--version v1.0-trainval" in tree.done("-n", "data")
    assert "--version v1.0-mini" in tree.done("-n", "data", "NUSC_VERSION=v1.0-mini")


def test_a_release_that_came_after_configuring_is_named(tree: Tree):
    tree.done("configure", "DATASET=synthetic")
    lay_tables(tree, "v1.0-mini")
    refused = tree.make("data", "DATASET=nuscenes")
    assert refused.returncode != 0 and "data/nuscenes holds v1.0-mini: NUSC_VERSION=v1.0-mini" in refused.stderr


def test_the_test_release_alone_is_nothing_to_train_on(tree: Tree):
    lay_tables(tree, "v1.0-test")
    assert "DATASET=synthetic" in tree.done("configure")
    refused = tree.make("configure", "DATASET=nuscenes")
    assert refused.returncode != 0 and "holds only v1.0-test, which has no annotations" in refused.stderr
