"""What write-ggml.py writes is what whisper.cpp reads: told by a reader of its own, from the format's description."""

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgekit.runtime.hear.features import mel_filters

ROOT = Path(__file__).resolve().parents[2]
WIDTH, FEED, MELS, SOUND, TEXT, END = 32, 64, 5, 7, 9, 4
LAYERS = {"encoder": 2, "decoder": 1}
LINEARS = {
    "self_attn.q_proj": ("attn.query", (WIDTH, WIDTH)),
    "self_attn.k_proj": ("attn.key", (WIDTH, WIDTH)),
    "self_attn.v_proj": ("attn.value", (WIDTH, WIDTH)),
    "self_attn.out_proj": ("attn.out", (WIDTH, WIDTH)),
    "fc1": ("mlp.0", (FEED, WIDTH)),
    "fc2": ("mlp.2", (WIDTH, FEED)),
}
CROSS = {name.replace("self_attn", "encoder_attn"): (f"cross_{to}", shape) for name, (to, shape) in LINEARS.items()}
NORMS = {"self_attn_layer_norm": "attn_ln", "final_layer_norm": "mlp_ln"}


def whisper() -> dict[str, tuple[str, np.ndarray]]:
    """Return whisper.cpp's name -> (Hugging Face name, values) of one tiny random Whisper."""
    rng = np.random.default_rng(0)
    shapes = {
        "encoder.conv1.weight": ("encoder.conv1.weight", (WIDTH, MELS, 3)),
        "encoder.conv1.bias": ("encoder.conv1.bias", (WIDTH,)),
        "encoder.conv2.weight": ("encoder.conv2.weight", (WIDTH, WIDTH, 3)),
        "encoder.conv2.bias": ("encoder.conv2.bias", (WIDTH,)),
        "encoder.positional_embedding": ("encoder.embed_positions.weight", (SOUND, WIDTH)),
        "decoder.positional_embedding": ("decoder.embed_positions.weight", (TEXT, WIDTH)),
        "decoder.token_embedding.weight": ("decoder.embed_tokens.weight", (END + 3, WIDTH)),
    }
    norms = {"encoder.ln_post": "encoder.layer_norm", "decoder.ln": "decoder.layer_norm"}
    for side, layer in [(side, layer) for side, count in LAYERS.items() for layer in range(count)]:
        to, there = f"{side}.blocks.{layer}.", f"{side}.layers.{layer}."
        cross = {name: found for name, found in CROSS.items() if "attn" in name and side == "decoder"}
        norms |= {to + mine: there + theirs for theirs, mine in NORMS.items()}
        norms |= {f"{to}cross_attn_ln": f"{there}encoder_attn_layer_norm"} if side == "decoder" else {}
        for theirs, (mine, shape) in (LINEARS | cross).items():
            shapes[f"{to}{mine}.weight"] = (f"{there}{theirs}.weight", shape)
            if not theirs.endswith("k_proj"):
                shapes[f"{to}{mine}.bias"] = (f"{there}{theirs}.bias", shape[:1])
    for mine, theirs in norms.items():
        shapes |= {f"{mine}.{part}": (f"{theirs}.{part}", (WIDTH,)) for part in ("weight", "bias")}
    return {
        mine: (f"model.{theirs}", rng.standard_normal(shape).astype(np.float32))
        for mine, (theirs, shape) in shapes.items()
    }


