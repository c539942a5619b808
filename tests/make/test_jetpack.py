"""JETPACK on the command line: which TensorRT the graph is exported for."""

from __future__ import annotations

import pytest

from helpers.make_tree import Tree


@pytest.mark.parametrize(
    ("jetpack", "tensorrt"),
    [("5.1", "8.5"), ("5.1.3", "8.5"), ("6.0", "8.6"), ("6.2", "10.3"), ("6.2.1", "10.3"), ("6.2.12", "10.3"), ("7.0", "10.13")],
)
def test_a_patch_release_has_the_tensorrt_of_its_minor_release(tree: Tree, jetpack: str, tensorrt: str):
    words = ("--eval", "shown: ; @echo TRT=$(TRT)", "shown", f"JETPACK={jetpack}", "STACK=native", "RUNTIME=host")
    assert f"TRT={tensorrt}\n" in tree.done(*words)


@pytest.mark.parametrize("jetpack", ["6.3", "6", "4.6.1", "6.2.x", "6.2.1.0", "6.2.", "6.2 6.1", "six"])
def test_an_unknown_jetpack_is_refused_with_those_that_are_known(tree: Tree, jetpack: str):
    done = tree.make("-n", "help", f"JETPACK={jetpack}")
    lines = done.stderr.splitlines()
    assert done.returncode != 0 and len(lines) == 1, done.stderr
    assert f"JETPACK={jetpack} is unknown: choose 5.1, 6.0, 6.1, 6.2, 7.0, 7.1, 7.2, or a patch release" in lines[0]
