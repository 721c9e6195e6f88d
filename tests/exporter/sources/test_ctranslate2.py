"""CTranslate2's Whisper container: every number arrives under its Hugging Face name, and nothing else is let in.

The containers here are written by `tests/exporter/containers.py`; the live test
(tests/reference) reads containers that ctranslate2 itself wrote.
"""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.families import find_family
from edgekit.exporter.sources.checkpoint import open_checkpoint, read
from edgekit.exporter.sources.ctranslate2 import CTranslate2Checkpoint
from tests.exporter.containers import (
    FEED,
    MARKS,
    MELS,
    SOUND,
    TEXT,
    TIED,
    VOCABULARY,
    WIDTH,
    container,
    variable,
    whisper,
    word,
    write,
)


def refusal(path: Path) -> str:
    """Return the one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_tensor_arrives_under_its_hugging_face_name(tmp_path, kind):
    stored, wanted = whisper(kind)
    checkpoint = open_checkpoint(write(tmp_path, container(stored, TIED)))

    assert isinstance(checkpoint, CTranslate2Checkpoint)
    assert checkpoint.names() == wanted.keys()
    for name, values in wanted.items():
        assert checkpoint.shape(name) == values.shape
        np.testing.assert_array_equal(read(checkpoint, name), values.astype(np.float32), strict=True)


def test_row_blocks_of_a_fused_tensor_stay_inside_their_part(tmp_path):
    stored, wanted = whisper()
    checkpoint = open_checkpoint(write(tmp_path, container(stored, TIED)))
    for part in ("q_proj", "k_proj", "v_proj"):
        name = f"model.encoder.layers.1.self_attn.{part}.weight"
        for start in range(WIDTH + 1):
            for stop in range(start, WIDTH + 1):
                np.testing.assert_array_equal(checkpoint.rows(name, start, stop), wanted[name][start:stop])


def test_the_config_says_what_the_container_holds(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, container(whisper()[0], TIED)))
    sizes = {
        "d_model": WIDTH,
        "vocab_size": VOCABULARY,
        "num_mel_bins": MELS,
        "max_source_positions": SOUND,
        "max_target_positions": TEXT,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": FEED,
        "decoder_ffn_dim": FEED,
        "decoder_start_token_id": 21,
        "eos_token_id": 20,
    }
    assert checkpoint.config | sizes == checkpoint.config
    assert checkpoint.config["model_type"] == "whisper"
    assert checkpoint.config["tie_word_embeddings"] is True


def test_generation_is_what_the_containers_config_says(tmp_path):
    generation = open_checkpoint(write(tmp_path, container(whisper()[0], TIED))).generation
    assert generation == {"suppress_tokens": [1, 2], "begin_suppress_tokens": [3], "alignment_heads": [[0, 1]]}


def test_a_generation_config_that_was_copied_beside_it_counts_too(tmp_path):
    folder = write(tmp_path, container(whisper()[0], TIED))
    (folder / "generation_config.json").write_text(json.dumps({"language": "de", "suppress_tokens": [9]}))
    generation = open_checkpoint(folder).generation
    assert generation["language"] == "de"
    assert generation["suppress_tokens"] == [1, 2]


@pytest.mark.parametrize(("vocabulary", "multilingual"), [(51864, False), (51865, True), (51866, True)])
def test_the_vocabulary_size_decides_whether_languages_and_tasks_are_named(tmp_path, vocabulary, multilingual):
    stored = whisper()[0] | {"decoder/embeddings/weight": np.zeros((vocabulary, WIDTH), np.float16)}
    folder = write(tmp_path, container(stored, TIED), vocabulary)
    checkpoint = open_checkpoint(folder)

    opened = find_family(checkpoint.config).open(checkpoint.config, checkpoint.generation)
    protocol = opened.protocol((folder / "tokenizer.json").read_text())

    start = vocabulary - len(MARKS)
    assert protocol.start_tail == (start + 9,)
    assert protocol.languages == ({"en": start + 2, "de": start + 3} if multilingual else {})
    assert protocol.tasks == ({"transcribe": start + 5, "translate": start + 4} if multilingual else {})


def test_a_variable_stored_as_an_alias_reads_as_its_target(tmp_path):
    stored, wanted = whisper()
    kept, alias = "decoder/layer_norm/beta", "encoder/layer_norm/beta"
    del stored[alias]
    checkpoint = open_checkpoint(write(tmp_path, container(stored, TIED | {alias: kept})))
    assert checkpoint.names() == wanted.keys()
    np.testing.assert_array_equal(
        read(checkpoint, "model.encoder.layer_norm.bias"), wanted["model.decoder.layer_norm.bias"]
    )


def test_an_untied_projection_is_a_tensor_of_its_own(tmp_path):
    stored, wanted = whisper()
    stored["decoder/projection/weight"] = stored["decoder/embeddings/weight"] * 2
    checkpoint = open_checkpoint(write(tmp_path, container(stored, {})))
    assert checkpoint.names() == wanted.keys() | {"proj_out.weight"}
    assert checkpoint.config["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    "where", ["encoder/layer_1/self_attention/linear_0/bias", "decoder/layer_0/attention/linear_1/bias"]
)
def test_a_key_bias_that_is_not_zero_is_refused(tmp_path, where):
    stored, _ = whisper()
    keys = stored[where][WIDTH : 2 * WIDTH] if "self" in where else stored[where][:WIDTH]
    keys[4] = 0.5
    line = refusal(write(tmp_path, container(stored, TIED)))
    assert "k_proj.bias: 0.5 at index 4, Whisper's keys have no bias" in line


def test_an_int8_container_is_refused_by_name(tmp_path):
    stored, _ = whisper()
    name = "decoder/layer_0/ffn/linear_0/weight"
    stored[name] = np.ones((FEED, WIDTH), np.int8)
    assert f"pre-quantised checkpoint ({name}, I8)" in refusal(write(tmp_path, container(stored, TIED)))
    stored[f"{name}_scale"] = np.ones(FEED, np.float32)
    assert f"pre-quantised checkpoint ({name}, I8)" in refusal(write(tmp_path, container(stored, TIED)))


def test_a_scale_alone_is_refused_as_quantised(tmp_path):
    stored, _ = whisper()
    for scale in (np.ones(FEED, np.float32), np.asarray(1, np.float32), np.asarray(1, np.int8)):
        stored["decoder/layer_0/ffn/linear_0/weight_scale"] = scale
        line = refusal(write(tmp_path, container(stored, TIED)))
        assert "pre-quantised checkpoint (decoder/layer_0/ffn/linear_0/weight_scale" in line


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"version": 5}, "container version 5, export reads 6"),
        ({"spec": "TransformerSpec", "revision": 7}, "holds TransformerSpec revision 7"),
        ({"revision": 2}, "holds WhisperSpec revision 2"),
    ],
)
def test_another_kind_of_container_is_refused(tmp_path, keywords, said):
    assert said in refusal(write(tmp_path, container(whisper()[0], TIED, **keywords)))


@pytest.mark.parametrize(
    "name",
    [
        "encoder/conv3/weight",
        "decoder/layer_0/ffn/linear_0_noact/weight",
        "decoder/layer_00/ffn/linear_1/weight",
        "loose",
    ],
)
def test_a_variable_that_whisper_lacks_is_refused_by_name(tmp_path, name):
    stored = whisper()[0] | {name: np.ones((2, 2), np.float16)}
    assert f"variable {name} [2, 2] is no part of Whisper" in refusal(write(tmp_path, container(stored, TIED)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("activation", 0), ("pre_norm", 0), ("alibi", 1), ("scale_embeddings", 1), ("sliding_window", 4)],
)
def test_a_scalar_that_changes_the_arithmetic_is_refused(tmp_path, name, value):
    stored = whisper()[0] | {f"decoder/{name}": np.asarray(value, np.int8)}
    assert f"decoder/{name} is {value}" in refusal(write(tmp_path, container(stored, TIED)))


@pytest.mark.parametrize("heads", [0, -1, 4])
def test_heads_that_do_not_divide_the_width_are_refused(tmp_path, heads):
    stored = whisper()[0] | {"encoder/num_heads": np.asarray(heads, np.int16)}
    assert f"encoder/num_heads is {heads}, must divide 6" in refusal(write(tmp_path, container(stored, TIED)))


@pytest.mark.parametrize(
    "name", ["decoder/embeddings/weight", "encoder/conv1/weight", "encoder/layer_0/ffn/linear_0/weight"]
)
def test_a_missing_or_flat_variable_that_sets_a_size_is_refused(tmp_path, name):
    stored, _ = whisper()
    aliases = {} if name == "decoder/embeddings/weight" else TIED
    flat = container(stored | {name: np.ones(4, np.float16)}, aliases)
    del stored[name]
    for content in (flat, container(stored, aliases)):
        assert "axes; convert it again" in refusal(write(tmp_path, content))


def test_a_container_without_layers_is_refused(tmp_path):
    stored = {name: values for name, values in whisper()[0].items() if "layer_0" not in name and "layer_1" not in name}
    assert "must have 2 axes" in refusal(write(tmp_path, container(stored, TIED)))


def test_every_cut_of_a_container_is_refused(tmp_path):
    content = container({"decoder/alibi": np.asarray(0, np.int8), "encoder/conv1/bias": np.ones(2, np.float16)}, TIED)
    for size in range(1, len(content)):
        assert "model.bin" in refusal(write(tmp_path, content[:size]))
    assert "bytes after the last alias" in refusal(write(tmp_path, container(whisper()[0], TIED) + b"\0"))


HEAD = struct.pack("<I", 6) + word("WhisperSpec") + struct.pack("<I", 3)
BIAS = variable("encoder/conv1/bias", np.ones(2, np.float16))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ([BIAS[:-1]], "ends inside encoder/conv1/bias"),
        ([BIAS, BIAS], "encoder/conv1/bias appears twice"),
        ([word("a") + struct.pack("<BIBI", 1, 2, 4, 6) + b"000000"], "a has 6 bytes, its shape needs 4"),
        ([word("a") + struct.pack("<BIBI", 1, 2, 6, 4) + b"0000"], "a has number type 6, must be below 6"),
        ([b"\x02\x00\xff\x00" + BIAS], "is not UTF-8"),
        (
            [word("a") + struct.pack("<B", 9) + b"\xff" * 36 + struct.pack("<BI", 0, 0)],
            "a has 0 bytes, its shape needs",
        ),
    ],
)
def test_a_damaged_list_of_variables_is_refused(tmp_path, variables, said):
    content = HEAD + struct.pack("<I", len(variables)) + b"".join(variables)
    assert said in refusal(write(tmp_path, content))


def test_an_alias_of_nothing_is_refused(tmp_path):
    line = refusal(write(tmp_path, container(whisper()[0], {"decoder/projection/weight": "decoder/none/weight"})))
    assert "decoder/projection/weight stands for decoder/none/weight, which is not stored" in line


def test_a_fused_variable_of_unequal_parts_is_refused(tmp_path):
    name = "encoder/layer_0/self_attention/linear_0/weight"
    stored = whisper()[0] | {name: np.ones((3 * WIDTH + 1, WIDTH), np.float16)}
    assert f"{name}: 19 rows, must be 3 equal parts" in refusal(write(tmp_path, container(stored, TIED)))


def test_a_weight_that_is_not_finite_is_named_with_its_hugging_face_index(tmp_path):
    stored, _ = whisper()
    stored["encoder/layer_0/self_attention/linear_0/weight"][2 * WIDTH + 1, 3] = np.nan
    checkpoint = open_checkpoint(write(tmp_path, container(stored, TIED)))
    with pytest.raises(
        CheckpointError, match=r"^model\.encoder\.layers\.0\.self_attn\.v_proj\.weight: nan at index \[1, 3\]"
    ):
        read(checkpoint, "model.encoder.layers.0.self_attn.v_proj.weight")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("tokenizer.json", "{}", "no readable added_tokens"),
        ("tokenizer.json", '{"added_tokens": [{"id": 1}]}', "no readable added_tokens"),
        ("tokenizer.json", '{"added_tokens": []}', "no special token <|endoftext|>"),
        ("config.json", '{"suppress_ids": ["a"]}', "suppress_ids is ['a'], must be a list of token ids"),
        ("config.json", "[]", "must be an object"),
    ],
)
def test_unusable_files_beside_the_container_are_refused(tmp_path, file, text, said):
    write(tmp_path, container(whisper()[0], TIED))
    (tmp_path / file).write_text(text)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_missing_files_beside_the_container_are_named(tmp_path, file):
    write(tmp_path, container(whisper()[0], TIED))
    (tmp_path / file).unlink()
    assert f"{tmp_path / file}: No such file" in refusal(tmp_path)


def test_an_alias_that_stands_for_two_or_hides_a_variable_is_refused(tmp_path):
    content = whisper()[0]
    hides = {"encoder/conv1/bias": "encoder/conv2/bias"}
    assert "encoder/conv1/bias appears twice" in refusal(write(tmp_path, container(content, hides)))
    twice = container(content, TIED)[:-4]
    pair = b"".join(map(word, ("decoder/projection/weight", "decoder/embeddings/weight")))
    start = twice.rindex(struct.pack("<I", 1) + pair[:10])
    doubled = twice[:start] + struct.pack("<I", 2) + pair * 2
    assert "decoder/projection/weight appears twice" in refusal(write(tmp_path, doubled))


@pytest.mark.parametrize("name", ["encoder/layer_0/self_attention/linear_0/bias", "encoder/conv1/bias"])
def test_a_weight_without_axes_is_refused(name, tmp_path):
    content = whisper()[0] | {name: np.asarray(1.5, np.float16)}
    assert f"variable {name} [] is no part of Whisper" in refusal(write(tmp_path, container(content, TIED)))


@pytest.mark.parametrize("layer", ["9999999", "1" * 5000, "\u0663", "-1", "00"])
def test_a_layer_that_no_model_has_is_refused(layer, tmp_path):
    content = whisper()[0] | {f"encoder/layer_{layer}/ffn/linear_0/bias": np.zeros(FEED, np.float16)}
    assert "is no part of Whisper" in refusal(write(tmp_path, container(content, TIED)))


def test_an_empty_weight_of_sizes_that_cannot_be_is_refused(tmp_path):
    sizes = struct.pack("<B3I", 3, 0, 2**32 - 1, 2**32 - 1)
    empty = word("encoder/conv1/bias") + sizes + struct.pack("<BI", 4, 0)  # 4: float16
    content = container({}, {})[:-8] + struct.pack("<I", 1) + empty + struct.pack("<I", 0)
    assert "at most 16 axes and 1099511627776 numbers can be" in refusal(write(tmp_path, content))


@pytest.mark.parametrize("added", [7, None, [7], [{"content": "a", "id": 1e999}], [{"content": "a", "id": []}]])
def test_added_tokens_of_another_form_are_refused(added, tmp_path):
    folder = write(tmp_path, container(whisper()[0], TIED))
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert "no readable added_tokens" in refusal(folder)
