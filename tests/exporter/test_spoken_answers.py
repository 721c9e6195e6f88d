"""Answers of a Step-Audio 2 that speaks: sound from the answer's own tokens, while its text still comes."""

import msgspec
import numpy as np
import pytest
import soundfile

import edgekit
from edgekit.bundle import Sampling
from edgekit.cli import main
from edgekit.errors import UsageError
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.events import Audio, Text, Thought
from edgekit.runtime.speak.flow import FlowSpeaker
from edgekit.runtime.speak.matching import Flow
from edgekit.runtime.speak.vocoder import Vocoder
from edgekit.runtime.speak.voice import load_voice
from edgekit.timing import Trace
from tests.exporter import speaking
from tests.exporter.test_export import QUICK
from tests.runtime.streams import final_texts, logged, run, sound_of

ANSWER = 250  # tokens: some fifty of them are speech
GREEDY = Sampling()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("speaking")
    checkpoint = speaking.write(root / "checkpoint")
    export(checkpoint, root / "b", ExportOptions(recipe=QUICK, precision="int8"))
    return root / "b"


@pytest.fixture(scope="module")
def model(bundle):
    return edgekit.load(bundle, threads=1, speak=True)


def _speaking(model, **options):
    return model.stream(**{"gate": "off", "speak": True, "max_tokens": ANSWER, "turns": None} | options)


def _sound(events):
    return np.concatenate([np.zeros(0, np.float32), *(event.samples for event in events if isinstance(event, Audio))])


def _tokens(model, log):
    """Return every token that the backbone read, in order; -1 for what is heard."""
    rows = {row.tobytes(): token for token, row in enumerate(model.table.rows(range(model.table.vocabulary)))}
    return [rows.get(row.tobytes(), -1) for call in log.calls for row in np.asarray(call["embeds"])]


def _answers(model, log):
    """Return the tokens of each answer that another turn follows, from the mark that begins speech."""
    read = _tokens(model, log)
    lead = model.tokenizer.encode(model.manifest.protocol.reply + model.manifest.protocol.speak)
    end = model.tokenizer.encode(model.manifest.protocol.again)[0]
    starts = [at for at in range(len(read)) if read[at : at + len(lead)] == lead and end in read[at:]]
    return [read[at + len(lead) : read.index(end, at)] for at in starts]


