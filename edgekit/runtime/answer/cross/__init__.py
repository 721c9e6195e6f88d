"""Backbones that attend to the utterance through a cross-KV beside their tokens, as Whisper's does."""
