"""What a family is: a record that recognises a checkpoint's config, and the parts that such a checkpoint is cut into.

To add one, write a module with a Family in it and register it. Its ``open`` binds it to one config: Opened, which asks
the Part that owns a tensor or a component, so that families have nothing to hand on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import ComputeLevel, Embedding, FrontEnd, Grid, Speech, TokenProtocol
from edgekit.errors import RegistryError
from edgekit.exporter.families.generation import FILE, GENERATION, governed, settings
from edgekit.exporter.families.keys import Config, Keys
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Beside, Tensors
from edgekit.exporter.sources.stored import StoredTensors
from edgekit.exporter.weights import Weights
from edgekit.recipe import GROUPS, GridSettings, Group

Shapes = Mapping[str, tuple[int, ...]]
SpeechMaker = Callable[[Mapping[str, Embedding], str], Speech | None]
Locate = Callable[[str], Path]
"""Return the folder of another checkpoint: of a path as it is, of an id of the hub fetched."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads that attend to a cache: the key of the config that says their size, the size, and whether they are turned.

    Turned heads have rotary positions.
    """

    key: str
    size: int
    turned: bool


class Part(ABC):
    """Some of a bundle's components, and the tensors of a checkpoint that they hold. Parts may know each other."""

    components: Mapping[str, Group | None]
    """Components that it writes, and the group whose precision the manifest says each has; None: float32."""
    tables: Mapping[str, tuple[str, ...]] = {}
    """Token tables beside the backbone's: name in the manifest's ``speech`` to the tensors it holds, in order.

    ``stored`` gives all tensors of one table the same name, and ``group`` the same group.
    """

    attends: tuple[Heads, ...] = ()
    """Every kind of heads that it has, for a dialect to say whether its attention takes them."""

    @abstractmethod
    def expected(self) -> Shapes:
        """Return name and shape of every tensor that is this part's and no other's; the checkpoint must hold it."""

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor that it expects; None keeps it float: norms, biases, routers."""
        del name
        return None

    def stored(self, name: str) -> str:
        """Return the name under which the bundle stores a tensor that it expects: that of a bank for an expert's."""
        return name

    def banked(self, name: str) -> bool:
        """Return whether a tensor that it expects is stored in a bank of experts, for ``expert_rows`` to read."""
        tabled = any(name in tensors for tensors in self.tables.values())
        return not tabled and self.stored(name) != name

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank, of a part that stores banks of experts."""
        raise AssertionError(f"{type(self).__name__} has no experts: {stored}, {expert}, {source}")

    def ignored(self, name: str) -> bool:
        """Return whether a tensor that nobody expects may be in the checkpoint, since this part does without it."""
        del name
        return False

    def copied(self, name: str) -> str | None:
        """Return the tensor that one which nobody expects must repeat, such as the table of a tied head; None: none."""
        del name
        return None

    @abstractmethod
    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""


def writes_only(_tables: Mapping[str, Embedding], _tokenizer: str) -> None:
    """Return how answers are spoken of a family that does not speak: they are not."""


def _alone(found: StoredTensors, _locate: Locate) -> Beside:
    return Beside(found, found.config)


def _unsaid(_config: Config) -> dict[str, Any]:
    return {}


def _nobody(_found: Beside) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class _Owned:
    """What its part says of one tensor."""

    shape: tuple[int, ...]
    group: Group | None
    stored: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A family bound to one config.

    ``embedding``: the tensor that is the backbone's token table. ``marks``: tokens that ``protocol`` and ``speech`` may
    look up, in the order of their ids; so many ids as ``unnamed`` says must follow the last of them: codes that it
    begins. ``unused``: beginnings of names of tensors that may be in the checkpoint and are no part's. ``protocol``
    takes the text of tokenizer.json; ``front_end`` and ``grid`` take what a recipe says, and raise RecipeError for a
    mode that the weights were not made for. ``speech``: how answers are spoken, of where the ``tables`` of the parts
    lie and the tokenizer's text; None if they are not. ``voices``: those that lie beside a checkpoint, by name, as the
    way of speaking writes them into a bundle (``exporter/speech``).

    Raises RegistryError, since the family is wrong and not the config, if two parts share a tensor or a component, or a
    name stands for nothing.
    """

    parts: tuple[Part, ...]
    embedding: str
    max_context: int
    protocol: Callable[[str], TokenProtocol]
    front_end: Callable[[GridSettings], FrontEnd]
    grid: Callable[[GridSettings], Grid]
    levels: tuple[ComputeLevel, ...]
    marks: tuple[str, ...] = ()
    unnamed: int = 0
    unused: tuple[str, ...] = ()
    speech: SpeechMaker = writes_only
    voices: Callable[[Beside], Mapping[str, Any]] = _nobody
    _owned: dict[str, _Owned] = field(init=False, repr=False, default_factory=dict)
    _owners: dict[str, Part] = field(init=False, repr=False, default_factory=dict)
    _holders: dict[str, Part] = field(init=False, repr=False, default_factory=dict)
    _banks: set[str] = field(init=False, repr=False, default_factory=set)
    _builders: dict[str, Part] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.parts:
            for name, shape in part.expected().items():
                _claim(self._owners, name, part)
                owned = self._owned[name] = _Owned(tuple(shape), part.group(name), part.stored(name))
                _claim(self._holders, owned.stored, part)
                if part.banked(name):
                    self._banks.add(owned.stored)
            for component in part.components:
                _claim(self._builders, component, part)
        self._check()

    def _check(self) -> None:
        if self.embedding not in self._owned:
            raise RegistryError(f"{self.embedding}: is to be the token table and no part expects it; let one do so")
        groups = self.groups
        for component, group in self.components.items():
            if group is not None and group not in groups:
                raise RegistryError(
                    f"{component}: has the precision of group '{group}', which no tensor is of; let "
                    f"{type(self._builders[component]).__name__} name one that it gives to a tensor, or None"
                )

    @property
    def components(self) -> dict[str, Group | None]:
        """Every component, in the order of the parts, and the group whose precision it has."""
        return {name: group for part in self.parts for name, group in part.components.items()}

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that there are weights of: those that any recipe may name first, then the family's own."""
        used = dict.fromkeys(owned.group for owned in self._owned.values() if owned.group is not None)
        return tuple(dict.fromkeys((*(group for group in GROUPS if group in used), *used)))

    @property
    def tables(self) -> dict[str, tuple[str, ...]]:
        """The token tables of all parts: name in the manifest's ``speech`` to the tensors it holds, in order."""
        return {name: tensors for part in self.parts for name, tensors in part.tables.items()}

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor the checkpoint must hold."""
        return {name: owned.shape for name, owned in self._owned.items()}

    def owner(self, name: str) -> Part:
        """Return the part that an expected tensor is of."""
        return self._owners[name]

    def group(self, name: str) -> Group | None:
        """Return the precision group of an expected tensor; None keeps it float."""
        return self._owned[name].group

    def stored(self, name: str) -> str:
        """Return the name under which the bundle stores an expected tensor."""
        return self._owned[name].stored

    def banked(self, stored: str) -> bool:
        """Return whether a stored name is that of a bank of experts."""
        return stored in self._banks

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank of experts."""
        return self._holders[stored].expert_rows(source, stored, expert)

    def ignored(self, name: str) -> bool:
        """Return whether a tensor may be in the checkpoint without being used."""
        return name.startswith(self.unused) or bool(self.copied(name)) or any(part.ignored(name) for part in self.parts)

    def copied(self, name: str) -> str | None:
        """Return the tensor that one which nobody expects must repeat; None if it is a copy of none."""
        return next((original for part in self.parts if (original := part.copied(name))), None)

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        self._builders[component].build(component, g, w)


