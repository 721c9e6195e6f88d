"""Speak the training sentences: shards of 16 kHz clips by flite, festival and espeak-ng voices.

    python models/edgekit-tiny/train/speech.py --hours 12        # resumes: shards that exist stay

Knows voices, their speed and pitch. Knows nothing of models; noise, rooms and gain come when a clip is learnt from.
A clip is one to five sentences by one voice, at most 27 s. Needs the commands flite, festival and espeak-ng. A shard is
an .npz with ``audio`` int16 (all clips joined), ``ends`` int64 (end of each clip in samples) and ``about`` (JSON: text,
voice, sources). Shard n is the same whenever it is made.
"""

import argparse
import io
import json
import multiprocessing
import random
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr

from edgekit.atomic import draft_file

RATE_HZ = 16_000
CLIPS = 256  # in a shard
LONGEST_S, SHORTEST_S = 27.0, 0.25
VOICES = {  # share of clips; flite and festival voices are built from recordings of people, espeak-ng is a formula
    "flite:slt": 0.17,
    "flite:awb": 0.15,
    "flite:rms": 0.15,
    "flite:kal16": 0.09,
    "festival:kal_diphone": 0.05,
    "festival:ked_diphone": 0.07,
    "festival:cmu_us_slt_arctic_hts": 0.07,
    "espeak:en-us": 0.13,
    "espeak:en-gb": 0.06,
    "espeak:en-gb-scotland": 0.03,
    "espeak:en-029": 0.03,
}
ESPEAK_VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5", "+croak")
SENTENCES = ((1, 0.62), (2, 0.2), (3, 0.1), (5, 0.08))
SOURCES = {"wordnet": 0.42, "fortunes": 0.17, "manuals": 0.06, "dictionaries": 0.05, "templates": 0.3}
QUIET = 0.005  # of full scale: below it a clip's start and end are cut off


def choose(shares: dict[str, float], pick: random.Random) -> str:
    """Return a key by its share."""
    return pick.choices(list(shares), list(shares.values()))[0]


def speak(voice: str, texts: list[str], pick: random.Random, work: Path) -> list[np.ndarray]:
    """Return a clip (n,) float32 at 16 kHz per text, in one voice, with a speed and pitch of its own each."""
    kind, name = voice.split(":")
    if kind == "festival":
        return [tape(*sound, pick) for sound in festival(name, texts, pick, work)]
    return [tape(*(flite if kind == "flite" else espeak)(name, text, pick), pick) for text in texts]


def flite(name: str, text: str, pick: random.Random) -> tuple[np.ndarray, int]:
    """Return samples and rate of one text."""
    stretch = ["--setf", f"duration_stretch={pick.uniform(0.8, 1.25):.3f}"]
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        run(["flite", "-voice", name, *stretch, "-t", text, "-o", file.name])
        return soundfile.read(file.name, dtype="float32")


def espeak(name: str, text: str, pick: random.Random) -> tuple[np.ndarray, int]:
    """Return samples and rate of one text."""
    voice = name + pick.choice(ESPEAK_VARIANTS)
    options = ["-v", voice, "-s", str(pick.randint(125, 200)), "-p", str(pick.randint(20, 80)), "--stdout", "--stdin"]
    return soundfile.read(io.BytesIO(run(["espeak-ng", *options], text)), dtype="float32")


def festival(name: str, texts: list[str], pick: random.Random, work: Path) -> list[tuple[np.ndarray, int]]:
    """Return samples and rate of each text; one process speaks them all, as its start is slow."""
    lines = [f"(voice_{name})"]
    for number, text in enumerate(texts):
        plain = text.replace('"', "").replace("\\", "")
        lines.append(f"(Parameter.set 'Duration_Stretch {pick.uniform(0.8, 1.25):.3f})")
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{plain}")) "{work}/{number}.wav" \'riff)')
    run(["festival", "--pipe"], "\n".join(lines))
    return [soundfile.read(work / f"{number}.wav", dtype="float32") for number in range(len(texts))]


