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
from edgekit.runtime.events import Audio, AudioEnded, Text, Thought
from edgekit.runtime.hear.gate import Closed
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
    return model.stream(**{"gate": "off", "speak": True, "max_tokens": ANSWER, "turns": "all"} | options)


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


def _first_answer(model, log):
    """Return the tokens of the first answer as the KV cache holds them, from after the mark that begins speech."""
    rows = {row.tobytes(): token for token, row in enumerate(model.table.rows(range(model.table.vocabulary)))}
    cache = []
    for call in log.calls:
        start, embeds = int(call["start"][0]), np.asarray(call["embeds"])
        cache[start:] = [rows.get(row.tobytes(), -1) for row in embeds]
    lead = model.tokenizer.encode(model.manifest.protocol.reply + model.manifest.protocol.speak)
    begin = next(at for at in range(len(cache)) if cache[at : at + len(lead)] == lead) + len(lead)
    return cache[begin : cache.index(model.tokenizer.encode(model.manifest.protocol.again)[0], begin)]


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
    events = list(_speaking(model).ask("what do you know"))
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
    sounds = [_sound(list(stream.ask(text))) for text in ("what do you know", "and now", "say more")]
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
    list(stream.ask("what do you know"))
    held = len(_tokens(model, logs["backbone"]))
    list(stream.ask("and now"))
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
        return np.concatenate(
            [piece for token in tokens for piece in mouth.say(token) if piece is not None]
            + [piece for piece in mouth.finish() if piece is not None]
        )

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


def test_an_answer_that_was_interrupted_is_not_spoken_in_the_next(model):
    whole = _sound(list(_speaking(model, sampling=GREEDY, turns=0).ask("what do you know")))
    stream = _speaking(model, sampling=GREEDY, turns=0)
    kinds = []
    for event in stream.ask("what do you know"):
        kinds.append(event.kind)
        if isinstance(event, Audio):
            stream.interrupt(event.answer)
    assert kinds.count("audio") == 1
    assert kinds[-1] == "interrupted"
    np.testing.assert_array_equal(_sound(list(stream.ask("what do you know"))), whole)


@pytest.mark.parametrize("heard_s", [0.0, 0.1, 1.0, 1e9])
def test_an_interrupted_answer_keeps_the_tokens_whose_sound_was_heard(model, heard_s):
    watched, logs = logged(model)
    stream = _speaking(watched, sampling=GREEDY)
    (final,) = final_texts(list(stream.ask("what do you know")))
    stream.interrupt(final.answer, heard_s)
    (event,) = stream.events()
    assert event.exact
    assert final.text.startswith(event.text)
    list(stream.ask("and now"))
    speech, kept = model.manifest.speech, _first_answer(model, logs["backbone"])
    codes = [token for token in kept if 0 <= token - speech.first_code < speech.codes]
    assert tuple(token for token in kept if token < speech.first_code and token != speech.end) == event.tokens
    if heard_s < 1e9:
        assert len(codes) == int(heard_s * 25)
        assert not codes or kept[-1] == codes[-1]
    else:
        assert len(kept) == ANSWER


@pytest.mark.parametrize("how", ["interrupted", "hushed"])
def test_the_tokens_that_were_heard_are_counted_anew_in_each_answer(model, how):
    stream = _speaking(model, sampling=GREEDY, turns=0)
    for event in stream.ask("and now"):
        if isinstance(event, Audio):
            stream.hushed = how == "hushed"
            if how == "interrupted":
                stream.interrupt(event.answer)
    stream.hushed = False
    list(stream.ask("what do you know"))
    stream.interrupt(2, 1.0)
    (second,) = stream.events()
    alone = _speaking(model, sampling=GREEDY, turns=0)
    list(alone.ask("what do you know"))
    alone.interrupt(1, 1.0)
    (first,) = alone.events()
    assert (second.tokens, second.exact) == (first.tokens, True)
    assert len(stream._answerer._past[-1][-1].tokens) == len(alone._answerer._past[-1][-1].tokens)


def test_a_hushed_answer_is_written_and_not_spoken(model):
    stream = _speaking(model, sampling=GREEDY)
    events = []
    for event in stream.ask("what do you know"):
        events.append(event)
        stream.hushed = stream.hushed or isinstance(event, Audio)
    assert sum(isinstance(event, Audio) for event in events) == 1
    assert not any(isinstance(event, AudioEnded) for event in events)
    assert final_texts(events) == final_texts(_speaking(model, sampling=GREEDY).ask("what do you know"))
    stream.hushed = False
    (ended,) = [event for event in stream.ask("and now") if isinstance(event, AudioEnded)]
    assert ended.answer == 2


def test_a_step_of_a_spoken_answer_is_a_token_a_step_of_the_solver_or_a_piece_of_sound(model):
    stream = _speaking(model, sampling=GREEDY)
    stream.ask("what do you know")
    most = {}
    while stream.pending:
        before = [span.name for span in stream.trace.spans]
        stream.step()
        names = [span.name for span in stream.trace.spans]
        for name in ("decode", "flow_step", "vocoder"):
            most[name] = max(most.get(name, 0), names.count(name) - before.count(name))
    assert most == {"decode": 1, "flow_step": 1, "vocoder": 1}


def test_after_a_rollback_the_same_is_said_as_if_nothing_had_been(model):
    samples = sound_of(16_000)
    expected = run(_speaking(model, seed=4), [samples])
    stream = _speaking(model, seed=4)
    events = list(stream.push(samples))
    mark = stream.mark()
    stream._work.put(Closed(len(samples), len(samples)))
    others = []
    while stream.pending and len(others) < 2:
        others += [event for event in stream.step() if isinstance(event, Audio)]
    stream.back(mark)
    events += list(stream.finish())
    assert final_texts(events) == final_texts(expected)
    np.testing.assert_array_equal(_sound(events), _sound(expected))


def test_a_thought_comes_before_speech_and_is_not_spoken(model):
    watched, logs = logged(model)
    stream = _speaking(watched, think=5)
    events = list(stream.ask("what do you know"))
    protocol, encode = model.manifest.protocol, model.tokenizer.encode
    (thought,) = [event for event in events if isinstance(event, Thought) and event.final]
    first = next(index for index, event in enumerate(events) if isinstance(event, Audio))
    assert events.index(thought) < first
    read = _tokens(model, logs["backbone"])
    lead = encode(protocol.thinking.close + protocol.thinking.then + protocol.speak)
    assert any(read[index : index + len(lead)] == lead for index in range(len(read)))
    list(stream.ask("and now"))
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
