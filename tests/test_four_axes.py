"""A toy of each axis in one file: a family, a dialect, a backend and two ways of speaking, as a stranger adds them.

The toy hears by one linear of a precision group of its own and writes with a small cache. It speaks a sine for each
token, in voices that lie in files; or it hums: then what it hums leads the backbone on.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields as fields_of
from dataclasses import is_dataclass, replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

import edgekit
from edgekit import spans
from edgekit.bundle import FrontEnd, Grid, Speech, SpeechFormat, Struct, TokenProtocol, open_bundle, speech
from edgekit.bundle import dialects as dialect_names
from edgekit.bundle.speaking import SPEECH_FORMATS
from edgekit.cli import main
from edgekit.errors import RegistryError
from edgekit.exporter import dialects, families
from edgekit.exporter import speech as speech_files
from edgekit.exporter.blocks import cached_attention, linear, steps
from edgekit.exporter.dialects.ort_cpu import OrtDialect
from edgekit.exporter.dummy import dummy_tokenizer
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families.config import value
from edgekit.exporter.families.keys import Keys, unused, used
from edgekit.exporter.families.levels import expert_levels
from edgekit.exporter.quantize import SCALE, quantize_channels
from edgekit.exporter.sources.tokenizer import token_id
from edgekit.exporter.written import Layout, Packing
from edgekit.runtime import backends, speak
from edgekit.runtime.backends.base import Runs
from edgekit.runtime.backends.examining import Examined, Finding
from edgekit.runtime.backends.ort import load_component
from edgekit.runtime.events import Audio, Interrupted, Text
from edgekit.runtime.memory import Need

BINS, WIDTH, WORDS, CHUNK = 8, 32, 64, 40
RATE, SAMPLES = 8000, 40
END, SOUND = "<|end|>", "<|sound|>"
VOICES = {"low": 0.5, "high": 2.0}
NOISE = np.random.default_rng(11).uniform(-0.3, 0.3, 20_000).astype(np.float32)
RECIPE = """
name = "hummer"
[limits]
word_error_rate = 1.0
token_mismatch = 0.5
logit_error = 0.2
frame_error = 0.2
[check]
clips = ["librivox-0930.flac"]
"""
TARGET = """
name = "desk"
description = "a toy's"
dialect = "toy"
backends = ["toy"]
min_memory_mib = 1
tested = false
"""


# Family


class Ears(families.Part):
    """Encoder and adapter: one linear of every mel frame, bent."""

    components: Mapping[str, str | None] = {"encoder": "ears", "adapter": None}

    def expected(self):
        return {"ears.weight": (WIDTH, BINS), "ears.bias": (WIDTH,)}

    def group(self, name):
        return "ears" if name == "ears.weight" else None

    def build(self, component, g, w):
        if component == "adapter":
            frames = g.input("frames", "float32", ("frames", WIDTH))
            g.output(g.node("Tanh", frames), "embeds", "float32", ("frames", WIDTH))
            return
        mel = g.input("mel", "float32", (BINS, "mel_frames"))
        g.input("start", "int64", (1,))
        rows = g.node("Transpose", mel, perm=[1, 0])
        g.output(linear(g, w, rows, "ears.weight", "ears", "ears.bias"), "frames", "float32", ("frames", WIDTH))


class Mouth(families.Part):
    """The backbone: the words nearest to the mean of what was read, and a table of rows that is not tied to them."""

    components: Mapping[str, str | None] = {"backbone": "head"}

    def expected(self):
        return {"words.weight": (WORDS, WIDTH), "rows.weight": (WORDS, WIDTH)}

    def group(self, name):
        return "head"

    def build(self, component, g, w):
        x = g.input("embeds", "float32", ("tokens", WIDTH))
        at = steps(g, x, g.input("start", "int64", (1,)))
        rows = g.input("logit_rows", "int64", ("rows",))
        hidden = cached_attention(
            g, x, x, x, 0, at, heads=1, kv_heads=1, head_dim=WIDTH, capacity="context", causal=True
        )
        logits = linear(g, w, g.node("Gather", hidden, rows), "words.weight", "head")
        g.output(hidden, "hidden", "float32", ("tokens", WIDTH))
        g.output(logits, "logits", "float32", ("rows", WORDS))


class Throat(families.Part):
    """A sine of SAMPLES samples for a token."""

    components: Mapping[str, str | None] = {"tone": None}

    def expected(self):
        return {"tone.pitch": (WORDS,)}

    def build(self, component, g, w):
        pitch = g.node("Gather", w.plain(g, "tone.pitch"), g.input("token", "int64", (1,)))
        step = g.node("Mul", pitch, g.input("factor", "float32", (1,)))
        turned = g.node("Mul", step, g.constant(np.arange(SAMPLES, dtype=np.float32)))
        g.output(g.node("Sin", turned), "samples", "float32", (SAMPLES,))


def protocol(tokenizer):
    return TokenProtocol(
        attention="prefix", stop=(token_id(tokenizer, END),), opening="hi", before=SOUND, turn="{role}{text}",
        roles={"user": "you "}, reply="say", again=END, max_tokens=6, context_tokens=2048,
    )  # fmt: skip


def open_hummer(config, generation):
    assert value(config, "width", int) == WIDTH
    spoken = {"tone": ToneSpeech, "hum": HumSpeech}[value(config, "speaks", str)]
    return families.Opened(
        parts=(Ears(), Mouth(), Throat()),
        embedding="rows.weight",
        max_context=2048,
        marks=(SOUND, END),
        protocol=protocol,
        front_end=lambda _: FrontEnd(mel_bins=BINS),
        grid=lambda _: Grid(
            mode="exact", chunk_frames=CHUNK, max_frames=1000, max_positions=1000, left_frames=0, right_frames=0,
            frames_per_position=1,
        ),
        levels=expert_levels(0),
        speech=lambda _tables, _tokenizer: spoken(sample_rate_hz=RATE),
        voices=lambda beside: beside.config["voices"],
    )  # fmt: skip


KEYS = Keys(
    "HummerConfig",
    {"model_type": unused("the family"), "width": used("Hum"), "speaks": used("open_hummer"), "voices": used("voices")},
)


def family(recipe):
    """Return the record of the toy's family, with a recipe's file."""
    return families.Family(name="hummer", model_types=("tiny_hummer",), open=open_hummer, recipe=str(recipe), keys=KEYS)


# Dialect


class RowCodes:
    """Signed codes (rows, width) with a scale for each row."""

    def pack(self, g, w, name):
        codes, scales = quantize_channels(w.read(name))
        g.tensor(name, codes)
        g.tensor(name + SCALE, scales)
        return g.node("DequantizeLinear", name, name + SCALE, axis=0)

    def layout(self, weight, scales):
        return Layout(*weight.shape, block=weight.shape[1], bits=8)

    def unpack(self, weight, scales, start, stop):
        steps = scales.rows(start, stop)[:, None]
        return weight.rows(start, stop).astype(np.float32) * steps, steps


class ToyDialect(OrtDialect):
    """The CPU's, but for linears in INT8, which multiply by what was made floats again."""

    name = "toy"
    packings: Mapping[str, Packing] = {**OrtDialect.packings, "DequantizeLinear": RowCodes()}

    def linear(self, g, w, x, name, *, group, bias):
        if w.precision[group] != "int8":
            return super().linear(g, w, x, name, group=group, bias=bias)
        return g.node("Gemm", x, self.packings["DequantizeLinear"].pack(g, w, name), bias, transB=1)


