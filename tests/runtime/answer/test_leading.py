"""A speaker that leads: the backbone is fed what it just made, and a turn that is read again is fed the same."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import pytest

from edgekit.bundle import ComputeLevel
from edgekit.runtime.answer.answerer import Backbone, Setting
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.lookup import Guess
from edgekit.runtime.answer.prefix import Asking, PrefixAnswerer
from edgekit.runtime.answer.sampler import Greedy
from edgekit.runtime.engine import Array
from edgekit.runtime.model import Model
from edgekit.timing import Trace
from tests.runtime.streams import Logged, logged

FULL = ComputeLevel(name="full", experts_per_token=2)


class Led:
    """A speaker that makes a code of what the backbone wrote, and feeds it the code's row with the token's own.

    Tokens that three divides are sound alone, the others text; each has its code.
    """

    sample_rate_hz = 8000
    cut = None

    def __init__(self, table: TokenTable) -> None:
        self.table = table
        self.codes: list[int] = []
        self.rows: list[Array] = []
        self.read_tokens: list[int] = []
        self.opened = 0

    def open(self) -> None:
        self.opened += 1
        self.read_tokens = []

    def read(self, tokens: Sequence[int] | None, rows: Array, hidden: Array | None) -> None:
        self.read_tokens += tokens or ()

    def takes(self, token: int) -> bool:
        return token % 3 == 0

    def next_row(self, token: int, hidden: Array | None) -> Array:
        assert hidden is not None, "this backbone writes it"
        self.codes.append(int(np.argmax(hidden)))
        self.rows.append(self.table.row(token) + self.table.row(self.codes[-1]))
        return self.rows[-1]

    def heard_tokens(self, seconds: float) -> int | None:
        return None

    def mark(self) -> object:
        return None

    def back(self, mark: object) -> None:
        """Nothing is remembered."""

    def say(self, token: int) -> Iterator[Array]:
        yield np.full(4, self.codes[-1] / 100, np.float32)

    def finish(self) -> Iterator[Array]:
        return iter(())


class Listens(Led):
    """One that leaves the lead to the backbone, whatever it writes."""

    def next_row(self, token: int, hidden: Array | None) -> None:
        self.hidden = hidden


@pytest.fixture
def model(load: Callable[..., Model]) -> tuple[Model, dict[str, Logged]]:
    """A prefix bundle whose protocol has turns, and whose backbone writes ``hidden``."""
    return conversing(load, writes_hidden=True)


def conversing(load: Callable[..., Model], *, writes_hidden: bool) -> tuple[Model, dict[str, Logged]]:
    protocol = msgspec.structs.replace(
        load("prefix").manifest.protocol, again="<stop>", turn="<start>{role}{text}<stop>", roles={"user": "u"},
        max_tokens=5,
    )  # fmt: skip
    return logged(load("prefix", protocol=protocol, writes_hidden=writes_hidden))


def setting(model: Model, trace: Trace | None = None) -> Setting:
    manifest = model.manifest
    return Setting(
        manifest, model.engines["backbone"], model.table, model.tokenizer, Greedy(manifest.protocol), trace or Trace(),
        model.context_tokens, manifest.protocol.max_tokens,
    )  # fmt: skip


def converse(answerer: PrefixAnswerer, *texts: str) -> list[list[int]]:
    """Return the tokens of an answer to each text."""
    said = []
    for text in texts:
        answerer.open(FULL)
        answerer.tell(answerer.turn("user", text), FULL)
        said.append(list(answerer.answer(FULL, None)))
    return said


def fed(engine: Logged) -> Array:
    """Return the rows that the backbone holds after all of its calls, in the order of the KV cache."""
    rows = np.zeros((0, engine.calls[0]["embeds"].shape[1]), np.float32)
    for call in engine.calls:
        rows = np.concatenate((rows[: int(call["start"][0])], call["embeds"]))
    return rows


def test_the_backbone_is_fed_what_the_speaker_made(model):
    opened, engines = model
    speaker = Led(opened.table)
    (said,) = converse(PrefixAnswerer(setting(opened), Asking(), speaker), "x")
    asked = opened.table.rows(opened.tokenizer.encode("<start>s<start>ux<stop><plain>"))
    held = fed(engines["backbone"])
    np.testing.assert_array_equal(held[: len(asked)], asked)
    np.testing.assert_array_equal(held[len(asked) :], np.array(speaker.rows[:-1]))  # the last one waits
    assert len(speaker.codes) == len(said) == 5, "one code for each token, the last one too"
    assert {speaker.takes(token) for token in said} == {True, False}, "steps of sound alone, and of text and codes"


def test_each_token_is_the_likeliest_after_all_that_was_fed(model):
    opened, engines = model
    speaker = Led(opened.table)
    (said,) = converse(PrefixAnswerer(setting(opened), Asking(), speaker), "x")
    rows = fed(engines["backbone"])
    fresh = Backbone(engines["backbone"].engine, opened.table.width, opened.context_tokens)
    logits, hidden = fresh.step(rows, FULL, last=len(said))
    greedy = Greedy(opened.manifest.protocol)
    assert said == [greedy.pick(row, said[:place]) for place, row in enumerate(logits)]
    assert speaker.codes == np.argmax(hidden, axis=1).tolist()
    plain = converse(PrefixAnswerer(setting(opened), Asking(), None), "x")
    assert plain != [said], "the token table alone leads elsewhere"


def test_a_later_turn_goes_on_from_what_was_fed(model):
    opened, engines = model
    speaker = Led(opened.table)
    converse(PrefixAnswerer(setting(opened), Asking(turns=None), speaker), "x", "y")
    rows, encode = opened.table.rows, opened.tokenizer.encode
    wanted = [
        rows(encode("<start>s<start>ux<stop><plain>")), speaker.rows[:5],
        rows(encode("<stop><start>uy<stop><plain>")), speaker.rows[5:-1],
    ]  # fmt: skip
    np.testing.assert_array_equal(fed(engines["backbone"]), np.concatenate(wanted))


def test_a_turn_that_is_read_again_is_fed_the_same_rows(model):
    opened, engines = model
    speaker = Led(opened.table)
    converse(PrefixAnswerer(setting(opened), Asking(turns=1), speaker), "x", "y", "z")
    rows, encode = opened.table.rows, opened.tokenizer.encode
    wanted = [
        rows(encode("<start>s<start>uy<stop><plain>")), speaker.rows[5:10],
        rows(encode("<stop><start>uz<stop><plain>")), speaker.rows[10:-1],
    ]  # fmt: skip
    np.testing.assert_array_equal(fed(engines["backbone"]), np.concatenate(wanted))
    assert speaker.opened > 1, "it was told to forget"
    assert speaker.read_tokens == encode("<start>s<start>uy<stop><plain><stop><start>uz<stop><plain>")


def test_an_answer_that_is_cut_short_is_remembered_as_it_was_fed(model):
    opened, engines = model
    speaker = Led(opened.table)
    answerer = PrefixAnswerer(setting(opened), Asking(turns=None), speaker)
    answerer.open(FULL)
    answerer.tell(answerer.turn("user", "x"), FULL)
    answer = answerer.answer(FULL, None)
    for _ in range(3):
        next(answer)
    answer.close()
    answerer.open(FULL)
    asked = len(opened.tokenizer.encode("<start>s<start>ux<stop><plain>"))
    np.testing.assert_array_equal(fed(engines["backbone"])[asked : asked + 3], np.array(speaker.rows))


@pytest.mark.parametrize("kept", [0, 2])
def test_an_answer_that_is_shortened_is_remembered_as_it_was_fed(model, kept):
    opened, engines = model
    speaker = Led(opened.table)
    answerer = PrefixAnswerer(setting(opened), Asking(turns=None), speaker)
    converse(answerer, "x")
    answerer.shorten(kept)
    converse(answerer, "y")
    rows, encode = opened.table.rows, opened.tokenizer.encode
    wanted = [
        rows(encode("<start>s<start>ux<stop><plain>")), speaker.rows[:kept],
        rows(encode("<stop><start>uy<stop><plain>")), speaker.rows[5:-1],
    ]  # fmt: skip
    np.testing.assert_array_equal(fed(engines["backbone"]), np.concatenate([part for part in wanted if len(part)]))


def test_an_answer_that_is_taken_back_is_led_as_before(model):
    opened, engines = model
    speaker = Led(opened.table)
    answerer = PrefixAnswerer(setting(opened), Asking(turns=None), speaker)
    converse(answerer, "x")
    answerer.open(FULL)
    answerer.tell(answerer.turn("user", "y"), FULL)
    mark, codes = answerer.mark(), len(speaker.codes)
    said, held = list(answerer.answer(FULL, None)), fed(engines["backbone"])
    answerer.back(mark)
    assert list(answerer.answer(FULL, None)) == said
    assert speaker.codes[codes:] == 2 * speaker.codes[codes : codes + len(said)]
    np.testing.assert_array_equal(fed(engines["backbone"]), held)


def test_codes_are_made_before_the_token_is_handed_out_and_where_nobody_listens_too(model):
    speaker = Led(model[0].table)
    answerer = PrefixAnswerer(setting(model[0]), Asking(), speaker)
    answerer.open(FULL)
    answerer.tell(answerer.turn("user", "x"), FULL)
    for count, _ in enumerate(answerer.answer(FULL, None), 1):  # say is never called
        assert len(speaker.codes) == count


def test_a_speaker_that_listens_changes_neither_tokens_nor_their_cost(load):
    took = []
    for speaks in (False, True):
        opened, engines = conversing(load, writes_hidden=speaks)
        trace = Trace()
        speaker = Listens(opened.table) if speaks else None
        said = converse(PrefixAnswerer(setting(opened, trace), Asking(turns=None), speaker), "x", "y")
        calls = [(int(call["start"][0]), len(call["embeds"])) for call in engines["backbone"].calls]
        took.append((said, calls, [(span.name, span.count) for span in trace.spans]))
    assert took[0] == took[1]


def test_what_the_backbone_does_not_write_is_not_handed_on(load):
    opened, _ = conversing(load, writes_hidden=False)
    speaker = Listens(opened.table)
    converse(PrefixAnswerer(setting(opened), Asking(), speaker), "x")
    assert speaker.hidden is None


def test_a_guess_of_the_tables_rows_does_not_go_with_a_speaker(model):
    opened, _ = model
    made = setting(opened)
    steps = made.steps(
        made.backbone(), opened.table.rows([1]), FULL, None, guess=Guess((1, 2)), speaker=Led(opened.table)
    )
    with pytest.raises(AssertionError, match="cannot be guessed"):
        next(steps)
