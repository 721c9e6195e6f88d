"""The Python face: what the top namespace shows, what a recording may be, and what a Transcript says."""

import dataclasses
import inspect
import io
import json
import pydoc
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile

import edgekit
from edgekit import errors, events, reprs
from edgekit.bundle import FrontEnd
from edgekit.errors import AudioError, UsageError
from edgekit.runtime.events import Segment, Word
from edgekit.runtime.model import Model, Transcript
from edgekit.runtime.options import RecordingFields, StreamFields, StreamOptions
from edgekit.runtime.policy import Budget
from tests.runtime.streams import CHUNK, HOP, PIECE, RATE, final_texts, logged, run, sound_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONG = "word " * 200


# What there is


def test_the_top_namespace_has_every_event_and_every_error_and_tells_so() -> None:
    kinds = {kind.__name__ for kind in typing.get_args(events.Event)} | {"Event"}
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.EdgeKitError)
    }
    assert kinds | raised <= set(edgekit.__all__) == set(dir(edgekit))
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    assert edgekit.Text is events.Text
    assert edgekit.UsageError is UsageError


def test_what_a_type_checker_is_told_of_the_top_namespace_is_what_there_is() -> None:
    text = Path(edgekit.__file__).read_text(encoding="utf-8")
    block = text.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    told = set(re.findall(r"\b[A-Za-z]+\b", re.sub(r"from [\w.]+ import", "", block)))
    assert told | {"__version__"} == set(edgekit.__all__)


def test_importing_edgekit_imports_no_numpy_and_looking_at_it_neither() -> None:
    program = "import sys, edgekit; dir(edgekit); sys.exit('numpy' in sys.modules or 'msgspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_help_shows_how_it_is_used_and_every_public_class() -> None:
    text = pydoc.plain(pydoc.render_doc(edgekit))
    assert "model.transcribe(" in text
    assert "model.stream(" in text
    for name in ("Model", "Stream", "StreamOptions", "Transcript", "SpeechStarted", "UsageError"):
        assert f"class {name}(" in text


def test_the_options_that_a_type_checker_knows_are_those_of_a_stream() -> None:
    known = typing.get_type_hints(StreamFields)
    expected = typing.get_type_hints(StreamOptions)
    assert known == expected
    assert {*typing.get_type_hints(RecordingFields), "sample_rate_hz", "channels"} == set(expected)
    assert "StreamFields" in str(inspect.signature(Model.stream))
    assert "RecordingFields" in str(inspect.signature(Model.transcribe))


def test_types_travel_with_the_package() -> None:
    assert (Path(edgekit.__file__).parent / "py.typed").is_file()


# A line for each


def things(model: Model) -> Iterator[object]:
    yield from (model, model.bundle, model.manifest, model.manifest.protocol, *model.manifest.components.values())
    yield from (model.manifest.grid, model.manifest.front_end)
    with model.stream() as stream:
        yield stream
    yield edgekit.StreamOptions(prompt=LONG, system=LONG, tools=LONG, sampling={"temperature": 0.5})
    values: dict[str, Any] = {
        "samples": np.zeros(99, np.float32), "sample_rate_hz": 24_000, "text": LONG, "tokens": tuple(range(500)),
        "level": "full", "reason": "frames", "final": True, "exact": False, "language": "en",
    }  # fmt: skip
    for kind in typing.get_args(events.Event):
        yield kind(**{one.name: values.get(one.name, 123456.789) for one in dataclasses.fields(kind)})
    segment = Segment(0.0, 1.0, LONG, tuple(range(500)), "en")
    yield from (segment, Transcript(LONG, (segment,) * 100, 3600.0, "en"))


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_the_repr_of_everything_a_caller_holds_is_a_line(load: Callable, attention: str) -> None:
    model = load(attention)
    suppressed = msgspec.structs.replace(model.manifest.protocol, suppress=tuple(range(90)))
    for thing in things(load(attention, protocol=suppressed)):
        text = repr(thing)
        assert text.startswith(f"{type(thing).__name__}(")
        assert len(text) <= reprs.LONGEST
        assert "\n" not in text


