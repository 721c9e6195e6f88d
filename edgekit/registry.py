"""A registry: the members of one axis by name, checked when they are registered and not when they are first used.

What a stranger adds (a dialect, a backend, a family, a way of speaking) is registered in process, once, before it is
needed. Knows no axis: what a record must have is read from the class that describes it.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from edgekit.errors import RegistryError


class Named(Protocol):
    """What every record has."""

    @property
    def name(self) -> str:
        """The name it is known by."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Records of one kind by their ``name``, in the order in which they were registered.

    noun: what messages call a record. kind: the dataclass or Protocol that names its fields. A field that ``kind``
    gives a default may be empty, no other.
    """

    def __init__(self, noun: str, kind: type[Any]) -> None:
        self._noun = noun
        self._kind = kind
        self._records: dict[str, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._records.values()))

    def names(self) -> tuple[str, ...]:
        """Return the name of every record."""
        return tuple(self._records)

    def get(self, name: str) -> T:
        """Return the record of a name. Raises RegistryError naming the known ones."""
        if name not in self._records:
            known = ", ".join(self._records) or "none"
            raise RegistryError(f"{self._noun} '{name}' is not known; choose one of: {known}, or register it first")
        return self._records[name]

    def register(self, record: T) -> None:
        """Add a record.

        Raises RegistryError, which names record and field, where one is missing, empty or of another type, and where
        the name is taken.
        """
        label = f"{self._noun} '{getattr(record, 'name', None) or type(record).__name__}'"
        check(record, self._kind, label)
        if record.name in self._records:
            raise RegistryError(f"{label}: registered already; choose another name")
        self._records[record.name] = record

    @contextmanager
    def registered(self, record: T) -> Iterator[T]:
        """Keep a record for the length of a block: for tests, so that nothing they add outlives them."""
        self.register(record)
        try:
            yield record
        finally:
            del self._records[record.name]


def check(record: object, kind: type[Any], label: str) -> None:
    """Raise RegistryError, which begins with the label, unless an object has all that a dataclass or Protocol names."""
    if fault := _fault(record, kind):
        raise RegistryError(f"{label}: {fault}; {kind.__name__} in {kind.__module__} says what it needs")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a class says of its records: type of each field, names of methods, and fields that have a default."""

    fields: Mapping[str, Any]
    methods: tuple[str, ...]
    optional: frozenset[str]


def _kind(described: type[Any]) -> _Kind:
    hints = get_type_hints(described)
    if is_dataclass(described):
        defaults = {one.name for one in fields(described) if (one.default, one.default_factory) != (MISSING, MISSING)}
        return _Kind(hints, (), frozenset(defaults))
    members = {
        name: value
        for base in reversed(described.__mro__)
        if _is_protocol(base) and base is not Protocol
        for name, value in vars(base).items()
        if not name.startswith("_")
    }
    optional = frozenset(hints.keys() & members.keys())
    hints |= {name: get_type_hints(one.fget)["return"] for name, one in members.items() if isinstance(one, property)}
    return _Kind(hints, tuple(name for name, one in members.items() if name not in hints and callable(one)), optional)


def _fault(record: object, described: type[Any]) -> str:
    """Return what a record lacks or has wrong, as a message goes on after its name; empty if nothing."""
    return next(_faults(record, described), "")


def _faults(record: object, described: type[Any]) -> Iterator[str]:
    kind = _kind(described)
    if not _is_protocol(described) and not isinstance(record, described):
        yield f"is a {type(record).__name__}, must be a {described.__name__}"
    if missing := [name for name in (*kind.fields, *kind.methods) if _lacks(record, described, name, kind.optional)]:
        yield f"lacks {', '.join(missing)}"
    for name in kind.methods:
        if not callable(getattr(record, name)):
            yield f"{name} is {getattr(record, name)!r}, must be a method"
    for name, hint in kind.fields.items():
        value = getattr(record, name)
        if _is_protocol(hint) and (fault := _fault(value, hint)):
            yield f"{name} {fault}"
        if not _fits(value, hint):
            yield f"{name} is {value!r}, must be {hint.__name__ if type(hint) is type else hint}"
        if name not in kind.optional and isinstance(value, Collection) and not value:
            yield f"{name} is empty"


def _lacks(record: object, described: type[Any], name: str, optional: Collection[str]) -> bool:
    """Return whether a record has a member not, or only what its Protocol says of it, which does nothing."""
    if not _is_protocol(described) or name in optional:
        return not hasattr(record, name)
    said = getattr(described, name, None)
    return not hasattr(record, name) or (said is not None and getattr(type(record), name, None) is said)


def _fits(value: object, hint: object) -> bool:
    """Return whether a value is of an annotated type; of a container each item is looked at."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    kind: Any = origin or hint
    return hint is Any or (_is_of(value, kind) and _items_fit(value, inner))


def _is_of(value: object, kind: type[Any]) -> bool:
    if _is_protocol(kind):
        return not _fault(value, kind)
    if isinstance(value, bool) and kind is not bool:  # True is no number
        return kind is object
    return isinstance(value, (int, float) if kind is float else kind)


def _items_fit(value: object, inner: tuple[Any, ...]) -> bool:
    if not inner or not isinstance(value, Collection):
        return True
    if isinstance(value, Mapping):
        return all(_fits(key, inner[0]) and _fits(one, inner[1]) for key, one in value.items())
    if isinstance(value, tuple) and inner[-1] is not ...:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return not isinstance(value, str) and all(_fits(one, inner[0]) for one in value)  # a text is no list of texts


def _is_protocol(kind: object) -> bool:
    return getattr(kind, "_is_protocol", False) is True