def tape(samples: np.ndarray, rate_hz: int, pick: random.Random) -> np.ndarray:
    """Return samples at 16 kHz played faster or slower, which moves pitch and formants too; peak 0.5, ends cut."""
    sound = soxr.resample(samples, rate_hz * pick.uniform(0.86, 1.16), RATE_HZ).astype(np.float32)
    loud = np.flatnonzero(np.abs(sound) > QUIET)
    if not len(loud):
        return np.zeros(0, np.float32)
    sound = sound[max(0, loud[0] - RATE_HZ // 50) : loud[-1] + RATE_HZ // 50]
    return sound * (0.5 / np.abs(sound).max())


def run(command: list[str], text: str | None = None) -> bytes:
    """Return what a command prints."""
    return subprocess.run(
        command,
        input=None if text is None else text.encode(),
        stdin=subprocess.DEVNULL if text is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    ).stdout


def make_shard(number: int, lines: list[dict[str, object]], folder: Path, held_out: bool) -> float:
    """Write shard ``number`` and return its seconds of sound."""
    pick = random.Random(f"{number} {held_out}")
    by_source: dict[str, list[str]] = {name: [] for name in SOURCES}
    for line in lines:
        if line["held_out"] == held_out:
            by_source[str(line["source"])].append(str(line["text"]))
    voices: dict[str, list[str]] = {}
    for _ in range(CLIPS):
        count = pick.choices([count for count, _ in SENTENCES], [share for _, share in SENTENCES])[0]
        texts = [pick.choice(by_source[choose(SOURCES, pick)]) for _ in range(count)]
        voices.setdefault(choose(VOICES, pick), []).append(" ".join(texts))
    clips, about = [], []
    with tempfile.TemporaryDirectory() as work:
        for voice, texts in voices.items():
            for text, clip in zip(texts, speak(voice, texts, pick, Path(work)), strict=True):
                if SHORTEST_S <= len(clip) / RATE_HZ <= LONGEST_S:
                    clips.append(after_silence(clip, pick))
                    about.append({"text": text, "voice": voice})
    return write_shard(folder / f"{'held-out' if held_out else 'shard'}-{number:04}.npz", clips, about)


def after_silence(clip: np.ndarray, pick: random.Random) -> np.ndarray:
    """Return the clip as int16, often after up to 0.6 s of silence."""
    lead = np.zeros(int(pick.choice((0.0, pick.uniform(0.0, 0.6))) * RATE_HZ), np.float32)
    return (np.concatenate((lead, clip)) * 32767).astype(np.int16)


def write_shard(path: Path, clips: list[np.ndarray], about: list[dict[str, str]]) -> float:
    """Write a shard whole or not at all and return its seconds of sound."""
    ends = np.cumsum([len(clip) for clip in clips])
    with draft_file(path) as draft:
        with draft.path.open("wb") as stream:  # given a path, numpy would add a suffix
            np.savez(stream, audio=np.concatenate(clips), ends=ends, about=np.array(json.dumps(about)))
        draft.publish()
    return float(ends[-1]) / RATE_HZ


def main() -> None:
    """Make shards until there are so many hours; one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path("data/train/texts.jsonl"))
    parser.add_argument("-o", "--output", type=Path, default=Path("data/train/speech"))
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    arguments.output.mkdir(parents=True, exist_ok=True)
    if not (arguments.output / "held-out-0000.npz").exists():
        make_shard(0, lines, arguments.output, True)
    number, seconds, begun = 0, 0.0, time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        while seconds < arguments.hours * 3600:
            batch = range(number, number + 4 * arguments.processes)
            missing = [n for n in batch if not (arguments.output / f"shard-{n:04}.npz").exists()]
            pool.starmap(make_shard, [(n, lines, arguments.output, False) for n in missing], chunksize=1)
            for n in batch:
                with np.load(arguments.output / f"shard-{n:04}.npz") as shard:
                    seconds += int(shard["ends"][-1]) / RATE_HZ
            number = batch.stop
            print(f"{number} shards, {seconds / 3600:.2f} h, after {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
