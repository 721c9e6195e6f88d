"""What EdgeKit makes of each key of a checkpoint's configs: it uses it, refuses it by name, or it has no effect here.

A family has such a table for each class of its configs, and one of its generation_config.json. They are walked when a
checkpoint is opened, before anything is built. The tables also hold what a published class takes where a config leaves
a key out; nothing else in EdgeKit knows such a default.

A key that no table knows is told, not refused: published configs carry many that mean nothing to a model.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.errors import CheckpointError

_LOG = logging.getLogger(__name__)
Config = Mapping[str, Any]
Effect = Literal["used", "refused", "none"]
Neutral = Callable[[Any, Config], bool]
"""Whether a value changes nothing, of it and of the config that it stands in."""


class _Absent:
    def __repr__(self) -> str:
        return "no default"


ABSENT = _Absent()
"""The default of a key that the published class has none for."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a config.

    ``reason``: where it is used, or why it has no effect. ``rule``: what is said of a value that is refused, as all are
    but null and the ``neutral`` ones. ``default``: what the class takes where it is absent.
    ``step``: what to do about one that is refused.
    ``inside``: the table of a nested config, which may depend on the config that it stands in; None: it is not walked.
    ``shared``: whether it is of any config, and tells nothing of the family.
    """

    effect: Effect
    reason: str
    default: Any = ABSENT
    rule: str = ""
    neutral: tuple[Any, ...] | Neutral | None = None
    inside: "Keys | Callable[[Config], Keys | None] | None" = None
    shared: bool = False
    step: str = "take a checkpoint without it"

    def matters(self, value: object, config: Config) -> bool:
        """Return whether a value of a key that may be refused is to be."""
        if value is None or not self.rule:
            return False
        if callable(self.neutral):
            return not self.neutral(value, config)
        return self.neutral is None or value not in self.neutral


def used(where: str, default: object = ABSENT) -> Key:
    """Return a key that something of EdgeKit reads: ``where`` says what becomes of it."""
    return Key("used", where, default)


def used_if(neutral: Neutral, where: str, rule: str, default: object = ABSENT) -> Key:
    """Return a key that is read, and refused unless ``neutral`` says of its value and config that it can be."""
    return Key("used", where, default, rule, neutral)


def ranged(possible: Neutral, where: str, rule: str, default: object = ABSENT) -> Key:
    """Return a key that is read, and refused where ``possible`` says that its value cannot be."""
    return Key("used", where, default, rule, possible, step="correct it, or take it out")


def nested(where: str, inside: "Keys | Callable[[Config], Keys | None]") -> Key:
    """Return a key that holds a config of its own."""
    return Key("used", where, inside=inside)


def refused(rule: str, *neutral: Any, default: object = ABSENT) -> Key:  # noqa: ANN401 - of any type
    """Return a key that is refused unless its value is one of ``neutral``, or null."""
    return Key("refused", "", default, rule, neutral)


def refused_unless(neutral: Neutral, rule: str, default: object = ABSENT) -> Key:
    """Return a key that is refused unless ``neutral`` says of its value and config that it changes nothing."""
    return Key("refused", "", default, rule, neutral)


def unused(reason: str) -> Key:
    """Return a key that changes nothing here, whatever its value."""
    return Key("none", reason)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one class of configs; ``source`` names the class and the version that the defaults are of."""

    source: str
    rows: Mapping[str, Key]

    def check(self, config: Config, file: str = "config.json", inside: str = "") -> None:
        """Return if nothing in a config would be run wrong; keys that are not known are told by one line of the log.

        Raises CheckpointError for the first key, in the order of the file, that is refused.
        """
        unknown = [*_unknown(self, config, file, inside)]
        if unknown:
            one = len(unknown) == 1
            _LOG.warning(
                "%s: %s %s EdgeKit knows and %s ignored; if %s what the model says, this bundle says something else",
                file, ", ".join(unknown), "is no key that" if one else "are no keys that", "is" if one else "are",
                "it changes" if one else "one of them changes",
            )  # fmt: skip

    def filled(self, config: Config) -> Config:
        """Return a config as its class has it: with the defaults of keys that it leaves out."""
        return config if isinstance(config, _Filled) and config.keys_of is self else _Filled(config, self)

    def heeded(self, config: Config) -> Config:
        """Return a config without the keys that have no effect."""
        rows = self.rows
        return {name: value for name, value in config.items() if name not in rows or rows[name].effect != "none"}

    def with_rows(self, source: str, **rows: Key) -> "Keys":
        """Return the table of another class, which has these rows besides or instead."""
        return Keys(source, {**self.rows, **rows})

    def own(self) -> frozenset[str]:
        """Return the keys that are used, without those that any config may have: ``shared`` of their rows says so."""
        return frozenset(name for name, row in self.rows.items() if row.effect == "used" and not row.shared)


def _unknown(keys: Keys, config: Config, file: str, inside: str) -> Iterator[str]:
    """Yield the keys that no table knows, of a config and of those inside it; raises as ``check`` does."""
    for name, value in config.items():
        row = keys.rows.get(name)
        if row is None:
            if not name.startswith("_"):  # a library's own remarks
                yield f"{inside}{name}"
            continue
        if row.matters(value, config):
            raise CheckpointError(f"{file}: {inside}{name} is {_shown(value)}, {row.rule}; {row.step}")
        if row.inside is not None and isinstance(value, Mapping):
            table = row.inside(config) if callable(row.inside) else row.inside
            yield from _unknown(table, value, file, f"{inside}{name}.") if table else ()


class _Filled(Mapping[str, Any]):
    """A config with its class's defaults; reading a key that the table does not call used is a mistake of ours."""

    def __init__(self, given: Config, keys: Keys) -> None:
        self.given, self.keys_of = given, keys

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - of any type
        row = self.keys_of.rows.get(key)
        assert row is not None, f"{key} is in no row of {self.keys_of.source}"
        assert row.effect != "none", f"{key} is read, and has no effect by {self.keys_of.source}"
        if key in self.given:
            return self.given[key]
        if row.default is ABSENT:
            raise KeyError(key)
        return row.default

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.given, *self._defaults())))

    def __len__(self) -> int:
        return len({*self.given, *self._defaults()})

    def __contains__(self, key: object) -> bool:
        return key in self.given or key in self._defaults()

    def _defaults(self) -> frozenset[str]:
        return frozenset(name for name, row in self.keys_of.rows.items() if row.default is not ABSENT)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
