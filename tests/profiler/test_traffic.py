"""What a token reads is counted from the bundle's own files; the machine's bandwidth is a speed."""

import json
from pathlib import Path

import msgspec
import pytest

from edgekit.exporter.export import ExportOptions, export
from edgekit.profiler.traffic import read_bandwidth, token_bytes, weight_bytes

QUICK = Path(__file__).parents[1] / "exporter/quick.toml"
CONFIGS = Path(__file__).parents[2] / "profiles/data/configs"
LAYERS, WIDTH, INNER, VOCABULARY, HEADS, KV_HEADS, HEAD_DIM = 2, 128, 256, 320, 4, 2, 32
EXPERTS, CHOSEN, EXPERT_INNER = 8, 4, 64
INT8 = 1 + 4 / 128  # bytes of a number and its part of a float32 scale, blocks of 128
INT4 = 1 / 2 + 4 / 128
EXPERT_INT4 = 1 / 2 + 4 / 64  # blocks of 64
ATTENTION = 2 * WIDTH * HEADS * HEAD_DIM + 2 * WIDTH * KV_HEADS * HEAD_DIM
NORMS = 2 * WIDTH
BIASES = (HEADS + 2 * KV_HEADS) * HEAD_DIM
POSITION_ROW = HEAD_DIM * 4  # half a head of cos and half of sin


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a function: precision and changes of the backbone -> manifest of a dummy of the published kind."""

    def make(precision, **changes):
        config = json.loads((CONFIGS / "step-audio-2-mini.json").read_text())
        config["eos_token_id"] = [315]
        config["text_config"] |= {
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
        } | changes
        config["audio_encoder_config"] |= {"n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 1, "llm_dim": WIDTH}
        folder = tmp_path_factory.mktemp("dummy")
        (folder / "config.json").write_text(json.dumps(config))
        return export(
            folder / "config.json", folder / "b", ExportOptions(recipe=QUICK, precision=precision, dummy_weights=True)
        )

    return make


def test_a_dense_token_reads_every_weight_of_the_backbone_once(manifest):
    made = manifest("int8")
    layer = (ATTENTION + 3 * WIDTH * INNER) * INT8 + (BIASES + NORMS) * 4
    assert token_bytes(made, 10) == {
        "other weights": LAYERS * layer + WIDTH * 4 + POSITION_ROW,
        "head": (VOCABULARY + 1) * WIDTH * INT8,  # the head, and a row of the token table
        "KV cache": LAYERS * 2 * KV_HEADS * HEAD_DIM * 4 * 10,
    }
    assert "KV cache" not in token_bytes(made, 0)


def test_a_token_reads_only_the_experts_that_are_chosen(manifest):
    made = manifest(
        "int4", model_type="qwen3_moe", num_experts=EXPERTS, num_experts_per_tok=CHOSEN,
        moe_intermediate_size=EXPERT_INNER,
    )  # fmt: skip
    expert = 3 * WIDTH * EXPERT_INNER * EXPERT_INT4
    found = token_bytes(made, 1)
    assert found["experts"] == LAYERS * CHOSEN * expert
    router, norms_of_heads = EXPERTS * WIDTH, 2 * HEAD_DIM
    layer = ATTENTION * INT4 + (NORMS + norms_of_heads + router) * 4
    assert found["other weights"] == LAYERS * layer + WIDTH * 4 + POSITION_ROW
    fewer = msgspec.structs.replace(made.levels[-1], experts_per_token=CHOSEN // 2)
    assert token_bytes(made, 1, fewer)["experts"] == found["experts"] / 2


def test_a_float_token_reads_four_bytes_a_number(manifest):
    found = token_bytes(manifest("float32"), 0)
    assert found["head"] == (VOCABULARY + 1) * WIDTH * 4


def test_weights_are_counted_as_the_files_hold_them(manifest):
    made = manifest("int8")
    files = sum(entry.bytes for entry in made.files if entry.path.endswith(".data"))
    inline = sum(row.bytes for row in made.census if row.bytes <= 1024)
    # pages between tensors are filled up; tiny tensors stand in the graphs
    assert files - 4096 * len(made.census) < weight_bytes(made) <= files + inline


def test_bandwidth_has_a_speed_for_every_pass():
    found = read_bandwidth(2, buffer_bytes=1 << 20, passes=3)
    assert len(found) == 3
    assert min(found) > 1e6  # any machine reads a megabyte within a second
