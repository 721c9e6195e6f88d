"""A pass counts latency from the last speech sample and from the block that closed the utterance."""

import dataclasses

import numpy as np
import pytest

import edgekit
from edgekit.bundle import FrontEnd
from edgekit.errors import ProfileError
from edgekit.profiler.pacing import Pacer
from edgekit.profiler.passes import Answer, Pass, Spoken, _Drafts, latency_of, run_pass, spoken_of, timeline_of
from edgekit.runtime.events import Audio, SpeechStarted, SpeechStopped, Text
from edgekit.timing import Span
from tests.profiler.conftest import FakeClock
from tests.runtime.conftest import MEL_BINS, tiny_bundle  # noqa: F401 - a fixture

ANSWER = Answer(closed_s=2.5, due_s=102.5, first_token_s=102.53, final_text_s=102.6, text="words")


def a_pass(*answers, spans=()):
    """Return a Pass that began at 100 s."""
    return Pass(
        origin_s=100.0,
        audio_s=3.0,
        work_s=0.5,
        spans=tuple(spans),
        answers=answers,
        frames_received=0,
        frames_computed=0,
        text="words",
    )


@pytest.fixture
def model(tiny_bundle):  # noqa: F811 - the fixture
    """Return a loaded bundle of random weights."""
    return edgekit.load(tiny_bundle().folder, threads=1)


@pytest.fixture
def noise():
    """Return a third of a second of noise: shorter than the longest piece of the tiny bundle."""
    return np.random.default_rng(5).uniform(-0.5, 0.5, 5000).astype(np.float32)


def test_latency_without_the_decision_counts_from_the_block_that_closed():
    took = latency_of(a_pass(ANSWER), "a.wav", speech_end_s=2.0)
    assert took.decision_ms == pytest.approx(500)
    assert took.first_token_ms == pytest.approx(30)
    assert took.final_text_ms == pytest.approx(100)


def test_the_last_utterance_of_a_pass_is_the_one_that_counts():
    earlier = Answer(closed_s=1.0, due_s=101.0, first_token_s=101.9, final_text_s=102.0, text="and")
    assert latency_of(a_pass(earlier, ANSWER), "a.wav", 2.0).first_token_ms == pytest.approx(30)


def test_a_pass_without_an_answer_or_with_an_early_one_is_refused():
    with pytest.raises(ProfileError, match=r"a\.wav: no utterance was found"):
        latency_of(a_pass(), "a.wav", 2.0)
    with pytest.raises(ProfileError, match=r"closed the last utterance 0\.20 s before the last speech sample"):
        latency_of(a_pass(ANSWER), "a.wav", 2.7)


def test_work_is_done_while_talking_if_it_ended_before_the_moment():
    spans = [Span("encoder", 100.5, 0.1, 32), Span("encoder", 101.95, 0.1, 32), Span("decode", 102.0, 0.1)]
    done = a_pass(ANSWER, spans=spans)
    assert done.done_before("encoder", 2.0) == 0.5
    assert done.done_before("encoder", 2.05) == 1.0
    assert done.done_before("adapter", 2.0) is None
    assert done.milliseconds("decode") == [100.0]


def test_a_timeline_counts_from_the_first_sample_and_ends_with_the_final_text():
    spans = [Span("encoder", 100.5, 0.1, 32), Span("gate", 102.7, 0.1)]
    drawn = timeline_of(a_pass(ANSWER, spans=spans), "a.wav", 2.0)
    assert (drawn.speech_end_ms, drawn.closed_ms, drawn.first_token_ms, drawn.final_text_ms) == (2000, 2500, 2530, 2600)
    assert [(span.name, span.start_ms, span.ms, span.count) for span in drawn.spans] == [("encoder", 500, 100, 32)]


def test_a_pass_at_real_time_takes_as_long_as_its_input(model, noise):
    clock = FakeClock()
    done = run_pass(model, noise, Pacer(clock, clock.sleep))
    assert clock() - done.origin_s == pytest.approx(len(noise) / 16_000)
    assert done.audio_s == pytest.approx(len(noise) / 16_000)
    assert done.work_s == 0  # this clock does not move while the model works
    (answer,) = done.answers
    assert answer.due_s == pytest.approx(done.origin_s + done.audio_s)


def test_a_pass_hears_what_transcribe_hears(model, noise):
    clock = FakeClock()
    done = run_pass(model, noise, Pacer(clock, clock.sleep, paced=False))
    assert done.text == model.transcribe(noise).text
    assert done.frames_received == len(noise) // 160
    assert done.frames_computed >= done.frames_received


def test_a_bundle_that_hears_24_khz_is_measured_at_that_rate(tiny_bundle):  # noqa: F811 - the fixture
    """Half a second of samples there is a third of one at 16 kHz: no time may come from another rate."""
    front_end = FrontEnd(mel_bins=MEL_BINS, sample_rate_hz=24_000, n_fft=600, hop_samples=240)
    model = edgekit.load(tiny_bundle(front_end=front_end).folder, threads=1)
    sound, clock = np.random.default_rng(5).uniform(-0.5, 0.5, 12_000).astype(np.float32), FakeClock()
    done = run_pass(model, sound, Pacer(clock, clock.sleep))
    assert clock() - done.origin_s == done.audio_s == pytest.approx(0.5)
    assert done.frames_received == 50
    assert done.text == model.transcribe(sound, sample_rate_hz=24_000).text
    assert run_pass(model, sound, Pacer(clock, clock.sleep), gate="speech").frames_received == 50
    stream = model.stream(sample_rate_hz=16_000)
    list(stream.push(sound[:8_000]))
    list(stream.finish())
    assert stream.samples_received == pytest.approx(12_000, abs=1)


