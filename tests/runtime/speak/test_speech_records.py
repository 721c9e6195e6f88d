"""A way of speaking as a stranger adds it: a sine for each token. A record on each side, nothing else is changed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit import spans
from edgekit.bundle import Bundle, Sampling, Speech, SpeechFormat, Struct, TensorSpec, encode, open_bundle, speech
from edgekit.errors import BundleFileError, BundleFormatError, RegistryError, UsageError
from edgekit.exporter import speech as exported
from edgekit.exporter.checks.goldens import store_goldens
from edgekit.exporter.checks.quality import check_clips
from edgekit.exporter.checks.speech_quality import compare_speech, speak_both
from edgekit.exporter.pack import list_files
from edgekit.recipe import CheckSettings, Recipe
from edgekit.runtime import speak
from edgekit.runtime.backends.sizes import device_need, input_sizes
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Audio, Text
from edgekit.runtime.judge.probe import answer, hear
from edgekit.runtime.judge.record import record
from edgekit.runtime.judge.verify import verify
from edgekit.runtime.memory import MIB
from edgekit.runtime.speak import SpeakerSetting, SpeechKind
from tests.runtime.conftest import Graph
from tests.runtime.streams import sound_of

RATE, SAMPLES = 8000, 40
SOUND = sound_of(9600)
CLIP = "librivox-0870.flac"


class SineSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="sine"):
    """A sine for each token, of a pitch by the token and the voice; component ``sine``. ``voices``: factor by name."""

    sample_rate_hz: int
    voices: dict[str, float]
    chart: str = ""

    def files(self) -> tuple[str, ...]:
        """Return the chart of pitches."""
        return (self.chart,) if self.chart else ()


class SineSpeaker:
    """One stream's sines. It counts what it was told."""

    cut = None

    def __init__(self, found: SineSpeech, setting: SpeakerSetting) -> None:
        self.sample_rate_hz = found.sample_rate_hz
        self.factor = found.voices[setting.voice or min(found.voices)]
        self.call, self.trace = setting.engines["sine"].bind({"kept": 4}), setting.trace
        self.heard = 0

    def open(self) -> None:
        self.heard = 0

    def read(self, tokens: Sequence[int] | None, rows: Array, hidden: Array | None) -> None:
        self.heard += len(rows)

    def takes(self, token: int) -> bool:
        return False

    def next_row(self, token: int, hidden: Array | None) -> None:
        return None

    def say(self, token: int) -> Iterator[Array]:
        assert self.heard, "it is told the turn before the answer"
        with self.trace.span("sine", SAMPLES):
            yield self.call.run({"phases": phases(token, self.factor)})["samples"]

    def finish(self) -> Iterator[Array]:
        return iter(())

    def heard_tokens(self, seconds: float) -> int | None:
        return None

    def mark(self) -> int:
        return self.heard

    def back(self, mark: int) -> None:
        self.heard = mark


def phases(token: int, factor: float) -> Array:
    return (np.arange(SAMPLES, dtype=np.float32) * np.float32(factor * (1 + token % 7) / 20)).astype(np.float32)


def open_sine(found: SineSpeech, setting: SpeakerSetting) -> SineSpeaker:
    return SineSpeaker(found, setting)


KIND = SpeechKind(
    name="sine",
    components=("sine",),
    open=open_sine,
    free_sizes=lambda found, context_tokens: {"sine": {"n": (1, SAMPLES, 2 * SAMPLES), "kept": (4, 4, 4)}},
    state_sizes=lambda found: {"sine": {"kept": 4}},
    drawing=lambda found, protocol: (protocol, Sampling(temperature=0.5)),
    voices=lambda found: tuple(sorted(found.voices)),
)


def write_chart(folder, manifest, found, prepared):
    """Write one line for each voice that was prepared."""
    (folder / "chart.txt").write_text("".join(f"{name} {factor}\n" for name, factor in prepared.items()))
    return msgspec.structs.replace(found, chart="chart.txt", voices=dict(prepared))


def read_chart(bundle, found):
    lines = bundle.file(found.chart).read_text().splitlines()
    return {name: float(factor) for name, factor in map(str.split, lines)}


@pytest.fixture
def sine():
    """The way of speaking, for the length of a test."""
    with (
        speech.registered(SpeechFormat(SineSpeech)),
        speak.registered(KIND),
        spans.registered("sine", "samples", "a token's sine", within=spans.SPEAK),
        exported.registered(exported.SpeechFiles(name="sine", write=write_chart, read=read_chart)),
    ):
        yield


