"""Every example in a page of help, in README and in docs is run, as it stands or with what stands for the big things.

What a test cannot have (a published checkpoint, the hub, a microphone, a GPU) is replaced by the tables below, each row
with its reason. An example that neither runs nor is told here fails.
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
import tomllib
from click.testing import CliRunner

from edgekit.bundle.keys import make_keys, read_private
from edgekit.bundle.signing import sign_bundle
from edgekit.cli import main
from edgekit.cli.group import COMMANDS, Invocation, edgekit
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.hub import SHIPPED
from tests.exporter import speaking
from tests.exporter.test_hub import QUICK
from tests.reference import checkpoints

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for pattern in (
        "README.md", "docs/**/*.md", "export/**/*.md", "runtimes/**/*.md", "models/*/README.md", "profiles/*.md",
        "profiles/data/*.md", "tests/README.md", "SECURITY.md",
    )
    for path in ROOT.glob(pattern)
    if path.relative_to(ROOT).as_posix() != "docs/cli.md"  # the pages of help, which are read from the program
)  # fmt: skip
RANDOM = "minutes with real weights; its own recipe is for those"

# Words of examples: what is put there in their place, and why it must be.
WORDS = {
    "CHECKPOINT": ("checkpoint", "the reader's own"),
    "FOLDER": ("checkpoint", "the reader's own"),
    "whisper-base": ("checkpoint", "needs the hub"),
    SHIPPED: ("small", RANDOM),
    "models/edgekit-tiny/edgekit_tiny/checkpoint": ("small", RANDOM),
    "FILE.toml": (str(ROOT / "runtimes/cpu/target.toml"), "the reader's own"),
    "BUNDLE": ("bundles/mine", "the reader's own"),
    "bundles/base": ("bundles/base", "made before"),
    "bundles/base-int8": ("bundles/base", "made before; what is done with it does not depend on its precision"),
    "bundles/tiny-rtx": ("bundles/rtx", "made before"),
    "/opt/edgekit/bundle": ("bundles/base", "written by install.sh, as root"),
    "profile.json": ("profile.json", "made before"),
    "p.json": ("profile.json", "made before"),
}
# Words added to a command, and why.
ADDED = {
    "export": (("--recipe", "random.toml"), "random weights lean on limits of their own"),
    "profile": (("talk.wav", "--repeat", "1", "--warmup", "0", "--no-realtime"), "minutes at real time"),
    "listen": (("--simulate", "talk.wav"), "needs a microphone"),
    "serve": (("--print-config",), "it has no end, and a unit is for systemd"),
}
RECIPE = """
name = "random"
max_tokens_per_s = 4.0
[gate]
kind = "off"
[limits]
weight_error = 0.2
word_error_rate = 10.0
token_mismatch = 1.0
logit_error = 10.0
frame_error = 10.0
[check]
clips = ["librivox-0880.flac"]
"""
# Examples that are run by another test, under its name.
ELSEWHERE = {
    "edgekit demo": ("tests/cli/test_report.py", "test_the_demo_shows_census_text_figures_and_report"),
    "edgekit devices": (
        "tests/cli/test_devices.py", "test_devices_are_listed_by_names_that_stay_and_the_defaults_are_marked",
    ),
}  # fmt: skip
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OTHER_PROGRAMS = ("make", "pip", "python", "python3", "sh")


@dataclass(frozen=True)
class Example:
    """A command as it is written, and where."""

    where: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def _of_help() -> list[Example]:
    with click.Context(edgekit) as context:
        pages = {name: edgekit.get_command(context, name).epilog for name in COMMANDS} | {"edgekit": edgekit.epilog}
    lines = [(name, line) for name, page in pages.items() for line in page.splitlines()]
    return [
        Example(f"edgekit {name} --help", found[1])
        for name, line in lines
        if (found := re.search(r": +(edgekit .*)", line))
    ]


def _of_blocks() -> list[Example]:
    """Return each command of the fenced blocks; those without a language are commands where they begin like one."""
    found = []
    for page in PAGES:
        for language, block in re.findall(
            r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            lines = block.replace("\\\n", " ").splitlines()
            begins = bool(lines) and _program(lines[0]) in {*OTHER_PROGRAMS, "edgekit"}
            if language == "sh" or (not language and begins):
                commands = [one for line in lines for one in line.split(" #")[0].split("&&") if one.strip()]
                found += [Example(page.relative_to(ROOT).as_posix(), one.strip()) for one in commands]
    return found


def _of_prose() -> list[Example]:
    """Return what stands between backticks in prose and tables and begins with ``edgekit``."""
    found = []
    for page in PAGES:
        prose = _FENCED.sub("", page.read_text(encoding="utf-8"))
        spans = re.findall(r"`((?:[^\s`]*/bin/)?edgekit\s[^`]+)`", prose)
        found += [Example(page.relative_to(ROOT).as_posix(), " ".join(span.split())) for span in spans]
    return found


def _program(text: str) -> str:
    return Path(text.split(maxsplit=1)[0]).name if text.split() else ""


def _command(words: list[str]) -> click.Command:
    """Return the command of an example; fails for one that there is not."""
    name = next((word for word in words[1:] if not word.startswith("-")), "")
    assert name in COMMANDS, f"no command '{name}'"
    command = edgekit.get_command(click.Context(edgekit), name)
    assert command is not None
    return command


def _whole(example: Example) -> bool:
    """Return whether an example names all that its command needs, so that it could be typed."""
    words = example.words
    try:
        command = _command(words)
        # below its group: a command keeps the first names of its help option that it is asked for
        parent = click.Context(edgekit, info_name="edgekit", obj=Invocation(), **edgekit.context_settings)
        command.make_context(command.name, words[words.index(command.name) + 1 :], parent=parent)
    except (click.UsageError, AssertionError):
        return False
    return True


def _typed() -> list[Example]:
    """Return every example that is whole, each text once."""
    found = (*_of_prose(), *_of_blocks(), *_of_help())
    whole = {one.text: one for one in found if _program(one.text) == "edgekit" and _whole(one)}
    return [whole[text] for text in sorted(whole)]


FRAGMENTS = [one for one in _of_prose() if not _whole(one)]
OTHERS = [one for one in _of_blocks() if _program(one.text) != "edgekit"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with what examples name: a checkpoint, bundles, a pair of keys, a recording, a profile."""
    folder = tmp_path_factory.mktemp("made")
    spoken, rate_hz = soundfile.read(ROOT / "export/clips/librivox-0930.flac")
    soundfile.write(folder / "talk.wav", spoken, rate_hz)
    soundfile.write(folder / "alarm.wav", np.random.default_rng(7).uniform(-0.3, 0.3, 12_000), 16_000)
    (folder / "random.toml").write_text(RECIPE)
    checkpoints.write(folder / "small", "whisper-experts")
    whisper = checkpoints.write(folder / "checkpoint", "whisper-dense")
    export(whisper, folder / "bundles/base", ExportOptions(recipe=folder / "random.toml", precision="float32"))
    options = ExportOptions(recipe=QUICK, precision="float32")
    export(whisper, folder / "bundles/rtx", replace(options, target="desktop-rtx"))
    talking = speaking.write(folder / "speaking")
    export(talking, folder / "bundles/mine", options)
    acme = make_keys(folder / "acme")
    sign_bundle(folder / "bundles/mine", read_private(acme.path.with_suffix(".key")))
    (folder / "config/edgekit/trust").mkdir(parents=True)
    shutil.copy(acme.path, folder / "config/edgekit/trust")
    thinking = shutil.copytree(talking, folder / "thinking")
    config = json.loads((thinking / "config.json").read_text())
    (thinking / "config.json").write_text(json.dumps(config | {"edgekit": {"thinks": True}}))
    export(thinking, folder / "bundles/thinks", options)
    profiled = CliRunner().invoke(
        edgekit,
        ["profile", str(folder / "bundles/base"), "-o", str(folder / "profile.json"), str(folder / "talk.wav"),
         "--repeat", "1", "--warmup", "0", "--no-realtime"],
        obj=Invocation(),
    )  # fmt: skip
    assert profiled.exit_code == 0, profiled.output
    return folder