def test_a_model_says_what_it_is(load: Callable) -> None:
    protocol = msgspec.structs.replace(load().manifest.protocol, languages={"en": 261, "de": 262})
    model = load(protocol=protocol, precision={"encoder": "int8", "backbone": "int8", "head": "float32"})
    text = repr(model)
    for part in ("family=", "dialect='ort-cpu'", "precision='int8, head float32'", "backend=", "languages='de en'"):
        assert part in text


def test_a_stream_says_how_it_stands(load: Callable) -> None:
    stream = load().stream(level="full")
    assert "state='open', received_s=0" in repr(stream)
    run(stream, [sound_of(PIECE)])
    assert "state='finished', received_s=0.4, waiting_s=0" in repr(stream)
    stream.close()
    assert "state='closed'" in repr(stream)


def test_what_is_short_is_shown_whole() -> None:
    assert repr(edgekit.SpeechStarted(1.5)) == "SpeechStarted(at_s=1.5)"
    assert repr(edgekit.Text("hé", True, 0.0, 1.25, (7, 8))) == (
        "Text(text='hé', final=True, start_s=0, end_s=1.25, tokens=(7, 8))"
    )
    assert repr(edgekit.Audio(np.zeros(12, np.float32), 24_000)) == "Audio(samples=<float32 12>, sample_rate_hz=24000)"


# Recordings


@pytest.fixture
def codes() -> np.ndarray:
    return (sound_of(PIECE * 2) * 20_000).astype(np.int16)


