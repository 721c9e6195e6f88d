"""A damaged recipe or target is refused, or says what a manifest can hold and an export can use."""

import json

import msgspec
import tomllib

from edgekit.recipe import GROUPS, Recipe, load_recipe, load_target, stored_recipe, target_names
from edgekit.resources import resource
from tests.fuzz.toml import as_toml
from tests.fuzz.worker import must_work


def read_or_refused(case, whole, path, load, use):
    """Damage a TOML text, as a tree or as bytes, and load it."""
    text = case.chosen(whole)
    if case.which % 3:
        path.write_bytes(as_toml(case.tree(json.dumps(tomllib.loads(text)))))
    else:
        path.write_bytes(case.data(text.encode()))
    result = load(path)
    with must_work():
        use(result)


def _without_none(table):
    """Return a table without the fields that have no value: TOML has no word for none."""
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in table.items()
        if value is not None
    }


def use_recipe(recipe):
    """Do with a recipe what an export does."""
    written = msgspec.json.encode(msgspec.to_builtins(recipe))
    assert stored_recipe(json.loads(written), "again") == recipe
    strict = recipe.with_int4()
    for one in (recipe, strict):
        assert all(one.kind(group) in {"int8", "int4", "float32"} for group in (*GROUPS, "another"))
        assert {one.quantize.backbone_block, one.quantize.experts_block, one.quantize.head_block} <= {32, 64, 128}
        assert all(0 <= getattr(one.limits, name) <= 1000 for name in one.limits.__struct_fields__)
    assert all(
        "/" not in name and "\n" not in name and "\u202e" not in name
        for name in (*recipe.check.clips, *recipe.calibrate.clips)
    )
    assert len({level.name for level in recipe.levels}) == len(recipe.levels)
    assert recipe.context_tokens is None or 0 < recipe.context_tokens < 1 << 25
    assert (recipe.grid.chunk_ms or 1) > 0
    assert (recipe.grid.tail_ms or 0) >= 0


def use_target(target):
    """Do with a target what an export and a doctor do."""
    assert msgspec.convert(json.loads(msgspec.json.encode(target)), type(target)) == target
    assert target.backends
    assert target.min_memory_mib >= 0
    assert all(float(one.partition(".")[0]) >= 0 for one in target.compute_capability)


def test_a_damaged_recipe_is_read_or_refused(fuzz, tmp_path):
    whole = [path.read_text() for path in sorted(resource("export").glob("*/recipe.toml"))]
    every = msgspec.to_builtins(Recipe(context_tokens=64, max_repeats=3, max_tokens_per_s=4.0))
    whole.append(as_toml(_without_none(every)).decode())
    path = tmp_path / "recipe.toml"
    fuzz("recipe", lambda case: read_or_refused(case, whole, path, load_recipe, use_recipe), whole=3 * len(whole))


def test_a_damaged_target_is_read_or_refused(fuzz, tmp_path):
    whole = [(resource("runtimes") / name / "target.toml").read_text() for name in target_names()]
    path = tmp_path / "target.toml"
    fuzz(
        "target",
        lambda case: read_or_refused(case, whole, path, lambda path: load_target(str(path)), use_target),
        whole=3 * len(whole),
    )
