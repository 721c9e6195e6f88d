"""A manifest that cannot be meant is refused at the door: one line with value, rule and JSON path, nothing loaded."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgekit
from edgekit.bundle import Component, Embedding, Manifest, TensorRef, TensorSpec, encode, open_bundle
from edgekit.bundle.checks import check_manifest
from edgekit.bundle.folder import MOST_MANIFEST_BYTES
from edgekit.bundle.history import read_manifest
from edgekit.bundle.speech import FlowSpeech
from edgekit.errors import BackendError, BundleFileError, BundleFormatError
from tests.runtime import talkers
from tests.runtime.conftest import VOCABULARY, WIDTH
from tests.runtime.streams import RATE, sound_of

DEEP = 100_000
BEYOND = VOCABULARY


def written(folder: Path) -> dict[str, Any]:
    """Return the plain data of a bundle's manifest, without its checksum."""
    fields = json.loads((folder / "manifest.json").read_text())
    del fields["checksum"]
    return fields


def put(fields: dict[str, Any], path: str, value: Any) -> None:
    """Set what stands at a path such as ``grid.chunk_frames`` or ``files.0.bytes``."""
    *way, last = path.split(".")
    inner: Any = fields
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    inner[int(last) if isinstance(inner, list) else last] = value


def refused(folder: Path) -> str:
    """Return what is said where a bundle is refused, which is one line and names the manifest."""
    with pytest.raises(BundleFormatError) as error:
        edgekit.load(folder, threads=1, verify_hashes=False)
    said = str(error.value)
    assert said.isprintable()
    assert said.startswith(f"{folder / 'manifest.json'}: ")
    assert said.endswith("export it again")
    return said