# Backend


class ToyBackend:
    """Runs the toy dialect on any machine."""

    name = "toy"
    dialects = (Runs("toy"),)
    everywhere = True

    def absent(self):
        return ""

    def load(self, bundle, names, settings):
        return {name: load_component(bundle, name, settings.threads) for name in names}

    def need(self, bundle, names, context_tokens):
        return Need(weights=1.0, state=0.0)

    def examine(self, machine):
        return Examined((Finding("toy", "ok", "wound up"),), here=True)


# Ways of speaking


class ToneSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="tone"):
    """A sine for each token by component ``tone``. ``voices``: by name a file with the factor of its pitch."""

    sample_rate_hz: int
    voices: dict[str, str] = msgspec.field(default_factory=dict)

    def files(self):
        return tuple(self.voices.values())


class HumSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="hum"):
    """A sine by component ``tone`` for what the backbone wrote beside each token, and leads it on."""

    sample_rate_hz: int


class ToneSpeaker:
    """One stream's sines."""

    cut = None

    def __init__(self, spoken, setting, factor=1.0):
        self.sample_rate_hz, self.table, self.trace = spoken.sample_rate_hz, setting.table, setting.trace
        self.call, self.factor = setting.engines["tone"].bind({}), np.array([factor], np.float32)
        self.said = 0

    def open(self):
        self.said = 0

    def read(self, tokens, rows, hidden):
        self.said = 0

    def takes(self, token):
        return False

    def next_row(self, token, hidden):
        return None

    def pitched(self, token):
        return token

    def say(self, token):
        self.said += 1
        with self.trace.span("tone", SAMPLES):
            pitch = np.array([self.pitched(token)])
            yield self.call.run({"token": pitch, "factor": self.factor})["samples"]

    def finish(self):
        return iter(())

    def heard_tokens(self, seconds):
        return min(self.said, round(seconds * RATE) // SAMPLES)

    def mark(self):
        return self.said

    def back(self, mark):
        self.said = mark


class HumSpeaker(ToneSpeaker):
    """One that leads: what it hums for a token is fed to the backbone with the token itself."""

    def next_row(self, token, hidden):
        self.code = int(np.argmax(hidden))
        return self.table.row(token) + self.table.row(self.code)

    def pitched(self, token):
        return self.code


def open_tone(spoken, setting):
    name = setting.voice or min(spoken.voices)
    return ToneSpeaker(spoken, setting, float(setting.bundle.file(spoken.voices[name]).read_text()))


def write_voices(folder, manifest, spoken, voices):
    voices = voices or {"dummy": float(manifest.dummy_seed)}
    paths = {name: f"{name}.voice" for name in voices}
    for name, path in paths.items():
        (folder / path).write_text(str(voices[name]))
    return msgspec.structs.replace(spoken, voices=paths)


def read_voices(bundle, spoken):
    return {name: float(bundle.file(path).read_text()) for name, path in spoken.voices.items()}


TONE = speak.SpeechKind(
    name="tone", components=("tone",), open=open_tone, voices=lambda spoken: tuple(sorted(spoken.voices))
)
HUM = speak.SpeechKind(name="hum", components=("tone",), open=HumSpeaker)
FILES = speech_files.SpeechFiles(name="tone", write=write_voices, read=read_voices)


# All of them together


def dialect_name():
    """Return the toy's name: it writes ort-cpu's ops, and one of standard's."""
    like = dialect_names.DIALECTS.get("ort-cpu")
    return replace(like, name="toy", ops=like.ops | {("", "DequantizeLinear")})


def records(recipe, tone=TONE):
    """Return each record of the toys by what messages call it, and where it is registered."""
    return {
        "family": (families, family(recipe)),
        "dialect": (dialect_names, dialect_name()),
        "writer of dialect": (dialects, ToyDialect()),
        "backend": (backends, ToyBackend()),
        "speech format": (speech, SpeechFormat(ToneSpeech)),
        "way of speaking": (speak, tone),
        "speech files": (speech_files, FILES),
        "span": (spans.SPANS, spans.SpanKind("tone", "samples", "a token's sine", within=spans.SPEAK)),
    }


RECORDS = records("recipe.toml")


@contextmanager
def registered(recipe, tone=TONE):
    """Keep the toys for a block."""
    with ExitStack() as stack:
        for where, record in records(recipe, tone).values():
            stack.enter_context(where.registered(record))
        stack.enter_context(speech.registered(SpeechFormat(HumSpeech)))
        stack.enter_context(speak.registered(HUM))
        yield


def known():
    """Return every name that is registered."""
    registries = (
        families.FAMILIES, dialect_names.DIALECTS, dialects.DIALECTS, backends.BACKENDS, SPEECH_FORMATS,
        speak.SPEECH_KINDS, speech_files.SPEECH_FILES, spans.SPANS,
    )  # fmt: skip
    return [registry.names() for registry in registries]


def write_checkpoint(folder, speaks):
    draws = np.random.default_rng(5)
    opened = open_hummer({"width": WIDTH, "speaks": speaks}, {})
    tensors = {name: draws.normal(size=shape).astype(np.float32) for name, shape in opened.expected().items()}
    config = {"model_type": "tiny_hummer", "width": WIDTH, "speaks": speaks, "voices": VOICES}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(dummy_tokenizer(WORDS, {SOUND: WORDS - 2, END: WORDS - 1}))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def run(*arguments):
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with checkpoints of the toy, a recipe and a target, and the bundles that it becomes."""
    root = tmp_path_factory.mktemp("toys")
    (root / "recipe.toml").write_text(RECIPE)
    (root / "desk.toml").write_text(TARGET)
    with registered(root / "recipe.toml"):
        for speaks in ("tone", "hum"):
            (root / speaks).mkdir()
            write_checkpoint(root / speaks, speaks)
            arguments = ("export", root / speaks, "--target", root / "desk.toml", "-o", root / f"{speaks}.bundle")
            assert run(*arguments) == 0
    return root


@pytest.fixture
def toys(files):
    """Return the folder, the toys registered for the length of a test."""
    with registered(files / "recipe.toml"):
        yield files


def pieces(events):
    return np.concatenate([event.samples for event in events if isinstance(event, Audio)])


def tokens(events):
    return [token for event in events if isinstance(event, Text) and event.final for token in event.tokens]


def sines(toys, pitches, factor):
    """Return the sound of pitches' tokens, computed from the checkpoint."""
    steps = write_checkpoint(toys / "tone", "tone")["tone.pitch"][pitches] * np.float32(factor)
    return np.sin(steps[:, None] * np.arange(SAMPLES, dtype=np.float32)).ravel()


def test_a_checkpoint_of_the_toy_family_becomes_a_bundle_of_the_toy_dialect_that_speaks_the_toy_way(toys):
    for speaks in ("tone", "hum"):
        manifest = open_bundle(toys / f"{speaks}.bundle").manifest
        assert (manifest.family, manifest.dialect, manifest.speech.kind) == ("hummer", "toy", speaks)
        assert manifest.precision == {"ears": "int8", "head": "int8"}
        ops = {row.tensor: row.op for row in manifest.census if row.dtype == "int8"}
        assert ops == {"ears.weight": "DequantizeLinear", "words.weight": "DequantizeLinear"}
        assert manifest.verification["twin"] == "whole"
    assert manifest.components["tone"].precision == "float32"


def test_quantising_its_float_bundle_gives_the_same_files_voices_included(toys, tmp_path):
    target = str(toys / "desk.toml")
    export(toys / "tone", tmp_path / "float", ExportOptions(target=target, precision="float32"))
    straight = open_bundle(toys / "tone.bundle").manifest.files
    assert quantize(tmp_path / "float", tmp_path / "later").files == straight
    assert {"low.voice", "high.voice"} <= {file.path for file in straight}


@pytest.mark.parametrize("speaks", ["tone", "hum"])
def test_its_bundle_agrees_with_its_goldens_and_says_which_backend_ran(speaks, toys, capsys):
    assert run("verify", toys / f"{speaks}.bundle", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["backend"] == "toy"
    assert [check["name"] for check in said["checks"] if not check["passed"]] == []
    assert "spoken.sound: relative error" in [check["name"] for check in said["checks"]]


def test_it_speaks_each_token_of_what_it_answers_to_sound_and_to_text(toys):
    model = edgekit.load(toys / "tone.bundle", threads=1, backend="toy", speak=True)
    stream = model.stream(gate="off", speak=True, voice="low", turns="all")
    heard = [*stream.push(NOISE[:7000]), *stream.push(NOISE[7000:]), *stream.ask("and what", role="user")]
    heard += stream.finish()
    answers = {event.answer for event in heard if isinstance(event, Text) and event.final}
    assert len(answers) == 2
    for answer in answers:
        events = [event for event in heard if getattr(event, "answer", None) == answer]
        assert tokens(events)
        np.testing.assert_allclose(pieces(events), sines(toys, tokens(events), VOICES["low"]), atol=1e-5)
    assert stream.trace.total("tone")[1] == len(pieces(heard))


def test_an_interrupted_answer_keeps_the_tokens_that_were_heard(toys):
    model = edgekit.load(toys / "tone.bundle", threads=1, speak=True)
    stream = model.stream(speak=True, turns="all")
    (final,) = [event for event in stream.ask("what", role="user") if isinstance(event, Text) and event.final]
    assert len(final.tokens) > 2
    stream.interrupt(final.answer, heard_s=2 * SAMPLES / RATE)
    (cut,) = [event for event in stream.finish() if isinstance(event, Interrupted)]
    assert (cut.tokens, cut.exact) == (final.tokens[:2], True)


def test_a_speaker_that_lacks_something_is_refused_by_the_name_of_its_way_of_speaking(files):
    class Deaf(ToneSpeaker):
        heard_tokens = None

    with registered(files / "recipe.toml", replace(TONE, open=Deaf)):
        model = edgekit.load(files / "tone.bundle", threads=1, speak=True)
        with pytest.raises(RegistryError, match="^way of speaking 'tone': its Deaf: heard_tokens is None, must be"):
            model.stream(speak=True)


def test_a_dummy_of_its_config_speaks_too(toys, tmp_path):
    options = ExportOptions(target=str(toys / "desk.toml"), dummy_weights=True)
    assert export(toys / "tone" / "config.json", tmp_path / "d", options).speech.voices == {"dummy": "dummy.voice"}
    events = list(edgekit.load(tmp_path / "d", threads=1, speak=True).stream(speak=True).ask("what", role="user"))
    assert len(pieces(events)) == SAMPLES * len(tokens(events)) > 0


def test_one_that_leads_changes_what_is_written_and_one_that_follows_does_not(toys):
    written = {}
    for speaks in ("tone", "hum"):
        for aloud in (False, True):
            model = edgekit.load(toys / f"{speaks}.bundle", threads=1, backend="toy", speak=aloud)
            stream = model.stream(gate="off", speak=aloud)
            events = [*stream.ask("what", role="user"), *stream.finish()]
            written[speaks, aloud] = tokens(events)
            assert not aloud or len(pieces(events)) == SAMPLES * len(tokens(events))
    assert written["tone", True] == written["tone", False] == written["hum", False]
    assert written["hum", True] != written["hum", False]


def test_the_doctor_looks_at_the_toy_backend(toys, capsys):
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    assert "ok       toy: wound up\n" in printed
    assert printed.endswith("bundles run here on: onnxruntime-cpu, toy\n")
    assert run("doctor", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert {"name": "toy", "here": True} in said["backends"]
    assert said["runs"] == ["onnxruntime-cpu", "toy"]


def test_each_toy_is_named_where_another_name_is_wrong(toys, tmp_path, capsys):
    def error(*arguments):
        assert run(*arguments) in {1, 2}
        return capsys.readouterr().err

    bundle = toys / "tone.bundle"
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(TARGET.replace('dialect = "toy"', 'dialect = "toi"'))
    said = error("export", toys / "tone", "-o", tmp_path / "b", "--target", wrong)
    assert "dialect 'toi' is not known; choose one of: ort-cpu, ort-cuda, standard, toy, or register it" in said
    said = error("verify", bundle, "--backend", "toi")
    assert "backend 'toi'" in said
    assert "which runs on toy; choose one of these" in said
    said = error("export", toys / "tone", "-o", tmp_path / "b", "--experts", "int8")
    assert "it has --head, --precision ears=KIND" in said
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "tiny_humner"}))
    said = error("export", tmp_path, "-o", tmp_path / "b", "--dummy-weights")
    assert "not an architecture EdgeKit knows (" in said
    assert "; the nearest is 'tiny_hummer'" in said
    with pytest.raises(edgekit.errors.UsageError, match=r"^voice: 'bass' .*; choose one of: high, low$"):
        edgekit.load(bundle, threads=1, speak=True).stream(speak=True, voice="bass")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["speech"]["kind"] = "tune"
    del manifest["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert "speech of kind 'tune', this EdgeKit knows talker, flow, tone, hum - at" in error("verify", tmp_path)


def test_nothing_is_left_of_the_toys_after_the_block(files, capsys):
    before = known()
    with registered(files / "recipe.toml"):
        assert all(set(names) < set(more) for names, more in zip(before, known(), strict=True))
    assert known() == before
    assert run("verify", files / "tone.bundle") == 1
    assert "speech of kind 'tone', this EdgeKit knows talker, flow - at" in capsys.readouterr().err


def lacking(record, name):
    """Return a record without one of its members: a dataclass with None for it."""
    if is_dataclass(record):
        return replace(record, **{name: None})
    members = {one: getattr(record, one) for one in dir(record) if not one.startswith("_") and one != name}
    return SimpleNamespace(**members)


def needed(record):
    """Return the members without which a record is refused."""
    if is_dataclass(record):
        return [one.name for one in fields_of(record) if one.default is one.default_factory]
    return [one for one in dir(record) if not one.startswith("_") and one != "everywhere"]


@pytest.mark.parametrize(("noun", "name"), [(noun, name) for noun in RECORDS for name in needed(RECORDS[noun][1])])
def test_a_record_that_lacks_something_is_refused_by_name(noun, name):
    where, record = RECORDS[noun]
    with pytest.raises(RegistryError, match=rf"^{noun} '\w*': .*\b{name}\b") as refused:
        where.register(lacking(record, name))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("noun", RECORDS)
def test_two_of_one_name_are_refused_by_name(noun):
    where, record = RECORDS[noun]
    name = record.name
    with where.registered(record), pytest.raises(RegistryError, match=f"^{noun} '{name}': registered already; choose"):
        where.register(record)