def _claim(held: dict[str, Part], what: str, part: Part) -> None:
    """Note that something is a part's. Raises RegistryError naming both if it is another's."""
    if (other := held.setdefault(what, part)) is not part:
        raise RegistryError(
            f"{what}: is of two parts, {type(other).__name__} and {type(part).__name__}; let only one of them have it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture, before any config of it was read.

    ``model_types``: what a config's ``model_type`` says of it; ``recognised_by`` decides where that does not tell, such
    as where a config has another family's, or none. ``keys`` and ``generation_keys``: what becomes of each key of the
    config and of the generation settings; ``text``: the names in a config that lead to that of the text model.
    ``open`` takes config and generation settings and raises CheckpointError where they contradict themselves; call
    ``bind``, which first walks the keys. ``recipe``: the one that an export takes where neither user nor config name
    another; a name below ``export``, or a TOML file.

    ``published``: ids on the hub of checkpoints that were published with this architecture; what stands behind the
    slash is a short name that an export takes as well.

    ``files``: patterns of files beside weights, configs and tokenizer that are fetched as well. ``beside`` opens what
    the family keeps there, or in a second checkpoint that it locates. ``generation``: the settings published with the
    family, of a config that comes alone. ``reference``: its class in torch, a Reference, as ``module:Class``; it is
    imported only to compare with it.
    """

    name: str
    model_types: tuple[str, ...]
    open: Callable[[Config, Config], Opened]
    recipe: str
    keys: Keys
    generation_keys: Keys = GENERATION
    text: tuple[str, ...] = ()
    recognised_by: Callable[[Config], bool] | None = None
    published: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    beside: Callable[[StoredTensors, Locate], Beside] = _alone
    generation: Callable[[Config], dict[str, Any]] = _unsaid
    reference: str = ""

    def recognises(self, config: Config) -> bool:
        """Return whether a config is of this family."""
        if self.recognised_by is not None:
            return self.recognised_by(config)
        return config.get("model_type") in self.model_types

    def bind(self, config: Config, generation: Config) -> Opened:
        """Return the family bound to a config and to generation settings; where these are empty, the config says them.

        Raises CheckpointError for a key that would be run wrong, before anything else is looked at.
        """
        self.keys.check(config)
        told = settings(config, generation, self.text, self.generation_keys)
        file = FILE if generation else "config.json"
        self.generation_keys.check(told, file)
        told = self.generation_keys.heeded(told)
        opened = self.open(config, told)
        vocabulary = opened.expected()[opened.embedding][0]
        return replace(opened, protocol=partial(governed, told, vocabulary, opened.protocol, file=file))
