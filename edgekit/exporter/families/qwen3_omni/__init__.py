"""Qwen3-Omni: ears, thinker, talker and what makes sound."""

from edgekit.exporter.families.qwen3_omni.family import FAMILY

__all__ = ["FAMILY"]
