"""Names by which microphones and speakers stay known: numbers, and ALSA's ``(hw:1,0)``, change with the next plug."""

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

Kind = Literal["input", "output"]
_PLACE = re.compile(r"\s*\(hw:\d+,\d+\)$")  # card and device, counted in the order that they were plugged in


@dataclass(frozen=True, slots=True)
class Device:
    """What PortAudio says of a device, of which one may be microphone, speaker or both.

    ``name``: what ``--device`` and ``--speaker`` take, today and after the next plug.
    """

    name: str
    number: int
    system: str  # host API: ALSA, JACK, ...
    label: str  # PortAudio's own name
    inputs: int
    outputs: int
    default_rate_hz: int
    default_input: bool
    default_output: bool

    def channels(self, kind: Kind) -> int:
        """Return how many channels it has of a kind."""
        return self.inputs if kind == "input" else self.outputs

    @property
    def listed(self) -> str:
        """Its own name and what of the system it is reached by, as errors and lists show it."""
        return f"{self.label}, {self.system}"

    @property
    def names(self) -> set[str]:
        """Every way to name it whole, in small letters."""
        labels = (self.label, stable(self.label))
        return {name.lower() for label in labels for name in (label, f"{label}, {self.system}")}


def stable(label: str) -> str:
    """Return a device's name without its place among the cards."""
    return _PLACE.sub("", label)


def list_devices(portaudio: ModuleType) -> list[Device]:
    """Return every device that PortAudio found when it started, in its order. Raises PortAudio's errors."""
    systems = [system["name"] for system in portaudio.query_hostapis()]
    facts = list(portaudio.query_devices())
    labels = [one["name"] for one in facts]
    whole = [f"{stable(one['name'])}, {systems[one['hostapi']]}" for one in facts]
    defaults = {kind: _default(portaudio, kind) for kind in ("input", "output")} if facts else {}

    def name(number: int) -> str:
        short = stable(labels[number])
        if [stable(label) for label in labels].count(short) == 1:
            return short
        return (
            whole[number] if whole.count(whole[number]) == 1 else f"{labels[number]}, {whole[number].split(', ')[-1]}"
        )

    return [
        Device(
            name=name(number),
            number=number,
            system=systems[one["hostapi"]],
            label=one["name"],
            inputs=int(one["max_input_channels"]),
            outputs=int(one["max_output_channels"]),
            default_rate_hz=int(one["default_samplerate"]),
            default_input=defaults["input"] == number,
            default_output=defaults["output"] == number,
        )
        for number, one in enumerate(facts)
    ]


def matching(devices: list[Device], words: str) -> list[Device]:
    """Return the devices that are called so; where none is, those whose name holds these words in their order."""
    exact = [one for one in devices if words.lower() in one.names]
    return exact or [one for one in devices if _holds(one.listed, words) or _holds(stable(one.label), words)]


def _holds(name: str, words: str) -> bool:
    at = 0
    for word in words.lower().replace(", ", " ").split():  # a driver may have put something before the comma
        at = name.lower().find(word, at)
        if at < 0:
            return False
        at += len(word)
    return True


def _default(portaudio: ModuleType, kind: str) -> int:
    """Return the number of the default device, -1 if there is none."""
    try:
        facts: Any = portaudio.query_devices(None, kind)
    except (ValueError, portaudio.PortAudioError):
        return -1
    return int(facts.get("index", -1))
