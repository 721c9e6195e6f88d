"""The small model in float32 on torch and transformers, as it streams: the yardstick for exports and for trimming.

Knows the streaming grid (chunk-causal attention, running feature floor, closing silence) and greedy
decoding with all experts on, which is the dense layer. Knows nothing of routers, bundles or EdgeKit's runtime.

    python models/edgekit-tiny/train/reference.py models/edgekit-tiny/edgekit_tiny/checkpoint export/clips/*.flac
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from features import RATE_HZ, streaming
from tokenizers import Tokenizer
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

MAX_TOKENS = 224  # half of Whisper's text context, its own limit per utterance


@dataclass(frozen=True)
class Reference:
    """A checkpoint in float32 with its tokenizer and the ids that steer decoding.

    chunk, tail, fill: positions of 20 ms: encoded together; of silence that ends an utterance; to a multiple of which
    it is then filled with silence.
    """

    model: WhisperForConditionalGeneration
    tokenizer: Tokenizer
    start: tuple[int, ...]
    stop: int
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    chunk: int
    tail: int
    fill: int


def load(folder: Path) -> Reference:
    """Return the checkpoint in folder; router tensors are ignored, every other tensor must be there."""
    logging.set_verbosity_error()  # the routers are not in Whisper: expected
    model, report = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    unknown = [key for key in report["unexpected_keys"] if ".router." not in key]
    if report["missing_keys"] or report["mismatched_keys"] or unknown:
        raise ValueError(f"{folder}: missing, misshapen or unknown tensors {report}; trim the checkpoint again")
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["edgekit"]
    return Reference(
        model=model.eval(),
        tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
        start=(generation["decoder_start_token_id"], *(token for _, token in generation["forced_decoder_ids"])),
        stop=generation["eos_token_id"],
        suppress=tuple(generation["suppress_tokens"]),
        begin_suppress=tuple(generation["begin_suppress_tokens"]),
        chunk=settings["chunk_frames"],
        tail=settings.get("tail_frames", settings["chunk_frames"]),
        fill=settings.get("fill_frames", settings["chunk_frames"]),
    )


def log_mel(reference: Reference, samples: np.ndarray) -> torch.Tensor:
    """Return the streaming features of one utterance, (80, frames) float32.

    samples: (n,) float in [-1, 1] at 16 kHz. The tail of silence follows, then silence that fills.
    """
    sound = torch.from_numpy(np.asarray(samples, dtype=np.float32))
    return streaming(sound, reference.chunk, 2 * reference.tail, reference.fill)


@torch.inference_mode()
def encode(reference: Reference, mel: torch.Tensor) -> torch.Tensor:
    """Return encoder frames (1, frames / 2, width): each position sees its own chunk and all earlier ones."""
    encoder = reference.model.model.encoder
    if mel.shape[1] > 2 * len(encoder.embed_positions.weight):
        longest = 2 * len(encoder.embed_positions.weight)
        raise ValueError(f"mel: {mel.shape[1]} frames, at most {longest}; split the audio")
    hidden = torch.nn.functional.gelu(encoder.conv1(mel[None]))
    hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    chunk = torch.arange(hidden.shape[1]) // reference.chunk
    hidden_future = torch.zeros(1, 1, len(chunk), len(chunk)).masked_fill(chunk[None] > chunk[:, None], -torch.inf)
    for layer in encoder.layers:
        hidden = layer(hidden, attention_mask=hidden_future, layer_head_mask=None)[0]
    return encoder.layer_norm(hidden)


@torch.inference_mode()
def decode(reference: Reference, sound: torch.Tensor, max_tokens: int = MAX_TOKENS) -> list[int]:
    """Return the greedy tokens for encoder frames, without start and stop tokens; suppressed ids never win."""
    tokens: list[int] = []
    inputs, past = torch.tensor([reference.start]), None
    while len(tokens) < max_tokens:
        step = reference.model(
            encoder_outputs=BaseModelOutput(sound), decoder_input_ids=inputs, past_key_values=past, use_cache=True
        )
        logits, past = step.logits[0, -1], step.past_key_values
        logits[list(reference.suppress)] = -torch.inf
        if not tokens:
            logits[list(reference.begin_suppress)] = -torch.inf
        token = int(logits.argmax())
        if token == reference.stop:
            break
        tokens.append(token)
        inputs = torch.tensor([[token]])
    return tokens


def transcribe(reference: Reference, samples: np.ndarray) -> str:
    """Return the text of one utterance; samples: (n,) float in [-1, 1] at 16 kHz."""
    tokens = decode(reference, encode(reference, log_mel(reference, samples)))
    return reference.tokenizer.decode(tokens, skip_special_tokens=True)


def read(path: Path) -> np.ndarray:
    """Return the samples of a 16 kHz mono file, (n,) float32 in [-1, 1]."""
    samples, rate_hz = soundfile.read(path, dtype="float32")
    if rate_hz != RATE_HZ or samples.ndim != 1:
        raise ValueError(f"{path}: {rate_hz} Hz, shape {samples.shape}; must be 16000 Hz mono; convert it first")
    return samples


def main() -> None:
    """Print file and text, tab separated, for every file named."""
    parser = argparse.ArgumentParser(description="Transcribe 16 kHz mono files in float32, chunk by chunk.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    reference = load(arguments.checkpoint)
    for path in arguments.files:
        print(path.name, transcribe(reference, read(path)), sep="\t")


if __name__ == "__main__":
    main()
