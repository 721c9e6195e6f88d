"""Where spoken answers go: a file (``run``) or the loudspeaker (``listen``)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgekit.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    from edgekit.bundle import Manifest
    from edgekit.runtime.audio.devices.source import Source
    from edgekit.runtime.audio.playback import Playback, TurnTaking
    from edgekit.runtime.audio.speech_file import SpeechFile
    from edgekit.runtime.stream import Stream

EchoGuard = Literal["canceller", "gate"]  # both, or only the gate knows what is played


def speech_file(path: Path | None, manifest: "Manifest") -> "AbstractContextManager[SpeechFile | None]":
    """Return the file to speak to, if one was named."""
    if path is None:
        return nullcontext()
    from edgekit.runtime.audio.speech_file import SpeechFile

    return SpeechFile(path, _rate(manifest))


@contextmanager
def loudspeaker(
    manifest: "Manifest", *, speak: bool, device: int | str | None = None, keeps_reference: bool = False
) -> "Iterator[Playback | None]":
    """Yield the loudspeaker, if answers are to be spoken: the device of this number or name, or the default.

    ``keeps_reference``: it keeps what it plays too.
    """
    if not speak:
        yield None
        return
    from edgekit.runtime.audio.playback import Playback

    with Playback(_rate(manifest), device, keeps_reference=keeps_reference) as playback:
        yield playback


def account(playback: "Playback | None") -> None:
    """Say on stderr how much was spoken, and how often it broke off."""
    if playback is not None:
        slow = ": too slow to keep up" if playback.underruns else ""
        click.echo(f"edgekit: spoke {playback.played_s:.1f} s, broke off {playback.underruns} times{slow}", err=True)


def interrupting(stream: "Stream", turns: "TurnTaking | None") -> Callable[[], None] | None:
    """Return what is to be called while the user talks; None where that interrupts nothing.

    An answer to a question about the sound is what was asked for, however the sound goes on.
    """
    if not stream.converses or stream.options.prompt is not None:
        return None

    def talked() -> None:
        if turns:
            turns.talked(stream.answering)
        elif (answer := stream.answering) is not None:
            stream.interrupt(answer)

    return talked


def no_echo(*, speak: bool, simulate: Path | None) -> str:
    """Return why there is no echo to cancel, and what to do; empty where there may be one."""
    if not speak:
        return "nothing is spoken; add --speak"
    return "a file hears no loudspeaker; leave it out" if simulate is not None else ""


def echo_guard(echo: bool | None, *, speak: bool, simulate: Path | None) -> EchoGuard | None:
    """Return what keeps the loudspeaker from being taken for the user, None for nothing; ``echo``: as asked for.

    Raises UsageError where there is no echo to cancel, MissingPackageError where it is asked for and cannot be.
    """
    if reason := no_echo(speak=speak, simulate=simulate):
        if echo:
            raise UsageError(f"--echo: {reason}")
        return None
    if echo is False:
        return None
    from edgekit.runtime.audio.echo import find_package

    try:
        find_package()
    except MissingPackageError as error:
        if echo:
            raise
        click.echo(f"edgekit: {error}; until then speak up to interrupt, or use headphones", err=True)
        return "gate"
    return "canceller"


def without_echo(
    guard: EchoGuard | None,
    source: "Source",
    playback: "Playback | None",
    stream: "Stream",
    *,
    after: "Source | None" = None,
) -> "Source":
    """Return a microphone that does not hear the loudspeaker, and tell the stream what is played beside it.

    ``after``: what was returned for the stream before this one, whose sound goes on.
    """
    if guard is None or playback is None or playback.reference is None:
        return source
    from edgekit.runtime.audio.echo import EchoCanceller, EchoFree, Reference

    reference = Reference(playback.reference, playback.device_rate_hz, source.sample_rate_hz)
    first = after.canceller.rest if isinstance(after, EchoFree) else None
    canceller = EchoCanceller(reference, source.sample_rate_hz, cancels=guard == "canceller", first=first)
    stream.beside(canceller.played)
    return EchoFree(source, canceller)


def _rate(manifest: "Manifest") -> int:
    assert manifest.speech is not None, "such a bundle is not loaded to speak"
    return manifest.speech.sample_rate_hz
