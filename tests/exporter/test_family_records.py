"""A family as somebody else would add it: a module with its parts and a record, registered, and nothing patched.

Tiny Toy hears by one linear, which is of a precision group of its own, and writes by another, which lies in a second
checkpoint. Its reference is numpy, so that the live comparison runs here too.
"""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import edgekit
from edgekit.bundle import FrontEnd, Grid, TokenProtocol, open_bundle
from edgekit.errors import CheckpointError, RecipeError, RegistryError, UsageError, VerifyError
from edgekit.exporter.blocks import linear
from edgekit.exporter.checks.verify import verify_reference
from edgekit.exporter.dummy import dummy_tokenizer
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families import FAMILIES, Family, Opened, Part, find_family, register, registered
from edgekit.exporter.families.config import value
from edgekit.exporter.families.keys import Keys, unused, used
from edgekit.exporter.families.levels import expert_levels
from edgekit.exporter.reference.base import PrefixReference
from edgekit.exporter.sources.checkpoint import Beside, SideBySide, open_checkpoint, read
from edgekit.exporter.sources.tokenizer import token_id
from edgekit.recipe import GROUPS
from edgekit.runtime.judge.verify import verify
from tests.exporter import speaking
from tests.exporter.parts import engine
from tests.exporter.test_export import SYSTEMS
from tests.reference import checkpoints

BINS, WIDTH, WORDS, CHUNK = 8, 32, 64, 40
END, SOUND = "<|end|>", "<|sound|>"
NOISE = np.random.default_rng(11).uniform(-0.3, 0.3, 20_000).astype(np.float32)
RECIPE = """
name = "toy"
[precision]
ears = "int8"
[limits]
word_error_rate = 1.0
token_mismatch = 0.5
logit_error = 0.2
frame_error = 0.2
[check]
clips = ["librivox-0930.flac"]
"""


class Ears(Part):
    """Encoder and adapter: one linear of every mel frame, bent."""

    components = {"encoder": "ears", "adapter": None}  # noqa: RUF012 - a stranger's, and never changed

    def __init__(self, width):
        self.width = width

    def expected(self):
        return {"ears.weight": (self.width, BINS), "ears.bias": (self.width,)}

    def group(self, name):
        return "ears" if name == "ears.weight" else None

    def build(self, component, g, w):
        if component == "adapter":
            frames = g.input("frames", "float32", ("frames", self.width))
            g.output(g.node("Tanh", frames), "embeds", "float32", ("frames", self.width))
            return
        mel = g.input("mel", "float32", (BINS, "mel_frames"))
        g.input("start", "int64", (1,))
        rows = g.node("Transpose", mel, perm=[1, 0])
        frames = linear(g, w, rows, "ears.weight", "ears", "ears.bias")
        g.output(frames, "frames", "float32", ("frames", self.width))


class Mouth(Part):
    """The backbone: the words nearest to a row, and a table of rows that is not tied to them."""

    components = {"backbone": "head"}  # noqa: RUF012

    def __init__(self, ears):
        self.width = ears.width

    def expected(self):
        return {"words.weight": (WORDS, self.width), "rows.weight": (WORDS, self.width)}

    def group(self, name):
        return {"words.weight": "head", "rows.weight": "rows"}[name]

    def build(self, component, g, w):
        x = g.input("embeds", "float32", ("tokens", self.width))
        g.input("start", "int64", (1,))
        rows = g.input("logit_rows", "int64", ("rows",))
        logits = linear(g, w, g.node("Gather", x, rows), "words.weight", "head")
        g.output(logits, "logits", "float32", ("rows", WORDS))


def protocol(tokenizer):
    stop = token_id(tokenizer, END)
    return TokenProtocol(
        attention="prefix", stop=(stop,), before=SOUND, reply="say", again=END, max_tokens=6, context_tokens=2048
    )


def open_toy(config, generation):
    ears = Ears(value(config, "width", int))
    return Opened(
        parts=(ears, Mouth(ears)),
        embedding="rows.weight",
        max_context=2048,
        marks=(SOUND, END),
        protocol=protocol,
        front_end=lambda _: FrontEnd(mel_bins=BINS),
        grid=lambda _: Grid(
            mode="exact", chunk_frames=CHUNK, max_frames=1000, max_positions=1000, left_frames=0, right_frames=0,
            frames_per_position=1,
        ),
        levels=expert_levels(0),
    )  # fmt: skip


def beside(found, locate):
    second = open_checkpoint(locate(found.config["words_in"]))
    return Beside(SideBySide(found, second), found.config)


