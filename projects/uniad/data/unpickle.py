"""Pickles from elsewhere, read without running what is in them.

Info files and motion anchors hold containers, numbers, texts and numpy arrays. They stay pickles, because upstream reads and
writes them under these names. Three things keep a hostile one from doing harm:

* A name in the file stands for one of the few functions below, or the load ends. They build arrays themselves, from bytes whose
  length fits a plain numeric or text dtype. No method of numpy is within the file's reach.
* The file is first read in a process of its own with a bound on memory and time, because the interpreter's own unpickler can be
  made to exhaust both, or the stack.
* What was read is walked through once: no nesting without end, no loops, no sharing that unfolds to far more than the file.

A file that ``save`` wrote ends in its own digest, behind the pickle, where other readers do not look; one flipped bit is found.
"""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import io
import math
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import numpy as np

from uniad.errors import UserError
from uniad.files import atomic_path, open_outside

SEAL = b"\nsha256 of all before: "
MAX_DEPTH = 32  # of containers in containers; an info file has seven
UNFOLDED_PER_BYTE = 16  # numbers, texts and containers that a file may stand for, for each of its bytes
MEMORY_PER_BYTE = 32  # of a file, while it is read: an empty dict is one byte there and 64 in memory, most things are far less
SPARE_MEMORY = 1 << 30  # bytes
SECONDS_PER_MIB = 1.0  # a hundred times what reading takes
SPARE_SECONDS = 20
_CONTAINERS = frozenset((dict, list, tuple, set, frozenset))
_PLAIN = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU][1-9]\d{0,6}")  # numbers, truths, bytes and texts


def _refuse(why: str) -> NoReturn:
    raise pickle.UnpicklingError(why)


