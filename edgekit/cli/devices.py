"""``edgekit devices``."""

import json

import click

from edgekit.cli.options import json_option
from edgekit.errors import DeviceError


@click.command(
    epilog="\b\nExit codes: 0 there are devices; 1 there are none, or PortAudio does not start; 2 wrong usage;\n"
    "            75 PortAudio does not answer.\nExample:    edgekit devices"
)
@json_option
def devices(as_json: bool) -> None:
    """List microphones and speakers, by the names that listen takes.

    A name stays after the next plug, a number may not. `edgekit listen --device NAME` takes any words of it that fit
    one device alone; `--speaker NAME` too.
    """
    from dataclasses import asdict

    from edgekit.runtime.audio.devices.calls import OPEN_S, within
    from edgekit.runtime.audio.devices.names import Device, list_devices
    from edgekit.runtime.audio.portaudio import load_portaudio

    def ask() -> list[Device]:
        portaudio = load_portaudio("devices")
        try:
            return list_devices(portaudio)
        except portaudio.PortAudioError as error:
            raise DeviceError(f"devices: {error}; see what `edgekit doctor` says of sound") from error

    listed = within(OPEN_S, "devices", ask)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in listed], indent=1))
    else:
        for title, channels, default in (
            ("microphones", "inputs", "default_input"),
            ("speakers", "outputs", "default_output"),
        ):
            click.echo(f"{title}:")
            for one in listed:
                if count := getattr(one, channels):
                    mark = "*" if getattr(one, default) else " "
                    click.echo(
                        f" {mark} {one.name}  (number {one.number}, {one.system}, {count} "
                        f"channel{'s' * (count > 1)}, {one.default_rate_hz} Hz)"
                    )
        click.echo("* the system's default")
    if not listed:
        raise DeviceError("devices: PortAudio finds no sound device; plug one in, then `cat /proc/asound/cards`")
