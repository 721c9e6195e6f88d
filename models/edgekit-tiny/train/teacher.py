"""Write what the teacher knows of each spoken clip: encoder frames, likely tokens, and when each token was said.

    python models/edgekit-tiny/train/teacher.py      # beside every shard-N.npz a shard-N.taught.npz

The teacher is the published Whisper tiny.en on the full 30 s window, over the vocabulary that is kept. Knows how to
align tokens with sound. Knows nothing of the student. A .taught.npz has ``frames`` float16 (all clips joined, one row
per 20 ms), ``tokens`` int32 (forced text and end token), ``likely`` int32 and ``log_shares`` float16 (rows of the TOP
likeliest tokens), ``said`` float32 (seconds when each token ended), ``forced`` (the text's log shares), and the ends of
each clip in frames and in tokens.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from features import HOP, RATE_HZ, whole_window
from network import Network, build
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from edgekit.atomic import draft_file

TOP = 48
BATCH = 8
# Heads whose attention follows the sound. Source: Whisper, __init__.py, `_ALIGNMENT_HEADS` of tiny.en.
ALIGNMENT_HEADS = ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))
MEDIAN = 7  # positions; source: Whisper, timing.py


class Teacher:
    """A checkpoint with its tokenizer, used on the full window with all experts on."""

    def __init__(self, folder: Path, device: str) -> None:
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        self.network: Network = build(self.config, load_file(folder / "model.safetensors")).to(device).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.start = [self.config["decoder_start_token_id"], *(token for _, token in generation["forced_decoder_ids"])]
        self.stop = self.config["eos_token_id"]
        self.device = device

    @torch.inference_mode()
    def teach(self, clips: list[Tensor], texts: list[str]) -> list[dict[str, np.ndarray]]:
        """Return what is known of each clip (n,) float32."""
        mel = torch.stack([whole_window(clip) for clip in clips]).to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            sound = self.network.encoder(mel, None).float()
        spoken = [[*self.tokenizer.encode(" " + text, add_special_tokens=False).ids, self.stop] for text in texts]
        longest = max(map(len, spoken))
        table = torch.full((len(spoken), len(self.start) + longest - 1), self.stop)
        for row, tokens in enumerate(spoken):
            table[row, : len(self.start) + len(tokens) - 1] = torch.tensor([*self.start, *tokens[:-1]])
        asked: dict[int, tuple[Tensor, Tensor]] = {}
        hooks = [
            layer.encoder_attn.register_forward_pre_hook(lambda _, given, i=i: asked.__setitem__(i, given[:2]))
            for i, layer in enumerate(self.network.decoder.layers)
        ]
        hidden, _ = self.network.decoder(table.to(self.device), sound)
        for hook in hooks:
            hook.remove()
        shares = self.network.head(hidden[:, len(self.start) - 1 :]).log_softmax(-1)
        weights = {
            i: self.network.decoder.layers[i].encoder_attn.weights(*given)
            for i, given in asked.items()
            if i in {layer for layer, _ in ALIGNMENT_HEADS}
        }
        attention = torch.stack([weights[layer][:, head] for layer, head in ALIGNMENT_HEADS], 1)
        known = []
        for row, (clip, tokens) in enumerate(zip(clips, spoken, strict=True)):
            frames = min(-(-len(clip) // (2 * HOP)), sound.shape[1])
            best = shares[row, : len(tokens)].topk(TOP)
            first = len(self.start) - 1
            known.append(
                {
                    "frames": sound[row, :frames].half().cpu().numpy(),
                    "tokens": np.array(tokens, np.int32),
                    "likely": best.indices.int().cpu().numpy(),
                    "log_shares": best.values.half().cpu().numpy(),
                    "said": align(attention[row, :, first : first + len(tokens), :frames].cpu()) * 2 * HOP / RATE_HZ,
                    "forced": shares[row, range(len(tokens)), tokens].float().cpu().numpy(),
                }
            )
        return known


def align(attention: Tensor) -> np.ndarray:
    """Return the position at which each token ends, (tokens,) float32, by dynamic time warping.

    attention: (heads, tokens, positions). Source: Whisper, timing.py, `find_alignment`.
    """
    deviation, mean = torch.std_mean(attention, dim=1, keepdim=True, unbiased=False)
    smooth = torch.nn.functional.pad(
        (attention - mean) / deviation.clamp_min(1e-6), (MEDIAN // 2, MEDIAN // 2), mode="replicate"
    )
    cost = -smooth.unfold(-1, MEDIAN, 1).median(-1).values.mean(0).double().numpy()
    tokens, positions = cost.shape
    # one step right per position; a token takes at least one position unless there are too few
    total = np.full((tokens, positions), np.inf)
    came = np.zeros((tokens, positions), np.int8)
    total[0] = np.cumsum(cost[0])
    for token in range(1, tokens):
        above = total[token - 1]
        row, previous = total[token], np.inf
        diagonal = np.concatenate(([np.inf], above[:-1]))
        entry = np.minimum(above, diagonal)
        for position in range(positions):
            stay = previous
            if entry[position] <= stay:
                came[token, position] = 1 if diagonal[position] <= above[position] else 2
                stay = entry[position]
            previous = row[position] = stay + cost[token, position]
    ends = np.zeros(tokens, np.float32)
    token, position = tokens - 1, positions - 1
    ends[token] = positions
    while token > 0:
        if came[token, position] == 0:
            position -= 1
            continue
        position -= came[token, position] == 1
        token -= 1
        ends[token] = position + 1
    return ends


def teach_shard(teacher: Teacher, path: Path) -> float:
    """Write the shard's .taught.npz; return the mean log share that the teacher gave the spoken text."""
    with np.load(path) as shard:
        audio, ends, about = shard["audio"], shard["ends"], json.loads(str(shard["about"]))
    clips = [torch.from_numpy(part.astype(np.float32) / 32768) for part in np.split(audio, ends[:-1])]
    known: list[dict[str, np.ndarray]] = []
    for first in range(0, len(clips), BATCH):
        batch = slice(first, first + BATCH)
        known += teacher.teach(clips[batch], [str(item["text"]) for item in about[batch]])
    joined = {name: np.concatenate([item[name] for item in known]) for name in known[0]}
    joined["frame_ends"] = np.cumsum([len(item["frames"]) for item in known])
    joined["token_ends"] = np.cumsum([len(item["tokens"]) for item in known])
    with draft_file(path.with_suffix(".taught.npz")) as draft:
        with draft.path.open("wb") as stream:  # given a path, numpy would add a suffix
            np.savez(stream, **joined)
        draft.publish()
    return float(joined["forced"].mean())


def main() -> None:
    """Teach every shard that is not taught; with --shards, also those that appear later."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, default=Path("data/train/start"))
    parser.add_argument("--speech", type=Path, default=Path("data/train/speech"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shards", type=int, default=0, help="wait until so many are taught; 0: what is there now")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    teacher = Teacher(arguments.teacher, "cuda" if torch.cuda.is_available() else "cpu")
    while True:
        shards = sorted(path for path in arguments.speech.glob("*-????.npz"))
        taught = [path for path in shards if path.with_suffix(".taught.npz").exists()]
        for path in shards:
            if path not in taught:
                begun = time.monotonic()
                forced = teach_shard(teacher, path)
                print(f"{path.name}: log share of the text {forced:.3f}, {time.monotonic() - begun:.0f} s", flush=True)
        if len(shards) >= arguments.shards:
            return
        time.sleep(5)


if __name__ == "__main__":
    main()
