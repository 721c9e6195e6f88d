"""List the keys of transformers' config classes that EdgeKit's families have, with their defaults, as JSON.

    python tests/reference/list_keys.py > tests/exporter/keys-VERSION.json

Run with the version of transformers that is to be listed, in an environment of its own if it is not that of
``make test-reference``: `pip install torch==2.13.0 transformers==5.24.0`. It needs nothing of EdgeKit.
"""

import json
import sys
from typing import Any

import transformers
from transformers.models.qwen3_omni_moe import configuration_qwen3_omni_moe as omni

CLASSES = (
    transformers.GenerationConfig,
    transformers.WhisperConfig,
    transformers.Qwen2Config,
    transformers.Qwen3Config,
    transformers.Qwen3MoeConfig,
    omni.Qwen3OmniMoeConfig,
    omni.Qwen3OmniMoeThinkerConfig,
    omni.Qwen3OmniMoeTextConfig,
    omni.Qwen3OmniMoeAudioEncoderConfig,
    omni.Qwen3OmniMoeTalkerConfig,
    omni.Qwen3OmniMoeTalkerTextConfig,
    omni.Qwen3OmniMoeTalkerCodePredictorConfig,
    omni.Qwen3OmniMoeCode2WavConfig,
)
NESTED = "a config"
"""Stands for the default of a key that holds a config."""


def keys(kind: type) -> dict[str, Any]:
    """Return name and default of every key that one class writes; its own remarks, such as _name_or_path, left out."""
    written = vars(kind()) if kind is transformers.GenerationConfig else kind().to_dict()
    found = {name: NESTED if _is_config(name, value) else value for name, value in written.items()}
    return {name: found[name] for name in sorted(found) if not name.startswith("_") and name != "transformers_version"}


def listed() -> dict[str, Any]:
    """Return the version, and the keys of every class by its name."""
    return {"transformers": transformers.__version__, "classes": {kind.__name__: keys(kind) for kind in CLASSES}}


def _is_config(name: str, value: object) -> bool:
    return (isinstance(value, dict) and name.endswith("_config")) or isinstance(value, transformers.PretrainedConfig)


def text(content: dict[str, Any]) -> str:
    """Return the list as JSON with a line for each key."""
    classes = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        + "\n  }"
        for name, found in content["classes"].items()
    ]
    head = f' "transformers": {json.dumps(content["transformers"])},\n "classes": {{\n'
    return "{\n" + head + ",\n".join(classes) + "\n }\n}\n"


if __name__ == "__main__":
    sys.stdout.write(text(listed()))
