"""Sabotages of a Whisper-shaped bundle, each with every hash of its files made right again.

No format hides such a change from whoever wrote it: what `edgekit verify` must see is that this is not what was judged.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from edgekit.bundle import Manifest, decode
from edgekit.exporter.pack import list_files, write_manifest
from edgekit.exporter.written import WrittenWeight, written_weights

LAYER = "model.decoder.layers.1"
ENCODER = "model.encoder.layers.1"
TABLE = "model.decoder.embed_tokens.weight"
Change = Callable[[Path, Manifest], "Manifest | None"]
SABOTAGES: dict[str, Change] = {}
"""What was done, to a function that changes files in a folder, and returns the manifest where it changes that."""


def spoil(bundle: Path, into: Path, sabotage: str) -> Path:
    """Copy a bundle into a new folder with a sabotage of it; the manifest lists the files as they are then."""
    shutil.copytree(bundle, into)
    manifest = decode((into / "manifest.json").read_bytes())
    manifest = SABOTAGES[sabotage](into, manifest) or manifest
    write_manifest(into, msgspec.structs.replace(manifest, files=list_files(into)))
    return into


def _sabotage(what: str) -> Callable[[Change], Change]:
    def enter(change: Change) -> Change:
        SABOTAGES[what] = change
        return change

    return enter


def _weights(folder: Path, manifest: Manifest) -> dict[str, WrittenWeight]:
    return written_weights(folder, manifest.components, {})


def _rewrite(weight: WrittenWeight, change: Callable[[Any], Any]) -> None:
    """Write one stored tensor anew; a small one stands in the graph itself."""
    if weight.offset is None:
        model = onnx.load(str(weight.file), load_external_data=False)
        (proto,) = (proto for proto in model.graph.initializer if proto.name == weight.name)
        proto.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(proto).copy()), weight.name))
        weight.file.write_bytes(model.SerializeToString())
        return
    stored = np.memmap(weight.file, weight.dtype, "r+", weight.offset, weight.shape)
    changed = change(np.array(stored))
    assert not np.array_equal(changed, stored)
    stored[...] = changed
    stored.flush()


def _swapped(one: int, other: int) -> Callable[[Any], Any]:
    def swap(rows: Any) -> Any:
        rows[[one, other]] = rows[[other, one]]
        return rows

    return swap


def _swap_words(folder: Path, manifest: Manifest, *, said: bool) -> None:
    """Swap two words, the first of them one that an answer to a check clip holds, or neither."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    words = {token: word for word, token in vocabulary.items()}
    answers = {token for entry in manifest.verification["goldens"].values() for token in entry["tokens"]}
    heard, unheard = ([token for token in words if (token in answers) is which] for which in (True, False))
    one, other = heard[0] if said else unheard[-2], unheard[-1]
    vocabulary[words[one]], vocabulary[words[other]] = other, one
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


@_sabotage("a word that a check clip says and another are swapped in the tokenizer")
def _words(folder: Path, manifest: Manifest) -> None:
    _swap_words(folder, manifest, said=True)


@_sabotage("two words that no check clip says are swapped in the tokenizer")
def _other_words(folder: Path, manifest: Manifest) -> None:
    _swap_words(folder, manifest, said=False)


@_sabotage("two experts are swapped")
def _experts(folder: Path, manifest: Manifest) -> None:
    for name, weight in _weights(folder, manifest).items():
        if name.startswith(f"{LAYER}.fc") and name != f"{LAYER}.fc2.bias":
            _rewrite(weight, _swapped(0, 1))


def _scale(name: str) -> Change:
    def change(folder: Path, manifest: Manifest) -> None:
        _rewrite(_weights(folder, manifest)[name], lambda scales: scales * np.float32(1.05))

    return change


SABOTAGES["the scales of a bank of experts are 5 % off"] = _scale(f"{LAYER}.fc1.weight.scale")
SABOTAGES["the scales of a linear of the encoder are 5 % off"] = _scale(f"{ENCODER}.fc1.weight.scale")
SABOTAGES["the scales of a linear of the backbone are 5 % off"] = _scale(f"{LAYER}.self_attn.out_proj.weight.scale")


@_sabotage("one code of a weight is another")
def _code(folder: Path, manifest: Manifest) -> None:
    def change(codes: Any) -> Any:
        codes.reshape(-1)[1000] ^= 1
        return codes

    _rewrite(_weights(folder, manifest)[f"{LAYER}.self_attn.q_proj.weight"], change)


@_sabotage("a row of the encoder's positions is another's")
def _position(folder: Path, manifest: Manifest) -> None:
    _rewrite(_weights(folder, manifest)["model.encoder.embed_positions.weight"], _swapped(3, 40))


