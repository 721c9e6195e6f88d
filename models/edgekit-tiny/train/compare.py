"""Print on how many files two checkpoints give the same greedy text, and every text that differs.

python models/edgekit-tiny/train/compare.py SEED CHECKPOINT data/asterisk-en export/clips --every 5
"""

import argparse
from pathlib import Path

from features import HOP
from reference import CHUNK, decode, encode, load, log_mel, read


def files(paths: list[Path]) -> list[Path]:
    """Return the WAV and FLAC files named or below the folders named, sorted within each."""
    below = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths]
    return [path for group in below for path in group if path.suffix in (".wav", ".flac")]


def main() -> None:
    """Compare; files longer than the model's window (28.8 s) are named and left out."""
    parser = argparse.ArgumentParser(description="Compare the greedy texts of two checkpoints.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=1, help="compare only each N-th file")
    arguments = parser.parse_args()
    first, second = load(arguments.first), load(arguments.second)
    longest = (first.model.config.max_source_positions * 2 // CHUNK - 1) * CHUNK * HOP  # samples before the silence
    same = compared = 0
    for path in files(arguments.paths)[:: arguments.every]:
        samples = read(path)
        if len(samples) > longest:
            print(f"{path}: {len(samples)} samples, longer than {longest}; left out")
            continue
        mel = log_mel(samples)
        one = first.tokenizer.decode(decode(first, encode(first, mel)))
        two = second.tokenizer.decode(decode(second, encode(second, mel)))
        compared += 1
        same += one == two
        if one != two:
            print(f"{path}\n  {one}\n  {two}")
    print(f"equal: {same} of {compared} ({100 * same / compared:.1f} %)")


if __name__ == "__main__":
    main()
