"""Write the sentences that are spoken for training: from Debian packages and from templates.

    python models/edgekit-tiny/train/texts.py -o data/train/texts.jsonl

Knows where English prose lies in packages (dictionary examples, sayings, documentation) and what
people say to a telephone or a home. Knows nothing of voices. Packages are downloaded with apt-get and unpacked without
being installed. Each line is {"text", "source", "held_out"}: about 2 % of the lines, chosen by a hash of the text, are
never spoken for training. Same packages, same lines.
"""

import argparse
import gzip
import hashlib
import html
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import tomllib

PACKAGES = (
    "wordnet-base",  # WordNet licence
    "fortunes",  # BSD and public domain
    "fortunes-min",
    "debian-reference-en",  # GPL-2+
    "developers-reference",  # GPL-2+
    "maint-guide",  # GPL-2+
    "aptitude-doc-en",  # GPL-2+
    "dict-foldoc",  # GFDL-1.2+
    "dict-jargon",  # public domain
)
SHARES = {"wordnet": 1.0, "fortunes": 1.0, "manuals": 1.0, "dictionaries": 0.35, "templates": 1.0}
TEMPLATES = 24_000
HELD_OUT = 50  # one text in so many
MIN_KNOWN = 0.93  # share of words that wordfreq knows: keeps tables, code and other languages out
MIN_LETTERS, MAX_WORDS = 8, 40
PLAIN = re.compile(r"[A-Za-z0-9 ,.;:!?'\"()%$-]+")
BANNED = re.compile(
    r"\b(?:https?|www|fuck\w*|shit\w*|nigg\w*|cunt\w*)\b|[-=_*]{3,}|\b\w*\d\w*[a-z]\w*\b", re.IGNORECASE
)


def unpack(work: Path) -> Path:
    """Return the folder into which every package of PACKAGES is unpacked; download what is missing."""
    root = work / "root"
    work.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not list(work.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["dpkg-deb", "-x", str(next(work.glob(f"{package}_*.deb"))), str(root)], check=True)
    return root


