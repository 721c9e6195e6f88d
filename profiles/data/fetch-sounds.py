"""Fetch recorded sounds without speech as 16 kHz mono WAV files, split into a half to train on and one held out.

And three speakers of other languages, of which babble is mixed for measurements.

Takes each Debian package of PACKAGES from the archive that apt is set up for (no root needed), checks every file by
hash against sounds.tsv and decodes it with ffmpeg; noise, hum and silence are generated. Needs Python 3.10 and, on
Debian or Ubuntu, `apt install ffmpeg`; apt-get and dpkg-deb are there already.

    python profiles/data/fetch-sounds.py                        # into data/sounds/{train,held-out}/<class>/
    python profiles/data/fetch-sounds.py -o FOLDER --from DIR   # packages already downloaded into DIR
"""

import argparse
import hashlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Package -> version and licence of its sounds; each package's own copyright file says more.
PACKAGES = {
    "asterisk-moh-opsound-g722": ("2.03-1.1", "CC-BY-SA-3.0"),
    "bucklespring-data": ("1.4.0-2", "GPL-2+"),
    "gamine-data": ("1.6-1", "GPL-3+, one file public domain"),
    "gnome-control-center-data": ("1:43.6-2~deb12u1", "GPL-2+ and others, not told by file"),
    "lincity-ng-data": ("2.9~git20150314-5", "GPL-2+ or CC-BY-SA-2.0"),
    "lomiri-sounds": ("22.02-1", "CC0-1.0, CC-BY-3.0, CC-BY-4.0, CC-BY-SA-3.0"),
    "openttd-opensfx": ("1.0.3-2", "CC-BY-SA-3.0, of files under CC-BY-3.0 and CC0-1.0"),
    "oxygen-sounds": ("4:5.27.5-2", "LGPL-3+"),
    "pidgin-data": ("2.14.12-1", "GPL-2+"),
    "searchandrescue-data": ("1.3.0-1.1", "GPL"),
    "sonic-pi-samples": ("3.2.2~repack-8", "CC0-1.0"),
    "sound-icons": ("0.1-8", "GPL-2+"),
    "sound-theme-freedesktop": ("0.8-2", "GPL-2+, CC-BY-3.0, CC-BY-SA-3.0"),
    "ufoai-sound": ("2.5-2", "GPL-2+, CC-BY-3.0, CC-BY-SA-3.0, public domain"),
    "wesnoth-1.16-data": ("1:1.16.9-1", "GPL-2+"),
    "yaru-theme-sound": ("22.10.3-1", "CC-BY-SA-4.0"),
}
# Package -> folder of one speaker's recordings (CC-BY-SA-3.0 and CC-BY-3.0), and the hash of what is taken of them.
TALKERS = {
    "asterisk-core-sounds-fr-g722": (
        "fr_CA_f_June",
        "cbfaa56d8c3904d4a84afe290d955157b74cb10f45e9702976bed28b32957953",
    ),
    "asterisk-core-sounds-it-g722": (
        "it_IT_m_Carlo",
        "28151ced9bcd028772839994a35e2b2d521ff24e24436a7d1075756575e8737f",
    ),
    "asterisk-core-sounds-ru-g722": (
        "ru_RU_f_IvrvoiceRU",
        "a57a0d3b4a26d9d3495e9f0f46d5bef41b916b53a169f20d4d94e6743dce6d74",
    ),
}
TALKERS_VERSION = "1.6.1-1"
TALKER_BYTES = 8000 * 180  # three minutes of G.722
SHORTEST_TALK_BYTES = 8000 * 3  # single words would make babble that stops and starts
TABLE = Path(__file__).with_name("sounds.tsv")
TRAIN, HELD_OUT = "train", "held-out"
BATCH = 64  # recordings per ffmpeg: starting one takes longer than decoding a short sound
MINIMUM_FREE_BYTES = 700_000_000  # the largest package unpacked, and the samples
GENERATED_S = 30
NOISES = {
    **{
        f"{colour}-{-level}dB": f"anoisesrc=color={colour}:sample_rate=16000:seed={{}}:amplitude={amplitude}"
        for colour in ("white", "pink", "brown")
        for level, amplitude in ((-10, 0.31623), (-30, 0.03162), (-50, 0.00316))
    },
    # Fundamental and harmonics of the mains; the two halves differ by phase and by the noise under it.
    **{
        f"hum-{hertz}Hz": f"aevalsrc='0.1*(sin(2*PI*{hertz}*t+{{0}})+sin(2*PI*{2 * hertz}*t)/2"
        f"+sin(2*PI*{3 * hertz}*t)/3+sin(2*PI*{5 * hertz}*t+{{0}})/5)+0.002*(random({{0}})-0.5)':s=16000"
        for hertz in (50, 60)
    },
    "silence": "anullsrc=sample_rate=16000:channel_layout=mono",
}


