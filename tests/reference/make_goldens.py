"""Make the goldens anew from torch: ``python -m tests.reference.make_goldens`` writes them, ``--check`` compares.

Refuses a case whose greedy tokens or chosen experts hang on less than rounding: such a golden would test luck.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from edgekit.exporter.reference.qwen3_omni import Qwen3OmniReference
from edgekit.exporter.reference.step_audio import StepAudioReference
from edgekit.exporter.reference.whisper import WhisperReference
from tests.exporter.omni import CONFIG, weights
from tests.reference import checkpoints, goldens
from tests.reference import qwen3_omni as omni
from tests.reference.goldens import Golden, Passage

SMALLEST_LEAD = 1e-3  # of a greedy token's logit; ten times what a graph's logits may be off
SMALLEST_GAP = 1e-4  # between a chosen and an unchosen router score; scores are rounded near 1e-6
TOLERANCE = 5e-5  # the same torch code on another processor adds up in another order: 2e-5 was seen, AVX2 to AVX-512


def make(checkpoint: str, folder: Path) -> Golden:
    """Return the golden of a checkpoint that was written into ``folder``."""
    golden: Golden = {"digest": np.array(checkpoints.digest(folder))}
    if checkpoint in goldens.WHISPER:
        _whisper(checkpoint, folder, golden)
    else:
        _step_audio(checkpoint, folder, golden)
    return golden


def make_omni() -> Golden:
    """Return the golden of the text parts of the tiny Qwen3-Omni; ``tests/reference/goldens.py`` describes it."""
    reference = Qwen3OmniReference(CONFIG, weights())
    golden: Golden = {"digest": np.array(omni.digest(weights()))}
    text, talked = omni.rows("text", omni.TEXT_ROWS, 64), omni.rows("talked", omni.TALKER_ROWS, 32)
    for count in (1, 2):
        logits, golden[f"k{count}.hidden"] = reference.think(text, count)
        golden[f"k{count}.logits"] = logits[goldens.rows(len(logits))]
        _lucky(reference.router_gap(), SMALLEST_GAP / 10)  # fewer numbers in a sum, and gates of less weight
        written = reference.write(text, goldens.GREEDY_TOKENS, count)
        _lucky(written.lead, SMALLEST_LEAD)
        golden[f"k{count}.tokens"] = np.array(written.tokens, np.int64)
    logits, golden["talker.hidden"] = reference.talk(talked)
    golden["talker.logits"] = logits[goldens.rows(len(logits))]
    _lucky(reference.router_gap(), SMALLEST_GAP / 10)
    golden["predictor.logits"] = reference.predict(talked[: omni.CODEBOOKS])
    golden["adapter.embeds"] = reference.adapt(text, np.arange(omni.TEXT_ROWS) % 3 == 1)
    for trailing in (1, omni.FRAMES + 8):
        codes, lead = reference.speak(talked[:9], omni.rows("trailing", trailing, 32), talked[9], omni.FRAMES)
        _lucky(lead, SMALLEST_LEAD)
        golden[f"codes.{trailing}"] = codes
    return golden


def _lucky(found: float, least: float) -> None:
    assert found >= least, f"a token, code or expert leads by {found:.1e}, at least {least:.0e}; take another seed"


def differences(fresh: Golden, stored: Golden) -> list[str]:
    """Return what in a stored golden is not what was made afresh, one line for each key."""
    found = [f"{key}: only in one of them" for key in sorted(fresh.keys() ^ stored.keys())]
    for key in sorted(fresh.keys() & stored.keys()):
        one, other = fresh[key], stored[key]
        if one.shape != other.shape:
            found.append(f"{key}: shape {one.shape}, stored {other.shape}")
        elif one.dtype != np.float32:
            if not np.array_equal(one, other):
                found.append(f"{key}: {one} is not {other}")
        elif one.size and (gap := float(np.abs(one - other).max())) > TOLERANCE:
            found.append(f"{key}: {gap:.1e} apart, at most {TOLERANCE:.0e}")
    return found


def _whisper(checkpoint: str, folder: Path, golden: Golden) -> None:
    reference = WhisperReference(folder)
    frames = {}
    for sound in goldens.sounds(checkpoint):
        mel = goldens.mel(checkpoint, sound)
        frames[sound] = reference.encode(mel, sound.chunk_positions)
        golden[f"{sound.key}.mel"] = mel
        golden[f"{sound.key}.frames"] = frames[sound]
        golden[f"{sound.key}.heard"] = reference.cross(frames[sound])[:, :, :: goldens.HEARD_COLUMNS]
    start = _whisper_start(folder)
    for passage in goldens.passages(checkpoint):
        heard = frames[passage.sound]
        written = reference.write(heard, start, goldens.GREEDY_TOKENS, passage.experts_per_token)
        forced = reference.logits(heard, written.tokens, passage.experts_per_token)
        _sure(checkpoint, passage, written.lead, reference.router_gap())
        _store(golden, passage, forced, before=[], after=start, tokens=written.tokens[len(start) :])


def _step_audio(checkpoint: str, folder: Path, golden: Golden) -> None:
    reference = StepAudioReference(folder)
    heard = {}
    for sound in goldens.sounds(checkpoint):
        mel = goldens.mel(checkpoint, sound)
        heard[sound] = reference.hear(mel, sound.chunk_positions)
        golden[f"{sound.key}.mel"] = mel
        golden[f"{sound.key}.frames"] = reference.encode(mel, sound.chunk_positions)
        golden[f"{sound.key}.heard"] = heard[sound]
    before, after = _step_audio_turns(folder)
    for passage in goldens.passages(checkpoint):
        prompt = np.concatenate([reference.embed(before), heard[passage.sound], reference.embed(after)])
        written = reference.write(prompt, goldens.GREEDY_TOKENS, passage.experts_per_token)
        forced = reference.logits(np.concatenate([prompt, reference.embed(written.tokens)]), passage.experts_per_token)
        _sure(checkpoint, passage, written.lead, reference.router_gap())
        _store(golden, passage, forced, before=before, after=after, tokens=written.tokens)


def _whisper_start(folder: Path) -> list[int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    marks = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    return [tokenizer.token_to_id(mark) for mark in marks]


def _step_audio_turns(folder: Path) -> tuple[list[int], list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    before = "<|BOT|>system\nwrite down the words<|EOT|><|BOT|>human\n<audio_start>"
    after = "<audio_end><|EOT|><|BOT|>assistant\n"
    return tokenizer.encode(before).ids, tokenizer.encode(after).ids


def _sure(checkpoint: str, passage: Passage, lead: float, gap: float) -> None:
    if lead < SMALLEST_LEAD or gap < SMALLEST_GAP:
        raise AssertionError(
            f"{checkpoint} {passage.key}: a token leads by {lead:.1e} and an expert by {gap:.1e}, at least "
            f"{SMALLEST_LEAD:.0e} and {SMALLEST_GAP:.0e}; take another sound or another seed"
        )


def _store(golden: Golden, passage: Passage, forced: np.ndarray, **tokens: list[int]) -> None:
    rows = goldens.rows(len(forced))
    for key, ids in (tokens | {"rows": rows}).items():
        golden[f"{passage.key}.{key}"] = np.array(ids, np.int64)
    golden[f"{passage.key}.logits"] = forced[rows]


def main(arguments: list[str]) -> int:
    """Write or check every golden; return the exit status."""
    torch.set_num_threads(1)
    failed = False
    for checkpoint in (*checkpoints.SHAPES, omni.GOLDEN):
        with tempfile.TemporaryDirectory() as folder:
            golden = (
                make_omni()
                if checkpoint == omni.GOLDEN
                else make(checkpoint, checkpoints.write(Path(folder), checkpoint))
            )
        if "--check" in arguments:
            found = differences(golden, goldens.load(checkpoint))
            failed |= bool(found)
            print(f"{checkpoint}: {'; '.join(found) or 'as stored'}")
        else:
            path = goldens.save(checkpoint, golden)
            print(f"{path.name}: {path.stat().st_size} bytes")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
