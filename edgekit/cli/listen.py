"""``edgekit listen``."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import partials_option, stream_options
from edgekit.cli.paths import FilePath
from edgekit.cli.serving import leave, load, print_config, read_configuration, service, serving_options, show_places
from edgekit.cli.speech import no_echo
from edgekit.ending import SIGNALLED
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.cli.printer import Printer
    from edgekit.runtime.audio.devices.source import Source
    from edgekit.runtime.events import Event
    from edgekit.runtime.model import Model
    from edgekit.serving.configuration import Configured
    from edgekit.serving.daemon import Daemon
    from edgekit.serving.listening import Listening
    from edgekit.serving.server import Server
    from edgekit.serving.watch import Watch

_NEIGHBOURS_S, _MARGIN_S = 0.3, 0.5  # of the two seconds that the end may last


@click.command(
    epilog="\b\nExit codes: 0 stopped by a signal, or the simulated file is over; 1 no bundle, no microphone,\n"
    "            nowhere to write; 2 wrong usage; 70 a bug; 75 the sound system answers no more, and only\n"
    "            a fresh process may help; 130 or 143 a second signal.\nExample:    edgekit listen"
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
@partials_option("agreed where the bundle can")
@click.option(
    "--provisional-ms",
    type=click.IntRange(min=0),
    metavar="N",
    help="Show the text of an end that may be none after so much silence, before the gate has decided; 200 if absent, "
    "0: never.",
)
@click.option("--speak", is_flag=True, help="Speak the answers too, until you talk again.")
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
@serving_options
def listen(**asked: Any) -> None:
    """Print what a bundle hears from the microphone.

    Without BUNDLE: the configuration's, else the one that EDGEKIT_BUNDLE names, else the newest under ./bundles. ^C or
    SIGTERM ends it in good order: what was recorded is finished within two seconds, and an account of every sample
    goes to stderr. SIGHUP, where it is not that of a terminal that is closed, reads the configuration again. A
    microphone that falls silent, sends what is no sound, or is unplugged is opened again, for as long as it takes.

    With --http or --wyoming others may use the bundle beside it, and the page shows what the microphone hears.
    """
    if service(asked, "listen"):
        return
    if asked["simulate"] is not None and asked["wait"]:
        raise UsageError(f"--wait: --simulate plays {asked['simulate']} in place of a microphone; leave one out")
    first = read_configuration(asked, "listen")
    if asked["print_config"]:
        print_config(first)
        return
    _check_echo(asked, first)
    _listen(asked, first)


def _listen(asked: dict[str, Any], first: "Configured") -> None:
    from edgekit.cli.notices import show_notices
    from edgekit.serving.listening import Listening
    from edgekit.serving.record import Recorder
    from edgekit.serving.server import STOP_S, Server
    from edgekit.serving.service.life import Life, status_of, works
    from edgekit.serving.service.neighbours import Neighbours, places
    from edgekit.serving.service.signals import Signals
    from edgekit.serving.watch import Watch

    settings = first.settings
    server, watch = Server(None, settings.limits), Watch()
    microphone = _Microphone(asked, first, server, watch)
    listening = Listening(microphone.begin)
    neighbours = Neighbours(places(settings, server, http=False, watch=watch))

    def ready(model: "Model") -> None:
        microphone.say_ready(model)
        listening.start(model)

    def read() -> "Configured":
        again = read_configuration(asked, "listen")
        _check_echo(asked, again)
        return again

    def changed(model: "Model") -> None:
        microphone.configured = life.configured
        listening.change(model)

    with show_notices(microphone.clear), Signals() as signals, server, ExitStack() as stack:
        if settings.record.dir is not None:
            server.taps = stack.enter_context(Recorder(settings.record)).tap
        stack.callback(microphone.close)
        stack.callback(neighbours.stop)
        show_places(neighbours.start(), settings)
        life = Life(
            server, first, configure=read, load=load, ready=ready,
            changed=changed, status=lambda: status_of(server),
            alive=lambda: works(server, neighbours) and listening.alive(time.monotonic()),
        )  # fmt: skip
        ended = False
        try:
            life.run(signals, lambda: listening.over)
            within_s = STOP_S - _NEIGHBOURS_S - _MARGIN_S
            others = threading.Thread(target=life.stop, args=(within_s,), daemon=True)
            others.start()  # both at once: neither has to wait for the other
            if not (ended := listening.stop(within_s)):
                microphone.say_left_behind(listening)
            others.join(within_s if ended else 0.0)
            neighbours.stop(_NEIGHBOURS_S)
        except KeyboardInterrupt as end:  # a second signal
            leave(SIGNALLED + getattr(end, "number", signal.SIGINT))
        if life.left_behind or not ended:
            leave(0)
    if listening.failure is not None:
        raise listening.failure


class _Microphone:
    """What listens, put together for one model after another."""

    def __init__(self, asked: dict[str, Any], configured: "Configured", server: "Server", watch: "Watch") -> None:
        """Open the microphone, which is looked at before anything is loaded; it stays the one of every model."""
        self.configured = configured
        self._asked, self._server, self._watch = asked, server, watch
        self._printer: Printer | None = None
        self._source = self._open()
        self._heard: Source | None = None  # the same as the latest daemon hears it, without the loudspeaker
        self._latest: Daemon | None = None
        self._accounted = False  # whether the account of the latest was said

    def clear(self) -> None:
        """Take the text so far off the terminal."""
        if self._printer is not None:
            self._printer.clear()

    def say_ready(self, model: "Model") -> None:
        """Say that the first model is there, and what it listens to."""
        from edgekit.cli.printer import warn
        from edgekit.runtime.audio.files import shown

        warn(model)
        simulated = self._asked["simulate"]
        heard = shown(simulated) if simulated else "the microphone"
        click.echo(f"edgekit: {self.configured.settings.bundle} listens to {heard}; ^C ends it", err=True)

    @contextmanager
    def begin(self, model: "Model") -> "Iterator[Daemon]":
        """Yield what listens with a model, and say behind it where the samples went."""
        from edgekit.cli.printer import Printer, marks
        from edgekit.cli.speech import account, echo_guard, interrupting, loudspeaker, without_echo
        from edgekit.runtime.assemble import no_partials
        from edgekit.runtime.audio.playback import TurnTaking
        from edgekit.serving.daemon import Daemon

        settings = self.configured.settings
        guard = echo_guard(self._echo(), speak=settings.speak, simulate=self._asked["simulate"])
        printer = self._printer = Printer(as_json=self._asked["as_json"], marks=marks(model))
        speaker = _number_or_name(settings.microphone.speaker)
        with loudspeaker(
            model.manifest, speak=settings.speak, device=speaker, keeps_reference=guard is not None
        ) as playback:
            source = self._source  # whose rate is that of the first model
            given = {"sample_rate_hz": source.sample_rate_hz, "channels": source.channels, "speak": settings.speak}
            options = self._server.options(given, model=model)
            if settings.stream.partials and not options.partials:  # others, who ask for a transcript, have them
                why = no_partials(model.manifest, options)
                click.echo(f"edgekit: stream.partials: none of the microphone's stream, {why}", err=True)
            stream = model.stream(options)
            turns = TurnTaking(playback, stream.interrupt) if playback else None
            source = self._heard = without_echo(guard, source, playback, stream, after=self._heard)
            served = self._watch.served = self._server.adopt(stream, "microphone")

            def show(event: "Event") -> None:
                printer.event(event)
                self._watch.publish(event)
                if turns:
                    turns.event(event)

            daemon = self._latest = Daemon(
                source, stream, show, interrupting(stream, turns), served=served, after=self._latest
            )
            self._accounted = False
            try:
                yield daemon
                if playback and not daemon.stopping:
                    playback.drain(lambda: daemon.stopping)
            finally:
                served.close("finished")
                printer.clear()
                click.echo(f"edgekit: {daemon.tally}", err=True)
                self._accounted = True
                account(playback)

    def close(self) -> None:
        """Close a microphone that was handed over to a daemon that there never was, and say what was in it."""
        if self._latest is not None and self._latest.handed_over:
            self._latest.close_source()
            click.echo(f"edgekit: {self._latest.behind}", err=True)

    def say_left_behind(self, listening: "Listening") -> None:
        """Say what does not end, and the account as far as it is known."""
        click.echo(f"edgekit: listen: {listening.hangs}, all ends within 2 s; what waits for it is dropped", err=True)
        if self._latest is not None and not self._accounted:
            click.echo(f"edgekit: {self._latest.left_behind}", err=True)
        elif self._latest is not None and self._latest.handed_over:
            click.echo(f"edgekit: {self._latest.behind}", err=True)

    def _open(self) -> "Source":
        from edgekit.bundle import open_bundle

        settings = self.configured.settings
        if (simulated := self._asked["simulate"]) is not None:
            from edgekit.runtime.audio.recording import Recording

            return Recording(simulated)
        from edgekit.cli.notices import show_notices
        from edgekit.runtime.audio.devices.lasting import LastingMicrophone

        front_end = open_bundle(settings.bundle or "", check_hashes=False).manifest.front_end  # loading checks them
        with show_notices():
            return LastingMicrophone(
                _number_or_name(settings.microphone.device), rate_hz=front_end.sample_rate_hz, waits=self._asked["wait"]
            )

    def _echo(self) -> bool | None:
        settings = self.configured.settings
        chosen = settings.microphone.echo
        if chosen is None or no_echo(speak=settings.speak, simulate=self._asked["simulate"]):
            return None  # of a file that others share; by a flag it is refused
        return chosen == "cancel"


def _check_echo(asked: dict[str, Any], configured: "Configured") -> None:
    """Raise MissingPackageError where cancelling the echo is asked for and cannot be, before anything is loaded."""
    settings = configured.settings
    if settings.microphone.echo == "cancel" and not no_echo(speak=settings.speak, simulate=asked["simulate"]):
        from edgekit.runtime.audio.echo import find_package

        find_package()


def _number_or_name(device: str | None) -> int | str | None:
    return int(device) if device and device.isdecimal() else device