class FetchError(RuntimeError):
    """Something that this script needs is missing or different; the message says which and what to do."""


def half(path: str) -> str:
    """Return the half of a sound by its path without its digits, so that numbered takes of one sound stay together."""
    family = re.sub(r"\d", "", path)
    return TRAIN if int(hashlib.sha256(family.encode()).hexdigest(), 16) % 2 == 0 else HELD_OUT


def listed(table: Path) -> dict[str, tuple[str, str]]:
    """Return package/path -> (SHA-256, class) of every sound in the table."""
    rows = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {path: (digest, kind) for digest, kind, path in rows}


def place(path: str, kind: str) -> Path:
    """Return where a sound's WAV goes below the output: half/class/package__folder-name.wav."""
    package, *folders = path.split("/")
    name = "-".join(folders[-2:]).rsplit(".", 1)[0]
    return Path(half(path), kind, f"{package}__{re.sub('[^A-Za-z0-9]+', '-', name).strip('-')}.wav")


def sounds_in(cat: bytes) -> dict[str, bytes]:
    """Return name -> WAV of the sounds in OpenTTD's container: places, then title, RIFF and file name of each."""
    count = (struct.unpack_from("<I", cat)[0] & 0x7FFFFFFF) // 8
    found = {}
    for number in range(count):
        title_at = struct.unpack_from("<I", cat, 8 * number)[0] & 0x7FFFFFFF
        riff_at = title_at + 1 + cat[title_at]
        title = cat[title_at + 1 : riff_at].decode("latin-1").split('"')[1].split(" | ")[0]
        length = 8 + struct.unpack_from("<I", cat, riff_at + 4)[0]
        found[f"{number:02d} {re.sub('[/:()]+', ' ', title).strip()}.wav"] = cat[riff_at : riff_at + length]
    return found


def read_sound(folder: Path, path: str) -> bytes:
    """Return the bytes of a sound below folder, where its path may lead into a .pk3 (ZIP) or .cat container."""
    parts = Path(path).parts
    for depth, part in enumerate(parts, 1):
        container, inner = folder.joinpath(*parts[:depth]), "/".join(parts[depth:])
        if part.endswith(".pk3") and container.is_file():
            with zipfile.ZipFile(container) as archive:
                return archive.read(inner)
        if part.endswith(".cat") and container.is_file():
            return sounds_in(container.read_bytes())[inner]
    return (folder / path).read_bytes()