# What a kind of attention, a path and a value are, and what is said of it.
VALUES: list[tuple[str, str, Any, str]] = [
    ("cross", "grid.chunk_frames", 0, ">= 1 - at `$.grid.chunk_frames`, which is 0"),
    ("cross", "grid.chunk_frames", 41, "is 41, at most max_frames 40 may be - at `$.grid.chunk_frames`"),
    ("cross", "grid.max_frames", 1, "at most max_frames 1 may be"),
    ("cross", "grid.max_frames", 9, "is 9, 0.09 s of sound; 0.1 s at least are heard - at `$.grid.max_frames`"),
    ("cross", "grid.max_frames", 64, "is 24, max_frames 64 make 32 - at `$.grid.max_positions`"),
    ("cross", "grid.max_frames", 10**12, "<= 4194304 - at `$.grid.max_frames`, which is 1000000000000"),
    ("cross", "grid.left_frames", -1, ">= 0 - at `$.grid.left_frames`, which is -1"),
    ("cross", "grid.left_frames", 1 << 22, "is 8, with 4194305 beside"),
    ("cross", "grid.left_frames", 64, "is 64, at most twice frames_per_position 2 may be - at `$.grid.left_frames`"),
    ("cross", "grid.left_frames", 3, "is 1, left_frames 3 and frames_per_position 2 need 2 - at `$.grid.right_frames`"),
    ("prefix", "grid.right_frames", 64, "is 64, left_frames 2 and frames_per_position 2 need 1"),
    ("cross", "grid.chunk_frames", 9, "is 9, max_frames or a multiple of frames_per_position 2 is needed"),
    ("cross", "grid.segment_frames", 8, "is 2, right_frames 1, with segment_frames 0 and 0 are needed"),
    ("cross", "grid.frames_per_position", 0, ">= 1 - at `$.grid.frames_per_position`"),
    ("cross", "grid.frames_per_position", 9, "is 9, at most chunk_frames 8 may be"),
    ("cross", "grid.segment_frames", 1, "is 1, at least frames_per_position 2 may be"),
    ("cross", "grid.segment_frames", 3, "is 24, a multiple of a chunk's 5 is needed"),  # 2 + 2 + 1
    ("cross", "grid.tail_frames", 41, "is 41, at most max_frames 40 may be"),
    ("cross", "grid.pad_to_frames", 0, ">= 1 - at `$.grid.pad_to_frames`"),
    ("cross", "grid.pad_to_frames", 41, "is 41, at most max_frames 40 may be"),
    ("cross", "grid.max_positions", 25, "is (1, 2, 24, 8), grid.max_positions is 25"),
    ("cross", "grid.masks_last_position", True, "has no input 'valid', which is needed"),
    ("cross", "front_end.hop_samples", 0, ">= 1 - at `$.front_end.hop_samples`"),
    ("cross", "front_end.hop_samples", 200, "n_fft 400 and hop 200, a quarter of an even n_fft"),
    ("cross", "front_end.right_pad_samples", 1, "right_pad_samples 1, 0 or at least hop - 1"),
    ("cross", "front_end.mel_bins", 9, "input 'mel' is (8, 'mel_frames'), front_end.mel_bins is 9"),
    ("cross", "front_end.dynamic_range", -1e308, "> 0.0 - at `$.front_end.dynamic_range`"),
    ("cross", "protocol.context_tokens", -3, ">= 1 - at `$.protocol.context_tokens`, which is -3"),
    ("cross", "protocol.context_tokens", 10**12, "<= 1073741824 - at `$.protocol.context_tokens`"),
    ("cross", "protocol.context_tokens", 1, "is 1, the start of an answer alone takes 2"),
    ("cross", "protocol.max_tokens", 0, ">= 1 - at `$.protocol.max_tokens`"),
    ("cross", "protocol.max_tokens", 10**12, "- at `$.protocol.max_tokens`, which is 1000000000000"),
    ("cross", "protocol.max_repeats", 1, ">= 2 - at `$.protocol.max_repeats`"),
    ("cross", "protocol.max_tokens_per_s", 0, "> 0.0 - at `$.protocol.max_tokens_per_s`"),
    ("cross", "protocol.stop", [], "is empty, a token that ends an answer is needed"),
    ("cross", "protocol.stop", [BEYOND], f"token {BEYOND} of the protocol, the table has {VOCABULARY} rows"),
    ("cross", "protocol.start", [-1], ">= 0 - at `$.protocol.start[0]`, which is -1"),
    ("cross", "protocol.suppress", [BEYOND], f"token {BEYOND} of the protocol"),
    ("cross", "protocol.languages", {"en": BEYOND}, f"token {BEYOND} of the protocol"),
    ("cross", "protocol.tasks", {"": 3}, "length >= 1 - at `key` in `$.protocol.tasks`"),
    ("cross", "protocol.timestamps", {"first": BEYOND - 5, "count": 6}, f"token {BEYOND} of the protocol"),
    ("cross", "protocol.no_speech", BEYOND, f"token {BEYOND} of the protocol"),
    ("cross", "protocol.vocabulary_limit", BEYOND + 1, f"is {BEYOND + 1}, the table has {VOCABULARY} rows"),
    ("cross", "protocol.language", "xx", "is 'xx', languages names none - at `$.protocol.language`"),
    ("cross", "protocol.task", "xx", "is 'xx', tasks names none - at `$.protocol.task`"),
    ("cross", "protocol.sampling.top_p", 2.0, "is 2.0, more than 0, up to 1 is needed - at `$.protocol.sampling"),
    ("cross", "protocol.sampling.top_k", 0, ">= 1 - at `$.protocol.sampling.top_k`"),
    ("cross", "protocol.sampling.temperature", -1.0, "is -1.0, 0, or 0.001 or more is needed"),
    ("cross", "protocol.sampling.temperature", 1e-300, "is 1e-300, 0, or 0.001 or more is needed"),
    ("cross", "protocol.sampling.repetition_penalty", 1e-300, "is 1e-300, more than 0, at least 0.001 is needed"),
    ("cross", "protocol.attention", "prefix", "has 'cross.0', which nothing gives"),
    ("cross", "components.adapter.outputs.0.shape.0", 2**31, "output 'cross' has 2147483648 rows, each an input of"),
    ("prefix", "protocol.attention", "cross", "output 'embeds' is ('embeds', 16), 'cross' of two rows a layer"),
    ("prefix", "protocol.roles", {"user": "u"}, "has no {role}, which is to be filled in - at `$.protocol.turn`"),
    ("prefix", "protocol.tools", "none", "has no {tools}, which is to be filled in - at `$.protocol.tools`"),
    ("prefix", "protocol.thinking", {"open": "a", "close": ""}, "length >= 1 - at `$.protocol.thinking.close`"),
    ("cross", "gate", {"kind": "speech", "start": 1.5}, "is 1.5, at most 1 may be where it is 'speech'"),
    ("cross", "gate", {"kind": "sound", "start": 3, "stop": 4}, "is 4.0, at most start 3.0 may be - at `$.gate.stop`"),
    ("cross", "gate.min_silence_ms", 10**12, "<= 600000 - at `$.gate.min_silence_ms`"),
    ("cross", "levels", [], "no compute level but 'skip'"),
    ("cross", "levels", [{"name": "full"}], "level 'full' has no experts_per_token, the backbone needs one"),
    ("cross", "levels.2.name", "light", "'light' comes twice - at `$.levels`"),
    ("cross", "levels.1.name", "", "length >= 1 - at `$.levels[1].name`"),
    ("cross", "levels.1.experts_per_token", 3, "have 3, 2 experts a token, the cheapest comes first"),
    ("cross", "levels.2.max_lag_ms", 0, "> 0.0 - at `$.levels[2].max_lag_ms`"),
    ("cross", "levels.2.name", "skip", "'skip' comes twice"),
    ("cross", "requires.onnxruntime", "one", "that is a version"),
    ("cross", "requires.opset", -1, ">= 1 - at `$.requires.opset`"),
    ("cross", "name", "a\nb", "of one line"),
    ("cross", "name", "", "length >= 1 - at `$.name`"),
    ("cross", "files.0.bytes", -1, ">= 0 - at `$.files[0].bytes`, which is -1"),
    ("cross", "files.0.sha256", "0" * 63, "of 64 hex digits"),
    ("cross", "files.0.path", "adapter.onnx", "'adapter.onnx' is listed twice - at `$.files`"),
    ("cross", "files.0.path", "manifest.json", "'manifest.json' lists itself"),
    ("cross", "components.encoder.graph", "other.onnx", "'other.onnx' is used by a component but not listed"),
    ("cross", "components.encoder.inputs.0.dtype", "x", "is 'x', must be one of: float32, float16"),
    ("cross", "components.encoder.inputs.0.shape", [8] * 9, "has 9 sizes, at most 8 are known"),
    ("cross", "components.encoder.inputs.0.shape", [8, 10**12], "holds 8000000000000 numbers"),
    ("cross", "components.encoder.inputs.0.shape", [8, -1], ">= 1 - at `$.components[...].inputs[0].shape[1]`"),
    ("cross", "components.encoder.inputs.0.name", "start", "'start' comes twice - at `$.components.encoder.inputs`"),
    ("cross", "components.encoder.inputs.0.name", "sound", "has no input 'mel', which is needed"),
    ("cross", "components.encoder.inputs.2.name", "key", "'key' is state, its name must begin with 'past.'"),
    ("cross", "components.encoder.inputs.2.shape", [1, 2, 25, 8], "state 'key.0' goes in and comes out"),
    ("cross", "components.encoder.outputs.2.shape", ["frames", 15], "is 16 wide, the encoder's output 15"),
    ("cross", "components.adapter.outputs.0.shape", [3, 2, "frames", 8], "two rows a layer"),
    ("cross", "components.adapter.outputs.0.shape", [4, 2, "frames", 8], "has no input 'cross.2', which is needed"),
    ("cross", "components.adapter.outputs", [], "are 0 beside state, one is heard"),
    ("cross", "components.backbone.inputs.0.shape", ["tokens", 15], "is 15 wide, the token table 16"),
    ("cross", "components.backbone.inputs.3.name", "mood", "has 'mood', which nothing gives"),
    ("cross", "embedding.width", 15, "token table is float32"),
    ("cross", "embedding.bits", 5, "5 bits of width 16 need"),
    ("cross", "embedding.weight.offset", -1, ">= 0 - at `$.embedding.weight.offset`"),
    ("cross", "embedding.weight.offset", 1, "token table wants bytes 1 to"),
    ("cross", "embedding.weight.dtype", "object", "is 'object', must be one of: float32"),
    ("cross", "embedding.weight.shape", [10**12, 16], "token table wants bytes 0 to 64000000000000"),
    ("cross", "embedding.weight.shape", [], "token table"),
    ("cross", "recipe", {"limits": {"logit_error": "much"}}, "got `str` - at `$.recipe.limits[...]`"),
    ("cross", "recipe", {"quantize": []}, "Expected `object`, got `array` - at `$.recipe.quantize`"),
    ("cross", "verification", {"goldens": {"a": 3}}, "Expected `object`, got `int` - at `$.verification.goldens[...]`"),
    ("cross", "verification", {"goldens": {"a": {"tokens": [1]}}}, "'a' has tokens and no text"),
    ("cross", "verification", {"goldens": {"a": {"tokens": [BEYOND], "text": ""}}}, f"'a' has token {BEYOND}"),
    ("cross", "verification", {"goldens": {"a": {"cheapest": {"text": ""}}}}, "'a' has no tokens"),
    ("cross", "verification", {"goldens": {"a": {"tokens": [1] * 49, "text": ""}}}, "'a' has 49 tokens"),
    ("cross", "verification", {"compared": None}, "got `null` - at `$.verification.compared`"),
    ("cross", "verification", {"compared": {"distance": {"mel.0": -1}}}, "at `$.verification.compared.distance[...]`"),
    ("cross", "verification", {"judged": {"a": 1}}, "got `int` - at `$.verification.judged[...]`"),
    ("cross", "verification", {"waiver": {"reason": "in a hurry"}}, "missing required field `for`"),
]  # fmt: skip