CONFIG = {
    "model_type": "whisper",
    "vocab_size": END + 3,
    "num_mel_bins": MELS,
    "d_model": WIDTH,
    "max_source_positions": SOUND,
    "max_target_positions": TEXT,
    "encoder_layers": LAYERS["encoder"],
    "decoder_layers": LAYERS["decoder"],
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "eos_token_id": END,
}
# A space, a line's end, a byte of no character of its own, a word; the end token; then one that only the table knows.
VOCABULARY = {"Ġ": 0, "Ċ": 1, "ÿ": 2, "Ġhé": 3, "<|endoftext|>": END, "later": END + 1}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "whisper"
    folder.mkdir()
    save_file(dict(whisper().values()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": VOCABULARY}}))
    return folder


def write(folder, *options):
    """Run the script; return the finished process and the file it was to write."""
    output = folder.parent / "out.bin"
    command = [sys.executable, str(ROOT / "profiles/bench/write-ggml.py"), str(folder), "-o", str(output), *options]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    return done, output


def read_ggml(path):
    """Return sizes, mel filters, words, and name -> (type, values as float32, largest scale)."""
    file = io.BytesIO(path.read_bytes())

    def numbers(count):
        return struct.unpack(f"<{count}i", file.read(4 * count))

    assert numbers(1) == (0x67676D6C,)
    sizes, (bins, bands) = numbers(11), numbers(2)
    filters = np.frombuffer(file.read(4 * bins * bands), "<f4").reshape(bins, bands)
    words = [file.read(*numbers(1)) for _ in range(*numbers(1))]
    tensors = {}
    while head := file.read(12):
        axes, length, kind = struct.unpack("<3i", head)
        shape = numbers(axes)[::-1]
        name = file.read(length).decode()
        count = int(np.prod(shape))
        scales = np.zeros(1)
        if kind == 8:
            raw = np.frombuffer(file.read(count // 32 * 34), np.dtype([("scale", "<f2"), ("steps", "i1", 32)]))
            scales = raw["scale"].astype(np.float32)
            values = raw["steps"] * scales[:, None]
        else:
            values = np.frombuffer(file.read(count * (4, 2)[kind]), ("<f4", "<f2")[kind])
        tensors[name] = kind, values.reshape(shape).astype(np.float32), float(scales.max())
    return sizes, filters, words, tensors


@pytest.mark.parametrize(("option", "kind", "number"), [("f16", 1, 1), ("q8_0", 8, 2007)])
def test_every_weight_arrives_under_whisper_cpps_name(checkpoint, option, kind, number):
    done, path = write(checkpoint, "--kind", option)
    assert done.returncode == 0, done.stderr
    sizes, filters, words, tensors = read_ggml(path)
    assert sizes == (END + 3, SOUND, WIDTH, 2, 2, TEXT, WIDTH, 4, 1, MELS, number)
    assert np.array_equal(filters, mel_filters(MELS, 400, 16_000))
    assert words == [b" ", b"\n", b"\xff", b" h\xe9", b"<|endoftext|>"]

    wanted = whisper()
    assert tensors.keys() == wanted.keys()
    for name, (_, values) in wanted.items():
        stored, found, scale = tensors[name]
        plain = values.ndim == 1 or "positional" in name
        assert stored == (0 if plain else 1 if "conv" in name else kind), name
        assert found.shape == ((WIDTH, 1) if "conv" in name and plain else values.shape), name
        # half a step and the rounding of a half-precision scale over 127 of them; half precision has 11 bits
        bound = scale / 2 + 127 * scale * 2**-11 if stored == 8 else 0 if plain else np.abs(values).max() * 2**-11
        assert np.abs(found.reshape(values.shape) - values).max() <= bound * 1.001, name


def test_another_family_is_refused_in_one_line_and_leaves_no_file(checkpoint):
    (checkpoint / "config.json").write_text(json.dumps(CONFIG | {"model_type": "llama"}))
    done, path = write(checkpoint)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{checkpoint}: model_type is llama, whisper.cpp reads whisper only"
    assert not path.exists()


def test_a_missing_token_is_named(checkpoint):
    table = {word: number for word, number in VOCABULARY.items() if number != 2}
    (checkpoint / "tokenizer.json").write_text(json.dumps({"model": {"vocab": table}}))
    done, path = write(checkpoint)
    assert "4 tokens up to 4; take tokenizer.json from the original" in done.stderr
    assert not path.exists()
