"""Print how many words two checkpoints hear differently on the full window, and every text that differs.

    python models/edgekit-tiny/train/start.py --vocabulary 51864 -o data/train/whole
    python models/edgekit-tiny/train/compare.py data/train/whole data/train/start data/asterisk-en --every 4

Knows two sets of weights with the same decoding rules: what a smaller vocabulary costs.
"""

import argparse
from pathlib import Path

import torch
from features import RATE_HZ, WINDOW, whole_window
from reference import Reference, decode, load, read

from edgekit.profiler.words import count_errors, words_of


@torch.inference_mode()
def text_of(reference: Reference, path: Path) -> str:
    """Return the greedy text of a file on Whisper's own window."""
    mel = whole_window(torch.from_numpy(read(path)))
    sound = reference.model.model.encoder(mel[None]).last_hidden_state
    return reference.tokenizer.decode(decode(reference, sound), skip_special_tokens=True)


def main() -> None:
    """Compare; files longer than the window are left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("speech", type=Path, help="folder of 16 kHz WAV files")
    parser.add_argument("--every", type=int, default=1, help="compare only each N-th file")
    arguments = parser.parse_args()
    paths = sorted(arguments.speech.rglob("*.wav"))[:: arguments.every]
    paths = [path for path in paths if len(read(path)) <= WINDOW * RATE_HZ // 100]
    texts = [
        [text_of(reference, path) for path in paths] for reference in map(load, (arguments.first, arguments.second))
    ]
    for path, one, two in zip(paths, *texts, strict=True):
        if one != two:
            print(f"{path}\n  {one}\n  {two}")
    heard = [(one, two) for one, two in zip(*texts, strict=True) if words_of(one)]
    errors = count_errors(*map(list, zip(*heard, strict=True)))
    same = sum(one == two for one, two in zip(*texts, strict=True))
    print(f"equal texts: {same} of {len(paths)}; words that differ: {sum(errors.wrong)} of {sum(errors.said)}")


if __name__ == "__main__":
    main()
