"""How a bundle says that its answers are spoken: one file per way of speaking.

A stranger adds one by ``register(SpeechFormat(STRUCT))``, before a bundle that speaks so is opened or made.
"""

from edgekit.bundle.speaking import SPEECH_FORMATS, Speech, SpeechFormat
from edgekit.bundle.speech.flow import FlowSpeech
from edgekit.bundle.speech.talker import TalkerSpeech

__all__ = ["FlowSpeech", "Speech", "SpeechFormat", "TalkerSpeech", "register", "registered"]

register, registered = SPEECH_FORMATS.register, SPEECH_FORMATS.registered

for _struct in (TalkerSpeech, FlowSpeech):
    register(SpeechFormat(_struct))