@pytest.mark.parametrize(("attention", "path", "value", "said"), VALUES, ids=lambda value: str(value)[:40])
def test_a_value_that_cannot_be_is_refused_before_anything_is_loaded(
    tiny_bundle: Callable, attention: str, path: str, value: Any, said: str
) -> None:
    folder = tiny_bundle(attention).folder
    fields = written(folder)
    put(fields, path, value)
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert said in refused(folder)


@pytest.mark.parametrize("attention", ["cross", "prefix"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("left_frames", (0, 1, 3, 4, 16, 64, 4096)),
        ("right_frames", (0, 2, 3, 16, 64, 4096)),
        ("frames_per_position", (1, 3, 4, 8, 64, 4096)),
        ("segment_frames", (2, 4, 8, 16, 64, 4096)),
        ("chunk_frames", (1, 3, 7, 9, 17, 64, 4096)),
    ],
)
def test_frames_that_no_encoder_would_make_whole_positions_of_are_refused(
    tiny_bundle: Callable, attention: str, name: str, values: tuple[int, ...]
) -> None:
    """Such a chunk was heard with other frames than were meant, or died in onnxruntime."""
    folder = tiny_bundle(attention).folder
    fields = written(folder)
    for value in values:
        put(fields, f"grid.{name}", value)
        (folder / "manifest.json").write_text(json.dumps(fields))
        assert "at `$.grid." in refused(folder)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({}, "has 12 frames, the grid's left, chunk and right frames are 11"),
        ({"frames_per_position": 3, "chunk_frames": 9, "left_frames": 3}, "pad_to_frames 1 and max_frames 40 must be"),
        ({"frames_per_position": 3, "chunk_frames": 9, "left_frames": 2, "right_frames": 0}, "right frames are 11"),
    ],
    ids=str,
)
def test_an_encoder_of_so_many_frames_takes_every_call_of_its_grid(
    tiny_bundle: Callable, grid: dict[str, int], said: str
) -> None:
    columns = 13 if "pad_to" in said else 12
    folder = tiny_bundle().folder
    fields = written(folder)
    fields["grid"] |= grid
    put(fields, "components.encoder.inputs.0.shape", [8, columns])
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert said in refused(folder)


