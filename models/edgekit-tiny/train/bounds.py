"""Print where words get lost: on the way into chunks, in the encoder, or in the decoder.

    python models/edgekit-tiny/train/bounds.py data/train/start models/edgekit-tiny/edgekit_tiny/checkpoint \
        data/asterisk-en --words data/asterisk-en/words.tsv

Knows teacher and student, both with all experts, float32, greedy. The student hears in chunks of several lengths and,
at the end, in one chunk; its decoder also reads the teacher's frames where there is sound, its own where there is none.
The error of frames is the mean square of their difference from the teacher's.
"""

import argparse
from pathlib import Path

import torch
from features import HOP, WINDOW, whole_window
from greedy import Speaker, batch, decode, encode, load_network, recordings
from network import EXPERTS, Network, best
from reference import load, read
from torch import Tensor

from edgekit.profiler.words import count_errors

BATCH = 16
CHUNKS = (16, 32, 64, WINDOW // 2)  # positions of 20 ms; the last is all of them


def name_of(chunk: int) -> str:
    """Return a chunk's length in words."""
    return "in one chunk" if chunk == CHUNKS[-1] else f"in chunks of {chunk * 20} ms"


@torch.inference_mode()
def main() -> None:
    """Print one line per way to hear."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--words", type=Path, required=True, help="name, tab, words: a recording a line")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    paths, truth = recordings(arguments.speech, arguments.words, arguments.every)
    reference = load(arguments.student)
    teacher, student = load_network(arguments.teacher), load_network(arguments.student)
    texts: dict[str, list[str]] = {}
    errors: dict[str, list[Tensor]] = {}

    def write(name: str, network: Network, sound: Tensor, heard: Tensor) -> None:
        speaker = Speaker(network, sound, heard, best(torch.tensor(EXPERTS)))
        tokens, _ = decode(reference, speaker, len(sound))
        texts.setdefault(name, []).extend(reference.tokenizer.decode(row, skip_special_tokens=True) for row in tokens)

    for first in range(0, len(paths), BATCH):
        sounds = [torch.from_numpy(read(path)) for path in paths[first : first + BATCH]]
        known = teacher.encoder(torch.stack([whole_window(sound) for sound in sounds]), None)
        write("teacher, its full window", teacher, known, torch.ones(len(sounds), 1, 1, known.shape[1]).bool())
        for chunk in CHUNKS:
            mel, lengths = batch(sounds, min(chunk, CHUNKS[-2]), reference.tail, min(chunk, reference.fill))
            sound, heard = encode(student, mel, lengths, chunk)
            write(f"student {name_of(chunk)}", student, sound, heard)
            frames = [min(-(-len(samples) // (2 * HOP)), sound.shape[1]) for samples in sounds]
            for row, count in enumerate(frames):
                wrong = (sound[row, :count] - known[row, :count]).square().mean(1)
                errors.setdefault(f"student {name_of(chunk)}", []).append(wrong)
            if chunk == reference.chunk:
                for row, count in enumerate(frames):
                    sound[row, :count] = known[row, :count]
                write("teacher's frames, student's decoder", student, sound, heard)
    print("| | word error rate | error of frames |\n| --- | ---: | ---: |")
    for name, said in texts.items():
        found = count_errors(truth, said)
        wrong = f"{torch.cat(errors[name]).mean():.3f}" if name in errors else "-"
        print(f"| {name} | {100 * sum(found.wrong) / sum(found.said):.1f} % | {wrong} |")
    print(f"\n{len(paths)} recordings, {sum(found.said)} words")


if __name__ == "__main__":
    main()
