"""The few calls of NVIDIA's driver that running a TensorRT engine needs, through ctypes: a car has the driver, and no PyTorch.

It works in the device's primary context, the one that TensorRT and PyTorch use too.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

LIBRARIES = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class CudaError(RuntimeError):
    """A driver call failed; the message names it and NVIDIA's error."""


@lru_cache(maxsize=1)
def _driver() -> Any:
    """The driver's library, initialised; None where there is no driver or no GPU."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int()
        if library.cuInit(0) == 0 and library.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0:
            return library
    return None


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise CudaError(f"{name} failed: {text.value.decode() if text.value else code}")


def device() -> dict | None:
    """Name and compute capability of the first GPU that CUDA_VISIBLE_DEVICES leaves, or None without one."""
    if _driver() is None:
        return None
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    _call("cuDeviceGet", ctypes.byref(handle), 0)
    _call("cuDeviceGetName", name, len(name), handle)
    numbers = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(value), attribute, handle)
        numbers.append(str(value.value))
    return {"model": name.value.decode(), "compute_capability": ".".join(numbers)}


def used_mib() -> float:
    """Of the first GPU's memory, by all programs; 0 without a GPU. (On a Jetson it is the system's memory.)"""
    if _driver() is None:
        return 0.0
    handle, context, free, whole = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuDeviceGet", ctypes.byref(handle), 0)
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    try:
        _call("cuCtxSetCurrent", context)
        _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(whole))
    finally:
        _driver().cuDevicePrimaryCtxRelease_v2(handle)
    return (whole.value - free.value) / 2**20


class Buffers:
    """Named arrays on the GPU and a stream. Any thread may use them, one at a time; ``close`` releases them."""

    def __init__(self, shapes: Iterable[tuple[str, tuple[int, ...], str]]) -> None:
        """shapes: name, shape and numpy dtype of each. Raises CudaError where there is no GPU or not enough memory."""
        if _driver() is None:
            raise CudaError("no NVIDIA driver, or no GPU")
        self._device, self._context, self._stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._arrays: dict[str, tuple[ctypes.c_uint64, tuple[int, ...], np.dtype]] = {}
        _call("cuDeviceGet", ctypes.byref(self._device), 0)
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        try:
            self._enter()
            _call("cuStreamCreate", ctypes.byref(self._stream), 1)  # not ordered with the default stream
            for name, shape, kind in shapes:
                pointer, dtype = ctypes.c_uint64(), np.dtype(kind)
                size = max(1, int(np.prod(shape)) * dtype.itemsize)
                _call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
                self._arrays[name] = (pointer, tuple(shape), dtype)
        except CudaError:
            self.close()
            raise

    @property
    def stream(self) -> int:
        """Handle for TensorRT."""
        return self._stream.value or 0

    def address(self, name: str) -> int:
        return int(self._arrays[name][0].value)

    def write(self, name: str, value: np.ndarray) -> None:
        """Queue a copy to the GPU; ``value`` has the array's shape and dtype."""
        pointer, shape, dtype = self._arrays[name]
        array = np.ascontiguousarray(value, dtype)
        if array.shape != shape:
            raise ValueError(f"{name} is {list(array.shape)}, expected {list(shape)}")
        self._enter()
        # From pageable memory: the call returns when the source has been read.
        _call("cuMemcpyHtoDAsync_v2", pointer, array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes), self._stream)

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Arrays as they are when all that was queued has run."""
        self._enter()
        out = {}
        for name in names:
            pointer, shape, dtype = self._arrays[name]
            out[name] = np.empty(shape, dtype)
            where, size = out[name].ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(out[name].nbytes)
            _call("cuMemcpyDtoHAsync_v2", where, pointer, size, self._stream)
        _call("cuStreamSynchronize", self._stream)
        return out

    def close(self) -> None:
        """Release memory, stream and context. Closing twice does nothing."""
        if not self._context:
            return
        self._enter()
        for pointer, _, _ in self._arrays.values():
            _driver().cuMemFree_v2(pointer)
        self._arrays.clear()
        if self._stream:
            _driver().cuStreamDestroy_v2(self._stream)
        _driver().cuDevicePrimaryCtxRelease_v2(self._device)
        self._context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()

    def _enter(self) -> None:
        """The context belongs to a thread, and any thread may call."""
        _call("cuCtxSetCurrent", self._context)