def component(folder):
    """Write the graph ``sine``, which keeps how much it has said."""
    g = Graph("sine", 5)
    x = g.input("phases", "float32", ("n",))
    past = g.input("past.said", "float32", ("kept",), "carried")
    g.node("Add", past, g.constant(np.float32(1)), outs=("present.said",))
    g.output("present.said", "float32", ("kept",), "carried")
    g.node("Sin", x, outs=("samples",))
    g.output("samples", "float32", ("n",))
    return g.save(folder)


@pytest.fixture
def bundle(tiny_bundle, sine):
    """A prefix bundle that speaks by sines."""
    tiny = tiny_bundle("prefix")
    components = tiny.manifest.components | {"sine": component(tiny.folder)}
    (tiny.folder / "sine.data").touch()
    tiny.change(components=components, speech=SineSpeech(sample_rate_hz=RATE, voices={"low": 1.0, "high": 3.0}))
    return tiny


def spoken(events) -> Array:
    return np.concatenate([event.samples for event in events if isinstance(event, Audio)])


def test_it_speaks_each_token_as_it_is_written(bundle):
    model = edgekit.load(bundle.folder, threads=1, speak=True)
    for voice, factor in (("low", 1.0), ("HIGH", 3.0), (None, 3.0)):  # the first by name, if none is named
        stream = model.stream(level="full", speak=True, voice=voice, sampling=Sampling())
        events = [*stream.push(SOUND), *stream.finish()]
        said = [token for event in events if isinstance(event, Text) and event.final for token in event.tokens]
        wanted = np.concatenate([np.sin(phases(token, factor)) for token in said])
        np.testing.assert_allclose(spoken(events), wanted, atol=1e-6)
        assert stream.trace.total("sine")[1] == len(wanted)
        assert "sine" in spans.names_within(spans.SPEAK), "which the profiler takes for engines that speak"
        assert {event.sample_rate_hz for event in events if isinstance(event, Audio)} == {RATE}


def test_a_spoken_answer_is_drawn_as_it_says(bundle):
    model = edgekit.load(bundle.folder, threads=1, speak=True)
    drawn = []
    for seed in (1, 1, 2, 3):
        stream = model.stream(level="full", speak=True, seed=seed)
        drawn.append(spoken([*stream.push(SOUND), *stream.finish()]).tolist())
    assert drawn[0] == drawn[1]
    assert len({str(one) for one in drawn[1:]}) > 1, "at the temperature of the way of speaking, not of the protocol"


def test_the_manifest_names_it_and_reads_it_back(bundle):
    stored = json.loads((bundle.folder / "manifest.json").read_text())["speech"]
    assert stored == {"kind": "sine", "sample_rate_hz": RATE, "voices": {"low": 1.0, "high": 3.0}, "chart": ""}
    assert open_bundle(bundle.folder).manifest.speech == SineSpeech(RATE, {"low": 1.0, "high": 3.0})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"kind": "cosine"}, r"speech of kind 'cosine', this EdgeKit knows talker, flow, sine - at `\$\.speech\.kind`"),
        ({"sample_rate_hz": "8 kHz"}, r"Expected `int`, got `str` - at `\$\.speech\.sample_rate_hz`"),
        ({"voices": {"low": "deep"}}, r"Expected `float`, got `str` - at `\$\.speech\.voices\[...\]`"),
        ({"pitch": 1}, r"unknown field `pitch` - at `\$\.speech`"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_refused_with_its_path(bundle, changes, fault):
    path = bundle.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    manifest["speech"] |= changes
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleFormatError, match=rf"manifest\.json: .*{fault}; export it again$"):
        open_bundle(bundle.folder)


def test_a_bundle_of_an_unknown_kind_is_refused_by_those_who_do_not_know_it(tiny_bundle):
    with speech.registered(SpeechFormat(SineSpeech)):
        folder = tiny_bundle("prefix", speech=SineSpeech(sample_rate_hz=RATE, voices={"low": 1.0})).folder
        with pytest.raises(RegistryError, match=r"^way of speaking 'sine' is not known; choose one of: talker, flow,"):
            edgekit.load(folder, speak=True)
    with pytest.raises(BundleFormatError, match=r"speech of kind 'sine', this EdgeKit knows talker, flow - at"):
        edgekit.load(folder)