class _Function:
    """What a name of the file stands for. No class, and without attributes, so that the file can do nothing but call it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse("it changes what it should only call")

    def __setstate__(self, state: Any) -> None:
        _refuse("it changes what it should only call")


class _Dtype:
    """A dtype while it is read: a name, and a byte order that follows."""

    __slots__ = ("order", "spec")
    __hash__ = None

    def __init__(self, spec: str) -> None:
        self.spec, self.order = spec, "="

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, item size, alignment, flags), then metadata that numbers have no use for
        if not (isinstance(state, tuple) and 8 <= len(state) <= 9 and state[1] in ("<", ">", "=", "|")):
            _refuse("it describes a dtype as numpy does not")
        if any(part is not None for part in state[2:5]):
            _refuse("it has an array of records")
        self.order = state[1]

    def dtype(self) -> np.dtype:
        return np.dtype(self.spec if self.order == "|" else self.order + self.spec)


class _Array:
    """An array while it is read; ``_whole`` puts the real one in its place."""

    __slots__ = ("value",)
    __hash__ = None

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            _refuse("it describes an array as numpy does not")
        shape, dtype, by_columns, data = state[-4:]
        self.value = _built(data, dtype, shape, "F" if by_columns else "C")


def _built(data: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> np.ndarray:
    """An array of its own memory, from bytes that are exactly as many as dtype and shape want."""
    if isinstance(data, list):
        _refuse("it has an array of objects")
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        _refuse("it describes an array as numpy does not")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        _refuse("it has an array whose shape is none")
    plain = dtype.dtype()
    if math.prod(shape) * plain.itemsize != len(data):
        _refuse(f"it has an array of {list(shape)} {plain} from {len(data)} bytes")
    if plain.kind == "U" and data and np.frombuffer(data, plain.str[0] + "u4").max() > 0x10FFFF:
        _refuse("it has a text of characters that do not exist")
    flat = np.frombuffer(data, plain) if data else np.empty(0, plain)
    return flat.reshape(shape, order=order).copy(order=order)


def _make_dtype(spec: Any, *_: Any) -> _Dtype:
    if not isinstance(spec, str) or not _PLAIN.fullmatch(spec):
        _refuse(f"it has an array of {spec if isinstance(spec, str) else type(spec).__name__!r}, not of plain numbers or texts")
    return _Dtype(spec)


def _make_array(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    if order not in ("C", "F"):
        _refuse("it describes an array as numpy does not")
    return _Array(_built(data, dtype, shape, order))


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _built(data, dtype, (1,), "C")[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Protocol 2 spells bytes as encode(text, "latin1")."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "ascii", "utf-8"):
        _refuse(f"it encodes text as {encoding!r}")
    return text.encode(encoding)


def _bytearray(content: Any = b"", encoding: Any = "latin1") -> bytearray:
    if not isinstance(content, (bytes, str)):
        _refuse("it asks for memory without saying what for")  # bytearray(10**12)
    return bytearray(content if isinstance(content, bytes) else _encode(content, encoding))


def _no_bytes(*content: Any) -> bytes:
    """Protocol 2 spells no bytes at all as bytes()."""
    return b"" if not content else _refuse("it asks for memory without saying what for")


def _container(kind: type) -> Callable[..., Any]:
    def make(content: Any = ()) -> Any:
        if not isinstance(content, (list, tuple)):
            _refuse(f"it makes a {kind.__name__} of a {type(content).__name__}")
        return kind(content)

    return make


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        _refuse("it has a complex number that is none")
    return complex(real, imaginary)


_FUNCTIONS: dict[tuple[str, str], _Function] = {
    ("numpy", "dtype"): _Function(_make_dtype),
    ("numpy", "ndarray"): _Function(lambda *_: _refuse("it makes an array as numpy does not")),  # only ever handed on
    ("collections", "OrderedDict"): _Function(_container(dict)),
    ("_codecs", "encode"): _Function(_encode),
    **{(f"numpy.{core}.{module}", name): _Function(function)
       for core in ("core", "_core")  # numpy 2 moved its private modules; a file names those of the numpy that wrote it
       for module, name, function in (("multiarray", "_reconstruct", _make_array), ("multiarray", "scalar", _scalar),
                                      ("numeric", "_frombuffer", _from_buffer))},
    **{(module, name): _Function(function)
       for module in ("builtins", "__builtin__")  # Python 2 and protocols before 3 say the latter
       for name, function in (("bytearray", _bytearray), ("bytes", _no_bytes), ("complex", _complex),
                              *((kind.__name__, _container(kind)) for kind in (dict, list, tuple, set, frozenset)))},
}  # fmt: skip


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Function:
        function = _FUNCTIONS.get((module, name))
        if function is None:
            _refuse(f"it refers to {module}.{name}, which plain data has no use for")
        return function


class _Walk:
    """Puts arrays in their places and counts what the whole unfolds to. Lists and dicts are changed in place."""

    def __init__(self, most: int) -> None:
        self.left = most
        self.open: set[int] = set()  # ids of the containers around the value

    def whole(self, value: Any) -> Any:
        self.left -= 1
        kind = type(value)
        if kind is float or value is None or kind is bool:
            return value
        if kind is str:
            return _text(value)
        if kind is int:
            if not -(1 << 64) < value < 1 << 64:
                _refuse("it has a number of more than 64 bits")
            return value
        if kind in _CONTAINERS:
            return self.container(value)
        if kind is _Array:
            if value.value is None:
                _refuse("it has an array without content")
            value = value.value
        if isinstance(value, np.ndarray):
            self.left -= value.size
        elif kind in (bytes, bytearray):
            self.left -= len(value) // 8
        elif not isinstance(value, (np.generic, complex)):
            _refuse("it uses what makes arrays as if it were data")
        return value

    def container(self, value: Any) -> Any:
        if self.left < 0:
            _refuse("it unfolds to far more than is in it")
        if len(self.open) == MAX_DEPTH:
            _refuse(f"it nests more than {MAX_DEPTH} containers")
        if id(value) in self.open:
            _refuse("it has a container that holds itself")
        self.open.add(id(value))
        result = value
        if isinstance(value, dict):
            for name, part in value.items():
                self.whole(name)
                value[name] = self.whole(part)
        elif isinstance(value, list):
            value[:] = map(self.whole, value)
        elif isinstance(value, tuple):
            result = tuple(map(self.whole, value))
        else:
            for part in value:
                self.whole(part)
        self.open.remove(id(value))
        return result


def _text(value: str) -> str:
    if not value.isascii() and any(0xD800 <= ord(character) < 0xE000 for character in value):
        _refuse("it has a text of characters that do not exist")
    if "\0" in value:
        _refuse("it has a text with a zero in it")
    return value


def _read(handle: IO[bytes], size: int) -> Any:
    return _Walk(1_000_000 + UNFOLDED_PER_BYTE * size).whole(_RestrictedUnpickler(handle).load())


def loads(data: bytes) -> Any:
    """Plain data from pickled bytes; ``pickle.UnpicklingError`` for anything else. ``load`` tries them elsewhere first."""
    return _read(io.BytesIO(data), len(data))


def save(path: str | Path, content: Any) -> None:
    """Write plain data as a pickle that ends in its digest. Raises TypeError, and writes nothing, for what cannot be pickled."""
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as handle:
            pickle.dump(content, handle, protocol=4)  # the newest that upstream's Python 3.8 writes, and every reader knows
        digest = _digest(temporary, temporary.stat().st_size)
        with open(temporary, "ab") as handle:
            handle.write(SEAL + digest)


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(min(size, 1 << 20)):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest().encode()


def _check_seal(path: Path, size: int) -> None:
    """Holds a file against the digest at its end, where it has one."""
    length = len(SEAL) + 64
    with open(path, "rb") as handle:
        handle.seek(max(size - length, 0))
        seal = handle.read()
    if seal.startswith(SEAL) and seal != SEAL + _digest(path, size - length):
        _refuse("its digest differs: it is damaged")


def load(path: str | Path, advice: str = "") -> Any:
    """Plain data from a pickle file; a file that is absent, cut short or more than plain data is a UserError.

    advice: what to do where there is no such file, for the message.
    """
    path = Path(path)
    collecting = gc.isenabled()
    try:
        open_outside(path).close()
        size = path.stat().st_size
        _check_seal(path, size)
        _try(path, size)
        gc.disable()  # millions of containers that all stay
        with open(path, "rb") as handle:
            return _read(handle, size)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist" + (f"; {advice}" if advice else "")) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # A damaged pickle can raise nearly anything; all of it means the same to its owner.
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not a readable pickle of plain data ({reason}); make or download it again") from error
    finally:
        if collecting:
            gc.enable()


def _try(path: Path, size: int) -> None:
    """Read the file in a process that may die of it. Raises what that process met with."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        message = b"it cannot be read"
        try:
            os.close(reading)
            gc.disable()  # objects of the parent must not be finalised here
            faulthandler.disable()
            # The interpreter prints what it cannot raise, and the C library what it cannot survive.
            sys.stderr = None
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            _bound(size)
            with open(path, "rb") as handle:
                _read(handle, size)
            message = b""
        except BaseException as error:
            message = (str(error) or type(error).__name__).encode("utf-8", "replace")[:1000]
        finally:
            os.write(writing, message)
            os._exit(1 if message else 0)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            message = pipe.read().decode("utf-8", "replace")
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        _refuse("it takes too long to read" if number == signal.SIGXCPU else f"reading it ended a process by signal {number}")
    if status:
        _refuse(message)


def _bound(size: int) -> None:
    """Limits of this process for reading a file of so many bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + SPARE_SECONDS + SECONDS_PER_MIB * size / (1 << 20))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    _lower(resource.RLIMIT_CPU, seconds)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return  # no Linux: there the system's own limit has to do
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + SPARE_MEMORY + MEMORY_PER_BYTE * size)


def _lower(which: int, value: int) -> None:
    import resource

    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if soft == resource.RLIM_INFINITY else min(value, soft), hard))
