"""The configs under profiles/data/configs make the systems that they are named after, number by number."""

import json
import math
from pathlib import Path

import pytest

from edgekit.exporter.families import find_family

CONFIGS = Path(__file__).parents[2] / "profiles/data/configs"
NUMBERS = {
    "step-audio-2-mini": 8_315_179_264,
    "step-audio-2-mini-speaks": 8_491_788_173,
    "step-audio-r1": 33_487_033_600,
    "qwen3-omni-30b-a3b": 34_721_187_137,
    "qwen3-omni-30b-a3b-thinker": 31_180_574_080,
}


def test_every_config_is_counted_here_and_told_in_the_readme():
    assert {path.stem for path in CONFIGS.glob("*.json")} == NUMBERS.keys()
    text = (CONFIGS / "README.md").read_text()
    for name, count in NUMBERS.items():
        assert f"| `{name}.json` | {count:,} |" in text


@pytest.mark.parametrize("name", NUMBERS)
def test_a_config_has_as_many_numbers_as_the_published_system(name):
    config = json.loads((CONFIGS / f"{name}.json").read_bytes())
    family = find_family(config)
    expected = family.bind(config, family.generation(config)).expected()
    assert sum(math.prod(shape) for shape in expected.values()) == NUMBERS[name]
