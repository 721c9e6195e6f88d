"""Batches for the student, made by worker processes from the taught shards.

Knows shards, clips and how a clip is cut, padded and labelled. Knows nothing of networks. A cut clip stands for the
sound of a speaker who has not finished: its text ends with the last word that was whole.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from augment import RATE_HZ, Noises, vary, without_speech
from features import HOP, streaming
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import IterableDataset

EXPERT_SHARES = {8: 0.45, 4: 0.25, 3: 0.15, 2: 0.15}
CHUNK_SHARES = {64: 0.6, 32: 0.3, 16: 0.1}  # positions of 20 ms; the first is judged
CLOSING = 64  # mel frames of silence, before the last chunk is filled
NATURAL = 0.4  # share of the clips from shards of neural voices, where there are any
WITHOUT_SPEECH, CUT, MIXED_EXPERTS = 0.06, 0.15, 0.2
WORST_FORCED = -2.5  # mean log share of the text: below it the voice said something else
POSITIONS, CLIPS = 4800, 32  # at most in a batch, padding included
POOL = 400  # clips of like length are put together among so many


@dataclass
class Batch:
    """Tensors of one step; B clips, T tokens, P positions. ``taught`` marks the tokens the teacher speaks of."""

    mel: Tensor  # (B, 80, 2 P)
    positions: Tensor  # (B,) of the clip and its closing silence
    chunk: Tensor  # (B,)
    tokens: Tensor  # (B, T) input
    labels: Tensor  # (B, T), -100 beyond the text
    likely: Tensor  # (B, T, top)
    log_shares: Tensor  # (B, T, top)
    taught: Tensor  # (B, T) bool
    frames: Tensor  # (B, P, width) the teacher's
    voiced: Tensor  # (B, P) bool: frames that count
    experts: Tensor  # (B, T)

    def to(self, device: str) -> "Batch":
        """Return the batch on a device."""
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in self.__dict__.items()})


@dataclass
class Clip:
    """One clip of a shard, views of its arrays."""

    audio: np.ndarray
    tokens: np.ndarray
    likely: np.ndarray
    log_shares: np.ndarray
    said: np.ndarray
    frames: np.ndarray


class Shard:
    """A spoken and taught shard in memory."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as spoken:
            audio, ends = spoken["audio"], spoken["ends"]
        with np.load(path.with_suffix(".taught.npz")) as known:
            taught = {name: known[name] for name in known.files}

        def parts(array: np.ndarray, at: np.ndarray) -> list[np.ndarray]:
            return np.split(array, at[:-1])

        by_token = [parts(taught[name], taught["token_ends"]) for name in ("tokens", "likely", "log_shares", "said")]
        forced = parts(taught["forced"], taught["token_ends"])
        rows = zip(parts(audio, ends), *by_token, parts(taught["frames"], taught["frame_ends"]), strict=True)
        self.clips = [Clip(*row) for row, share in zip(rows, forced, strict=True) if share.mean() > WORST_FORCED]