class ToyReference(PrefixReference):
    """The same in numpy."""

    def __init__(self, ears, bias, words, rows):
        self.weight, self.bias, self.words, self.rows = ears, bias, words, rows

    @classmethod
    def open(cls, folder):
        first = open_checkpoint(folder)
        second = open_checkpoint(first.config["words_in"])
        ears = read(first, "ears.weight"), read(first, "ears.bias")
        return cls(*ears, read(second, "words.weight"), read(second, "rows.weight"))

    def hear(self, mel, chunk_positions=0):
        return np.tanh(mel.T @ self.weight.T + self.bias)

    def embed(self, tokens):
        return self.rows[tokens]

    def logits(self, embeds, experts_per_token=None):
        return embeds @ self.words.T


def record(recipe):
    """Return the family with a recipe of its own, the path of a file."""
    return Family(
        name="toy",
        model_types=("tiny_toy",),
        open=open_toy,
        recipe=str(recipe),
        keys=Keys("ToyConfig", {"width": used("Ears"), "words_in": used("beside"), "model_type": unused("the family")}),
        beside=beside,
        reference=f"{__name__}:ToyReference",
    )


def write(first, second, words_in=None):
    """Write a checkpoint into two folders; ``words_in``: what its config says of the second, if not its path."""
    draws = np.random.default_rng(5)
    ears = {"ears.weight": (WIDTH, BINS), "ears.bias": (WIDTH,)}
    words = dict.fromkeys(("words.weight", "rows.weight"), (WORDS, WIDTH))
    for folder, shapes in ((first, ears), (second, words)):
        config = {"model_type": "tiny_toy", "width": WIDTH, "words_in": words_in or str(second)}
        (folder / "config.json").write_text(json.dumps(config))
        tensors = {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(tensors, folder / "model.safetensors")
    (first / "tokenizer.json").write_text(dummy_tokenizer(WORDS, {SOUND: WORDS - 2, END: WORDS - 1}))
    return first


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def toy(recipe):
    """Return the record, registered as long as the module's tests run."""
    with registered(record(recipe)) as family:
        yield family


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the folder of a Toy, its words in a second one."""
    return write(tmp_path_factory.mktemp("toy"), tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def bundles(toy, checkpoint, tmp_path_factory):
    """Return the folder of a float and of an INT8 bundle of the Toy."""
    root = tmp_path_factory.mktemp("bundles")
    for precision in ("float32", "int8"):
        export(checkpoint, root / precision, ExportOptions(precision=precision))
    return root


def test_a_family_of_ones_own_is_found_by_its_config_and_exported_with_its_own_recipe_and_group(bundles):
    manifests = [open_bundle(bundles / name).manifest for name in ("float32", "int8")]
    for manifest, kind in zip(manifests, ("float32", "int8"), strict=True):
        assert (manifest.name, manifest.family) == ("toy", "toy")
        assert manifest.precision == {"head": kind, "ears": kind, "rows": kind}
        assert {name: part.precision for name, part in manifest.components.items()} == {
            "encoder": kind, "adapter": "float32", "backbone": kind,
        }  # fmt: skip
        rows = {row.tensor: (row.group, row.dtype) for row in manifest.census if not row.tensor.endswith(".scale")}
        stored = "float32" if kind == "float32" else "uint8"
        assert rows == {
            "ears.weight": ("ears", stored), "ears.bias": ("float", "float32"), "words.weight": ("head", stored),
            "rows.weight": ("rows", stored),
        }  # fmt: skip
    assert manifests[1].verification["twin"] == "whole"
    assert manifests[1].recipe["precision"] == dict.fromkeys((*GROUPS, "ears", "rows"), "int8")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_its_bundle_agrees_with_its_goldens_and_with_its_live_reference(precision, bundles, checkpoint):
    for checks in (verify(bundles / precision).checks, verify_reference(bundles / precision, checkpoint)):
        assert len(checks) >= 3
        assert [check for check in checks if not check.passed] == []


def test_quantizing_its_float_bundle_gives_the_bytes_of_exporting_straight(bundles, tmp_path):
    assert quantize(bundles / "float32", tmp_path / "q").files == open_bundle(bundles / "int8").manifest.files


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_its_bundle_is_loaded_and_streamed_on_like_any_other(precision, bundles):
    model = edgekit.load(bundles / precision, threads=1)
    whole = model.transcribe(NOISE, gate="off").segments
    stream = model.stream(gate="off")
    events = [event for part in np.split(NOISE, 8) for event in stream.push(part)]
    events += list(stream.finish())
    (final,) = [event for event in events if getattr(event, "final", False)]
    assert [found.text for found in whole] == [final.text]
    assert 1 <= len(final.tokens) <= 6


@pytest.mark.parametrize("target", ["desktop-cuda", "desktop-rtx"])
def test_it_is_exported_for_every_dialect(target, toy, checkpoint, tmp_path):
    manifest = export(checkpoint, tmp_path / "b", ExportOptions(target=target))
    assert {row.dtype for row in manifest.census if row.tensor == "ears.weight"} <= {"int8", "uint8"}
    assert manifest.verification["goldens"]["librivox-0930.flac"]["text"]


def test_a_dummy_of_its_config_has_the_census_of_the_real_bundle(bundles, toy, checkpoint, tmp_path):
    made = export(checkpoint / "config.json", tmp_path / "d", ExportOptions(dummy_weights=True))
    assert made.census == open_bundle(bundles / "int8").manifest.census


def test_its_group_is_set_by_name_and_a_group_it_has_not_is_refused_by_name(toy, checkpoint, recipe, tmp_path):
    options = ExportOptions(groups={"ears": "float32"}, accept_loss="a test")
    assert export(checkpoint, tmp_path / "b", options).precision == {"head": "int8", "ears": "float32", "rows": "int8"}
    refused = ExportOptions(groups={"experts": "int8"})
    with pytest.raises(UsageError, match="^--experts: .* has no such weights; it has --head, --precision ears=KIND"):
        export(checkpoint, tmp_path / "c", refused)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(RECIPE.replace('ears = "int8"', 'eyes = "int8"'))
    with pytest.raises(RecipeError, match=r"^precision\.eyes: .* has no such weights; it has head, ears, rows; change"):
        export(checkpoint, tmp_path / "c", ExportOptions(recipe=wrong))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_types": ()}, "family 'new': model_types is empty"),
        ({"recipe": ""}, "family 'new': recipe is empty"),
        ({"keys": ()}, "family 'new': keys is .., must be Keys"),
        ({"name": ""}, "family 'Family': name is empty"),
        ({"open": None}, "family 'new': open is None, must be "),
        ({"files": "assets"}, "family 'new': files is 'assets', must be "),
        ({"model_types": ("a", 3)}, "family 'new': model_types is .'a', 3., must be "),
    ],
)
def test_a_record_that_lacks_something_is_refused_by_name_when_it_is_registered(changes, said, toy):
    with pytest.raises(RegistryError, match=said) as caught:
        register(replace(toy, **({"name": "new"} | changes)))
    assert "\n" not in str(caught.value)
    assert "new" not in FAMILIES.names()


def test_a_record_without_a_field_cannot_be_made_and_another_thing_is_no_record(recipe):
    with pytest.raises(TypeError, match="'open'"):
        Family(name="toy", model_types=("toy",), recipe=str(recipe), keys=Keys("", {}))
    with pytest.raises(RegistryError, match="must be a Family"):
        register(Ears(3))


def test_a_config_that_two_families_recognise_is_refused_and_both_are_named(toy):
    rival = replace(toy, name="rival", recognised_by=lambda config: "words_in" in config)
    with registered(rival):
        assert find_family({"words_in": "."}).name == "rival"
        with pytest.raises(CheckpointError, match="'tiny_toy' is recognised by 2 families, 'toy' and 'rival'"):
            find_family({"model_type": "tiny_toy", "words_in": "."})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "tiny_toi"}, "step_audio_2, tiny_toy, whisper.; the nearest is 'tiny_toy'$"),
        ({"width": 3, "words_in": "."}, "names no model_type, one is needed that .*; the nearest is 'tiny_toy'$"),
        ({"model_type": "zzz", "d_model": 3}, r"'zzz' is not an architecture EdgeKit knows \([\w, ]+\)$"),
    ],
)
def test_a_config_of_no_family_is_told_the_nearest_by_its_name_or_by_its_keys(config, said, toy):
    with pytest.raises(CheckpointError, match=said):
        find_family(config)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("", "doubtful: has no reference in torch; run `edgekit verify` without --reference"),
        (f"{__name__}:Nobody", "doubtful: its reference .*:Nobody is not there; correct what the family says"),
        ("tests.exporter.nowhere:Nobody", "doubtful: its reference tests.exporter.nowhere:Nobody is not there"),
    ],
)
def test_a_reference_that_is_not_there_is_one_line(reference, said, checkpoint, toy, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "c")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "tiny_doubt"}))
    doubtful = replace(toy, name="doubtful", model_types=("tiny_doubt",), reference=reference)
    with registered(doubtful):
        export(folder, tmp_path / "b", ExportOptions(precision="float32"))
        with pytest.raises(VerifyError, match=said):
            verify_reference(tmp_path / "b", folder)


class Greedy(Ears):
    """Ears that expect the words as well."""

    def expected(self):
        return {"words.weight": (WORDS, WIDTH), **super().expected()}


class Namesake(Mouth):
    """A mouth that is called like the ears' component."""

    components = {"encoder": "head"}  # noqa: RUF012


class Boastful(Mouth):
    """A mouth with the precision of experts that it has not."""

    components = {"backbone": "experts"}  # noqa: RUF012


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ((Greedy, Mouth), "^words.weight: is of two parts, Greedy and Mouth; let only one of them have it$"),
        ((Ears, Namesake), "^encoder: is of two parts, Ears and Namesake"),
        ((Ears, Boastful), "^backbone: has the precision of group 'experts', which no tensor is of; let Boastful name"),
    ],
)
def test_parts_that_share_a_tensor_or_a_component_or_name_a_group_of_nothing_are_refused(kinds, said):
    first, second = kinds
    ears = first(WIDTH)
    with pytest.raises(RegistryError, match=said):
        replace(open_toy({"width": WIDTH}, {}), parts=(ears, second(ears)))


