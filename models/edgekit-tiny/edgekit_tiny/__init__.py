"""Where the small streaming speech model lies. Data only: EdgeKit exports it, transformers reads it too."""

from pathlib import Path


def checkpoint() -> Path:
    """Return the folder with config.json, model.safetensors and tokenizer.json."""
    return Path(__file__).parent / "checkpoint"
