"""Complaints: what a C library prints to stderr while it is called, kept off it and returned.

libmpg123 inside libsndfile prints a line for every frame that it finds damaged, and has no other way to say so. Only
C's own stream is put aside: what Python and other processes write to stderr arrives. Without glibc nothing is.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_LOCK = threading.Lock()  # there is one stderr


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Yield a list that holds, after the block, the lines which C code printed to stderr in it."""
    lines: list[str] = []
    c = _glibc()
    if c is None:
        yield lines
        return
    with _LOCK:
        stderr = ctypes.c_void_p.in_dll(c, "stderr")
        text, size, kept = ctypes.c_char_p(), ctypes.c_size_t(), stderr.value
        stream = c.open_memstream(ctypes.byref(text), ctypes.byref(size))
        if not stream:  # no memory for it
            yield lines
            return
        stderr.value = stream
        try:
            yield lines
        finally:
            stderr.value = kept
            c.fclose(stream)
            lines += ctypes.string_at(text, size.value).decode("utf-8", "backslashreplace").splitlines()
            c.free(text)


@cache
def _glibc() -> Any:  # noqa: ANN401 - functions of C
    try:
        if not os.confstr("CS_GNU_LIBC_VERSION"):
            return None
    except (AttributeError, ValueError):
        return None
    c = ctypes.CDLL(None)
    c.open_memstream.restype = ctypes.c_void_p
    c.fclose.argtypes = c.free.argtypes = [ctypes.c_void_p]
    return c
