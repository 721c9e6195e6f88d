"""SpeechFiles: what a way of speaking keeps in a bundle beside graphs and tables, such as voices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from edgekit.bundle import Bundle, Manifest

S = TypeVar("S")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class SpeechFiles(Generic[S, V]):
    """Files of a way of speaking; S: its struct in the manifest, V: what one file holds, such as a voice.

    ``write(folder, manifest, speech, prepared)`` writes them into a bundle that has all its graphs, and returns the
    struct that names them; of a dummy (``manifest.dummy_seed``) nothing is prepared. ``read(bundle, speech)`` returns
    what was written, by name.
    """

    name: str
    write: Callable[[Path, Manifest, S, Mapping[str, V]], S]
    read: Callable[[Bundle, S], Mapping[str, V]]