def test_a_token_table_that_no_part_has_is_refused():
    with pytest.raises(RegistryError, match=r"^rows\.weight: is to be the token table and no part expects it"):
        replace(open_toy({"width": WIDTH}, {}), parts=(Ears(WIDTH),))


class Recorded(dict):
    """A config, with those inside it, that remembers which of its keys were looked at: (path, key)."""

    def __init__(self, content, path="", read=None):
        self.path, self.read = path, set() if read is None else read
        inside = {
            name: Recorded(one, f"{path}{name}.", self.read) if isinstance(one, dict) else one
            for name, one in content.items()
        }
        super().__init__(inside)

    def __getitem__(self, key):
        self.read.add((self.path, key))
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add((self.path, key))
        return super().get(key, default)

    def __contains__(self, key):
        self.read.add((self.path, key))
        return super().__contains__(key)


def _tables(keys, config, path=""):
    """Yield path and table of a config and of all inside it."""
    yield path, keys
    for name, row in keys.rows.items():
        if row.inside is not None and isinstance(config.get(name), dict):
            inside = row.inside(config) if callable(row.inside) else row.inside
            if inside:
                yield from _tables(inside, config[name], f"{path}{name}.")


def _shipped(name, folder):
    """Write a tiny checkpoint of a family that ships; return its folder."""
    return speaking.write(folder) if name == "step-speaks" else checkpoints.write(folder, name)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Return tiny checkpoints of every family that ships: name -> family, what lies beside it, and it opened."""
    found = {}
    for name in (*SYSTEMS, "step-speaks"):
        first = open_checkpoint(_shipped(name, tmp_path_factory.mktemp(name)))
        family = find_family(first.config)
        whole = family.beside(first, Path)
        found[name] = (family, whole, family.bind(whole.config, first.generation))
    return found


def test_every_family_that_ships_is_looked_at_here(shipped):
    assert {family.name for family, _, _ in shipped.values()} == set(FAMILIES.names()) - {"toy"}


@pytest.mark.parametrize("name", [*SYSTEMS, "step-speaks"])
def test_exactly_one_part_owns_each_expected_tensor_and_component(name, shipped):
    _, whole, opened = shipped[name]
    for tensor in opened.expected():
        assert [part for part in opened.parts if tensor in part.expected()] == [opened.owner(tensor)], tensor
    assert opened.expected().keys() == {tensor for tensor in whole.tensors.names() if not opened.ignored(tensor)}
    components = [component for part in opened.parts for component in part.components]
    assert len(set(components)) == len(components) == len(opened.components)


@pytest.mark.parametrize("name", [*SYSTEMS, "step-speaks"])
def test_a_part_builds_its_components_from_its_own_tensors_alone(name, shipped, tmp_path):
    _, whole, opened = shipped[name]
    for part in opened.parts:
        own = {tensor: read(whole.tensors, tensor) for tensor in part.expected()}
        for component in part.components:
            engine(tmp_path, component, partial(part.build, component), own)


def test_a_family_reads_just_the_keys_of_its_configs_that_it_calls_used(shipped):
    read_by, tables = {}, {}
    for family, whole, _ in shipped.values():
        config = Recorded(whole.config)
        family.open(config, {})
        read_by.setdefault(family.name, set()).update(config.read)
        tables.setdefault(family.name, {}).update(
            {(path, keys.source): keys for path, keys in _tables(family.keys, dict(whole.config))}
        )
    for name, every in tables.items():
        read = read_by[name]
        for path in {path for path, _ in every}:
            here = [keys for (one, _), keys in every.items() if one == path]
            own = {(path, key) for keys in here for key in keys.own()}
            assert own <= read, (name, path, own - read)
            wrong = {key for one, key in read if one == path and not any(_is_used(keys, key) for keys in here)}
            assert wrong == set(), (name, path)


def _is_used(keys, key):
    return key in keys.rows and keys.rows[key].effect != "none"
