"""Echo: what the loudspeaker plays, taken out of what the microphone hears, and told to the gate.

    Playback's callback -> Ring -> Reference -> EchoCanceller <- EchoFree <- Microphone

All of it runs on the taking thread, none in a callback.
"""

from edgekit.runtime.audio.echo.canceller import EchoCanceller, find_package
from edgekit.runtime.audio.echo.reference import Reference
from edgekit.runtime.audio.echo.source import EchoFree

__all__ = ["EchoCanceller", "EchoFree", "Reference", "find_package"]