def run(command: list[str], folder: Path | None = None) -> None:
    """Run command in folder; raise FetchError with its last line of complaint if it fails."""
    result = subprocess.run(command, check=False, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        complaint = (result.stderr.strip() or f"exit {result.returncode}").splitlines()[-1]
        raise FetchError(f"{command[0]}: {complaint}; the command was: {' '.join(command)[:200]}")


def unpack(package: str, given: Path | None, folder: Path) -> None:
    """Put the files of a package below folder; the package comes from given or from apt."""
    debs = sorted(given.glob(f"{package}_*.deb")) if given else []
    if not debs:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise FetchError(
                f"apt-get, dpkg-deb: not found; they fetch {package}; this script runs on Debian or Ubuntu"
            )
        run(["apt-get", "download", "-q", package], folder)
        debs = sorted(folder.glob(f"{package}_*.deb"))
    run(["dpkg-deb", "-x", str(debs[0]), str(folder / package)])


def decode(inputs: list[tuple[list[str], Path]]) -> None:
    """Write each input (ffmpeg's arguments for it) as a 16 kHz mono WAV."""
    for first in range(0, len(inputs), BATCH):
        batch = inputs[first : first + BATCH]
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y"]
        for arguments, _ in batch:
            command += arguments
        for number, (_, wav) in enumerate(batch):
            wav.parent.mkdir(parents=True, exist_ok=True)
            command += ["-map", f"{number}:a", "-ac", "1", "-ar", "16000", "-c:a", "pcm_s16le", "-bitexact", str(wav)]
        run(command)


def decode_package(package: str, sounds: dict[str, tuple[str, str]], folder: Path, output: Path) -> None:
    """Check and decode the listed sounds of one unpacked package."""
    inputs = []
    for number, (path, (digest, kind)) in enumerate(sounds.items()):
        try:
            sound = read_sound(folder, path)
        except (OSError, KeyError) as error:
            raise FetchError(f"{path}: not there; {TABLE.name} lists {package} {PACKAGES[package][0]}") from error
        if (found := hashlib.sha256(sound).hexdigest()) != digest:
            raise FetchError(
                f"{path}: SHA-256 {found[:12]}, listed {digest[:12]}; fetch {package} {PACKAGES[package][0]}"
            )
        source = folder / f"{number}{Path(path).suffix}"
        source.write_bytes(sound)
        how = ["-f", "g722"] if source.suffix == ".g722" else []
        inputs.append(([*how, "-i", str(source)], output / place(path, kind)))
    decode(inputs)


def decode_talker(package: str, folder: Path, output: Path) -> None:
    """Write the longer prompts of one unpacked package, one after the other, as talkers/<package>.wav."""
    voice, digest = TALKERS[package]
    prompts = sorted((folder / package / "usr/share/asterisk/sounds" / voice).rglob("*.g722"))
    talk = b"".join(path.read_bytes() for path in prompts if path.stat().st_size >= SHORTEST_TALK_BYTES)[:TALKER_BYTES]
    if (found := hashlib.sha256(talk).hexdigest()) != digest:
        raise FetchError(f"{package}: SHA-256 {found[:12]}, expected {digest[:12]}; fetch {package} {TALKERS_VERSION}")
    source = folder / "talk.g722"
    source.write_bytes(talk)
    decode([(["-f", "g722", "-i", str(source)], output / "talkers" / f"{package}.wav")])


def generate(output: Path) -> None:
    """Write the generated noises: seed 1 into the half to train on, seed 2 into the other."""
    decode(
        [
            (
                ["-f", "lavfi", "-t", str(GENERATED_S), "-i", source.format(seed)],
                output / part / "noise" / f"generated__{name}.wav",
            )
            for seed, part in ((1, TRAIN), (2, HELD_OUT))
            for name, source in NOISES.items()
        ]
    )


def fetch(output: Path, given: Path | None = None) -> str:
    """Fetch, check, decode and generate into output, which appears only when complete; return its list's hash."""
    if not shutil.which("ffmpeg"):
        raise FetchError("ffmpeg: not found; it decodes the sounds; apt install ffmpeg")
    if output.exists():
        raise FetchError(f"{output}: already there; remove it to fetch again")
    output.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(output.parent).free) < MINIMUM_FREE_BYTES:
        raise FetchError(
            f"{output.parent}: {free} bytes free, needs {MINIMUM_FREE_BYTES}; make room or choose another -o"
        )
    sounds = listed(TABLE)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        decoded = Path(work) / "decoded"
        for package in (*PACKAGES, *TALKERS):
            print(package, file=sys.stderr)
            folder = Path(work) / "package"
            folder.mkdir()
            unpack(package, given, folder)
            if package in TALKERS:
                decode_talker(package, folder, decoded)
            else:
                chosen = {path: facts for path, facts in sounds.items() if path.split("/")[0] == package}
                decode_package(package, chosen, folder, decoded)
            shutil.rmtree(folder)
        generate(decoded)
        wavs = sorted(decoded.rglob("*.wav"))
        rows = [
            f"{hashlib.sha256(wav.read_bytes()).hexdigest()}  {wav.relative_to(decoded).as_posix()}\n" for wav in wavs
        ]
        (decoded / "samples.sha256").write_text("".join(rows), encoding="utf-8")
        (decoded / ".gitignore").write_text("*\n", encoding="utf-8")  # others' licences: nothing of this is committed
        decoded.rename(output)
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def main() -> None:
    """Fetch and say what is there; one line on stderr and exit code 1 if that fails."""
    parser = argparse.ArgumentParser(description="Fetch sounds without speech, in a half to train on and one held out.")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/sounds"))
    parser.add_argument("--from", dest="given", type=Path, help="folder of .deb files; those not there are downloaded")
    arguments = parser.parse_args()
    try:
        digest = fetch(arguments.output, arguments.given and arguments.given.resolve())
    except FetchError as error:
        print(f"fetch-sounds: {error}", file=sys.stderr)
        sys.exit(1)
    print(
        f"{arguments.output}: {len(listed(TABLE))} sounds, {2 * len(NOISES)} generated, {len(TALKERS)} talkers; "
        f"SHA-256 of samples.sha256 {digest}"
    )


if __name__ == "__main__":
    main()
