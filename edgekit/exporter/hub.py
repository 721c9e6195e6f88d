"""Checkpoints on the Hugging Face hub: an id becomes a folder that holds just the files an export reads.

Knows which files those are and how to say what went wrong. Fetching, resuming and the cache are huggingface_hub's; code
that comes with a checkpoint is neither fetched nor run.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import CheckpointError, MissingPackageError, UsageError
from edgekit.exporter.families import files_beside
from edgekit.exporter.sources.checkpoint import read_index
from edgekit.exporter.sources.stored import read_object

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOG = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONFIG = "config.json"
_CONFIGS = (_CONFIG, "generation_config.json")
_SETTINGS = (
    *_CONFIGS,
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocabulary.json",
    "vocabulary.txt",
)
_WHOLE, _INDEX, _CONTAINER = "model.safetensors", ".safetensors.index.json", "model.bin"


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint's folder, and ``id@commit`` if it came from the hub, else an empty text."""

    folder: Path
    source: str = ""


def locate(
    checkpoint: str | PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    weights: bool = True,
    bars: bool = False,
) -> Located:
    """Return where a checkpoint is: a path that exists is taken as it is, an id of the hub is fetched to its cache.

    revision: branch, tag or commit of the hub, its main branch if None; the commit found is in ``source``.
    offline: only look into the cache. weights: False fetches the configs alone. bars: let huggingface_hub draw its
    progress on stderr. What is fetched is logged. Raises CheckpointError if it cannot be had, UsageError for a revision
    of a path.
    """
    text = str(checkpoint)
    if Path(checkpoint).exists() or not _ID.fullmatch(text):
        if revision is not None:
            raise UsageError(
                f"--revision {revision}: {text} is a path, only ids of the hub have revisions; leave it out"
            )
        return Located(Path(checkpoint))
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]
    except ImportError as error:
        raise MissingPackageError(
            f"{text}: no such file or folder here; to fetch it from the hub, pip install 'edgekit-audio[export]'"
        ) from error
    hub = HfApi()
    with _explained(text, revision):
        if offline:
            held = hub.hf_hub_download(text, _CONFIG, revision=revision, local_files_only=True)
            folder = Path(held).parent
            return Located(folder, f"{text}@{folder.name}")
        (enable_progress_bars if bars else disable_progress_bars)()
        _LOG.info("fetch %s", text)
        found = hub.model_info(text, revision=revision)
        commit, names = str(found.sha), {one.rfilename for one in found.siblings or ()}
        if _CONFIG not in names:
            raise CheckpointError(f"{text}: no config.json at {commit[:12]}; give the id of a whole checkpoint")
        # With the revision as it was asked for, so that the cache learns what it is, for offline.
        config = read_object(Path(hub.hf_hub_download(text, _CONFIG, revision=revision)))
        files = [name for name in (_SETTINGS if weights else _CONFIGS) if name in names]
        if weights:
            files += sorted(_weights(hub, text, commit, names))
            files += sorted(name for name in names if any(_matches(name, one) for one in files_beside(config)))
        paths = [Path(hub.hf_hub_download(text, name, revision=commit)) for name in files]
    return Located(paths[0].parent, f"{text}@{commit}")


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name is of a pattern, whose star stands for no slash."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _weights(hub: "HfApi", checkpoint: str, commit: str, names: set[str]) -> set[str]:
    """Return the files that hold the weights, the same that a folder of all files would be read from."""
    if _WHOLE in names:
        return {_WHOLE}
    top = {name for name in names if "/" not in name}
    indexes = {name for name in top if name.endswith(_INDEX)}
    indexes = indexes & {f"model{_INDEX}"} or indexes
    singles = {name for name in top if name.endswith(".safetensors")}
    if len(indexes) != 1:
        return indexes | singles or names & {_CONTAINER}
    shards = set(read_index(Path(hub.hf_hub_download(checkpoint, *indexes, revision=commit))))
    if absent := sorted(shards - names):
        raise CheckpointError(
            f"{checkpoint}: its index names {absent[0]}, which is not there at {commit[:12]}; take another revision"
        )
    return indexes | shards


@contextmanager
def _explained(checkpoint: str, revision: str | None) -> Iterator[None]:
    """Raise CheckpointError, one line, for what the hub refuses and for a hub that does not answer."""
    from huggingface_hub import errors

    network: tuple[type[Exception], ...] = (OSError,)
    try:
        from httpx import HTTPError

        network = (OSError, HTTPError)
    except ImportError:  # before its 1.0 huggingface_hub used requests, whose errors are OSErrors
        pass
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{checkpoint}: its terms must be accepted on its page first; then log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{checkpoint}: has no revision {revision}; give a branch, tag or commit that its page shows"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{checkpoint}: no such folder here and no such checkpoint on the hub; check how it is written, or log in "
            "with `hf auth login` if it is private"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{checkpoint}: not in the cache of the hub, and the hub was not asked or did not answer; try again online"
        ) from error
    except network as error:
        reason = next(iter(str(error).splitlines()), "no reason given")
        raise CheckpointError(
            f"{checkpoint}: could not be fetched ({type(error).__name__}: {reason}); try again, what has come is kept"
        ) from error
