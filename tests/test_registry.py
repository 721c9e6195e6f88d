"""What a registry takes, refuses and forgets: each refusal names the record and the field."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal, Protocol

import pytest

from edgekit.errors import EdgeKitError, RegistryError
from edgekit.registry import Registry


@dataclass(frozen=True, slots=True)
class Instrument:
    """A record with two fields that have a default."""

    name: str
    strings: int
    sizes: tuple[Literal["half", "full"], ...]
    tuning: tuple[int, ...] = ()
    maker: str | None = None
    sound: Callable[[int], float] | None = None


class Bow(Protocol):
    """What a player's field must be."""

    @property
    def hair(self) -> str: ...

    def draw(self, string: int) -> float: ...


class Player(Protocol):
    """A record of methods and fields; one field has a default."""

    name: str
    ranges: Mapping[str, float]
    bow: Bow
    nickname: str = ""

    def play(self, piece: str) -> bytes: ...


class Horsehair:
    """A bow."""

    hair = "white"

    def draw(self, string):
        return 0.5 * string


class Soloist:
    """A player."""

    name = "soloist"
    ranges: Mapping[str, float] = {"low": 196, "high": 3136.0}
    bow = Horsehair()
    nickname = ""

    def play(self, piece):
        return piece.encode()


@pytest.fixture
def instruments():
    return Registry[Instrument]("instrument", Instrument)


@pytest.fixture
def players():
    return Registry[Player]("player", Player)


def test_records_are_found_by_name_in_the_order_they_came_in(instruments):
    violin, viola = Instrument("violin", 4, ("half", "full")), Instrument("viola", 4, ("full",))
    instruments.register(violin)
    instruments.register(viola)
    assert instruments.names() == ("violin", "viola")
    assert list(instruments) == [violin, viola]
    assert instruments.get("viola") is viola


def test_an_unknown_name_is_refused_with_the_known_ones(instruments):
    with pytest.raises(RegistryError, match=r"^instrument 'lute' is not known; choose one of: none, or register it"):
        instruments.get("lute")
    instruments.register(Instrument("violin", 4, ("full",)))
    instruments.register(Instrument("viola", 4, ("full",)))
    with pytest.raises(RegistryError, match=r"^instrument 'lute' is not known; choose one of: violin, viola, or reg"):
        instruments.get("lute")


def test_two_of_one_name_are_refused_and_the_first_stays(instruments):
    first = Instrument("violin", 4, ("full",))
    instruments.register(first)
    with pytest.raises(RegistryError, match=r"^instrument 'violin': registered already; choose another name"):
        instruments.register(Instrument("violin", 5, ("full",)))
    assert instruments.get("violin") is first


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"name": ""}, r"instrument 'Instrument': name is empty"),
        ({"name": 3}, r"instrument '3': name is 3, must be str"),
        ({"strings": "four"}, r"instrument 'violin': strings is 'four', must be int"),
        ({"strings": True}, r"instrument 'violin': strings is True, must be int"),
        ({"sizes": ()}, r"instrument 'violin': sizes is empty"),
        ({"sizes": "full"}, r"instrument 'violin': sizes is 'full', must be tuple"),
        ({"sizes": ("full", "third")}, r"instrument 'violin': sizes is \('full', 'third'\), must be tuple"),
        ({"tuning": ("g",)}, r"instrument 'violin': tuning is \('g',\), must be tuple"),
        ({"sound": "loud"}, r"instrument 'violin': sound is 'loud', must be"),
        ({"maker": 1737}, r"instrument 'violin': maker is 1737, must be str \| None"),
    ],
)
def test_a_field_that_is_empty_or_of_another_type_is_refused_by_name(changed, fault, instruments):
    with pytest.raises(RegistryError, match=f"^{fault}"):
        instruments.register(Instrument(**{"name": "violin", "strings": 4, "sizes": ("full",)} | changed))
    assert instruments.names() == ()


def test_what_has_a_default_may_be_left_out(instruments, players):
    instruments.register(Instrument("violin", 4, ("full",), maker="Guarneri", sound=float))
    players.register(Soloist())
    assert players.get("soloist").play("x") == b"x"


def test_another_kind_of_record_is_refused(instruments):
    with pytest.raises(RegistryError, match=r"^instrument 'soloist': is a Soloist, must be a Instrument"):
        instruments.register(Soloist())


def test_a_record_of_a_protocol_is_told_all_it_lacks(players):
    with pytest.raises(RegistryError, match=r"^player 'p': lacks ranges, bow, nickname, play; Player in .* says what"):
        players.register(SimpleNamespace(name="p"))
    with pytest.raises(RegistryError, match=r"^player 'Horsehair': lacks name, "):
        players.register(Horsehair())


def test_a_method_that_is_only_inherited_from_the_protocol_is_lacking(players):
    class Mute(Player):
        name = "mute"
        ranges: Mapping[str, float] = {"low": 1.0}
        bow = Horsehair()

    with pytest.raises(RegistryError, match=r"^player 'mute': lacks play;"):
        players.register(Mute())


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"play": "loud"}, "play is 'loud', must be a method"),
        ({"ranges": {"low": "g"}}, r"ranges is {'low': 'g'}, must be collections.abc.Mapping\[str, float\]"),
        ({"ranges": {}}, "ranges is empty"),
        ({"bow": SimpleNamespace(hair="white")}, "bow lacks draw"),
        ({"bow": SimpleNamespace(hair=7, draw=abs)}, "bow hair is 7, must be str"),
        ({"bow": None}, "bow lacks hair, draw"),
    ],
)
def test_a_member_of_another_kind_is_refused_by_name(changed, fault, players):
    good = {name: getattr(Soloist(), name) for name in ("name", "ranges", "bow", "nickname", "play")}
    with pytest.raises(RegistryError, match=f"^player 'soloist': {fault}"):
        players.register(SimpleNamespace(**good | changed))


def test_a_record_can_be_kept_for_the_length_of_a_block(instruments):
    with instruments.registered(Instrument("rebec", 3, ("full",))) as rebec:
        assert instruments.get("rebec") is rebec
    assert instruments.names() == ()


def test_a_block_that_fails_forgets_its_record_too(instruments):
    with pytest.raises(RegistryError), instruments.registered(Instrument("rebec", 3, ("full",))):
        instruments.get("lute")
    assert instruments.names() == ()


def test_a_refused_record_of_a_block_leaves_the_first_of_its_name(instruments):
    first = Instrument("violin", 4, ("full",))
    instruments.register(first)
    with pytest.raises(RegistryError), instruments.registered(Instrument("violin", 4, ("full",))):
        pass
    assert list(instruments) == [first]


def test_a_refusal_is_a_value_error_and_ours():
    assert issubclass(RegistryError, EdgeKitError)
    assert issubclass(RegistryError, ValueError)