def wordnet(root: Path) -> Iterator[str]:
    """Yield the example sentences of the glosses, and the glosses themselves where they are long enough."""
    for path in sorted((root / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            _, bar, gloss = line.partition(" | ")
            if bar:
                yield from re.findall(r'"([^"]+)"', gloss)
                definition = gloss.split('"')[0].split(";")[0]
                if len(definition) > 40:
                    yield definition.strip(" ;:,")


def fortunes(root: Path) -> Iterator[str]:
    """Yield the sentences of sayings, without names of authors."""
    for path in sorted((root / "usr/share/games/fortunes").iterdir()):
        if path.suffix or path.is_symlink():
            continue
        for saying in path.read_text(encoding="utf-8", errors="ignore").split("\n%\n"):
            yield from sentences(re.split(r"\n\s*--", saying)[0])


def manuals(root: Path) -> Iterator[str]:
    """Yield sentences of HTML paragraphs."""
    for path in sorted((root / "usr/share").rglob("*.html")):
        if re.search(r"[./](de|es|fr|it|ja|pt|ru|zh|ca|cs|fi|id|vi|pl)\b", path.as_posix()):
            continue
        page = path.read_text(encoding="utf-8", errors="ignore")
        for paragraph in re.findall(r"<p\b[^>]*>(.*?)</p>", page, re.DOTALL | re.IGNORECASE):
            yield from sentences(html.unescape(re.sub(r"<[^>]+>", "", paragraph)))


def dictionaries(root: Path) -> Iterator[str]:
    """Yield sentences of the definitions of computing terms."""
    for path in sorted((root / "usr/share/dictd").glob("*.dict.dz")):
        for entry in gzip.decompress(path.read_bytes()).decode("utf-8", "ignore").split("\n\n"):
            yield from sentences(entry)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of running text."""
    yield from re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split()))


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS: dict[str, list[str]] = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))


def templates(seed: int) -> Iterator[str]:  # noqa: C901 - a list of forms, each simple
    """Yield what people say to telephones, homes and clocks: words, digits, letters, times, dates, amounts, orders."""
    pick = random.Random(seed)

    def number(top: int) -> str:
        return str(pick.randint(0, pick.choice((9, 20, 99, top))))

    def digits() -> str:
        return " ".join(pick.choice("0123456789") for _ in range(pick.randint(2, 8)))

    def clock() -> str:
        return pick.choice((f"{pick.randint(1, 12)}:{pick.randint(0, 59):02}", f"{pick.randint(1, 12)} o'clock"))

    def letters() -> str:
        return " ".join(pick.choice(LETTERS) for _ in range(pick.randint(1, 5)))

    def date() -> str:
        return f"{pick.choice(WORDS['days'])}, {pick.choice(WORDS['months'])} {pick.randint(1, 31)}"

    def one(options: str) -> str:
        return pick.choice(options.split("|"))

    def name() -> str:
        return pick.choice(WORDS["names"])

    def place() -> str:
        return pick.choice(WORDS["places"])

    def day() -> str:
        return pick.choice(WORDS["days"])

    def word() -> str:
        return pick.choice(WORDS["words"])

    # in each form, parts are drawn from left to right
    forms = (
        lambda: f"{word().capitalize()}.",
        lambda: f"{word().capitalize()}.",
        lambda: " ".join(word() for _ in range(pick.randint(2, 4))).capitalize() + ".",
        lambda: f"{number(9999)}.",
        lambda: f"{digits()}.",
        lambda: f"{letters()}.",
        lambda: (
            f"Please press {number(9)} to {one('hear|delete|save|send|repeat|change')} "
            f"{one('the message|your greeting|this recording|the menu|your choice|it again')}."
        ),
        lambda: (
            f"Press {number(9)} for {one('sales|support|the reception|billing|more choices')}"
            f"{pick.choice(('', ', or hold the line', f', or {number(9)} to hang up'))}."
        ),
        lambda: (
            f"You have {number(40)} new {one('messages|calls|appointments|letters')} "
            f"{pick.choice(('', f'from {name()} ', f'since {day()} '))}.".replace(" .", ".")
        ),
        lambda: f"The number you called, {digits()}, is {one('busy|not answering|no longer in use')}.",
        lambda: f"Your call will be answered in about {number(30)} {one('minutes|seconds')}.",
        lambda: (
            f"Sorry, {name()} {name()} is {one('away|on the phone|in a meeting')}"
            f"{one('|. Please leave a message|. Try again later')}."
        ),
        lambda: f"Call {name()} {one('at home|at work|on the mobile|now|')}.".replace(" .", "."),
        lambda: (
            f"Turn {one('on|off|up|down')} the {pick.choice(WORDS['things'])} in the {pick.choice(WORDS['rooms'])}."
        ),
        lambda: (
            f"{one('Open|Close|Check|Start|Stop')} the {pick.choice(WORDS['rooms'])} {pick.choice(WORDS['things'])}."
        ),
        lambda: f"Set {one('a timer|an alarm|a reminder')} for {number(60)} {pick.choice(WORDS['units'][:5])}.",
        lambda: f"Wake me {one('|up ')}at {clock()} on {day()}.",
        lambda: f"It is {clock()} on {date()}.",
        lambda: f"The meeting with {name()} is on {date()} at {clock()}.",
        lambda: (
            f"Add {number(12)} {pick.choice(WORDS['units'][-3:])} of {pick.choice(WORDS['foods'])} "
            f"and {pick.choice(WORDS['foods'])} to my list."
        ),
        lambda: f"What is the weather {one('like |')}in {place()} {pick.choice(('today', f'on {day()}'))}?",
        lambda: f"How {one('far|long|much')} is it {one('to|from')} {place()}?",
        lambda: f"It costs {number(900)} {pick.choice(WORDS['units'][7:9])} and {number(99)} cents.",
        lambda: f"The temperature is {one('|minus ')}{number(40)} degrees.",
        lambda: f"{name()}'s {one('flight|train|bus')} to {place()} leaves at {clock()}.",
        lambda: f"{name()}, {one('thank you|good morning|please wait|goodbye|one moment')}.",
        lambda: (
            f"Please {one('enter|say|repeat|confirm')} your "
            f"{one('name|account number|date of birth|postal code|order number')} "
            f"{one('|and then wait|after the beep|now')}.".replace(" .", ".")
        ),
        lambda: f"You entered {digits()}. Is that {one('right|correct|okay')}?",
        lambda: f"There {one('are|were')} {number(500)} {one('people|cars|books|calls|birds')} in {place()}.",
        lambda: (
            f"{one('Your|The')} {one('system|service|connection|recording|transfer|account')} "
            f"{one('is now|has been|will be|cannot be')} "
            f"{one('ready|stopped|changed|saved|restarted|closed|deleted')}."
        ),
    )
    for _ in range(TEMPLATES):
        yield pick.choice(forms)()


def speakable(text: str, known: set[str], checked: bool) -> str | None:
    """Return the text as a sentence, capitalised and with a full stop; None if a voice could not just read it."""
    text = " ".join(text.replace("``", '"').replace("''", '"').split()).strip(" -\"'`")
    if checked and (sum(map(str.isalpha, text)) < MIN_LETTERS or not PLAIN.fullmatch(text) or BANNED.search(text)):
        return None
    words = [word.strip(".,;:!?'\"()").lower() for word in text.split()]
    if not words or len(words) > MAX_WORDS:
        return None
    alphabetic = [word for word in words if word.replace("'", "").replace("-", "").isalpha()]
    if checked and (
        len(alphabetic) < 0.8 * len(words)
        or sum(word in known for word in alphabetic) < MIN_KNOWN * len(alphabetic)
        or sum(word.isupper() and len(word) > 1 for word in text.split()) > 1
    ):
        return None
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text.rstrip(",;:-") + "."


def share_of(text: str) -> int:
    """Return a number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def main() -> None:
    """Write the lines and print how many each source gave."""
    import wordfreq

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("data/train/texts.jsonl"))
    parser.add_argument("--packages", type=Path, default=Path("data/packages"))
    arguments = parser.parse_args()
    root = unpack(arguments.packages)
    known = {word for word, share in wordfreq.get_frequency_dict("en").items() if share > 3e-7}
    sources = {
        "wordnet": wordnet(root),
        "fortunes": fortunes(root),
        "manuals": manuals(root),
        "dictionaries": dictionaries(root),
        "templates": templates(seed=1),
    }
    seen: set[str] = set()
    lines = []
    for source, texts in sources.items():
        before = len(lines)
        for raw in texts:
            text = speakable(raw, known, checked=source != "templates")
            if text is None or text in seen or share_of("share" + text) % 1000 >= 1000 * SHARES[source]:
                continue
            seen.add(text)
            lines.append({"text": text, "source": source, "held_out": share_of(text) % HELD_OUT == 0})
        print(f"{source}: {len(lines) - before}")
    lines.sort(key=lambda line: share_of(str(line["text"])))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