def test_the_first_token_comes_after_the_call_that_closes_and_before_the_final_text(model, noise):
    clock = FakeClock(tick=0.001)
    done = run_pass(model, noise, Pacer(clock, clock.sleep, paced=False))
    (answer,) = done.answers
    assert answer.text
    decode = [span for span in done.spans if span.name == "decode"]
    prefill = [span for span in done.spans if span.name == "prefill"]
    assert answer.due_s < prefill[0].start_s + prefill[0].seconds < answer.first_token_s < decode[0].start_s
    assert decode[-1].start_s + decode[-1].seconds < answer.final_text_s
    took = latency_of(done, "noise", done.audio_s)
    assert 0 == took.decision_ms < took.first_token_ms < took.final_text_ms


def test_a_pass_with_drafts_knows_when_the_first_words_came_and_what_they_were_worth(model):
    clock = FakeClock()
    samples = np.random.default_rng(5).uniform(-0.5, 0.5, 6399).astype(np.float32)  # one short of the longest piece
    done = run_pass(model, samples, Pacer(clock, clock.sleep), gate="off", partials=True)
    (first_s,) = done.first_drafts_s
    assert 0.08 < first_s <= 0.08 + 0.06  # a chunk, what it needs to hear beyond it, and the block and the window in it
    assert sum(span.name == "draft" for span in done.spans) == 4
    (drafted,) = done.drafted
    assert 0 <= drafted <= 1
    plain = run_pass(model, samples, Pacer(clock, clock.sleep), gate="off")
    assert (plain.first_drafts_s, plain.drafted) == ((), ())
    assert plain.text == done.text


def test_only_what_was_shown_before_the_end_of_speech_was_drafted():
    drafts = _Drafts(100.0)
    drafts.read([(101.0, SpeechStarted(1.0)), (101.6, Text("", False, 1.0, 1.5)), (102.1, Text("He", False, 1.0, 2.0))])
    drafts.read([(103.1, Text("Hello wo", False, 1.0, 3.0))])
    ended = [SpeechStopped(3.4, 3.9), Text("Hello, w", False, 1.0, 3.5), Text("Hello, you", True, 1.0, 3.5)]
    drafts.read([(104.0, event) for event in ended])
    drafts.read([(105.6, one) for one in (SpeechStarted(5.0), SpeechStopped(5.1, 5.5), Text("Oh", True, 5.0, 5.1))])
    assert drafts.first_s == [pytest.approx(1.1)]
    assert drafts.shares == [0.5]


def test_where_one_call_closes_two_utterances_the_first_token_is_the_last_ones(model):
    clock = FakeClock(tick=0.001)
    long = np.random.default_rng(6).uniform(-0.5, 0.5, 6400 + 200).astype(np.float32)  # 0.4 s fill the longest piece
    done = run_pass(model, long, Pacer(clock, clock.sleep, paced=False))
    (answer,) = done.answers  # both end in finish()
    first, second = [span for span in done.spans if span.name == "prefill"]
    assert first.start_s < second.start_s + second.seconds < answer.first_token_s < answer.final_text_s
    assert done.text == model.transcribe(long).text
    assert done.text.endswith(answer.text)
    assert done.text != answer.text


def a_piece(samples):
    return Audio(np.zeros(samples, np.float32), 24_000)


def test_first_sound_counts_from_the_block_that_closed_and_the_factor_to_the_last_piece():
    spoken = spoken_of([(102.7, a_piece(1920)), (102.8, a_piece(3840)), (103.0, a_piece(6240))])
    assert spoken == Spoken(102.7, 103.0, pytest.approx(0.5))
    took = latency_of(a_pass(dataclasses.replace(ANSWER, spoken=spoken)), "a.wav", 2.0)
    assert took.first_audio_ms == pytest.approx(200)
    assert took.speech_real_time_factor == pytest.approx(1.0)


def test_an_answer_without_sound_has_no_time_of_it():
    assert spoken_of([]) is None
    assert spoken_of([(101.0, a_piece(0))]) is None
    assert spoken_of([(101.0, Text("Oh", True, 5.0, 5.1))]) is None
    took = latency_of(a_pass(ANSWER), "a.wav", 2.0)
    assert (took.first_audio_ms, took.speech_real_time_factor) == (None, None)


def test_host_overhead_is_what_speaking_takes_beside_its_engines():
    engines = [Span("talker", 102.0, 0.2), Span("code_predictor", 102.2, 0.1), Span("decoder", 102.4, 0.1)]
    others = [Span("decode", 102.5, 5.0), Span("encoder", 100.0, 3.0), Span("talker", 101.0, 2.0)]
    whole = [Span("speak", 102.0, 0.3), Span("speak", 102.39, 0.14)]
    assert a_pass(ANSWER, spans=[*engines, *others, *whole]).host_overhead() == pytest.approx(0.1)
    assert a_pass(ANSWER, spans=others).host_overhead() is None
