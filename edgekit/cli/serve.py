"""``edgekit serve``."""

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import answering_options, partials_option
from edgekit.cli.paths import FilePath
from edgekit.cli.serving import (
    configured,
    leave,
    load,
    print_config,
    read_configuration,
    service,
    serving_options,
    show_places,
)
from edgekit.ending import SIGNALLED
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.runtime.model import Model
    from edgekit.serving.configuration import Configured

_STOP_S = 0.5  # of the two seconds that the end may last: for the neighbours to hand over what was finished


@click.command(
    epilog="\b\nExit codes: 0 stopped by a signal; 1 no bundle, or an address that cannot be listened at; 2 wrong\n"
    "            usage, or a wrong configuration; 70 a bug; 130 or 143 a second signal.\n"
    "Example:    edgekit serve --http 8017 --wyoming 10300"
)
@click.argument("bundle", required=False, metavar="[BUNDLE]", type=FilePath())
@partials_option("agreed where the bundle can")
@click.option("--speak", is_flag=True, help="Load what speaks, too, for those who ask for spoken answers.")
@answering_options
@serving_options
def serve(**asked: Any) -> None:
    """Serve a bundle to other programs: HTTP, websockets, Wyoming.

    Without BUNDLE: the configuration's, else the one that EDGEKIT_BUNDLE names, else the newest under ./bundles.
    It listens on this machine alone unless it is told otherwise, and then HTTP asks for a token and speaks TLS. How
    streams listen and answer is what holds for those that do not say it themselves.

    ^C or SIGTERM ends it in good order: what was said is finished within two seconds. SIGHUP, where it is not that
    of a terminal that is closed, reads the configuration again and loads another bundle beside the old one.
    """
    if asked["print_config"]:
        print_config(configured(asked, "serve"))
        return
    if service(asked, "serve"):
        return
    from edgekit.cli.notices import show_notices
    from edgekit.serving.record import Recorder
    from edgekit.serving.server import STOP_S, Server
    from edgekit.serving.service.life import Life, account_of, status_of, works
    from edgekit.serving.service.neighbours import Neighbours, places
    from edgekit.serving.service.signals import Signals

    first = _configure(asked)
    settings = first.settings
    server = Server(None, settings.limits)
    neighbours = Neighbours(places(settings, server, http=True))
    with show_notices(), Signals() as signals, server:
        with ExitStack() as stack:
            if settings.record.dir is not None:
                server.taps = stack.enter_context(Recorder(settings.record)).tap
            stack.callback(neighbours.stop)
            show_places(neighbours.start(), settings)
            life = Life(
                server, first, configure=lambda: _configure(asked), load=load, alive=lambda: works(server, neighbours),
                status=lambda: status_of(server), ready=_ready,
            )  # fmt: skip
            try:
                life.run(signals)
                life.stop(STOP_S - _STOP_S)
                neighbours.stop(_STOP_S)
            except KeyboardInterrupt as end:  # a second signal
                leave(SIGNALLED + getattr(end, "number", signal.SIGINT))
        click.echo(f"edgekit: {account_of(server)}", err=True)
        if life.left_behind:
            leave(0)


def _configure(asked: dict[str, Any]) -> "Configured":
    read = read_configuration(asked, "serve")
    if read.settings.http.on is False and not read.settings.wyoming.on:
        raise UsageError("serve: neither HTTP nor Wyoming is on, somebody must be served; leave --http off out")
    return read


def _ready(model: "Model") -> None:
    from edgekit.cli.printer import warn

    warn(model)
    click.echo(f"edgekit: {model.manifest.name} is ready; ^C ends it", err=True)