def test_an_encoder_that_makes_another_number_of_positions_is_told_at_the_first_chunk(tiny_bundle: Callable) -> None:
    """The manifest of one whose convolutions see further back could be so: only a call can tell."""
    folder = tiny_bundle().folder
    fields = written(folder)
    fields["grid"] |= {"left_frames": 3, "right_frames": 2}
    (folder / "manifest.json").write_text(json.dumps(fields))
    stream = edgekit.load(folder, threads=1).stream()
    with pytest.raises(BackendError, match=r"encoder.onnx: made 5 frames of 8 mel frames, the manifest's grid has 4"):
        list(stream.push(sound_of(RATE)))


@pytest.mark.parametrize("attention", ["cross", "prefix"])
@pytest.mark.parametrize("name", ["encoder", "adapter", "backbone"])
def test_a_component_that_is_missing_is_named(tiny_bundle: Callable, attention: str, name: str) -> None:
    folder = tiny_bundle(attention).folder
    fields = written(folder)
    del fields["components"][name]
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert f"has no '{name}', encoder, adapter, backbone are needed - at `$.components`" in refused(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "Input data was truncated"),
        (b"[" * DEEP + b"]" * DEEP, "Expected `object`, got `array`"),
        (b'{"format_version": 3, "x": ' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deep"),
        (b'{"format_version": 3, "name": "\xff\xfe"}', "is not UTF-8 (invalid start byte, byte 31)"),
        (b'{"format_version": 3, "format_version": 3}', "key 'format_version' stands twice in an object"),
        (b'{"format_version": 3, "recipe": {"a": 1, "\\u0061": 2}}', "key 'a' stands twice in an object"),
        (b'{"format_version": 3, "name": NaN}', "JSON is malformed"),
        (b'{"format_version": 3, "grid": 1e999}', "umber out of range"),
        (b'{"format_version": 3, "needs": ' + b"9" * 5000 + b"}", "Integer value out of range - at `$.needs`"),
        (b'{"format_version": 3, "\\u001b[2J\\n": 1}', r"unknown field `\x1b[2J\n`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_manifest_is_refused_in_one_line(tiny_bundle: Callable, text: bytes, said: str) -> None:
    folder = tiny_bundle().folder
    (folder / "manifest.json").write_bytes(text)
    assert said in refused(folder)


@pytest.mark.parametrize("name", ["recipe", "verification"])
def test_a_free_object_that_is_nested_deep_is_refused(tiny_bundle: Callable, name: str) -> None:
    folder = tiny_bundle().folder
    fields = written(folder)
    inner = fields[name]
    for _ in range(33):
        inner["x"] = [{}]
        inner = inner["x"][0]
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert f"is nested more than 32 deep - at `$.{name}`" in refused(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes")
def test_a_pipe_in_place_of_the_manifest_is_refused_and_not_waited_for(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(BundleFormatError, match="'manifest.json' is a folder, pipe or device, a regular"):
        open_bundle(folder)


def test_a_folder_in_place_of_the_manifest_is_refused(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(BundleFormatError, match="'manifest.json' is a folder, pipe or device"):
        open_bundle(folder)


def test_a_manifest_of_a_size_that_none_has_is_refused_unread(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    with (folder / "manifest.json").open("r+b") as stream:
        stream.truncate(MOST_MANIFEST_BYTES + 1)  # a hole: no disk is filled
    with pytest.raises(BundleFormatError, match=f"has {MOST_MANIFEST_BYTES + 1} bytes, at most {MOST_MANIFEST_BYTES}"):
        open_bundle(folder)


def test_every_size_is_looked_at_before_the_first_hash(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    first, last = written(folder)["files"][0]["path"], written(folder)["files"][-1]["path"]
    (folder / first).write_bytes((folder / first).read_bytes()[::-1])
    (folder / last).write_bytes(b"")
    with pytest.raises(BundleFormatError, match=f"'{last}' has 0 bytes"):
        open_bundle(folder)


def test_a_census_that_is_larger_than_its_files_is_refused(tiny_bundle: Callable) -> None:
    row = {
        "component": "encoder", "tensor": "w", "dtype": "float32", "shape": [4], "op": "MatMul", "bytes": 4000,
        "float32_bytes": 16, "group": "float",
    }  # fmt: skip
    folder = tiny_bundle().folder
    fields = written(folder)
    fields["census"] = [row, row]
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert "tensors of 'encoder' have 8000 bytes, its files have " in refused(folder)
    fields["census"] = [row | {"component": "nose"}]
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert "'nose' is no component, there are adapter, backbone, encoder, embedding" in refused(folder)


def test_state_beyond_any_machine_is_refused(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    fields = written(folder)
    for side in ("inputs", "outputs"):
        for spec in fields["components"]["backbone"][side]:
            if spec["state"] != "none":
                spec["shape"] = [1, 1 << 20, "context", 1 << 20]
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert "bytes is kept by a stream, at most 274877906944 may be" in refused(folder)


def test_a_cache_that_this_machine_has_no_memory_for_is_one_line(tiny_bundle: Callable) -> None:
    manifest = tiny_bundle().manifest
    state = TensorSpec(name="past.key.0", dtype="float32", shape=(1 << 30, "context"), state="in-place")
    component = msgspec.structs.replace(manifest.components["backbone"], inputs=(state,))
    with pytest.raises(
        BackendError, match=r"^a state of 1073741824x1073741824 float32 takes .* MiB, which this machine"
    ):
        edgekit.runtime.engine.allocate(component, {"context": 1 << 30})


def _speaking(tiny_bundle: Callable, **changes: Any) -> Manifest:
    """Return a manifest whose answers a talker speaks, its tables and components in place; some fields as given."""
    folder = tiny_bundle("prefix", writes_hidden=True).folder
    (folder / "codec.bin").write_bytes(bytes(24 * 8 * 4))
    (folder / "codes.bin").write_bytes(bytes(30 * 8 * 4))
    bundle = tiny_bundle("prefix", writes_hidden=True)
    for name in ("codec.bin", "codes.bin"):
        (bundle.folder / name).write_bytes((folder / name).read_bytes())
    bundle.change(speech=msgspec.structs.replace(talkers.SPEECH, **changes))
    manifest = bundle.manifest
    graph = manifest.components["adapter"].graph
    spoken = Component(graph=graph, data=None, inputs=(), outputs=(), precision="float32")
    names = ("talker_adapter", "talker", "code_predictor", "decoder")
    return msgspec.structs.replace(manifest, components=manifest.components | dict.fromkeys(names, spoken))


def test_a_talker_with_all_that_it_needs_is_taken(tiny_bundle: Callable) -> None:
    manifest = _speaking(tiny_bundle)
    check_manifest(manifest)
    assert read_manifest(encode(manifest)) == manifest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tts_pad": BEYOND}, f"token {BEYOND}, the table has {VOCABULARY} rows - at `$.speech.tts_pad`"),
        ({"roles": {"user": BEYOND}}, f"token {BEYOND}, the table has {VOCABULARY} rows - at `$.speech.roles.user`"),
        ({"codec_eos": 24}, "token 24, codec_table has 24 rows - at `$.speech.codec_eos`"),
        ({"codec_suppress": (24,)}, "token 24, codec_table has 24 rows"),
        ({"speakers": {"ann": 24}}, "token 24, codec_table has 24 rows"),
        ({"speakers": {}}, "is '', speakers names nobody - at `$.speech.speaker`"),
        ({"speaker": "eve"}, "is 'eve', speakers names ann, bob - at `$.speech.speaker`"),
        ({"codebooks": 5}, "has 30 rows of 8, 5 codebooks of 10 need 40 of 8 - at `$.speech.code_table`"),
        ({"talker_sampling": msgspec.convert({"top_p": 3}, edgekit.Sampling)}, "at `$.speech.talker_sampling.top_p`"),
        ({"context_frames": -1}, "$.speech.context_frames`"),
        ({"sample_rate_hz": 0}, "$.speech.sample_rate_hz`"),
    ],
)  # fmt: skip
def test_a_talker_that_contradicts_its_tables_is_refused(tiny_bundle: Callable, changes: dict, said: str) -> None:
    with pytest.raises((BundleFormatError, msgspec.ValidationError), match=re.escape(said)):
        read_manifest(encode(_speaking(tiny_bundle, **changes)))


@pytest.mark.parametrize("name", ["talker_adapter", "talker", "code_predictor", "decoder"])
def test_a_component_that_speaking_needs_is_named(tiny_bundle: Callable, name: str) -> None:
    manifest = _speaking(tiny_bundle)
    components = {one: component for one, component in manifest.components.items() if one != name}
    with pytest.raises(BundleFormatError, match=f"has no '{name}', speech of kind 'talker' needs it"):
        check_manifest(msgspec.structs.replace(manifest, components=components))


def test_a_talker_hears_through_the_backbone(tiny_bundle: Callable) -> None:
    manifest = _speaking(tiny_bundle)
    backbone = manifest.components["backbone"]
    deaf = msgspec.structs.replace(backbone, outputs=tuple(one for one in backbone.outputs if one.name != "hidden"))
    with pytest.raises(BundleFormatError, match="has no output 'hidden', which the talker hears"):
        check_manifest(msgspec.structs.replace(manifest, components=manifest.components | {"backbone": deaf}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first_code": BEYOND - 3, "codes": 4}, f"token {BEYOND}, the table has {VOCABULARY} rows"),
        ({"start": BEYOND}, "at `$.speech.start`"),
        ({"voices": {}}, "is empty, somebody has to speak"),
        ({}, "has no 'flow_encoder', speech of kind 'flow' needs it"),
    ],
)
def test_a_flow_that_contradicts_the_rest_is_refused(tiny_bundle: Callable, changes: dict, said: str) -> None:
    manifest = tiny_bundle("prefix").manifest
    fields: dict[str, Any] = {
        "sample_rate_hz": 24_000, "samples_per_code": 960, "first_code": 100, "codes": 50, "start": 3, "end": 4,
        "chunk_codes": 4, "lookahead_codes": 3, "steps": 10, "guidance": 0.7, "voices": {"ann": "tokens.bin"},
        "sampling": manifest.protocol.sampling,
    }  # fmt: skip
    component = Component(graph="adapter.onnx", data=None, inputs=(), outputs=(), precision="float32")
    parts = dict.fromkeys(("flow_encoder", "flow_step", "vocoder"), component) if changes else {}
    with pytest.raises(BundleFormatError, match=re.escape(said)):
        check_manifest(
            msgspec.structs.replace(
                manifest, speech=FlowSpeech(**fields | changes), components=manifest.components | parts
            )
        )


def test_a_second_table_of_codes_is_held_to_its_file(tiny_bundle: Callable) -> None:
    manifest = _speaking(tiny_bundle)
    ref = TensorRef(file="codec.bin", offset=4, dtype="float32", shape=(24, 8))
    speech = msgspec.structs.replace(manifest.speech, codec_table=Embedding(weight=ref, scales=None, width=8))
    with pytest.raises(
        BundleFormatError, match=r"token table wants bytes 4 to 772, 'codec.bin' has 768 - at `\$.speech"
    ):
        check_manifest(msgspec.structs.replace(manifest, speech=speech))


def test_a_bundle_that_is_not_there_is_still_told_so(tmp_path: Path) -> None:
    with pytest.raises(BundleFileError, match="no such folder"):
        open_bundle(tmp_path / "nowhere")


def test_what_real_models_have_is_within_the_ranges(tiny_bundle: Callable) -> None:
    """A context of 262,144 tokens, 200,000 rows, 320 s of sound in a piece: no range is near them."""
    folder = tiny_bundle("prefix").folder
    (folder / "tokens.bin").write_bytes(b"")
    os.truncate(folder / "tokens.bin", 200_000 * WIDTH * 4)
    fields = written(folder)
    next(one for one in fields["files"] if one["path"] == "tokens.bin")["bytes"] = 200_000 * WIDTH * 4
    for path, value in (
        ("embedding.weight.shape", [200_000, WIDTH]), ("protocol.context_tokens", 262_144),
        ("protocol.max_tokens", 32_768), ("protocol.max_length", 262_144),
        ("grid", {"mode": "chunked", "chunk_frames": 100, "max_frames": 32_000, "max_positions": 104, "left_frames": 0,
                  "right_frames": 0, "frames_per_position": 8, "segment_frames": 100}),
        ("front_end.sample_rate_hz", 24_000), ("front_end.n_fft", 600), ("front_end.hop_samples", 240),
        ("front_end.right_pad_samples", 479),
    ):  # fmt: skip
        put(fields, path, value)
    for side in ("inputs", "outputs"):
        for spec in fields["components"]["encoder"][side]:
            if spec["state"] != "none":
                spec["shape"][2] = 104
    read_manifest(json.dumps(fields).encode())
