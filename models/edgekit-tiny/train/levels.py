"""Print what fewer experts cost in words: the same number for every token, or as many as the router asks for.

    python models/edgekit-tiny/train/levels.py models/edgekit-tiny/edgekit_tiny/checkpoint data/asterisk-en \
        --words data/asterisk-en/words.tsv

Knows rules that choose experts. Each rule is measured by greedy decoding in float32 on the streaming grid: word error
rate by Whisper's English normaliser, and the mean share of experts at work. A rule has a threshold; the printed curve
is over thresholds given, none is fitted to the words.
"""

import argparse
import sys
from pathlib import Path

import torch
from greedy import Speaker, batch, decode, encode, load_network, recordings
from network import EXPERTS, Rule, best
from reference import load, read
from torch import Tensor

from edgekit.profiler.words import count_errors

BATCH = 24


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


@torch.inference_mode()
def answers(folder: Path, paths: list[Path], rules: dict[str, Rule]) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return each rule's text of every file, and its mean share of experts at work."""
    reference, network = load(folder), load_network(folder)
    texts: dict[str, list[str]] = {name: [] for name in rules}
    working: dict[str, list[float]] = {name: [] for name in rules}
    for first in range(0, len(paths), BATCH):
        sounds = [torch.from_numpy(read(path)) for path in paths[first : first + BATCH]]
        sound, heard = encode(network, *batch(sounds, reference.chunk, reference.tail, reference.fill), reference.chunk)
        for name, rule in rules.items():
            tokens, shares = decode(reference, Speaker(network, sound, heard, rule), len(sounds))
            texts[name] += [reference.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
            working[name] += shares
        print(f"{min(first + BATCH, len(paths))} of {len(paths)}", file=sys.stderr)
    return texts, {name: sum(values) / len(values) for name, values in working.items()}


def main() -> None:
    """Print one line per rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--words", type=Path, required=True, help="name, tab, words: a recording a line")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    paths, truth = recordings(arguments.speech, arguments.words, arguments.every)
    texts, working = answers(arguments.checkpoint, paths, RULES)
    print("rule\texperts at work\tword error rate")
    for name, said in texts.items():
        errors = count_errors(truth, said)
        print(f"{name}\t{100 * working[name]:.0f} %\t{100 * sum(errors.wrong) / sum(errors.said):.2f} %")


if __name__ == "__main__":
    main()
