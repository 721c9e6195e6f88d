"""Step-Audio 2 and its kin: text model, ears, flow matching and vocoder."""

from edgekit.exporter.families.step_audio.family import FAMILY

__all__ = ["FAMILY"]
