"""The Talker: order of rows, speech while the text comes, turns, limits, seeds and pieces of sound."""

import msgspec
import numpy as np
import pytest

from edgekit.bundle import Sampling
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.answer.sampler import CodeLimits, sampler
from edgekit.runtime.speak.frames import TalkerOptions
from edgekit.runtime.speak.talker import Talker
from edgekit.timing import Trace
from tests.runtime.streams import Logged
from tests.runtime.talkers import (
    ASSISTANT,
    CODEBOOKS,
    CODEC,
    CODES,
    EOS,
    HEAD,
    HELD,
    NEWLINE,
    SAMPLES,
    SPEECH,
    SYSTEM_TURN,
    TURN_START,
    WIDTH,
    Maths,
    expected,
    user_turn,
)

ANSWER = [1, 2, 3, 4, 5, 6, 7]
ENDLESS = {"codec_eos": CODEC, "codec_suppress": tuple(range(CODES, CODEC))}
DRAWN = {
    "talker_sampling": Sampling(temperature=0.9, top_k=8, repetition_penalty=1.2),
    "code_sampling": Sampling(temperature=1.0, top_p=0.9),
}


class Spoken:
    """A Talker on numpy engines that keep what they were given."""

    def __init__(self, weights: int = 1, trace: Trace | None = None, speech: dict | None = None, **options) -> None:
        self.maths = Maths(weights)
        self.engines = {name: Logged(engine) for name, engine in self.maths.engines().items()}
        self.trace = trace or Trace()
        self.talker = Talker(
            msgspec.structs.replace(SPEECH, **speech or {}), self.engines, self.maths.tables(), self.trace,
            TalkerOptions(**options),
        )  # fmt: skip
        self.talker.open()

    def read(self, tokens: list[int]) -> None:
        """Tell text."""
        self.talker.read(tokens, self.maths.text[tokens], None)

    def hear(self, hidden: np.ndarray) -> None:
        """Tell sound; its rows in the backbone must not matter."""
        self.talker.read(None, np.full_like(hidden, np.nan), hidden)

    def answer(self, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes (frames, codebooks) and samples of an answer."""
        del self.engines["decoder"].calls[:]
        pieces = [piece for token in tokens for piece in self.talker.say(token) if piece is not None]
        pieces += [piece for piece in self.talker.finish() if piece is not None]
        codes = [call["codes"] for call in self.engines["decoder"].calls]
        empty = np.zeros((0, CODEBOOKS), np.int64), np.zeros(0, np.float32)
        return np.concatenate([empty[0], *codes]), np.concatenate([empty[1], *pieces])


def _hidden(rows: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def _told(maths: Maths, *parts: "list[int] | np.ndarray") -> np.ndarray:
    """Return the talker's rows of user turns, sound given as hidden rows."""
    rows = [
        maths.project(part, np.ones((len(part), 1), bool))
        if isinstance(part, np.ndarray)
        else maths.project(maths.text[part], np.zeros((len(part), 1), bool))
        for part in parts
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("seed", range(4))
def test_codes_are_those_of_a_run_that_knows_the_whole_text(length: int, seed: int) -> None:
    spoken = Spoken(seed)
    turn = user_turn(7, 8, 9)
    spoken.read([*SYSTEM_TURN, *turn[:4]])
    spoken.hear(_hidden(5))
    spoken.read([*turn[4:], *HEAD])
    wanted = expected(spoken.maths, _told(spoken.maths, turn[:4], _hidden(5), turn[4:]), ANSWER[:length])
    codes, samples = spoken.answer(ANSWER[:length])
    np.testing.assert_array_equal(codes, wanted)
    np.testing.assert_array_equal(samples, spoken.maths.sound(wanted))


def test_the_seeds_above_cover_speech_that_ends_and_speech_that_is_cut() -> None:
    lengths = []
    for seed in range(4):
        maths = Maths(seed)
        lengths.append(len(expected(maths, _told(maths, user_turn(7, 8)), ANSWER)))
    assert max(lengths) == SPEECH.max_frames
    assert min(lengths) < SPEECH.max_frames


@pytest.mark.parametrize("part", [1, 2, 3, 7])
def test_any_split_of_what_is_told_gives_the_same_codes(part: int) -> None:
    whole, split = Spoken(), Spoken()
    prompt = [*SYSTEM_TURN, *user_turn(7, 8, 9), *HEAD]
    whole.read(prompt)
    for at in range(0, len(prompt), part):
        split.read(prompt[at : at + part])
    split.read([])
    for mine, theirs in zip(whole.answer(ANSWER), split.answer(ANSWER), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_sound_is_told_while_the_user_talks_and_no_head_is_run_for_it() -> None:
    spoken = Spoken()
    spoken.read([*SYSTEM_TURN, *user_turn(7)[:4]])
    for rows in (1, 3):
        spoken.hear(_hidden(rows))
    calls = spoken.engines["talker"].calls
    assert [(int(call["start"][0]), len(call["embeds"])) for call in calls] == [(0, 4), (4, 1), (5, 3)]
    assert all(len(call["logit_rows"]) == 0 for call in calls)


def test_turns_of_the_system_and_former_answers_never_reach_the_engines() -> None:
    spoken = Spoken()
    before = len(spoken.engines["talker_adapter"].calls)
    spoken.hear(_hidden(2))  # before any turn
    spoken.read([*SYSTEM_TURN, *HEAD, 1, 2, 38, NEWLINE])
    spoken.hear(_hidden(2))  # in an answer
    assert len(spoken.engines["talker_adapter"].calls) == before
    assert not spoken.engines["talker"].calls


def test_a_frame_is_made_for_each_token_as_it_comes() -> None:
    spoken = Spoken(0, first_frames=1, longest_frames=1)
    spoken.read([*user_turn(7, 8), *HEAD])
    sizes = [sum(len(piece) for piece in spoken.talker.say(token) if piece is not None) for token in ANSWER]
    assert sizes == [SAMPLES - HELD, *[SAMPLES] * (len(ANSWER) - 1)]


def test_turns_after_the_first_are_told_in_place_of_the_answer_before() -> None:
    spoken = Spoken()
    first, second = user_turn(7, 8), user_turn(9)
    spoken.read([*SYSTEM_TURN, *first, *HEAD])
    spoken.answer(ANSWER[:3])
    spoken.read([38, NEWLINE, *second[:3]])
    spoken.hear(_hidden(4))
    spoken.read([*second[3:], *HEAD])
    wanted = expected(spoken.maths, _told(spoken.maths, first, second[:3], _hidden(4), second[3:]), ANSWER[3:])
    codes, samples = spoken.answer(ANSWER[3:])
    np.testing.assert_array_equal(codes, wanted)
    np.testing.assert_array_equal(samples, spoken.maths.sound(wanted))


def test_an_answer_without_a_turn_of_the_user_before_it_stands_where_the_last_one_stood() -> None:
    spoken, turn = Spoken(), user_turn(7, 8)
    spoken.read([*turn, *HEAD])
    spoken.answer(ANSWER)
    spoken.read([38, NEWLINE, *HEAD])
    wanted = expected(spoken.maths, _told(spoken.maths, turn), ANSWER[2:])
    np.testing.assert_array_equal(spoken.answer(ANSWER[2:])[0], wanted)


def test_an_answer_that_nobody_hears_to_its_end_leaves_nothing_behind() -> None:
    spoken = Spoken(first_frames=4)
    first, second = user_turn(7, 8), user_turn(9)
    spoken.read([*first, *HEAD])
    for token in ANSWER[:6]:
        list(spoken.talker.say(token))
    next(spoken.talker.finish(), None)
    spoken.read([38, NEWLINE, *second, *HEAD])
    codes, samples = spoken.answer(ANSWER)
    wanted = expected(spoken.maths, _told(spoken.maths, first, second), ANSWER)
    np.testing.assert_array_equal(codes, wanted)
    np.testing.assert_array_equal(samples, spoken.maths.sound(wanted))


def test_a_conversation_opened_anew_knows_nothing_of_the_one_before() -> None:
    used, fresh = Spoken(), Spoken()
    used.read([*user_turn(7, 8), *HEAD])
    used.answer(ANSWER)
    used.read([TURN_START])
    used.talker.open()
    for spoken in (used, fresh):
        spoken.read([*user_turn(9), *HEAD])
    for mine, theirs in zip(used.answer(ANSWER), fresh.answer(ANSWER), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_answer_of_no_tokens_is_silence() -> None:
    spoken = Spoken()
    spoken.read([*user_turn(7), *HEAD])
    assert list(spoken.talker.finish()) == []
    assert spoken.talker.cut is None


@pytest.mark.parametrize("frames", [1, 2, 3, 6, 9])
def test_the_longest_answer_is_cut_and_says_so(frames: int) -> None:
    spoken = Spoken(speech={"max_frames": frames})
    spoken.read([*user_turn(7, 8), *HEAD])
    codes, _ = spoken.answer(ANSWER)
    np.testing.assert_array_equal(codes, expected(spoken.maths, _told(spoken.maths, user_turn(7, 8)), ANSWER)[:frames])
    assert len(codes) == frames
    assert spoken.talker.cut == "frames"


def _ending() -> tuple[int, list[int], int]:
    """Return a seed, an answer and the number of frames after which its speech ends by itself."""
    for seed in range(30):
        maths = Maths(seed)
        codes = expected(maths, _told(maths, user_turn(7, 8)), ANSWER[:2])
        if 4 < len(codes) < SPEECH.max_frames:
            return seed, ANSWER[:2], len(codes)
    raise AssertionError("no seed ends")


def test_speech_that_ends_just_in_time_is_not_cut() -> None:
    seed, answer, frames = _ending()
    for limit, cut in ((frames, None), (frames - 1, "frames")):
        spoken = Spoken(seed, speech={"max_frames": limit})
        spoken.read([*user_turn(7, 8), *HEAD])
        codes, _ = spoken.answer(answer)
        assert (len(codes), spoken.talker.cut) == (limit, cut)


@pytest.mark.parametrize("frames", [0, 1, 4, 9])
def test_a_full_context_ends_speech_and_says_so(frames: int) -> None:
    turn = user_turn(7, 8)
    room = len(turn) + 9 + frames - 1 if frames else len(turn) + 8  # the first frame comes with the head's 9 rows
    spoken = Spoken(speech={"context_frames": room})
    spoken.read([*turn, *HEAD])
    codes, samples = spoken.answer(ANSWER)
    assert len(codes) == frames
    assert len(samples) == max(0, frames * SAMPLES - HELD)
    assert spoken.talker.cut == "context"


def test_a_turn_that_finds_no_room_silences_every_answer_until_the_next_conversation() -> None:
    spoken = Spoken(speech={"context_frames": 20})
    spoken.read([*user_turn(7), *HEAD])
    assert len(spoken.answer(ANSWER)[0])
    spoken.read(user_turn(*range(20)))
    for _ in range(2):
        spoken.read([*user_turn(), *HEAD])
        assert not len(spoken.answer(ANSWER)[0])
        assert spoken.talker.cut == "context"
    spoken.talker.open()
    spoken.read([*user_turn(7), *HEAD])
    assert len(spoken.answer(ANSWER)[0])


def test_a_cut_is_forgotten_with_the_next_answer() -> None:
    seed, answer, frames = _ending()
    spoken = Spoken(seed, speech={"max_frames": frames})
    maths = spoken.maths
    others = [[token, *ANSWER] for token in range(10)]
    long = next(other for other in others if len(expected(maths, _told(maths, user_turn(7, 8)), other)) > frames)
    for tokens, cut in ((long, "frames"), (answer, None)):
        spoken.talker.open()
        spoken.read([*user_turn(7, 8), *HEAD])
        spoken.answer(tokens)
        assert spoken.talker.cut == cut


def test_the_same_seed_says_the_same_over_several_answers_and_another_does_not() -> None:
    def conversation(seed: int) -> list[list[list[int]]]:
        spoken, answers = Spoken(seed=seed, **DRAWN), []
        for _ in range(2):
            spoken.read([*user_turn(7), *HEAD])
            answers.append(spoken.answer(ANSWER)[0].tolist())
        return answers

    once = conversation(5)
    assert once == conversation(5)
    assert once[0] != conversation(6)[0]
    assert once[0] != once[1]


def test_drawn_codes_are_those_of_a_run_that_knows_the_whole_text() -> None:
    drawn = {name: msgspec.structs.replace(sampling, repetition_penalty=3.0) for name, sampling in DRAWN.items()}
    spoken = Spoken(seed=8, **drawn)
    limits = CodeLimits(stop=(EOS,), suppress=SPEECH.codec_suppress), CodeLimits()
    samplers = tuple(sampler(limits[i], list(drawn.values())[i], (8, i)) for i in range(2))
    told = []
    for turn in (user_turn(7), user_turn(8, 9)):
        told.append(turn)
        spoken.read([*turn, *HEAD])
        wanted = expected(spoken.maths, _told(spoken.maths, *told), ANSWER, samplers=samplers)
        np.testing.assert_array_equal(spoken.answer(ANSWER)[0], wanted)
        assert len(wanted) > 3


def test_drawn_codes_do_not_depend_on_when_the_text_comes() -> None:
    def codes(first_frames: int) -> list[list[int]]:
        spoken = Spoken(first_frames=first_frames, **DRAWN)
        spoken.read([*user_turn(7), *HEAD])
        return spoken.answer(ANSWER)[0].tolist()

    assert codes(1) == codes(24)


@pytest.mark.parametrize(
    ("first", "longest", "sizes"), [(2, 24, [2, 4, 8, 16, 20]), (1, 1, [1] * 50), (3, 8, [3, 6, 8, 8, 8, 8, 8, 1])]
)
def test_pieces_double_up_to_the_longest(first: int, longest: int, sizes: list[int]) -> None:
    spoken = Spoken(0, speech=ENDLESS, first_frames=first, longest_frames=longest)
    for _ in range(2):
        spoken.read([*user_turn(7, 8), *HEAD])
        codes, samples = spoken.answer(ANSWER)
        calls = spoken.engines["decoder"].calls
        assert [len(call["codes"]) for call in calls] == sizes
        assert [int(call["start"][0]) for call in calls] == np.cumsum([0, *sizes[:-1]]).tolist()
        np.testing.assert_array_equal(samples, spoken.maths.sound(codes))


@pytest.mark.parametrize(
    ("name", "usual", "token"),
    [(None, "", 16), (None, "bob", 17), ("ann", "bob", 16), ("Bob", "", 17), ("BOB", "ann", 17)],
)
def test_speakers_are_known_in_any_case_of_letters_and_one_speaks_if_none_is_asked_for(
    name: str | None, usual: str, token: int
) -> None:
    # as a manifest's file may have them: in no order that says anything
    spoken = Spoken(speaker=name, speech={"speakers": {"bob": 17, "ann": 16}, "speaker": usual})
    spoken.read([*user_turn(7), *HEAD])
    wanted = expected(spoken.maths, _told(spoken.maths, user_turn(7)), ANSWER, speaker=token)
    np.testing.assert_array_equal(spoken.answer(ANSWER)[0], wanted)


def test_an_unknown_speaker_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="voice: 'carl' is not in this bundle; choose one of: ann, bob"):
        Spoken(speaker="carl")


@pytest.mark.parametrize(("first", "longest"), [(0, 24), (3, 2)])
def test_pieces_that_cannot_be_are_refused(first: int, longest: int) -> None:
    with pytest.raises(UsageError, match="first_frames"):
        Spoken(first_frames=first, longest_frames=longest)


def test_a_turn_of_an_unknown_role_is_refused() -> None:
    with pytest.raises(UsageError, match=r"token 9 begins a turn, the talker knows system \(31\)"):
        Spoken().read([TURN_START, 9, NEWLINE])


@pytest.mark.parametrize("told", [[], [*user_turn(7)], [*user_turn(7), TURN_START, ASSISTANT]])
def test_an_answer_without_the_beginning_of_its_turn_is_refused(told: list[int]) -> None:
    spoken = Spoken()
    spoken.read(told)
    with pytest.raises(BundleFormatError, match="the talker needs 3"):
        list(spoken.talker.say(1))


@pytest.mark.parametrize(("field", "value"), [("codebooks", CODEBOOKS + 1), ("codebook_size", 11), ("codebooks", 3)])
def test_a_code_table_of_other_size_is_refused(field: str, value: int) -> None:
    with pytest.raises(BundleFormatError, match="^code_table: 30 rows of 8, "):
        Spoken(speech={field: value})


def test_every_run_is_timed_and_counted() -> None:
    trace = Trace()
    spoken = Spoken(0, trace=trace, speech={"max_frames": 11})
    del trace.spans[:]
    spoken.read([*user_turn(7, 8), *HEAD])
    spoken.answer(ANSWER)
    counts = {name: trace.total(name)[1] for name in spoken.engines}
    told, head = len(user_turn(7, 8)), 9
    assert counts == {
        "talker_adapter": told + 3 + len(ANSWER),
        "talker": told + head + 11,  # the last shows that there would be more
        "code_predictor": 11 * (CODEBOOKS - 1),
        "decoder": 11,
    }
    runs = {name: sum(span.name == name for span in trace.spans) for name in spoken.engines}
    assert {name: len(engine.calls) for name, engine in spoken.engines.items()} == runs | {
        "talker_adapter": runs["talker_adapter"] + 1  # three rows that never change, before the spans were dropped
    }


def test_an_answer_that_is_taken_back_ends_unsaid():
    spoken = Spoken()
    spoken.read([*user_turn(1, 2), *HEAD])
    mark = spoken.talker.mark()
    for token in ANSWER[:3]:
        list(spoken.talker.say(token))
    spoken.talker.back(mark)
    assert list(spoken.talker.finish()) == []
    codes, samples = spoken.answer(ANSWER)
    fresh = Spoken()
    fresh.read([*user_turn(1, 2), *HEAD])
    expected = fresh.answer(ANSWER)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(samples, expected[1])
