"""Pickles from elsewhere, read without running what is in them.

Info files and motion anchors hold containers, numbers, strings and numpy arrays. The unpickler admits exactly these; every
other name in the file, which a plain ``pickle.load`` would import and call, ends the load with an error.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from uniad.errors import UserError

# numpy 2 moved its private modules; a file names the ones of the numpy that wrote it.
_NUMPY_CORE = ("numpy.core", "numpy._core")
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{("builtins", kind.__name__): kind for kind in (dict, list, tuple, set, frozenset, bytearray, complex, slice)},
    # Python 2 and protocol < 2 spellings of the same
    **{("__builtin__", kind.__name__): kind for kind in (dict, list, tuple, set, frozenset, bytearray, complex, slice)},
    **{("numpy", name): getattr(np, name) for name in ("bool_", "int64", "int32", "float64", "float32", "str_")},
}


def _numpy_helper(name: str) -> Any:
    """The reconstruction helpers that pickled arrays and scalars refer to."""
    # Imported by the name that the installed numpy has.
    multiarray = np.core.multiarray if np.lib.NumpyVersion(np.__version__) < "2.0.0" else np._core.multiarray
    numeric = np.core.numeric if np.lib.NumpyVersion(np.__version__) < "2.0.0" else np._core.numeric
    return {
        "multiarray._reconstruct": multiarray._reconstruct,
        "multiarray.scalar": multiarray.scalar,
        "numeric._frombuffer": numeric._frombuffer,
    }.get(name)


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[(module, name)]
        for core in _NUMPY_CORE:
            if module.startswith(f"{core}."):
                helper = _numpy_helper(f"{module.removeprefix(f'{core}.')}.{name}")
                if helper is not None:
                    return helper
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("_codecs", "encode"):
            # Protocol 2 spells bytes as encode(text, "latin1").
            return _encode_latin1
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which plain data has no use for")


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "ascii", "utf-8"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode(encoding)


def loads(data: bytes) -> Any:
    """Plain data from pickled bytes; ``pickle.UnpicklingError`` for anything else."""
    return _RestrictedUnpickler(io.BytesIO(data)).load()


def load(path: str | Path) -> Any:
    """Plain data from a pickle file; a file that is absent, cut short or more than plain data is a UserError."""
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            return _RestrictedUnpickler(handle).load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # A damaged pickle can raise nearly anything; all of it means the same to its owner.
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not a readable pickle of plain data ({reason}); make or download it again") from error
