"""Damaged settings of a checkpoint are refused before anything large is made of them, or fit its weights."""

import math

import msgspec

from edgekit.bundle import TokenProtocol
from edgekit.errors import RecipeError
from edgekit.exporter.dummy import open_dummy
from edgekit.exporter.families.config import MOST_TENSORS
from edgekit.exporter.options import find_recipe
from edgekit.exporter.source import checkpoint_source
from edgekit.recipe import GridSettings
from tests.fuzz.worker import must_work
from tests.reference import checkpoints

NAMES = ("whisper-dense-128", "whisper-experts", "step-dense", "step-moe-4", "omni")
FILES = ("config.json", "config.json", "generation_config.json")


def use(source):
    """Do with a checkpoint what an export does before it writes."""
    protocol = source.opened.protocol(source.tokenizer)
    try:
        find_recipe(None, source.config)
        grid, front_end = source.opened.grid(GridSettings()), source.opened.front_end(GridSettings())
    except RecipeError:
        return  # a chunk that the config names is refused where a recipe's is
    with must_work():
        expected = source.opened.expected()
        assert len(expected) <= MOST_TENSORS
        vocabulary = expected[source.opened.embedding][0]
        assert all(0 <= token < vocabulary for token in protocol.ids())
        assert all(math.prod(shape) > 0 for shape in expected.values())
        for made in (protocol, grid, front_end):
            assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made
        assert isinstance(protocol, TokenProtocol)
        assert grid.chunk_frames > 0
        assert grid.positions(grid.chunk_frames) > 0


def test_damaged_settings_beside_weights_are_refused_or_fit_them(fuzz, tmp_path):
    whole = [checkpoints.write(tmp_path / name, name) for name in NAMES]
    texts = {path: path.read_bytes() for folder in whole for path in map(folder.joinpath, set(FILES)) if path.exists()}

    def attempt(case):
        folder = case.chosen(whole)
        path = folder / FILES[case.which // len(whole) % len(FILES)]
        path = path if path in texts else folder / FILES[0]
        for name in set(FILES):
            if folder / name in texts:
                (folder / name).write_bytes(texts[folder / name])
        path.write_bytes(case.document(texts[path]))
        use(checkpoint_source(folder))

    fuzz("config.json beside weights", attempt, whole=len(NAMES))


def test_a_damaged_config_alone_is_refused_or_says_sizes(fuzz, tmp_path):
    whole = [(checkpoints.write(tmp_path / name, name) / "config.json").read_bytes() for name in NAMES]
    path = tmp_path / "config.json"

    def attempt(case):
        path.write_bytes(case.document(case.chosen(whole)))
        use(open_dummy(path))

    fuzz("config.json alone", attempt, whole=len(NAMES), memory=1 << 30)
