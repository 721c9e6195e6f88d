"""Loaded: an opened bundle whose engines are loaded, checked as a whole. Holds no conversation state.

Knows which components a bundle needs; which backend runs them is theirs.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from edgekit.bundle import Bundle, Manifest
from edgekit.bundle.checks.hearing import COMPONENTS
from edgekit.errors import BundleFormatError, UsageError
from edgekit.limits import available_cores
from edgekit.reprs import line, quoted
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.text import Tokenizer, load_tokenizer
from edgekit.runtime.backends import LoadSettings, load_engines
from edgekit.runtime.engine import Engine
from edgekit.runtime.speak import kind_of

# onnxruntime starts them all at once for each engine: that takes its time, and it dies where there is no room for one.
_MOST_THREADS = max(128, os.cpu_count() or 1)
_MANY_LANGUAGES = 10  # in one line


@dataclass(frozen=True, slots=True, repr=False)
class Loaded:
    """A bundle ready to run; see the module docstring. ``context_tokens``: length of each stream's KV cache.

    ``backend`` runs it; ``fallback``: why that is not the one asked for, empty if it is.
    """

    bundle: Bundle
    engines: dict[str, Engine]
    table: TokenTable
    tokenizer: Tokenizer
    context_tokens: int
    backend: str
    fallback: str = ""

    @property
    def manifest(self) -> Manifest:
        """What the bundle promises."""
        return self.bundle.manifest

    def __repr__(self) -> str:
        manifest = self.manifest
        shown: dict[str, object] = {
            "name": manifest.name, "family": manifest.family, "dialect": manifest.dialect,
            "precision": manifest.precision_line, "backend": self.backend,
        }  # fmt: skip
        if languages := sorted(manifest.protocol.languages):
            shown["languages"] = " ".join(languages) if len(languages) < _MANY_LANGUAGES else len(languages)
        if self.fallback:
            shown["fallback"] = self.fallback
        return line(self, **shown)


def check_threads(threads: object) -> None:
    """Raise UsageError for what is neither None nor a number of threads."""
    if threads is not None and not (_is_whole(threads) and 1 <= threads <= _MOST_THREADS):
        raise UsageError(
            f"threads: {quoted(threads)}, a whole number, 1 to {_MOST_THREADS:,}, is needed; "
            "leave it out to use every core"
        )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def load_bundle(
    bundle: Bundle,
    *,
    threads: int | None = None,
    context_tokens: int | None = None,
    speak: bool = False,
    backend: str | None = None,
    allow_fallback: bool = False,
    plans: str | os.PathLike[str] | None = None,
) -> Loaded:
    """Return a bundle that was checked, or that the exporter has just written, loaded; see ``model.load``."""
    check_threads(threads)
    limit = bundle.manifest.protocol.context_tokens
    if context_tokens is not None and not (_is_whole(context_tokens) and 0 < context_tokens <= limit):
        raise UsageError(
            f"context_tokens: {quoted(context_tokens)}, this bundle takes 1 to {limit}; choose one of these"
        )
    names = COMPONENTS
    if speak:
        if bundle.manifest.speech is None:
            name = bundle.manifest.name
            raise UsageError(f"speak: {name} writes and does not speak; leave it out or choose another bundle")
        names += kind_of(bundle.manifest.speech).components
    settings = LoadSettings(
        threads or available_cores(), context_tokens or limit, backend, allow_fallback, Path(plans) if plans else None
    )
    if absent := [name for name in names if name not in bundle.manifest.components]:
        raise BundleFormatError(f"{bundle.folder}: has no component '{absent[0]}', which is needed; export it again")
    engines = load_engines(bundle, names, settings)
    return Loaded(
        bundle, engines.engines, TokenTable(bundle), load_tokenizer(bundle), settings.context_tokens, engines.backend,
        engines.fallback,
    )  # fmt: skip
