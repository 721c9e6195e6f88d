"""A source: all that an export starts from, be it a checkpoint, a config alone or a float bundle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dummy import SEED, open_dummy
from edgekit.exporter.families import Family, Opened, find_family
from edgekit.exporter.hub import locate
from edgekit.exporter.layout import checkpoint_folder
from edgekit.exporter.sources.checkpoint import Tensors, check_copies, check_names, open_checkpoint
from edgekit.exporter.sources.stored import StoredTensors, parse_object
from edgekit.exporter.sources.tokenizer import checked_tokenizer, tokenizer_json
from edgekit.exporter.speech import bundle_voices
from edgekit.exporter.tables import written_bundle
from edgekit.exporter.written import BundleTensors
from edgekit.runtime.graphs.source import bundle_graph

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Source:
    """Where tensors, config, tokenizer and voices come from, and the family that they are of."""

    tensors: Tensors
    family: Family
    opened: Opened
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer: str
    name: str
    origin: str = ""
    dummy_seed: int | None = None
    voices: Mapping[str, Any] = field(default_factory=dict)


def checkpoint_source(
    checkpoint: str | Path, *, revision: str | None = None, offline: bool = False, bars: bool = False
) -> Source:
    """Return a checkpoint as a source, with what its family keeps beside it; the options are those of ``locate``."""
    located = locate(checkpoint, revision=revision, offline=offline, bars=bars)
    found, family = open_known(located.folder)
    whole = family.beside(found, lambda second: locate(second, offline=offline, known=False).folder)
    opened = family.bind(whole.config, found.generation)
    check_names(whole.tensors, opened.expected(), opened.ignored)
    check_copies(whole.tensors, opened.copied)
    return Source(
        whole.tensors, family, opened, whole.config, found.generation, tokenizer_json(found.folder),
        _name_on_hub(located.source) or found.folder.resolve().name, located.source, voices=opened.voices(whole),
    )  # fmt: skip


def open_known(path: Path) -> tuple[StoredTensors, Family]:
    """Return the checkpoint at a path and its family; no weights are opened that no family takes."""
    found = open_checkpoint(checkpoint_folder(path))
    return found, find_family(found.config)


def dummy_source(
    config: str | Path, *, revision: str | None = None, offline: bool = False, bars: bool = False
) -> Source:
    """Return noise as a source, of the shapes that a config names; the options are those of ``locate``."""
    located = locate(config, revision=revision, offline=offline, weights=False, bars=bars)
    made = open_dummy(located.folder)
    return Source(
        made.tensors, made.family, made.opened, made.config, made.generation, made.tokenizer,
        _name_on_hub(located.source) or made.name, located.source, SEED,
    )  # fmt: skip


def bundle_source(bundle: Bundle) -> Source:
    """Return a float bundle as a source."""
    manifest = bundle.manifest
    for name in manifest.components:
        bundle_graph(bundle, name).check()
    config, generation = (parse_object(bundle.read(name), name) for name in (CONFIG, GENERATION))
    tokenizer = checked_tokenizer(bundle.read(TOKENIZER), TOKENIZER)
    family = find_family(config)
    opened = family.bind(config, generation)
    weights = written_bundle(
        bundle.folder, opened, DIALECTS.get(manifest.dialect), manifest.components, manifest.tables()
    )
    return Source(
        BundleTensors(weights), family, opened, config, generation, tokenizer, manifest.name, manifest.source,
        manifest.dummy_seed, bundle_voices(bundle),
    )  # fmt: skip


def _name_on_hub(origin: str) -> str:
    return origin.partition("@")[0].rpartition("/")[2]
