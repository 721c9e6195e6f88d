"""The light side: audio in, events out, on the device. Start with ``stream.py``."""

import os

# Since 1.31 onnxruntime sends what it is used for to its maker, on Linux too, unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
