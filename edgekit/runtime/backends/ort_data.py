"""Weights for an onnxruntime session: mapped from the file that was checked, and not held twice while they are packed.

onnxruntime packs most weights into memory of its own and reads the rest where it lies. By itself it would open the path
again, and refuses one that leads out of the graph's folder. docs/decisions/what-is-loaded.md has the figures.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from edgekit.runtime.graphs.source import GraphSource

_EVERY_S = 0.02  # in which a fast machine packs some 20 MB


def give_data(options: Any, source: GraphSource) -> mmap.mmap | None:
    """Give a session's options the data file as memory, and return that; None where there is none."""
    if source.data is None or not source.data.bytes:
        return None
    mapped = source.data.map()
    options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")  # else copied
    options.add_external_initializers_from_files_in_memory([source.location], [mapped], [source.data.bytes])
    return mapped


@contextmanager
def loading(source: GraphSource, mapped: mmap.mmap | None) -> Iterator[None]:
    """Let go, while a session is made, of pages that it read; those read again come from the file again.

    Raises BundleFormatError if the file was written to meanwhile.
    """
    if mapped is None or source.data is None:
        yield
        return
    done = Event()
    worker = Thread(target=_let_go, args=(mapped, done), daemon=True)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()
    source.data.check_unchanged()


def _let_go(mapped: mmap.mmap, done: Event) -> None:
    drop = getattr(mmap, "MADV_DONTNEED", None)
    if drop is None:
        return
    while not done.wait(_EVERY_S):
        mapped.madvise(drop)
    mapped.madvise(drop)
