"""Print what fewer experts cost in words: the same number for every token, or as many as the router asks for.

    python models/edgekit-tiny/train/levels.py models/edgekit-tiny/edgekit_tiny/checkpoint data/asterisk-en \
        --words profiles/data/asterisk-en-words.tsv

Knows rules that choose experts. Each rule is measured by greedy decoding in float32 on the streaming grid: word error
rate by Whisper's English normaliser, and the mean share of experts at work. A rule has a threshold; the printed curve
is over thresholds given, none is fitted to the words.
"""

import argparse
import sys
from pathlib import Path

import torch
from features import streaming
from network import EXPERTS, Network, Rule, best, build, chunk_mask
from reference import Reference, load, read
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from edgekit.profiler.words import count_errors, read_references

BATCH, MAX_TOKENS = 24, 200
WINDOW = 3000  # mel frames


def nucleus(share: float) -> Rule:
    """Return the rule: the fewest highest experts whose softmax shares add up to ``share``; at least one."""

    def rule(scores: Tensor) -> Tensor:
        shares, order = scores.softmax(-1).sort(-1, descending=True)
        wanted = shares.cumsum(-1) - shares < share
        return torch.zeros_like(wanted).scatter(-1, order, wanted)

    return rule


def margin(least: float, few: int = 2) -> Rule:
    """Return the rule: ``few`` experts where the last of them leads the next by ``least``, else all."""

    def rule(scores: Tensor) -> Tensor:
        ordered = scores.sort(-1, descending=True).values
        sure = ordered[..., few - 1] - ordered[..., few] >= least
        count = torch.where(sure, few, EXPERTS)
        return best(count)(scores)

    return rule


RULES: dict[str, Rule] = {f"{count} of {EXPERTS}": best(torch.tensor(count)) for count in (8, 6, 4, 3, 2)}
RULES |= {f"nucleus {share}": nucleus(share) for share in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)}
RULES |= {f"margin {least}": margin(least) for least in (1.0, 0.5, 0.25, 0.1)}


class Speaker:
    """Greedy decoding of a batch, one token at a time, with a key-value cache."""

    def __init__(self, network: Network, sound: Tensor, heard: Tensor, rule: Rule) -> None:
        self.network, self.heard, self.rule, self.position = network, heard, rule, 0
        layers = network.decoder.layers
        self.sound = [
            (self._split(a.k_proj(sound)), self._split(a.v_proj(sound))) for a in (m.encoder_attn for m in layers)
        ]
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(layers)

    def _split(self, x: Tensor) -> Tensor:
        heads = self.network.decoder.layers[0].self_attn.heads
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, vocabulary) after tokens (batch,), and the share of experts at work (batch,)."""
        decoder = self.network.decoder
        x = (decoder.embed_tokens(tokens) + decoder.embed_positions.weight[self.position])[:, None]
        self.position += 1
        shares = []
        for index, layer in enumerate(decoder.layers):
            normed = layer.self_attn_layer_norm(x)
            q, k, v = (self._split(part) for part in layer.self_attn.projected(normed, normed))
            former = self.past[index]
            if former is not None:
                k, v = torch.cat((former[0], k), 2), torch.cat((former[1], v), 2)
            self.past[index] = k, v
            x = x + layer.self_attn.out_proj(
                functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            )
            q = self._split(layer.encoder_attn.q_proj(layer.encoder_attn_layer_norm(x)))
            mixed = functional.scaled_dot_product_attention(q, *self.sound[index], attn_mask=self.heard)
            x = x + layer.encoder_attn.out_proj(mixed.transpose(1, 2).flatten(2))
            x, routing = layer.feed_forward(x, self.rule)
            shares.append(routing.working[:, -1].float().mean(-1))
        return self.network.head(decoder.layer_norm(x))[:, -1], torch.stack(shares).mean(0)


@torch.inference_mode()
def answers(folder: Path, paths: list[Path], rules: dict[str, Rule]) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return each rule's text of every file, and its mean share of experts at work."""
    reference = load(folder)
    network = build(reference.model.config.to_dict(), load_tensors(folder)).eval()
    texts: dict[str, list[str]] = {name: [] for name in rules}
    working: dict[str, list[float]] = {name: [] for name in rules}
    for first in range(0, len(paths), BATCH):
        sounds = [torch.from_numpy(read(path)) for path in paths[first : first + BATCH]]
        mels = [streaming(sound, reference.chunk, 2 * reference.tail)[:, :WINDOW] for sound in sounds]
        lengths = torch.tensor([mel.shape[1] // 2 for mel in mels])
        mel = torch.zeros(len(mels), 80, 2 * int(lengths.max()))
        for row, part in enumerate(mels):
            mel[row, :, : part.shape[1]] = part
        positions = torch.arange(int(lengths.max()))
        sound = network.encoder(mel, chunk_mask(positions, lengths, torch.full_like(lengths, reference.chunk)))
        heard = (positions[None] < lengths[:, None])[:, None, None]
        for name, rule in rules.items():
            tokens, shares = decode(reference, Speaker(network, sound, heard, rule), len(mels))
            texts[name] += [reference.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
            working[name] += shares
        print(f"{min(first + BATCH, len(paths))} of {len(paths)}", file=sys.stderr)
    return texts, {name: sum(values) / len(values) for name, values in working.items()}


def decode(reference: Reference, speaker: Speaker, count: int) -> tuple[list[list[int]], list[float]]:
    """Return the greedy tokens of each of ``count`` clips, and the share of experts at work for each token."""
    for token in reference.start[:-1]:
        speaker.step(torch.full((count,), token))
    chosen = torch.full((count,), reference.start[-1])
    speaking = torch.ones(count, dtype=torch.bool)
    tokens: list[list[int]] = [[] for _ in range(count)]
    shares: list[float] = []
    for step in range(MAX_TOKENS):
        logits, share = speaker.step(chosen)
        logits[:, list(reference.suppress)] = -torch.inf
        if step == 0:
            logits[:, list(reference.begin_suppress)] = -torch.inf
        shares += share[speaking].tolist()
        chosen = logits.argmax(-1)
        speaking &= chosen != reference.stop
        if not speaking.any():
            break
        for row in speaking.nonzero()[:, 0].tolist():
            tokens[row].append(int(chosen[row]))
    return tokens, shares


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's tensors in float32."""
    return {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}


def main() -> None:
    """Print one line per rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--words", type=Path, required=True, help="name<TAB>words, one recording a line")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    words = {name: one.words for name, one in read_references(arguments.words).items() if not one.left_out}

    def name_of(path: Path) -> str:
        return path.relative_to(arguments.speech).with_suffix("").as_posix()

    paths = [path for path in sorted(arguments.speech.rglob("*.wav")) if name_of(path) in words]
    paths.sort(key=lambda path: path.stat().st_size)
    paths = paths[:: arguments.every]
    texts, working = answers(arguments.checkpoint, paths, RULES)
    truth = [words[name_of(path)] for path in paths]
    print("rule\texperts at work\tword error rate")
    for name, said in texts.items():
        errors = count_errors(truth, said)
        print(f"{name}\t{100 * working[name]:.0f} %\t{100 * sum(errors.wrong) / sum(errors.said):.2f} %")


if __name__ == "__main__":
    main()
