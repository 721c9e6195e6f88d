"""``edgekit listen``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import loading, partials_option, stream_options, stream_settings
from edgekit.cli.paths import FilePath
from edgekit.errors import BundleFileError, UsageError

if TYPE_CHECKING:
    from edgekit.runtime.answer.partials import PartialsKind
    from edgekit.runtime.daemon import Source
    from edgekit.runtime.events import Event


@click.command(
    epilog="\b\nExit codes: 0 stopped by a signal, or the simulated file is over; 1 no bundle, no microphone,\n"
    "            nowhere to write; 2 wrong usage; 70 a bug; 130 a second ^C.\nExample:    edgekit listen"
)
@click.argument("bundle", required=False, metavar="[BUNDLE]", type=FilePath())
@click.option("--device", metavar="NAME|NUMBER", help="The microphone; the system's default if absent.")
@click.option(
    "--simulate",
    metavar="FILE",
    type=FilePath(readable=False),
    help="Play a file in real time instead.",
)
@partials_option("agreed where the bundle can")
@click.option(
    "--speak",
    is_flag=True,
    help="Speak the answers too, through the default device, until you talk again. A microphone that hears them takes "
    "them for you: use headphones, or a device that cancels its echo.",
)
@stream_options
def listen(
    *,
    bundle: Path | None,
    device: str | None,
    simulate: Path | None,
    partials: "bool | PartialsKind | None",
    speak: bool,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print what a bundle hears from the microphone.

    Without BUNDLE: the one that EDGEKIT_BUNDLE names, else the newest under ./bundles. ^C, SIGTERM or SIGHUP ends
    it in good order: what was recorded is finished, and an account of every sample goes to stderr.
    """
    import edgekit
    from edgekit.bundle import open_bundle
    from edgekit.cli.notices import show_notices
    from edgekit.cli.printer import Printer, marks, warn
    from edgekit.cli.speech import speaker
    from edgekit.runtime.assemble import writes_partials
    from edgekit.runtime.audio.files import shown
    from edgekit.runtime.audio.playback import TurnTaking
    from edgekit.runtime.daemon import Daemon, stopped_by_signals

    if device is not None and simulate is not None:
        raise UsageError(f"--device {device}: --simulate plays {simulate} in place of a microphone; leave one out")
    if options["times"] and not as_json:
        raise UsageError(f"--times {options['times']}: text alone shows no times; add --json")
    chosen = bundle or default_bundle()
    how = loading(options)
    front_end = open_bundle(chosen, check_hashes=False, trust=how["trust"]).manifest.front_end  # loading checks them
    source = _source(device, simulate, front_end.sample_rate_hz)
    model = edgekit.load(chosen, threads=threads, speak=speak, **how)
    warn(model)
    printer = Printer(as_json=as_json, marks=marks(model))
    with speaker(model.manifest, speak=speak) as playback:
        stream = model.stream(
            sample_rate_hz=source.sample_rate_hz, channels=source.channels, speak=speak,
            partials=writes_partials(model.manifest, options["prompt"]) if partials is None else partials,
            **stream_settings(options),
        )  # fmt: skip
        turns = TurnTaking(playback, stream.interrupt) if playback else None

        def show(event: "Event") -> None:
            printer.event(event)
            if turns:
                turns.event(event)

        def talked() -> None:
            if turns:
                turns.talked(stream.answering)
            elif (answer := stream.answering) is not None:
                stream.interrupt(answer)

        # An answer to a question about the sound is what was asked for, however the sound goes on.
        interrupts = stream.converses and stream.options.prompt is None
        daemon = Daemon(source, stream, show, talked if interrupts else None)
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
            if playback and playback.underruns:
                click.echo(f"edgekit: speech broke off {playback.underruns} times: too slow to keep up", err=True)


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


def _source(device: str | None, simulate: Path | None, rate_hz: int) -> "Source":
    if simulate is not None:
        from edgekit.runtime.audio.recording import Recording

        return Recording(simulate)
    from edgekit.runtime.audio.microphone import Microphone

    return Microphone(int(device) if device and device.isdecimal() else device, rate_hz=rate_hz)
