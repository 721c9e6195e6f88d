#!/usr/bin/env python3
"""Measure how far the text of an INT8 bundle is from its float twin's, and what a cheaper compute level changes.

    python profiles/data/fetch-speech.py
    python profiles/bench/int8-quality.py --int8 bundles/edgekit-tiny-int8 --float bundles/edgekit-tiny-float32

Every WAV of --speech goes through both, gate off; every eighth through each level of the INT8 bundle too. Texts are
kept in --work, so a run that was stopped goes on where it was; another bundle, EdgeKit or version of what runs it
starts afresh. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
from pathlib import Path

import edgekit
from edgekit.bundle import hash_file
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.comparison import Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.device import software_digest
from edgekit.profiler.words import Heard

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--float", type=Path, required=True)
    parser.add_argument("--speech", type=Path, default=ROOT / "data/asterisk-en", help="folder of WAV files")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/int8-quality.jsonl")
    parser.add_argument("--every", type=int, default=8, help="take every n-th clip for the levels")
    parser.add_argument("--limit", type=int, help="take the first clips only, to try it out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    clips = sorted(args.speech.rglob("*.wav"))[: args.limit]
    if not clips:
        raise SystemExit(f"{args.speech}: no WAV files there; python profiles/data/fetch-speech.py fetches them")
    texts, software = Heard(args.work), software_digest()
    digests = {clip: hash_file(clip) for clip in clips}
    models = {
        "float32": edgekit.load(args.float, threads=args.threads),
        "int8": edgekit.load(args.int8, threads=args.threads),
    }
    facts = {subject: bundle_facts(model) for subject, model in models.items()}

    def hear(subject: str, level: str, chosen: list[Path]) -> list[str]:
        model, manifest = models[subject], facts[subject].manifest_sha256
        heard = []
        for index, clip in enumerate(chosen):
            if index % 50 == 0:
                print(f"{subject}, level {level}: {index} of {len(chosen)}", flush=True)
            found = texts.get(
                (software, manifest, level, digests[clip]),
                lambda clip=clip: {"text": model.transcribe(clip, gate="off", level=level).text},
            )
            heard.append(str(found["text"]))
        return heard

    levels = [level.name for level in models["int8"].manifest.levels if level.name != "skip"]
    top = levels[-1]
    float_texts, int8_texts = hear("float32", top, clips), hear("int8", top, clips)
    ratios = agreement("INT8 against float", int8_texts, float_texts)
    few = clips[:: args.every]
    for level in levels[:-1]:
        ratios += agreement(f"Level {level} against {top}, INT8", hear("int8", level, few), hear("int8", top, few))
    changed = [
        {"clip": clip.relative_to(args.speech).as_posix(), "float32": reference, "int8": heard}
        for clip, reference, heard in zip(clips, float_texts, int8_texts, strict=True)
        if reference != heard
    ]
    comparison = make_comparison(
        title=f"Text of {models['int8'].manifest.name} in INT8 against float32",
        question="How many words change when the weights are stored in INT8, and when fewer experts run per token?",
        settings={
            "Recordings": f"{len(clips)} prompts, {len(few)} of them for the levels; gate off, level {top}",
            "Scoring": "Whisper's English text normaliser on both sides; the float (or top-level) text is the "
            "reference, so this is agreement, not correctness",
        },
        figures=(),
        ratios=ratios,
        definitions={
            "words changed": "Substitutions, deletions and insertions by the words of the reference.",
            "identical words": "Clips without a changed word.",
            "identical texts": "Clips whose texts are equal to the last character, before normalising.",
        },
        bundles=facts,
        packages=("jiwer", "whisper-normalizer"),
        notes=[f"{len(changed)} of {len(clips)} texts differ in some character; they are listed in the JSON."],
        details={"changed": changed},
    )
    print(save_comparison(comparison, args.output, f"{models['int8'].manifest.name}-int8-quality"))


def agreement(name: str, heard: list[str], reference: list[str]) -> list[Ratio]:
    """Return the share of words changed and of identical texts, each with its interval."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normal = EnglishTextNormalizer()
    wrong, words, same = [], [], []
    for text, truth in zip(heard, reference, strict=True):
        said, meant = normal(text), normal(truth)
        if meant:
            count = jiwer.process_words(meant, said)
            wrong.append(count.substitutions + count.deletions + count.insertions)
        else:
            wrong.append(len(said.split()))
        words.append(len(meant.split()))
        same.append(float(said == meant))
    equal = [float(text == truth) for text, truth in zip(heard, reference, strict=True)]
    return [
        bootstrap_ratio(f"{name}: words changed", wrong, words),
        bootstrap_ratio(f"{name}: identical words", same, [1.0] * len(same)),
        bootstrap_ratio(f"{name}: identical texts", equal, [1.0] * len(equal)),
    ]


if __name__ == "__main__":
    main()