@_sabotage("two rows of the token table are swapped")
def _rows(folder: Path, manifest: Manifest) -> None:
    weights = _weights(folder, manifest)
    for name in (TABLE, f"{TABLE}.scale"):
        _rewrite(weights[name], _swapped(*_two_tokens(manifest)))


def _two_tokens(manifest: Manifest) -> tuple[int, int]:
    """Return two tokens, of which the first clip's answer says the first."""
    entry = next(iter(manifest.verification["goldens"].values()))
    said = entry["tokens"][0]
    return said, said - 1 if said else said + 1


@_sabotage("a weight of the encoder has the other sign")
def _sign(folder: Path, manifest: Manifest) -> None:
    _rewrite(_weights(folder, manifest)["model.encoder.conv2.weight"], np.negative)


@_sabotage("a norm's epsilon is another in the graph")
def _epsilon(folder: Path, manifest: Manifest) -> None:
    path = folder / manifest.components["backbone"].graph
    model = onnx.load(str(path), load_external_data=False)
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    (epsilon,) = (attribute for attribute in norm.attribute if attribute.name == "epsilon")
    epsilon.f = 1e-3
    path.write_bytes(model.SerializeToString())


def _protocol(**changes: Callable[[Any], Any]) -> Change:
    def change(folder: Path, manifest: Manifest) -> Manifest:
        fields = {name: made(getattr(manifest.protocol, name)) for name, made in changes.items()}
        return msgspec.structs.replace(manifest, protocol=msgspec.structs.replace(manifest.protocol, **fields))

    return change


def _exchanged(languages: dict[str, int]) -> dict[str, int]:
    one, other = list(languages)[:2]
    return languages | {one: languages[other], other: languages[one]}


SABOTAGES["tokens that are never chosen may be chosen"] = _protocol(suppress=lambda _: (), begin_suppress=lambda _: ())
SABOTAGES["an answer starts from another token"] = _protocol(start=lambda start: (start[0] - 1,))
SABOTAGES["an answer ends at another token"] = _protocol(stop=lambda stop: (stop[0] - 1,))


@_sabotage("two languages are swapped")
def _languages(folder: Path, manifest: Manifest) -> Manifest:
    if manifest.protocol.languages:
        changed = _protocol(languages=_exchanged)(folder, manifest)
        assert changed is not None
        return changed
    return msgspec.structs.replace(manifest, protocol=msgspec.structs.replace(manifest.protocol, languages={"en": 5}))


@_sabotage("the cheapest level takes more experts than it says")
def _levels(folder: Path, manifest: Manifest) -> Manifest:
    levels = list(manifest.levels)
    first = 1 if levels[0].name == "skip" else 0
    levels[first] = msgspec.structs.replace(levels[first], experts_per_token=3)
    return msgspec.structs.replace(manifest, levels=tuple(levels))


@_sabotage("the features have another floor")
def _floor(folder: Path, manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, front_end=msgspec.structs.replace(manifest.front_end, dynamic_range=6.0))


@_sabotage("the census says of each weight that another op consumes it")
def _census(folder: Path, manifest: Manifest) -> Manifest:
    rows = tuple(
        msgspec.structs.replace(row, op="MatMul" if row.op == "DequantizeLinear" else "DequantizeLinear")
        for row in manifest.census
    )
    return msgspec.structs.replace(manifest, census=rows)


def _results(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Write the results of the export anew; the record among them stays as it was."""

    def changed(folder: Path, manifest: Manifest) -> Manifest:
        found = manifest.verification | change(manifest.verification)
        found = {name: value for name, value in found.items() if value is not None}
        assert found != manifest.verification
        return msgspec.structs.replace(manifest, verification=found)

    return changed


def _goldens_without(*names: str) -> Change:
    def change(found: dict[str, Any]) -> dict[str, Any]:
        entries = found["goldens"].items()
        kept = {clip: {name: entry[name] for name in entry if name not in names} for clip, entry in entries}
        return {"goldens": kept}

    return _results(change)


SABOTAGES |= {
    "nothing was lost, say the results": _results(lambda found: {"measured": dict.fromkeys(found["measured"], 0.0)}),
    "no level loses words, say the results": _results(lambda found: {"levels": dict.fromkeys(found["levels"], 0)}),
    "arrays may be far from the twin's": _results(
        lambda found: {"compared": found["compared"] | {"distance": dict.fromkeys(found["compared"]["distance"], 9.0)}}
    ),
    "tokens of the goldens are gone": _goldens_without("tokens", "then"),
    "the answers at the cheapest level are gone": _goldens_without("cheapest"),
    "a waiver is gone, or another's is there": _results(
        lambda found: {"waiver": None if "waiver" in found else {"reason": "none", "for": "nothing"}}
    ),
}
