from __future__ import annotations

import collections
import os
import pickle
import re
import struct
import time

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


class _RecordOfPointers:
    """The dtype of a record whose one field is an object: eight bytes that numpy takes for an address."""

    def __reduce__(self):
        return np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)


class _Pointers:
    def __init__(self, dtype) -> None:
        self.dtype = dtype

    def __reduce__(self):
        return np.core.numeric._frombuffer, (struct.pack("<Q", 0x4141414141414140) * 18, self.dtype, (18,), "C")


def build(head: bytes, state: object) -> bytes:
    """A pickle of ``head`` (opcodes that leave one thing), on which ``state`` is set."""
    return b"\x80\x04" + head + pickle.dumps(state, 4)[2:-1] + b"b."


NAME = b"cnumpy.core.multiarray\n_reconstruct\n"
ARRAY = NAME + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"
DTYPE = b"cnumpy\ndtype\n\x8c\x02f8\x85R"
MEGA = 1 << 20
ATTACKS = {
    "pointers as a record": (pickle.dumps(_Pointers(_RecordOfPointers())), "'V8', not of plain numbers"),
    "pointers as objects": (pickle.dumps(_Pointers(np.dtype("O"))), "'O8', not of plain numbers"),
    "a record by the state of a dtype": (build(DTYPE, (3, "<", None, ("a",), {"a": 1}, 8, 1, 0)), "array of records"),
    "an array of objects": (pickle.dumps(np.array([{}, None], object)), "'O8', not of plain numbers"),
    "an array longer than its bytes": (
        b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(C\x08" + b"\0" * 8 + DTYPE + b"M\xff\xff\x85\x8c\x01CtR.",
        "[65535] float64 from 8 bytes",
    ),
    "an array of negative length": (build(ARRAY, (1, (-1,), None, False, b"")), "describes an array"),
    "an array without a state": (b"\x80\x04" + ARRAY + b".", "array without content"),
    "a function's attributes": (build(NAME, (None, {"_call": print})), "print"),
    "a function's defaults": (build(NAME, (None, {"__defaults__": (1,)})), "should only call"),
    "a function as data": (b"\x80\x04" + NAME + b".", "makes arrays as if it were data"),
    "memory for nothing": (b"\x80\x04cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x01\x85R.", "asks for memory"),
    "a memo of four milliard places": (b"\x80\x04]r\xff\xff\xff\x7f.", "MemoryError"),
    "bytes that the file does not have": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.", "pickle of plain data"),
    # CPython frees the half-made bytearray with what lay there before as its count of exports, and says so on stderr
    "an error that the interpreter prints": (
        b"\x80\x05" + 9 * (b"C\x17" + b"\1" * 23 + b"0") + b"\x96" + struct.pack("<Q", 1 << 40) + b".", "MemoryError",
    ),
    "a key that is nested a million times": (b"\x80\x04}K\x01" + b"\x85" * MEGA + b"K\x01s.", "ended a process by signal 11"),
    "lists nested without end": (b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".", "nests more than 32"),
    "a list of itself": (b"\x80\x04]q\0h\0a.", "holds itself"),
    "lists that double": (b"\x80\x04]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(30)) + b".", "unfolds"),
    "a number of a million digits": (pickle.dumps(1 << (3 * MEGA)), "more than 64 bits"),
    "half a character": (b"\x80\x04\x8c\x03\xed\xa0\x80.", "characters that do not exist"),
    "a character beyond the last": (pickle.dumps(np.array([0xFFFFFFFF], "u4").view("U1")), "characters that do not exist"),
    "a zero in a path": (pickle.dumps({"data_path": "samples/a\0.jpg"}), "text with a zero"),
}  # fmt: skip


@pytest.mark.parametrize("case", ATTACKS)
def test_what_would_harm_its_reader_is_one_line(tmp_path, case, capfd):
    data, says = ATTACKS[case]
    path = tmp_path / "infos.pkl"
    path.write_bytes(data)
    begun = time.process_time()
    with pytest.raises(UserError, match=r"infos\.pkl is not a readable pickle of plain data") as error:
        unpickle.load(path)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert time.process_time() - begun < 5, "of this process; the one that tries has a limit of its own"
    assert same(unpickle.loads(pickle.dumps(PLAIN)), PLAIN), "what reads is as it was"
    assert not any(capfd.readouterr()), "the process that tries says nothing by itself"


ARRAYS = [np.asfortranarray(np.ones((2, 3))), np.arange(3, dtype=">i4"), np.zeros((0, 7)), np.array("a"), np.zeros(0)]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.shape}{array.dtype}")
def test_arrays_own_their_memory_and_keep_order_and_kind(array, protocol):
    read = unpickle.loads(pickle.dumps(array, protocol))
    assert type(read) is np.ndarray and read.flags.owndata and read.flags.writeable
    assert read.dtype == array.dtype and read.shape == array.shape and np.array_equal(read, array)
    assert read.flags.f_contiguous == array.flags.f_contiguous


def test_what_two_places_share_is_read_once_and_whole():
    shared = (np.arange(3.0), [np.arange(2)])
    read = unpickle.loads(pickle.dumps({"a": shared, "b": [shared, shared]}))
    assert all(np.array_equal(place[0], shared[0]) and type(place[1][0]) is np.ndarray for place in (read["a"], *read["b"]))


def test_what_is_saved_ends_in_its_digest_which_other_readers_do_not_see(tmp_path):
    path = tmp_path / "infos.pkl"
    unpickle.save(path, PLAIN)
    assert same(unpickle.load(path), PLAIN)
    with open(path, "rb") as handle:
        assert same(pickle.load(handle), PLAIN), "as upstream reads it"
    whole = path.read_bytes()
    assert re.fullmatch(rb"\nsha256 of all before: [0-9a-f]{64}", whole[-87:])
    for place in range(0, len(whole) - 88, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"infos\.pkl .*digest differs: it is damaged"):
            unpickle.load(path)
    path.write_bytes(whole[:-87])
    assert same(unpickle.load(path), PLAIN), "a published file has none"
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        unpickle.save(path, lambda: None)
    assert [p.name for p in tmp_path.iterdir()] == ["infos.pkl"] and path.read_bytes() == whole[:-87]
