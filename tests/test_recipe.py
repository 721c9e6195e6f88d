"""Recipes and targets: every field has a range, and what is refused is told with its file, field, value and rule."""

import json
import os
import time

import msgspec
import pytest

from edgekit.errors import BundleFormatError, RecipeError
from edgekit.recipe import Recipe, Target, load_recipe, load_target, stored_recipe, target_names
from edgekit.resources import resource

TARGET = {
    "name": "board", "description": "A board", "dialect": "ort-cpu", "backends": ["onnxruntime-cpu"],
    "min_memory_mib": 512, "tested": False,
}  # fmt: skip


def refusal(path, content, load=load_recipe):
    """Return the line with which a file is refused, after its path."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert time.monotonic() - start < 2
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_what_ships_is_within_the_ranges():
    for path in resource("export").glob("*/*.toml"):
        load_recipe(path)
    assert all(load_target(name).backends for name in target_names())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid]\nchunk_ms = 1_000_000_000_000", "grid.chunk_ms is 1000000000000, must be int <= 600000"),
        ("[grid]\nchunk_ms = 0", "grid.chunk_ms is 0, must be int >= 1"),
        ("[grid]\ntail_ms = -1", "grid.tail_ms is -1, must be int >= 0"),
        ("[grid]\nmode = 'fast'", "grid.mode is 'fast', must be one of: exact, chunked"),
        ("[limits]\nword_error_rate = nan", "limits.word_error_rate is nan, must be float >= 0.0"),
        ("[limits]\nlogit_error = inf", "limits.logit_error is inf, must be float <= 1000.0"),
        ("[limits]\nframe_error = -0.1", "limits.frame_error is -0.1, must be float >= 0.0"),
        ("[limits]\ntoken_mismatch = 1.5", "limits.token_mismatch is 1.5, must be float <= 1.0"),
        ("[limits]\nmel_error_db = 1" + "0" * 400, "limits.mel_error_db is 1"),
        ("[int4.limits]\nlogit_error = nan", "int4.limits[...] is {'logit_error': nan}, must be float >= 0.0"),
        ("[int4.limits]\ncode_mismatch = 2", "int4.limits.code_mismatch is 2.0, must be from 0 to 1"),
        ("[int4.quantize]\nhead_block = 48", "int4.quantize[...] is {'head_block': 48}, must be one of: 32, 64, 128"),
        ("[quantize]\nhead_block = 0", "quantize.head_block is 0, must be one of: 32, 64, 128"),
        ("[quantize]\nencoder_finer = 'all'", "quantize.encoder_finer is 'all', must be one of: measured, none"),
        ("[precision]\nencoder = ['int8']", "precision.encoder is ['int8'], must be one of: float32, int8, int4"),
        (
            "[check]\nclips = ['../secret.flac']",
            "check.clips[0] is '../secret.flac', must be str that is a file's name",
        ),
        ("[check]\nclips = ['en-*', '/etc/*']", "check.clips[1] is '/etc/*', must be str that is a file's name"),
        ("[check]\nlanguages = ['English']", "check.languages[0] is 'English', must be str such as en"),
        ("[check]\ntwin_limit_mib = -1", "check.twin_limit_mib is -1, must be int >= 0"),
        ("[calibrate]\nclips = ['a/../b']", "calibrate.clips[0] is 'a/../b', must be str that is a file's name"),
        ("levels = [{name = 'a'}, {name = 'b'}, {name = 'a'}]", "levels names 'a' 2 times, must once"),
        ("[gate]\nstart = 0.2\nstop = 0.3", "gate.stop is 0.3, must be no more than gate.start, 0.2"),
        ("context_tokens = 0", "context_tokens is 0, must be int >= 1"),
        ("context_tokens = 1_000_000_000_000", "context_tokens is 1000000000000, must be int <= 16777216"),
        ("context_tokens = true", "context_tokens is True, must be int | null, got bool"),
        ("max_tokens_per_s = 0.0", "max_tokens_per_s is 0.0, must be float > 0.0"),
        ("max_repeats = -3", "max_repeats is -3, must be 0 for no limit, or 2 or more"),
        ('name = "a\\u001b[2Jb"', "must be str of one line"),
        ('name = "a\\u202eb"', "must be str of one line"),
        ("name = 'a", "(at end of document)"),
        ("encoder = 'int8'", "Object contains unknown field `encoder`"),
        (b"name = '\xff'", "not UTF-8 at byte 8"),
        (b"\xff\xfen\0", "not UTF-8 at byte 0"),
        ("a = " + "[" * 1900, "lists or tables too deep within each other"),
        ("a = " + "{a=" * 600 + "1" + "}" * 600, ""),
        ("a." * 60_000 + "b = 1", "Has 120,005 bytes, at most 65,536 are read"),
        ("a." * 20_000 + "b = 1", "line 1 has 40005 characters, must have at most 2000"),
        ("\n".join(f"x{line}." + "a." * 900 + "b = 1" for line in range(30)), "unknown field"),
        ("context_tokens = " + "9" * 1900, "context_tokens is 9"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_recipe_that_cannot_be_is_refused_with_field_value_and_rule(text, said, tmp_path):
    assert said in refusal(tmp_path / "r.toml", text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_memory_mib": -1}, "min_memory_mib is -1, must be int >= 0"),
        ({"min_memory_mib": 10**30}, "min_memory_mib is 1000000000000000000000000000000, must be int"),
        ({"backends": []}, "backends is [], must be array of length >= 1"),
        ({"backends": ["a", "a"]}, "backends names 'a' 2 times, must once"),
        ({"compute_capability": ["8.x"]}, "compute_capability[0] is '8.x', must be str of numbers with dots"),
        ({"dialect": "abacus"}, "dialect 'abacus' is not known"),
        ({"name": ""}, "name is '', must be str of length >= 1"),
        ({"stacks": [{"name": "a", "source": "b"}, {"name": "a", "source": "c"}]}, "stacks names 'a' 2 times"),
    ],
    ids=str,
)
def test_a_target_that_cannot_be_is_refused_with_field_value_and_rule(changes, said, tmp_path):
    content = "\n".join(f"{name} = {_toml(value)}" for name, value in (TARGET | changes).items())
    assert said in refusal(tmp_path / "t.toml", content, lambda path: load_target(str(path)))


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    return "[" + ", ".join(map(_toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def test_what_is_no_file_of_text_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    for name, said in (
        ("fifo.toml", "Is a FIFO, must be a regular file"),
        ("folder.toml", "Is a directory"),
        ("zero.toml", "Is a device, must be a regular file"),
        ("none.toml", "no such file"),
        ("a\0b.toml", "No file can have this name"),
        ("a" * 300 + ".toml", "File name too long"),
    ):
        for load in (load_recipe, lambda path: load_target(str(path))):
            with pytest.raises(RecipeError, match=said):
                load(tmp_path / name)


@pytest.mark.parametrize("name", ["../cpu", "cpu/../cpu", "/cpu", "cpu\0", "", ".", "a" * 5000])
def test_a_target_is_named_by_its_folder_alone(name):
    with pytest.raises(RecipeError, match="is not known; choose one of: cpu"):
        load_target(name)


def test_a_bundle_s_recipe_is_checked_as_a_file_is():
    plain = msgspec.to_builtins(Recipe())
    assert stored_recipe(plain, "bundle") == Recipe()
    with pytest.raises(
        BundleFormatError, match="bundle: recipe in the manifest: context_tokens is -1, must be int >= 1"
    ):
        stored_recipe(plain | {"context_tokens": -1}, "bundle")
    assert msgspec.convert(TARGET, Target).backends == ("onnxruntime-cpu",)