def _replaced(example: Example) -> list[str]:
    """Return the words that are run for an example."""
    words = example.words
    name = _command(words).name
    outputs = {index + 1 for index, word in enumerate(words) if word in {"-o", "--output"}}
    said = [word if index in outputs else WORDS.get(word, (word, ""))[0] for index, word in enumerate(words[1:], 1)]
    if name == "build":  # of a bundle that an example before it exported for the target
        said[1] = "bundles/rtx"
    if "--think" in said:
        said[said.index("bundles/mine")] = "bundles/thinks"
    if name == "listen" and "--speak" in said:  # no loudspeaker here: the answers go to a file
        said[said.index("listen")] = name = "run"
        said[said.index("--speak")] = "--speak=answer.wav"
        said.insert(said.index("bundles/mine") + 1, "talk.wav")
    if "--recipe" in said:  # which has limits for its own weights
        del said[(at := said.index("--recipe")) : at + 2]
    if name == "listen" and not any(word.startswith("bundles/") for word in said):
        said.append("bundles/base")
    return [*said, *ADDED.get(name, ((), ""))[0]]


@pytest.mark.parametrize("example", _typed(), ids=lambda one: one.text)
def test_an_example_runs(example, made, tmp_path, monkeypatch, capsys):
    if example.text in ELSEWHERE:
        page, test = ELSEWHERE[example.text]
        assert f"def {test}(" in (ROOT / page).read_text(encoding="utf-8")
        return
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "here/config"))
    words = _replaced(example)
    if words[0] == "keygen":  # which replaces none
        Path("acme.key").unlink()
        Path("acme.pub").unlink()
    for index, word in enumerate(words):
        if word in {"-o", "--output"} and Path(words[index + 1]).is_dir():
            shutil.rmtree(words[index + 1])
    with pytest.raises(SystemExit) as end:
        main(words)
    told = capsys.readouterr()
    if words[0] == "build" and end.value.code == 1:
        assert "tensorrt" in told.err.lower(), "needs TensorRT and, for a Jetson, the board"
        return
    allowed = {0, 1} if words[0] == "doctor" else {0}  # 1: this machine cannot run bundles, which is an answer
    assert end.value.code in allowed, told.err


