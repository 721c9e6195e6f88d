#!/usr/bin/env python3
"""Print what a bundle hears in some prompts, a line of JSON for each: for a Python that runs elsewhere, as under qemu.

.venv-arm/python profiles/bench/hear-prompts.py bundles/whisper-base-int8 --limit 2
"""

import argparse
import json
from pathlib import Path

import edgekit

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Hear and print: language, prompt, text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--speech", type=Path, default=ROOT / "data/prompts", help="a folder of WAV for each language")
    parser.add_argument("--limit", type=int, help="take the first prompts of each language only")
    args = parser.parse_args()
    model = edgekit.load(args.bundle)
    claimed = model.manifest.protocol.languages
    for folder in sorted(path for path in args.speech.iterdir() if path.is_dir()):
        if folder.name not in (claimed or ("en",)):
            continue
        for path in sorted(folder.rglob("*.wav"))[: args.limit]:
            language = folder.name if claimed else None
            text = model.transcribe(path, gate="off", language=language).text
            print(json.dumps({"language": folder.name, "name": path.stem, "text": text}), flush=True)


main()