def _said(model, tokens, voice="default_female"):
    """Return how many codes an answer has, and the samples that flow and vocoder alone make of them."""
    speech = model.manifest.speech
    prompt = load_voice(model.bundle.file(speech.voices[voice]), speech.sample_rate_hz)
    flow = Flow(model.engines["flow_encoder"], model.engines["flow_step"], prompt, speech)
    vocoder = Vocoder(model.engines["vocoder"], speech.samples_per_code // 2, 0)
    codes = [token - speech.first_code for token in tokens]
    codes = [code for code in codes if 0 <= code < speech.codes]
    mels = [mel for code in codes if len(mel := flow.push([code]))]
    pieces = [vocoder.push(mel, last=False) for mel in mels] + [vocoder.push(flow.finish(), last=True)]
    return len(codes), np.concatenate(pieces)


def test_sound_comes_while_text_still_comes_and_both_as_they_exist(model):
    heard = []
    stream = _speaking(model, on_audio=heard.append, on_text=heard.append)
    events = stream.ask("what do you know")
    assert [type(one) for one in heard] == [type(one) for one in events if isinstance(one, (Audio, Text))]
    kinds = [type(event) for event in events if isinstance(event, (Audio, Text))]
    first = kinds.index(Audio)
    assert Text in kinds[:first]
    assert Text in kinds[first:]
    assert {event.sample_rate_hz for event in events if isinstance(event, Audio)} == {24_000}
    (text,) = final_texts(events)
    assert text.text


@pytest.mark.parametrize("voice", ["default_female", "default_male"])
def test_the_sound_of_several_turns_is_that_of_their_codes(voice, model):
    watched, logs = logged(model)
    stream = _speaking(watched, voice=voice)
    sounds = [_sound(stream.ask(text)) for text in ("what do you know", "and now", "say more")]
    answers = _answers(model, logs["backbone"])
    assert len(answers) == 2  # the third is not read again
    for answer, sound in zip(answers, sounds, strict=False):
        count, expected = _said(model, answer, voice)
        assert count > 28
        assert len(sound) == count * 960
        assert len(answer) == ANSWER
        np.testing.assert_array_equal(sound, expected)
        assert np.abs(sound).max() > 0.1
    assert answers[0] != answers[1]


def test_earlier_answers_are_remembered_with_their_codes(model):
    watched, logs = logged(model)
    stream = _speaking(watched)
    stream.ask("what do you know")
    held = len(_tokens(model, logs["backbone"]))
    stream.ask("and now")
    protocol, encode = model.manifest.protocol, model.tokenizer.encode
    read = _tokens(model, logs["backbone"])[held:]
    turn = protocol.turn.replace("{role}", "human").replace("{text}", "and now")
    last = _answers(model, logs["backbone"])[0][-1]
    expected = [last, *encode(protocol.again), *encode(turn), *encode(protocol.reply + protocol.speak)]
    assert read[: len(expected)] == expected


def test_without_speech_no_token_of_speech_is_chosen(model):
    wild = Sampling(temperature=5.0)
    (text,) = final_texts(_speaking(model, speak=False, sampling=wild).ask("what do you know"))
    assert len(text.tokens) == ANSWER
    assert max(text.tokens) < model.manifest.protocol.vocabulary_limit


def test_a_spoken_answers_text_holds_no_token_of_speech(model):
    wild = Sampling(temperature=5.0)
    (text,) = final_texts(_speaking(model, sampling=wild).ask("what do you know"))
    speech = model.manifest.speech
    assert 0 < len(text.tokens) < ANSWER
    assert not [token for token in text.tokens if token >= speech.first_code or token in (speech.start, speech.end)]


def test_a_code_outside_its_range_is_dropped(model):
    speech = model.manifest.speech
    voice = load_voice(model.bundle.file(speech.voices["default_female"]), 24_000)
    mouth = FlowSpeaker(speech, model.engines, voice, Trace())
    codes = np.random.default_rng(1).integers(0, speech.codes, 30).tolist()

    def speak(tokens):
        return np.concatenate([piece for token in tokens for piece in mouth.say(token)] + [*mouth.finish()])

    plain = speak([speech.first_code + code for code in codes])
    padding = [speech.first_code + speech.codes + index for index in range(3)]
    mixed = [token for code in codes for token in (speech.first_code + code, *padding)]
    assert all(mouth.takes(token) for token in padding)
    assert len(plain) == 30 * 960
    np.testing.assert_array_equal(speak([speech.start, *mixed, speech.end, 5]), plain)


def test_a_spoken_answer_is_drawn_as_published_and_a_written_one_is_the_likeliest(model):
    def both(**options):
        events = _speaking(model, **options).ask("what do you know")
        return final_texts(events)[0].tokens, _sound(events)

    def same(one, other):
        return one[0] == other[0] and np.array_equal(one[1], other[1])

    assert same(both(seed=3), both(seed=3))
    assert same(both(seed=3), both(seed=3, sampling=model.manifest.speech.sampling))
    assert not same(both(seed=3), both(seed=4))
    assert same(both(sampling=GREEDY), both(sampling=GREEDY))
    assert both(sampling=GREEDY)[0] == both(sampling=GREEDY, seed=4)[0]
    assert not same(both(sampling=GREEDY), both(seed=3))
    assert both(speak=False)[0] == both(speak=False)[0]
    with pytest.raises(UsageError, match="seed: 3, nothing is drawn at temperature 0; add a temperature"):
        both(speak=False, seed=3)
    warmer = msgspec.structs.replace(model.manifest.speech.sampling, temperature=0.9)
    assert same(both(seed=3, sampling={"temperature": 0.9}), both(seed=3, sampling=warmer))  # the rest as published


def test_an_answer_that_was_broken_off_is_not_spoken_in_the_next(model):
    def deaf(_event):
        raise OSError("the reader is gone")

    whole = _sound(_speaking(model, sampling=GREEDY, turns=0).ask("what do you know"))
    stream = _speaking(model, sampling=GREEDY, turns=0, on_audio=deaf)
    with pytest.raises(OSError, match="the reader is gone"):
        stream.ask("what do you know")
    object.__setattr__(stream.options, "on_audio", None)
    np.testing.assert_array_equal(_sound(stream.ask("what do you know")), whole)


def test_a_hushed_answer_is_written_and_not_spoken(model):
    heard = []
    stream = _speaking(model, sampling=GREEDY, on_audio=heard.append, hush=lambda: len(heard) >= 1)
    events = stream.ask("what do you know")
    assert sum(isinstance(event, Audio) for event in events) == 1
    assert final_texts(events) == final_texts(_speaking(model, sampling=GREEDY).ask("what do you know"))


def test_a_thought_comes_before_speech_and_is_not_spoken(model):
    watched, logs = logged(model)
    stream = _speaking(watched, think=5)
    events = stream.ask("what do you know")
    protocol, encode = model.manifest.protocol, model.tokenizer.encode
    (thought,) = [event for event in events if isinstance(event, Thought) and event.final]
    first = next(index for index, event in enumerate(events) if isinstance(event, Audio))
    assert events.index(thought) < first
    read = _tokens(model, logs["backbone"])
    lead = encode(protocol.thinking.close + protocol.thinking.then + protocol.speak)
    assert any(read[index : index + len(lead)] == lead for index in range(len(read)))
    stream.ask("and now")
    again = _tokens(model, logs["backbone"])[len(read) :]  # the thought is forgotten, the answer read once more
    assert again[0] == model.manifest.speech.start
    _, expected = _said(model, again[1 : again.index(encode(protocol.again)[0])])
    np.testing.assert_array_equal(_sound(events), expected)


def test_what_is_heard_is_answered_aloud_and_written_to_a_file(bundle, model, tmp_path):
    """Tolerance: half a step of 16 bit, rounded either way."""
    samples = sound_of(16_000)
    soundfile.write(tmp_path / "talk.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(SystemExit) as end:
        main(["run", str(bundle), str(tmp_path / "talk.wav"), "--speak", str(tmp_path / "out.wav"), "--gate", "off",
              "--max-tokens", str(ANSWER), "--threads", "1", "--seed", "2"])  # fmt: skip
    assert end.value.code == 0
    said, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    expected = _sound(run(_speaking(model, seed=2, turns=0), [samples]))
    assert rate == 24_000
    assert len(expected) > 28 * 960
    np.testing.assert_allclose(said, expected, atol=2**-15)
