"""The light side: audio in, events out, on the device. Start with ``stream.py``."""