def test_what_cannot_be_spoken_is_told_in_one_line(bundle):
    with pytest.raises(UsageError, match=r"loaded to write only; load it with speak=True"):
        edgekit.load(bundle.folder, threads=1).stream(speak=True)
    model = edgekit.load(bundle.folder, threads=1, speak=True)
    with pytest.raises(UsageError, match=r"^voice: 'bass' is not in this bundle; choose one of: high, low$"):
        model.stream(speak=True, voice="bass")


def test_its_files_belong_to_the_bundle(bundle):
    manifest = exported.with_voices(bundle.folder, bundle.manifest, {"low": 0.5})
    assert manifest.speech == SineSpeech(RATE, {"low": 0.5}, "chart.txt")
    write_manifest(bundle, speech=manifest.speech)
    with pytest.raises(BundleFormatError, match=r"'chart.txt' is used by a component but not listed under files"):
        open_bundle(bundle.folder)
    write_manifest(bundle, speech=manifest.speech, files=list_files(bundle.folder))
    assert exported.bundle_voices(open_bundle(bundle.folder)) == {"low": 0.5}
    (bundle.folder / "chart.txt").unlink()
    with pytest.raises(BundleFileError, match=r"'chart.txt' is missing"):
        open_bundle(bundle.folder)


def write_manifest(bundle, **fields):
    (bundle.folder / "manifest.json").write_bytes(encode(msgspec.structs.replace(bundle.manifest, **fields)))


def test_its_engines_have_bounds_for_plans_and_a_place_in_memory(bundle):
    manifest = open_bundle(bundle.folder).manifest
    assert input_sizes(manifest, "sine", 64)["phases"].high == (2 * SAMPLES,)
    assert device_need(manifest, ["sine"], 64).state == 2 * 4 * 4 / MIB  # carried state has two buffers
    longer = TensorSpec(name="phases", dtype="float32", shape=("m",))
    sines = msgspec.structs.replace(manifest.components["sine"], inputs=(longer,))
    unknown = msgspec.structs.replace(manifest, components=manifest.components | {"sine": sines})
    with pytest.raises(BundleFormatError, match=r"free size 'm', known are n, kept;"):
        input_sizes(unknown, "sine", 64)


def test_the_bundle_is_judged_and_verified_by_what_it_says(bundle):
    recipe = Recipe(check=CheckSettings(clips=(CLIP,)))
    stored = store_goldens(Bundle(bundle.folder, bundle.manifest), recipe)
    assert stored["goldens"][CLIP]["spoken"] == 0, "it has no codes"
    write_manifest(bundle, files=list_files(bundle.folder), verification=stored)
    judged = record((bundle.folder / "manifest.json").read_bytes())
    write_manifest(bundle, verification=stored | {"judged": judged})
    verified = verify(bundle.folder)
    checks = {check.name: check for check in verified.checks}
    assert checks["spoken.sound: relative error"].passed
    assert all(check.passed for check in verified.checks), verified
    model = edgekit.load(bundle.folder, threads=1, speak=True)
    (clip,) = check_clips(recipe, model.manifest.front_end.sample_rate_hz).values()
    heard = hear(model, clip)
    pair = speak_both(model, model, (heard, heard), answer(model, heard))
    louder = replace(pair, ours=replace(pair.ours, samples=pair.ours.samples * np.float32(2)))
    assert compare_speech([pair], RATE)[0] == {"mel_error_db": 0.0}
    assert compare_speech([louder], RATE)[0]["mel_error_db"] == pytest.approx(20 * np.log10(2), abs=0.2)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": ""}, "way of speaking 'SpeechKind': name is empty"),
        ({"components": ()}, "way of speaking 'sine': components is empty"),
        ({"components": "sine"}, "way of speaking 'sine': components is 'sine', must be tuple"),
        ({"open": None}, "way of speaking 'sine': open is None, must be"),
        ({"voices": ("low",)}, r"way of speaking 'sine': voices is \('low',\), must be"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_by_name(changes, fault):
    with pytest.raises(RegistryError, match=rf"^{fault}"):
        speak.register(replace(KIND, **changes))


def test_a_struct_that_the_manifest_could_not_hold_is_refused_by_name():
    class Untagged(Struct, Speech, frozen=True):
        """It does not say its kind."""

    class Tagged(Struct, frozen=True, tag_field="kind", tag="tagged"):
        """It is no Speech."""

    for struct, fault in ((Untagged, "has no name for its kind"), (Tagged, "is no Speech"), (int, "is no msgspec")):
        with pytest.raises(RegistryError, match=rf"^speech format '{struct.__name__}': struct {fault}"):
            SpeechFormat(struct)