class Lessons(IterableDataset[Batch]):
    """Endless batches; every worker draws its own. ``plain``: each clip once, whole and undisturbed."""

    def __init__(self, shards: list[Path], noises: Path, checkpoint: Path, seed: int, plain: bool = False) -> None:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        generation = json.loads((checkpoint / "generation_config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.start = [config["decoder_start_token_id"], *(token for _, token in generation["forced_decoder_ids"])]
        self.stop, self.width = config["eos_token_id"], config["d_model"]
        size = config["vocab_size"]
        self.begins_word = np.array([(tokenizer.id_to_token(i) or "").startswith("\u0120") for i in range(size)])
        self.begins_word[self.stop] = True
        self.shards, self.noise_folder, self.seed, self.plain = shards, noises, seed, plain

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        seed = self.seed * 1000 + (worker.id if worker else 0)
        pick, rng = random.Random(seed), np.random.default_rng(seed)
        noises = Noises(self.noise_folder)
        loaded: dict[Path, Shard] = {}
        while True:
            paths = [path for path in self.shards if path.with_suffix(".taught.npz").exists()]
            for path in set(paths) - loaded.keys():
                loaded[path] = Shard(path)
            every = [clip for path in paths for clip in loaded[path].clips]
            pool = every if self.plain else self.draw({path: loaded[path].clips for path in paths}, pick)
            pool.sort(key=lambda clip: len(clip.audio))
            groups = list(grouped(pool))
            pick.shuffle(groups)
            for group in groups:
                others = [pick.choice(every).audio for _ in range(8)]
                yield self.batch(group, others, noises, pick, rng)
            if self.plain:
                return

    def draw(self, clips: dict[Path, list[Clip]], pick: random.Random) -> list[Clip]:
        """Return POOL clips, NATURAL of them from shards of neural voices; a clip comes twice only if it must."""
        kinds: dict[bool, list[Clip]] = {True: [], False: []}
        for path, found in clips.items():
            kinds[path.name.startswith("kokoro")] += found
        natural = int(POOL * NATURAL) if all(kinds.values()) else POOL * bool(kinds[True])
        return [
            clip
            for kind, count in ((kinds[True], natural), (kinds[False], POOL - natural))
            for clip in (pick.sample(kind, count) if count <= len(kind) else pick.choices(kind, k=count))
        ]

    def batch(
        self, group: list[Clip], others: list[np.ndarray], noises: Noises, pick: random.Random, rng: np.random.Generator
    ) -> Batch:
        """Return the lesson of these clips, some replaced by sound without speech."""
        voices = [other.astype(np.float32) / 32768 for other in others]
        rows = []
        for clip in group:
            chunks = list(CHUNK_SHARES)
            chunk = chunks[0] if self.plain else pick.choices(chunks, list(CHUNK_SHARES.values()))[0]
            closing = CLOSING
            if not self.plain and pick.random() < WITHOUT_SPEECH:
                nothing = np.zeros((0, clip.likely.shape[1]))
                said = np.zeros((0, self.width), np.float16)
                empty = Clip(without_speech(noises, pick, rng), nothing[:, 0], nothing, nothing, nothing[:, 0], said)
                rows.append((empty, empty.audio, chunk, closing if pick.random() < 0.7 else 0))
                continue
            sound = clip.audio.astype(np.float32) / 32768
            if self.plain:
                rows.append((clip, sound, chunk, closing))
                continue
            heard = clip
            if pick.random() < CUT:
                cut = pick.randint(1, max(1, len(sound) // (2 * HOP * chunk))) * 2 * HOP * chunk
                heard, sound, closing = self.cut(clip, cut), sound[:cut], 0
            else:
                sound = np.concatenate((sound, np.zeros(int(pick.uniform(0, 0.6) * RATE_HZ), np.float32)))
                closing = pick.choices((CLOSING, 3 * CLOSING, 0), (0.75, 0.15, 0.1))[0]
            rows.append((heard, vary(sound, voices, noises, pick, rng), chunk, closing))
        return self.collate(rows, pick)

    def cut(self, clip: Clip, samples: int) -> Clip:
        """Return the clip with the words that were whole before ``samples``; the teacher says nothing of the end."""
        if samples >= len(clip.audio):
            return clip
        whole = 0
        for index in range(1, len(clip.tokens)):
            if self.begins_word[clip.tokens[index]]:
                if clip.said[index - 1] > samples / RATE_HZ:
                    break
                whole = index
        frames = clip.frames[: samples // (2 * HOP)]
        kept = slice(0, whole)
        return Clip(clip.audio, clip.tokens[kept], clip.likely[kept], clip.log_shares[kept], clip.said[kept], frames)

    def collate(self, rows: list[tuple[Clip, np.ndarray, int, int]], pick: random.Random) -> Batch:
        """Return padded tensors of (clip, sound, chunk, closing frames)."""
        mels = [streaming(torch.from_numpy(sound), chunk, closing) for _, sound, chunk, closing in rows]
        mels = [mel[:, :3000] for mel in mels]
        longest = max(mel.shape[1] for mel in mels)
        texts = [(list(map(int, clip.tokens)), clip) for clip, *_ in rows]
        texts = [(t if t and t[-1] == self.stop else [*t, self.stop], clip) for t, clip in texts]
        count, first = max(len(t) for t, _ in texts), len(self.start) - 1
        size, top = len(rows), rows[0][0].likely.shape[1]
        batch = Batch(
            mel=torch.zeros(size, 80, longest),
            positions=torch.tensor([mel.shape[1] // 2 for mel in mels]),
            chunk=torch.tensor([row[2] for row in rows]),
            tokens=torch.full((size, first + count), self.stop),
            labels=torch.full((size, first + count), -100),
            likely=torch.zeros(size, first + count, top, dtype=torch.int64),
            log_shares=torch.zeros(size, first + count, top),
            taught=torch.zeros(size, first + count, dtype=torch.bool),
            frames=torch.zeros(size, longest // 2, self.width),
            voiced=torch.zeros(size, longest // 2, dtype=torch.bool),
            experts=torch.zeros(size, first + count, dtype=torch.int64),
        )
        for row, ((tokens, clip), mel) in enumerate(zip(texts, mels, strict=True)):
            batch.mel[row, :, : mel.shape[1]] = mel
            batch.tokens[row, : first + len(tokens)] = torch.tensor([*self.start, *tokens[:-1]])
            batch.labels[row, first : first + len(tokens)] = torch.tensor(tokens)
            known = slice(first, first + len(clip.likely))
            batch.likely[row, known] = torch.from_numpy(clip.likely.astype(np.int64))
            batch.log_shares[row, known] = torch.from_numpy(clip.log_shares.astype(np.float32))
            batch.taught[row, known] = True
            frames = min(len(clip.frames), longest // 2)
            batch.frames[row, :frames] = torch.from_numpy(clip.frames[:frames].astype(np.float32))
            batch.voiced[row, :frames] = True
            batch.experts[row] = 8 if self.plain else draw_experts(count + first, pick)
        return batch


def draw_experts(tokens: int, pick: random.Random) -> Tensor:
    """Return how many experts work for each token: one number for all, sometimes one each."""
    kinds, shares = list(EXPERT_SHARES), list(EXPERT_SHARES.values())
    if pick.random() < MIXED_EXPERTS:
        return torch.tensor(pick.choices(kinds, shares, k=tokens))
    return torch.full((tokens,), pick.choices(kinds, shares)[0])


def grouped(clips: list[Clip]) -> Iterator[list[Clip]]:
    """Yield neighbours in order of length that fit into one batch."""
    group: list[Clip] = []
    for clip in clips:
        positions = len(clip.audio) // (2 * HOP) + 96
        if group and ((len(group) + 1) * positions > POSITIONS or len(group) == CLIPS):
            yield group
            group = []
        group.append(clip)
    yield group
