"""Qwen3-Omni: ears, thinker, talker and what makes sound."""
