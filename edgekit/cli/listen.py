"""``edgekit listen``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import loading, stream_options, stream_settings
from edgekit.cli.paths import FilePath
from edgekit.errors import BundleFileError, UsageError

if TYPE_CHECKING:
    from edgekit.runtime.events import Event
    from edgekit.serving.daemon import Source


@click.command(
    epilog="\b\nExit codes: 0 stopped by a signal, or the simulated file is over; 1 no bundle, no microphone,\n"
    "            nowhere to write; 2 wrong usage; 70 a bug; 75 the sound system answers no more, and only\n"
    "            a fresh process may help; 130 a second ^C.\nExample:    edgekit listen"
)
@click.argument("bundle", required=False, metavar="[BUNDLE]", type=FilePath())
@click.option(
    "--device",
    metavar="NAME|NUMBER",
    help="The microphone, as `edgekit devices` names it; the system's default if absent.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for a microphone that is missing or busy at the start, as it is waited for later.",
)
@click.option(
    "--simulate",
    metavar="FILE",
    type=FilePath(readable=False),
    help="Play a file in real time instead.",
)
@click.option(
    "--partials/--no-partials",
    default=None,
    help="Write partial text while it is spoken, revised as more is heard; by default where the bundle can.",
)
@click.option(
    "--speak",
    is_flag=True,
    help="Speak the answers too, until you talk again.",
)
@click.option(
    "--echo/--no-echo",
    default=None,
    help="Take what is spoken out of what the microphone hears; by default with --speak. Without, use headphones or a "
    "device that cancels its echo.",
)
@click.option(
    "--speaker",
    metavar="NAME|NUMBER",
    help="What --speak speaks through, as `edgekit devices` names it; the system's default if absent.",
)
@stream_options
def listen(
    *,
    bundle: Path | None,
    device: str | None,
    wait: bool,
    simulate: Path | None,
    partials: bool | None,
    speak: bool,
    speaker: str | None,
    echo: bool | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print what a bundle hears from the microphone.

    Without BUNDLE: the one that EDGEKIT_BUNDLE names, else the newest under ./bundles. ^C, SIGTERM or SIGHUP ends
    it in good order: what was recorded is finished, and an account of every sample goes to stderr. A microphone that
    falls silent, sends what is no sound, or is unplugged is opened again, for as long as it takes.
    """
    import edgekit
    from edgekit.bundle import open_bundle
    from edgekit.cli.notices import show_notices
    from edgekit.cli.printer import Printer, marks, warn
    from edgekit.cli.speech import account, echo_guard, interrupting, loudspeaker, without_echo
    from edgekit.runtime.assemble import writes_partials
    from edgekit.runtime.audio.files import shown
    from edgekit.runtime.audio.playback import TurnTaking
    from edgekit.serving.daemon import Daemon, stopped_by_signals

    _check_usage(device=device, wait=wait, simulate=simulate, speak=speak, speaker=speaker)
    if options["times"] and not as_json:
        raise UsageError(f"--times {options['times']}: text alone shows no times; add --json")
    chosen = bundle or default_bundle()
    how = loading(options)
    front_end = open_bundle(chosen, check_hashes=False, trust=how["trust"]).manifest.front_end  # loading checks them
    source = _source(device, simulate, front_end.sample_rate_hz, wait=wait)
    guard = echo_guard(echo, speak=speak, simulate=simulate)
    model = edgekit.load(chosen, threads=threads, speak=speak, **how)
    warn(model)
    printer = Printer(as_json=as_json, marks=marks(model))
    with loudspeaker(model.manifest, speak=speak, device=_number_or_name(speaker), keeps_reference=guard is not None) as playback:
        stream = model.stream(
            sample_rate_hz=source.sample_rate_hz, channels=source.channels, speak=speak,
            partials=writes_partials(model.manifest) if partials is None else partials, **stream_settings(options),
        )  # fmt: skip
        turns = TurnTaking(playback, stream.interrupt) if playback else None
        source = without_echo(guard, source, playback, stream)

        def show(event: "Event") -> None:
            printer.event(event)
            if turns:
                turns.event(event)

        daemon = Daemon(source, stream, show, interrupting(stream, turns))
        heard = shown(simulate) if simulate else "the microphone"
        click.echo(f"edgekit: {chosen} listens to {heard}; ^C ends it", err=True)
        try:
            with stopped_by_signals(daemon), show_notices(printer.clear):
                daemon.run()
                if playback and not daemon.stopping:
                    playback.drain(lambda: daemon.stopping)
        finally:
            printer.clear()
            click.echo(f"edgekit: {daemon.tally}", err=True)
            account(playback)


def default_bundle() -> Path:
    """Return the bundle of EDGEKIT_BUNDLE, else the newest under ./bundles. Raises BundleFileError if there is none."""
    if named := os.environ.get("EDGEKIT_BUNDLE"):
        return Path(named)
    found = [path for path in Path("bundles").glob("*/manifest.json") if not path.parent.name.startswith(".")]
    manifests = sorted(found, key=lambda path: path.stat().st_mtime)  # a dot folder is one still being written
    if not manifests:
        raise BundleFileError(
            "bundles: holds no bundle, and none was named; make one with `edgekit demo`, or name one: "
            "`edgekit listen BUNDLE`"
        )
    return manifests[-1].parent


def _check_usage(*, device: str | None, wait: bool, simulate: Path | None, speak: bool, speaker: str | None) -> None:
    """Raise UsageError for options that need or exclude each other."""
    if simulate is not None and (device is not None or wait):
        option = f"--device {device}" if device is not None else "--wait"
        raise UsageError(f"{option}: --simulate plays {simulate} in place of a microphone; leave one out")
    if speaker is not None and not speak:
        raise UsageError(f"--speaker {speaker}: without --speak nothing is spoken; add it, or leave this out")


def _number_or_name(device: str | None) -> int | str | None:
    return int(device) if device and device.isdecimal() else device


def _source(device: str | None, simulate: Path | None, rate_hz: int, *, wait: bool) -> "Source":
    if simulate is not None:
        from edgekit.runtime.audio.recording import Recording

        return Recording(simulate)
    from edgekit.cli.notices import show_notices
    from edgekit.runtime.audio.devices.lasting import LastingMicrophone

    with show_notices():
        return LastingMicrophone(_number_or_name(device), rate_hz=rate_hz, waits=wait)
