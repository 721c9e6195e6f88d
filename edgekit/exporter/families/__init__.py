"""Families: architectures EdgeKit can recognise, cut into components and surround with their token protocol.

To add one that ships, write a module or package here with its record in it as FAMILY, and add its name to SHIPPED. A
family of your own is registered by ``register(family)`` before it is needed, or for a block by ``registered(family)``.
See ``base`` for what a record holds.
"""

import difflib
from importlib import import_module

from edgekit.errors import CheckpointError
from edgekit.exporter.families.base import Family, Opened, Part
from edgekit.exporter.families.keys import Config
from edgekit.registry import Registry

__all__ = [
    "FAMILIES",
    "Family",
    "Opened",
    "Part",
    "files_beside",
    "find_family",
    "register",
    "registered",
    "short_names",
]

SHIPPED = ("qwen3_omni", "step_audio", "whisper")
FAMILIES: Registry[Family] = Registry("family", Family)
_LIKE = 0.5  # of the keys that a family reads are in the config of one that is perhaps meant

register, registered = FAMILIES.register, FAMILIES.registered

for _name in SHIPPED:
    register(import_module(f"{__name__}.{_name}").FAMILY)


def find_family(config: Config) -> Family:
    """Return the family of a config.

    Raises CheckpointError naming the known ones and the nearest if there is none, and all that recognise it if they are
    several.
    """
    found = [family for family in FAMILIES if family.recognises(config)]
    if len(found) == 1:
        return found[0]
    kind = config.get("model_type")
    if found:
        names = " and ".join(f"'{family.name}'" for family in found)
        raise CheckpointError(
            f"config.json: model_type '{kind}' is recognised by {len(found)} families, {names}; register only one"
        )
    known = sorted({name for family in FAMILIES for name in family.model_types})
    nearest = difflib.get_close_matches(str(kind or ""), known, n=1, cutoff=0.3) or _alike(config)
    hint = f"; the nearest is '{nearest[0]}'" if nearest else ""
    named = "names no model_type, one is needed that" if kind is None else f"model_type '{kind}' is not an architecture"
    raise CheckpointError(f"config.json: {named} EdgeKit knows ({', '.join(known)}){hint}")


def _alike(config: Config) -> list[str]:
    """Return the model type of the family that reads most of what a config has, if it has half of what that reads."""
    keys = {family.model_types[0]: family.keys.own() for family in FAMILIES}
    shares = {name: len(config.keys() & own) / max(1, len(own)) for name, own in keys.items()}
    return sorted((name for name, share in shares.items() if share >= _LIKE), key=lambda name: -shares[name])


def files_beside(config: Config) -> tuple[str, ...]:
    """Return patterns of the files that a checkpoint of this config may have beside weights, configs and tokenizer."""
    return tuple(pattern for family in FAMILIES if family.recognises(config) for pattern in family.files)


def short_names() -> dict[str, str]:
    """Return the id on the hub of each published checkpoint by its short name: what stands behind the slash, small."""
    return {name.rpartition("/")[2].lower(): name for family in FAMILIES for name in family.published}
