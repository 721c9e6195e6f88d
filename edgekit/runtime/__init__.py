"""The light side: audio in, events out, on the device. Start with ``stream.py``."""

from edgekit.runtime.graphs.library import switch_off

switch_off()  # what a program imports after EdgeKit, onnxruntime itself too, sends nothing
