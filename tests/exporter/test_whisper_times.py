"""What a Whisper's files say of times, of the heads that follow the words, and of silence; and the output for it."""

import json

import onnx
import pytest

from edgekit.bundle import Timestamps
from edgekit.errors import CheckpointError
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families.whisper import FAMILY
from tests.exporter.test_whisper_tokens import CODES, END, PUBLISHED, SILENT, protocol, tokenizer
from tests.reference import checkpoints

SIZES = {"decoder_layers": 4, "decoder_attention_heads": 6}
PADDED, LAST = 51_872, 51_864  # a vocabulary that people filled up, and the last token of base's own
LATER = [(layer, head) for layer in (2, 3) for head in range(6)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, LATER),
        ([[2, 3], [0, 5]], [(0, 5), (2, 3)]),
        ([[3, 1], [3, 0], [1, 5], [1, 0]], [(1, 0), (1, 5), (3, 0), (3, 1)]),
        ([[3, 5]], [(3, 5)]),
        ([], []),
    ],
)
def test_heads_that_follow_the_words_are_the_published_ones_in_order(given, expected):
    generation = PUBLISHED if given is None else PUBLISHED | {"alignment_heads": given}
    assert protocol(generation, **SIZES).alignment == tuple(expected)


def test_of_an_odd_number_of_layers_the_later_half_has_one_more():
    assert protocol(PUBLISHED, decoder_layers=1, decoder_attention_heads=2).alignment == ((0, 0), (0, 1))
    layers = [layer for layer, _ in protocol(PUBLISHED, decoder_layers=3, decoder_attention_heads=2).alignment]
    assert layers == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([[4, 0]], r"\[4, 0\]"),
        ([[0, 6]], r"\[0, 6\]"),
        ([[1, 1], [-1, 0]], r"\[-1, 0\]"),
        ([[1, 1], [1]], r"\[1\]"),
        ([[1, 1, 1]], r"\[1, 1, 1\]"),
        ([[1, 1.0]], r"\[1, 1.0\]"),
        ([[True, 1]], r"\[True, 1\]"),
        ([1, 2], "1"),
        ([[]], r"\[\]"),
        ("all", "all"),
        (7, "7"),
        ({"1": 2}, r"\{'1': 2\}"),
        ([None], "None"),
    ],
)
def test_heads_that_there_are_none_of_are_refused_in_one_line(given, told):
    with pytest.raises(CheckpointError) as refused:
        protocol(PUBLISHED | {"alignment_heads": given}, **SIZES)
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith("generation_config.json: alignment_heads has ")
    assert line.endswith("must be [layer, head] pairs below [4, 6]; take the published file, or take the key out")
    with pytest.raises(CheckpointError, match=f"alignment_heads has {told}, must"):
        FAMILY.bind({"model_type": "whisper", "vocab_size": 51865, **SIZES}, PUBLISHED | {"alignment_heads": given})


@pytest.mark.parametrize(
    ("latest", "expected"),
    [("gone", 50), (None, 50), (0, 0), (1, 1), (50, 50), (1500, 1500)],
)
def test_the_first_time_may_be_as_late_as_the_files_say(latest, expected):
    generation = PUBLISHED if latest == "gone" else PUBLISHED | {"max_initial_timestamp_index": latest}
    assert protocol(generation).timestamps == Timestamps(first=SILENT + 1, latest_start=expected)


@pytest.mark.parametrize("latest", [-1, 1501, 1.0, "50", True, [50]])
def test_a_first_time_that_cannot_be_is_refused_by_name(latest):
    with pytest.raises(
        CheckpointError, match="max_initial_timestamp_index is .*, must be a whole number from 0, below"
    ):
        protocol(PUBLISHED | {"max_initial_timestamp_index": latest})


@pytest.mark.parametrize("vocabulary", [51865, PADDED])
def test_times_follow_the_token_for_none_and_padding_is_none_of_them(vocabulary):
    times = protocol(PUBLISHED, vocab_size=vocabulary).timestamps
    assert (times.first, times.first + times.count - 1, times.step_s) == (SILENT + 1, LAST, 0.02)


def test_a_vocabulary_without_all_times_has_none():
    assert protocol(PUBLISHED, vocab_size=LAST).timestamps is None
    small = tokenizer(500, ["en", "de"])
    config = {"vocab_size": 900, "eos_token_id": 500, "decoder_start_token_id": 501, "text": small}
    assert protocol({"is_multilingual": True}, **config).timestamps is None


def test_times_that_stand_elsewhere_are_refused():
    content = json.loads(tokenizer())
    content["added_tokens"].append({"id": SILENT + 2, "content": "<|0.00|>"})
    with pytest.raises(
        CheckpointError, match=r"no_timestamps_token_id is 50363, tokenizer.json has <\|0.00\|> at 50365"
    ):
        protocol(PUBLISHED, text=json.dumps(content))
    assert protocol(PUBLISHED, text=tokenizer(stamps=1501)).timestamps is not None


@pytest.mark.parametrize(("name", "place"), [("nospeech", 4), ("nocaptions", 4), ("silence", None)])
def test_the_token_for_no_speech_is_known_by_either_name(name, place):
    text = tokenizer().replace("<|nospeech|>", f"<|{name}|>")
    assert protocol(PUBLISHED, text=text).no_speech == (None if place is None else END + 1 + len(CODES) + place)


def exported(tmp_path, heads):
    """Return the manifest of an export with these heads, and the names of the backbone's outputs."""
    folder = checkpoints.write(tmp_path / "checkpoint", "whisper-dense-128")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alignment_heads": heads}))
    recipe = checkpoints.__file__.replace("reference/checkpoints.py", "exporter/quick.toml")
    export(folder, tmp_path / "bundle", ExportOptions(recipe=recipe, precision="float32"))
    graph = onnx.load(tmp_path / "bundle" / "backbone.onnx", load_external_data=False).graph
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    return manifest, [output.name for output in graph.output]


def test_without_heads_no_queries_are_written(tmp_path):
    manifest, outputs = exported(tmp_path, [])
    assert "queries" not in outputs
    assert "alignment" not in manifest["protocol"] or manifest["protocol"]["alignment"] == []
    assert all(one["name"] != "queries" for one in manifest["components"]["backbone"]["outputs"])


def test_queries_are_of_all_heads_of_the_layers_that_are_named(tmp_path):
    manifest, outputs = exported(tmp_path, [[1, 2], [0, 3], [1, 0]])
    assert "queries" in outputs
    assert manifest["protocol"]["alignment"] == [[0, 3], [1, 0], [1, 2]]
    (queries,) = [one for one in manifest["components"]["backbone"]["outputs"] if one["name"] == "queries"]
    assert queries["shape"] == ["tokens", 2 * 64]