def wav(codes: np.ndarray, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, codes, RATE, format=kind)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """A file that cannot seek, such as a socket's."""

    def __init__(self, content: bytes) -> None:
        self._rest = io.BytesIO(content)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on."""
        return self._rest.readinto(buffer)


FORMS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "str": lambda _codes, path: str(path),
    "path": lambda _codes, path: path,
    "bytes": lambda codes, _path: wav(codes),
    "bytearray": lambda codes, _path: bytearray(wav(codes)),
    "memoryview": lambda codes, _path: memoryview(wav(codes)),
    "flac": lambda codes, _path: wav(codes, "FLAC"),
    "BytesIO": lambda codes, _path: io.BytesIO(wav(codes)),
    "a file's rest": lambda codes, _path: _at(io.BytesIO(b"head" + wav(codes)), 4),
    "a pipe": lambda codes, _path: Pipe(wav(codes)),
    "int16": lambda codes, _path: codes,
    "float32": lambda codes, _path: codes.astype(np.float32) / 32_768,
    "float64": lambda codes, _path: codes / 32_768,
    "a mono column": lambda codes, _path: codes[:, None],
    "two equal channels": lambda codes, _path: np.stack([codes, codes], axis=1),
    "like an array": lambda codes, _path: Tensor(codes),
}


class Tensor:
    """What numpy makes an array of."""

    def __init__(self, codes: np.ndarray) -> None:
        self._codes = codes

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._codes


def _at(file: io.BytesIO, position: int) -> io.BytesIO:
    file.seek(position)
    return file


@pytest.mark.parametrize("form", FORMS)
def test_a_recording_says_the_same_in_every_form(load: Callable, codes: np.ndarray, tmp_path: Path, form: str) -> None:
    model, path = load(), tmp_path / "talk.wav"
    path.write_bytes(wav(codes))
    expected = model.transcribe(codes, level="full")
    assert expected.text
    assert model.transcribe(FORMS[form](codes, path), level="full") == expected


def test_an_open_file_stays_open(load: Callable, codes: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(wav(codes))
    with (tmp_path / "talk.wav").open("rb") as file:
        load().transcribe(file)
        assert not file.closed


@pytest.mark.parametrize(
    ("audio", "kind", "message"),
    [
        ([0.1, 0.2], UsageError, r"audio\[0\]: audio: float, a path, an audio file's bytes, an open binary file or an"),
        (3, UsageError, "audio: int, a path, an audio file's bytes, an open binary file or an array"),
        (None, UsageError, "audio: NoneType, a path"),
        ({"a": 1}, UsageError, "audio: dict, a path"),
        (iter([np.zeros(3)]), UsageError, "a path, .* or a list of them"),
        (np.float32(3), UsageError, "audio: float32 of one value"),
        (np.zeros((2, 960_000), np.int16), UsageError, r"audio: shape \(2, 960000\), 960000 channels, at most 64"),
        (np.zeros(9, np.int32), UsageError, "samples: int32, floats in .* or int16 are needed"),
        (np.full(9, 3e4, np.float32), UsageError, "audio: values up to 30000 in float32, .* give it as int16"),
        (np.array([np.nan], np.float32), AudioError, "sample 0 is NaN or infinite"),
        (b"", AudioError, "audio: empty, a recording is needed"),
        (b"\x01\x00" * 99, AudioError, "audio: .*; samples are given as an array, with sample_rate_hz"),
        (io.StringIO("RIFF"), UsageError, "audio: a file opened as text, bytes are needed; open it with mode 'rb'"),
        ("missing.wav", AudioError, "missing.wav: no such file"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, (str, type)) else "",
)
def test_what_is_no_recording_is_refused_in_one_line(
    load: Callable, audio: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        load().transcribe(audio)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opened", [False, True])
def test_samples_without_a_header_are_told_in_one_line(load: Callable, tmp_path: Path, *, opened: bool) -> None:
    path = tmp_path / "talk.raw"
    path.write_bytes(b"\x01\x00" * 99)
    with (
        path.open("rb") as file,
        pytest.raises(AudioError, match="talk.raw: samples without a header, .*ffmpeg -f s16le -ar 16000 -i talk.raw"),
    ):
        load().transcribe(file if opened else path)


def test_bytes_that_end_early_are_told_as_a_file_is(load: Callable, codes: np.ndarray) -> None:
    with pytest.raises(AudioError, match="audio: truncated, it is shorter than its header says"):
        load().transcribe(wav(codes)[:-100])


class Rude:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_rate_that_cannot_be_shown_or_counted_is_refused(load: Callable, codes: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, codes, 16_000)
    model = load()
    with pytest.raises(UsageError, match="sample_rate_hz: .*, but a file says its own rate"):
        model.transcribe(path, sample_rate_hz=Rude())
    with pytest.raises(UsageError, match="sample_rate_hz: a number of many digits, a whole number from 1,000"):
        model.transcribe(codes, sample_rate_hz=10**400)


@pytest.mark.parametrize("form", ["str", "bytes", "BytesIO"])
def test_a_file_says_its_own_rate(load: Callable, codes: np.ndarray, tmp_path: Path, form: str) -> None:
    (tmp_path / "talk.wav").write_bytes(wav(codes))
    with pytest.raises(UsageError, match="sample_rate_hz: 8000, but a file says its own rate; leave it out"):
        load().transcribe(FORMS[form](codes, tmp_path / "talk.wav"), sample_rate_hz=8_000)


def test_a_list_gives_a_list_in_its_order(load: Callable, codes: np.ndarray) -> None:
    model, short = load(), codes[:PIECE]
    both = [model.transcribe(one, level="full") for one in (codes, short)]
    assert model.transcribe([codes, wav(short)], level="full") == both
    assert model.transcribe((wav(codes), short), level="full") == both
    assert model.transcribe([]) == []


def test_an_item_that_is_no_recording_is_told_by_its_index_before_any_is_heard(
    load: Callable, codes: np.ndarray
) -> None:
    model, engines = logged(load())
    with pytest.raises(AudioError, match=r"audio\[1\]: missing.wav: no such file"):
        model.transcribe([codes, "missing.wav"])
    with pytest.raises(UsageError, match=r"audio\[1\]: audio: list, a path"):
        model.transcribe([codes, [codes]])
    assert engines["encoder"].calls == []


def test_an_item_that_fails_later_is_told_by_its_index_too(load: Callable, codes: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"audio\[1\]: input: sample 0 is NaN"):
        load().transcribe([codes, np.array([np.nan], np.float32)])


# Transcripts


def test_segments_have_the_times_of_their_texts(load: Callable, codes: np.ndarray) -> None:
    model = load()
    texts = final_texts(run(model.stream(level="full"), [codes]))
    transcript = model.transcribe(codes, level="full")
    assert len(texts) == len(transcript.segments) == 2
    for text, segment in zip(texts, transcript.segments, strict=True):
        assert (segment.start_s, segment.end_s) == (text.start_s, text.end_s)
        assert (segment.text, segment.tokens) == (text.text, text.tokens)


def multilingual(load: Callable) -> Model:
    # The ids of "<en>" and "<de>" of the tiny tokenizer, after "<start>"
    protocol = load().manifest.protocol
    return load(protocol=msgspec.structs.replace(protocol, languages={"en": 261, "de": 262}))


@pytest.mark.parametrize("given", ["en", "de", None])
def test_the_language_is_the_one_given_or_detected(load: Callable, codes: np.ndarray, given: str | None) -> None:
    model = multilingual(load)
    transcript = model.transcribe(codes, level="full", language=given)
    assert transcript.language in ({given} if given else {"en", "de"})
    assert {segment.language for segment in transcript.segments} <= {"en", "de"}
    detected = run(model.stream(level="full", language=given), [codes])
    assert {text.language for text in final_texts(detected)} == {segment.language for segment in transcript.segments}
    events_of_text = [event for event in detected if isinstance(event, edgekit.Text)]
    assert all(event.language for event in events_of_text)


def test_the_language_of_a_transcript_is_that_of_most_of_its_sound() -> None:
    from edgekit.runtime.events import Text
    from edgekit.runtime.model import transcript_of

    texts = [Text("a", True, 0, 3, language="de"), Text("b", True, 3, 5, language="en")]
    texts += [Text("c", True, 5, 7, language="en"), Text("partial", False, 7, 99, language="fr")]
    silent = Text("", True, 7, 37, language="nn")
    assert transcript_of(texts, 7.0).language == "en"
    assert transcript_of([*texts, silent], 37.0).language == "en"
    assert transcript_of([silent], 37.0).language == "nn"
    assert transcript_of([Text("a", True, 0, 1)], 7.0).language is None


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_a_model_without_languages_tells_none(load: Callable, codes: np.ndarray, attention: str) -> None:
    assert load(attention).transcribe(codes, level="full").language is None


def test_a_transcript_is_json_and_comes_back() -> None:
    transcript = Transcript(
        "Grüße", (Segment(0.5, 1.1234567, "Grüße", (1, 2), "de", (Word("Grüße", 0.5, 1.0),), 0.75),), 2.0, "de"
    )
    plain = {
        "text": "Grüße", "language": "de", "audio_s": 2.0, "truncated": False,
        "segments": [{"start_s": 0.5, "end_s": 1.123457, "text": "Grüße", "language": "de",
                      "language_probability": 0.75, "tokens": [1, 2],
                      "words": [{"text": "Grüße", "start_s": 0.5, "end_s": 1.0}]}],
    }  # fmt: skip
    assert transcript.to_dict() == json.loads(transcript.to_json()) == json.loads(transcript.to_json(indent=2)) == plain
    assert "Grüße" in transcript.to_json()
    assert "\n" not in transcript.to_json()


# The floor of whole files


def clip_trained(load: Callable, attention: str = "prefix") -> Model:
    return load(attention, front_end=FrontEnd(mel_bins=8, floor="clip"))


def heard(model: Model, hear: Callable[[Model], object]) -> np.ndarray:
    model, engines = logged(model)
    hear(model)
    return np.concatenate([call["mel"] for call in engines["encoder"].calls], axis=1)


def test_a_whole_file_has_one_floor_where_the_checkpoint_was_trained_so_and_a_stream_a_running_one(
    load: Callable,
) -> None:
    sound = sound_of(4 * CHUNK)
    sound[: 2 * CHUNK] *= np.float32(1e-4)
    whole = heard(clip_trained(load), lambda model: model.transcribe(sound, level="full"))
    stream = heard(clip_trained(load), lambda model: run(model.stream(level="full"), [sound]))
    waiting = heard(clip_trained(load), lambda model: run(model.stream(level="full", floor="clip"), [sound]))
    live = heard(clip_trained(load), lambda model: model.transcribe(sound, level="full", floor="running"))
    np.testing.assert_array_equal(whole, waiting)
    np.testing.assert_array_equal(stream, live)
    assert whole[:, 2 : 2 * 8].min() > stream[:, 2 : 2 * 8].min() + 0.1
    trained_on_streams = heard(load("prefix"), lambda model: model.transcribe(sound, level="full"))
    np.testing.assert_array_equal(trained_on_streams, stream)


@pytest.mark.parametrize("attention", ["cross", "prefix"])
@pytest.mark.parametrize("samples", [1, CHUNK, 3 * CHUNK + 7, PIECE, 3 * PIECE + HOP + 1])
def test_with_the_clips_floor_any_split_gives_the_same_events(load: Callable, attention: str, samples: int) -> None:
    model, sound = clip_trained(load, attention), sound_of(samples)
    whole = run(model.stream(level="full", floor="clip"), [sound])
    parts = np.split(sound, range(501, samples, 501))
    assert run(model.stream(level="full", floor="clip"), parts) == whole
    counted = model.stream(level="full", floor="clip")
    run(counted, parts)
    assert counted.samples_heard == samples


def test_an_unknown_floor_and_one_that_partials_cannot_wait_for_are_refused() -> None:
    with pytest.raises(UsageError, match="floor: 'low' is not known; choose one of: running, clip"):
        StreamOptions(floor="low")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="floor: 'clip' is known at the end of an utterance, partials come before"):
        StreamOptions(floor="clip", partials=True)


def test_a_budget_within_which_nothing_is_chosen_is_refused() -> None:
    assert StreamOptions(budget=Budget(deadline_ms=50.0)).level is None
    with pytest.raises(UsageError, match="budget: level 'full' is pinned, none is chosen within it; leave one out"):
        StreamOptions(level="full", budget=Budget(deadline_ms=50.0))


def test_partials_of_a_bundle_that_answers_are_refused(load: Callable) -> None:
    with pytest.raises(
        UsageError,
        match="partials: tiny writes nothing before an utterance is over: it answers what it hears; leave them out",
    ):
        load("prefix").stream(partials=True)


def test_partials_of_a_whole_file_take_the_running_floor(load: Callable, codes: np.ndarray) -> None:
    model = clip_trained(load, "cross")
    assert model.transcribe(codes, level="full", partials=True) == model.transcribe(
        codes, level="full", floor="running"
    )


# Examples


def shown() -> Iterator[tuple[str, str]]:
    yield "edgekit", edgekit.__doc__.partition("\n\n")[2]
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        blocks = [block for block in blocks if "bundles/base" not in block]  # a real family's: tests/test_examples.py
        converses = [block for block in blocks if block.startswith("# of a bundle that converses\n")]
        for name, group in (("", [one for one in blocks if one not in converses]), (" converses", converses)):
            if group:
                yield page.relative_to(ROOT).as_posix() + name, "\n".join(group)


@pytest.mark.parametrize("example", list(shown()), ids=[name for name, _ in shown()])
def test_every_example_in_python_runs(
    tiny_bundle: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, example: tuple[str, str]
) -> None:
    name, code = example
    place = tmp_path / "place"
    (place / "bundles").mkdir(parents=True)
    bundle = tiny_bundle("cross")
    if "converses" in name:
        bundle = tiny_bundle("prefix", context_tokens=256)
        protocol = msgspec.structs.replace(
            edgekit.load(bundle.folder).manifest.protocol, again="<stop>", turn="<start>{role}{text}<stop>",
            opening="<start>{system}", roles={"user": "u"},
        )  # fmt: skip
        bundle.change(protocol=protocol)
    (place / "bundles" / "mine").symlink_to(bundle.folder)
    (place / "talk.wav").write_bytes(wav((sound_of(PIECE) * 20_000).astype(np.int16)))
    monkeypatch.chdir(place)
    pieces = np.split(sound_of(3 * PIECE), 6)
    given = {"edgekit": edgekit, "np": np, "source": pieces, "microphone": pieces}
    if "converses" in name:
        given["model"] = edgekit.load("bundles/mine")
    exec(compile(code, name, "exec"), given)  # noqa: S102 - our own pages
    assert capsys.readouterr().out
