"""Where a checkpoint is: a path, a short name, or an id of the Hugging Face hub, which is fetched to a folder.

Knows which files those are and how to say what went wrong. Fetching, resuming and the cache are huggingface_hub's; code
that comes with a checkpoint is neither fetched nor run.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from os import PathLike
from pathlib import Path

from edgekit.errors import CheckpointError, MissingPackageError, UsageError
from edgekit.exporter.families import files_beside, short_names
from edgekit.exporter.layout import nearest, recognise, refuse_others
from edgekit.exporter.sources.checkpoint import PICKLED, PICKLED_INDEX, read_index
from edgekit.exporter.sources.stored import read_object
from edgekit.plainfiles import is_there
from edgekit.resources import resource

SHIPPED = "edgekit-tiny"
_LOG = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PAGE = re.compile(r"https?://[^/]+/([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/.*)?")
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
    known: bool = True,
    bars: bool = False,
) -> Located:
    """Return where a checkpoint is: a path that exists is taken as it is, an id of the hub is fetched to its cache.

    A short name stands for the id of a published checkpoint, or for the small one that ships with EdgeKit.
    revision: branch, tag or commit of the hub, its main branch if None; the commit found is in ``source``.
    offline: only look into the cache. weights: False fetches the configs alone. known: refuse what no family takes, by
    names and configs, before anything else is fetched. bars: let huggingface_hub draw its progress on stderr. What is
    fetched is logged. Raises CheckpointError if it cannot be had, UsageError for a revision of a path.
    """
    text = str(checkpoint)
    identity = short_names().get(text.lower(), text)
    path = Path(checkpoint)
    if not is_there(path) and text.lower() == SHIPPED:
        path = shipped_checkpoint()
    if is_there(path):
        if revision is not None:
            raise UsageError(
                f"--revision {revision}: {text} is a path, only ids of the hub have revisions; leave it out"
            )
        return Located(path)
    if not _ID.fullmatch(identity):
        raise CheckpointError(f"{text}: {_nowhere(text)}")
    return _fetch(identity, revision, offline=offline, weights=weights, known=known, bars=bars)


def shipped_checkpoint() -> Path:
    """Return the folder of the checkpoint that ships: the installed one, else the checkout's.

    Raises MissingPackageError if neither is there.
    """
    try:
        folder = Path(import_module("edgekit_tiny").checkpoint())
    except ModuleNotFoundError:
        folder = resource("models/edgekit-tiny/edgekit_tiny/checkpoint")
    if not (folder / _CONFIG).is_file():
        raise MissingPackageError(
            f"edgekit_tiny is not installed, it holds the weights of {SHIPPED}; in a checkout: "
            "pip install ./models/edgekit-tiny"
        )
    return folder


def _nowhere(text: str) -> str:
    """Return what to do about a checkpoint that is no path, no short name and no id."""
    if page := _PAGE.fullmatch(text):
        return f"is a page of the hub; give the id that it shows: {page[1]}"
    if "/" in text:
        return "no such folder; give the checkpoint's folder, its config.json, or an id of the hub: OWNER/NAME"
    names = {SHIPPED, *short_names()}
    near = nearest(text, names)
    hint = f"did you mean {near}?" if near else f"short names are {', '.join(sorted(names))}"
    return f"no such folder here, and no short name; {hint}"


def _fetch(checkpoint: str, revision: str | None, *, offline: bool, weights: bool, known: bool, bars: bool) -> Located:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]
    except ImportError as error:
        raise MissingPackageError(
            f"{checkpoint}: no such folder here; to fetch it from the hub, pip install 'edgekit-audio[export]'"
        ) from error
    hub = HfApi()
    with _explained(checkpoint, revision):
        if offline:
            held = hub.hf_hub_download(checkpoint, _CONFIG, revision=revision, local_files_only=True)
            folder = Path(held).parent
            return Located(folder, f"{checkpoint}@{folder.name}")
        (enable_progress_bars if bars else disable_progress_bars)()
        _LOG.info("fetch %s", checkpoint)
        found = hub.model_info(checkpoint, revision=revision)
        commit, names = str(found.sha), {one.rfilename for one in found.siblings or ()}

        def fetched(name: str) -> Path:
            return Path(hub.hf_hub_download(checkpoint, name, revision=commit))

        if known:
            whole = {name for name in names if not name.endswith(f"/{_CONFIG}")}  # an id has no folders to give
            refuse_others(checkpoint, whole, lambda name: read_object(fetched(name)))
        if _CONFIG not in names:
            raise CheckpointError(f"{checkpoint}: no config.json at {commit[:12]}; give the id of a whole checkpoint")
        # With the revision as it was asked for, so that the cache learns what it is, for offline.
        config = read_object(Path(hub.hf_hub_download(checkpoint, _CONFIG, revision=revision)))
        paths = [fetched(name) for name in _CONFIGS if name in names]
        if known:
            recognise(paths[0].parent, names)
        if weights:
            files = [name for name in _SETTINGS if name in names]
            files += sorted(_weights(checkpoint, commit, names, fetched))
            files += sorted(name for name in names if any(_matches(name, one) for one in files_beside(config)))
            paths += [fetched(name) for name in files]
    return Located(paths[0].parent, f"{checkpoint}@{commit}")


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name is of a pattern, whose star stands for no slash."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _weights(checkpoint: str, commit: str, names: set[str], fetched: Callable[[str], Path]) -> set[str]:
    """Return the files that hold the weights, the same that a folder of all files would be read from."""
    if _WHOLE in names:
        return {_WHOLE}
    top = {name for name in names if "/" not in name}
    indexes = {name for name in top if name.endswith(_INDEX)}
    indexes = indexes & {f"model{_INDEX}"} or indexes
    singles = {name for name in top if name.endswith(".safetensors")}
    if not indexes and not singles:
        indexes = names & {PICKLED_INDEX}
        singles = names & {_CONTAINER} or names & {PICKLED}
    if len(indexes) != 1:
        return indexes | singles
    shards = set(read_index(fetched(*indexes)))
    if absent := sorted(shards - names):
        raise CheckpointError(
            f"{checkpoint}: its index names {absent[0]}, which is not there at {commit[:12]}; take another revision"
        )
    return indexes | shards


@contextmanager
def _explained(checkpoint: str, revision: str | None) -> Iterator[None]:
    """Raise CheckpointError, one line, for what the hub refuses and for a hub that does not answer."""
    from huggingface_hub import errors

    # What fetches changes (requests, httpx, httpx2); its error is a base of the hub's own.
    bases = errors.HfHubHTTPError.__bases__
    network: tuple[type[Exception], ...] = (OSError, *(base for base in bases if issubclass(base, Exception)))
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
        known = nearest(checkpoint, short_names().values())
        hint = f"did you mean {known}?" if known else "check how it is written"
        raise CheckpointError(
            f"{checkpoint}: no such folder here and no such checkpoint on the hub; {hint}, or log in with "
            "`hf auth login` if it is private"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if error.__cause__ is not None:  # what was asked for first, and of which the cache was to take the place
            raise _unreachable(checkpoint, error.__cause__) from error
        raise CheckpointError(
            f"{checkpoint}: not in the cache of the hub, and the hub was not asked; try again online"
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"{checkpoint}: no such folder here, and the hub has no such ids; give a folder, or OWNER/NAME"
        ) from error
    except network as error:
        raise _unreachable(checkpoint, error) from error


def _unreachable(checkpoint: str, error: BaseException) -> CheckpointError:
    reason = next(iter(str(error).splitlines()), "no reason given")
    return CheckpointError(
        f"{checkpoint}: no such folder here, and it could not be fetched ({type(error).__name__}: {reason}); try "
        "again, what has come is kept, or give a folder"
    )