@pytest.mark.parametrize("example", FRAGMENTS, ids=lambda one: f"{one.where}: {one.text}")
def test_what_prose_says_of_a_command_is_there(example):
    words = [word for word in example.words if word != "..."]
    command = _command(words)
    options = {
        flag
        for parameter in (*command.params, *edgekit.params)
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    missing = {word.partition("=")[0] for word in words if word.startswith("-")} - options
    assert not missing, f"{command.name} has no {missing}"


@pytest.mark.parametrize("example", OTHERS, ids=lambda one: f"{one.where}: {one.text}")
def test_what_an_example_names_beside_edgekit_is_there(example):
    """Other programs are not run here (make in make, venvs, root): what they are given must be there."""
    program, *rest = example.words
    program = Path(program).name
    assert program in OTHER_PROGRAMS, f"{example.where}: nothing here can run {program}"
    if program == "make":
        _check_targets([word for word in rest if "=" not in word and not word.startswith("-")])
    elif program == "pip":
        _check_extras(" ".join(rest))
    elif rest[0] != "-c":  # a line of Python names packages, not files
        script = ROOT / rest[0]
        assert script.is_file()
        text = script.read_text(encoding="utf-8")
        for option in (word for word in rest[1:] if word.startswith("--")):
            assert f'"{option}"' in text, f"{rest[0]} has no {option}"


def _check_targets(names: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([\w./%$()-]+(?: [\w./%$()-]+)*):(?!=)", makefile, re.MULTILINE)
    known = [re.escape(one).replace("%", ".+") for line in targets for one in line.split()]
    for name in names:
        assert any(re.fullmatch(one, name) for one in known), f"make has no {name}"


def _check_extras(text: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"\[([\w,]+)\]", text):
        assert set(named.split(",")) <= extras.keys()
    for path in re.findall(r"(?<=\s)\./\S+", text):
        assert (ROOT / path / "pyproject.toml").is_file()


def _python_pages() -> dict[str, str]:
    """Return the blocks of each page as one program: a later block goes on from an earlier one."""
    found: dict[str, str] = {}
    for page in PAGES:
        blocks = _FENCED.findall(page.read_text(encoding="utf-8"))
        if program := "\n".join(block for language, block in blocks if language == "python"):
            found[page.relative_to(ROOT).as_posix()] = program
    return found


@pytest.mark.parametrize("where", _python_pages())
def test_the_python_of_a_page_runs(where, made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    quiet = np.zeros(4800, np.float32)
    given = {"source": [quiet, quiet.astype(np.int16)]}  # what README calls the reader's own
    exec(compile(_python_pages()[where], where, "exec"), given)  # noqa: S102 - our own pages


@pytest.mark.parametrize("found", [_of_help, _of_blocks, _of_prose], ids=["help", "blocks", "prose"])
def test_examples_are_found(found):
    assert len(found()) >= 9
