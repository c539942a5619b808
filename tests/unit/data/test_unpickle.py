from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest
from uniad.data import unpickle
from uniad.data.table import load_table
from uniad.errors import UserError

PLAIN = {
    "infos": [{"a": np.arange(3.0), "names": np.array(["car", "bus"]), "flag": np.array([True]), "none": None}],
    "metadata": {"version": "v1.0-mini", "n": np.int64(3), "x": np.float32(0.5), "t": (1, {2}, frozenset({3}), b"4")},
}


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_from_every_protocol(protocol):
    assert same(unpickle.loads(pickle.dumps(PLAIN, protocol)), PLAIN)


@pytest.mark.parametrize(("ours", "theirs"), [(b"numpy.core.", b"numpy._core."), (b"numpy._core.", b"numpy.core.")])
def test_files_of_older_and_newer_numpy_are_read(ours, theirs):
    # Protocol 2 spells names as plain lines, so that another numpy's file can be made here by renaming.
    renamed = pickle.dumps(PLAIN, 2).replace(ours, theirs)
    assert same(unpickle.loads(renamed), PLAIN)


class _Command:
    def __reduce__(self):
        return os.system, ("echo bad > /tmp/uniad_unpickle_was_here",)


@pytest.mark.parametrize("payload", [_Command(), eval, np.load, collections.Counter("ab"), [print]])
def test_anything_that_would_run_code_is_refused(tmp_path, payload):
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(payload))
    with pytest.raises(UserError, match=r"infos\.pkl is not a readable pickle of plain data \(it refers to \w+"):
        unpickle.load(path)
    assert not os.path.exists("/tmp/uniad_unpickle_was_here")


def test_the_published_motion_anchors_are_read(golden):
    anchors = unpickle.load(golden / "motion_anchor_infos_mode6.pkl")["anchors_all"]
    assert [a.shape for a in anchors] == [(6, 12, 2)] * 4


def test_a_file_cut_short_and_one_that_is_absent_are_named(tmp_path):
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(PLAIN)[:-20])
    with pytest.raises(UserError, match=r"infos\.pkl is not a readable pickle"):
        unpickle.load(path)
    with pytest.raises(UserError, match=r"other\.pkl does not exist"):
        unpickle.load(tmp_path / "other.pkl")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1, 2], "is not an info file"),
        ({"infos": [], "metadata": {"version": "v2.0-trainval"}}, "is for dataset version 'v2.0-trainval'"),
        ({"infos": [], "metadata": {"version": "v1.0-mini"}}, "lists no frames"),
        ({"infos": [{"token": "a"}], "metadata": {"version": "v1.0-mini"}}, "frame 0 lacks scene_token"),
    ],
)
def test_an_info_file_of_another_structure_is_refused_by_name(tmp_path, data, says):
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(data))
    with pytest.raises(UserError, match=says) as error:
        load_table(path, tmp_path)
    assert "infos.pkl" in str(error.value) and "\n" not in str(error.value)
