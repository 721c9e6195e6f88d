"""Devices that come, go and fall silent: by which name they stay known, what is wrong with one, opening it again."""
