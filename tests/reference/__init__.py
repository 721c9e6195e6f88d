"""Tiny random checkpoints and the torch references that the exported graphs are compared with."""
