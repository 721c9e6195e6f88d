"""Whisper's generation keys, live: the tokens that transformers' generate feeds and writes, and those of a bundle.

One small random checkpoint, whose configs are changed row by row. Both sides hear the same encoder frames; the bundle's
side is the runtime's own answerer.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import msgspec  # noqa: E402

import edgekit  # noqa: E402
from edgekit.errors import CheckpointError  # noqa: E402
from edgekit.exporter.export import ExportOptions, export  # noqa: E402
from edgekit.exporter.families.whisper import FAMILY  # noqa: E402
from edgekit.exporter.sources.tokenizer import marks_of  # noqa: E402
from edgekit.runtime.answer.prompt import cross_prompt  # noqa: E402
from edgekit.runtime.engine import Recorded  # noqa: E402
from edgekit.runtime.judge import probe  # noqa: E402
from tests.reference import checkpoints  # noqa: E402

pytestmark = pytest.mark.reference

QUICK = Path(__file__).parents[1] / "exporter" / "quick.toml"
NAME = "whisper-dense-128"
MOST = 12  # tokens of an answer
SOUND = np.random.default_rng(3).uniform(-0.3, 0.3, 20_000).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the folder of the checkpoint as it is before a row changes it."""
    return checkpoints.write(tmp_path_factory.mktemp("checkpoint"), NAME)


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    """Return the loaded bundle of the checkpoint."""
    bundle = tmp_path_factory.mktemp("bundle") / "float"
    export(checkpoint, bundle, ExportOptions(recipe=QUICK, precision="float32"))
    return edgekit.load(bundle)


@pytest.fixture(scope="module")
def heard(model):
    """Return what the bundle hears of the sound."""
    return probe.hear(model, SOUND)


def _read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def _named(changes, ids):
    """Return changes with names of tokens, ``@fr``, replaced by their ids."""
    if isinstance(changes, dict):
        return {key: _named(one, ids) for key, one in changes.items()}
    if isinstance(changes, list):
        return [_named(one, ids) for one in changes]
    return ids[changes[1:]] if isinstance(changes, str) and changes.startswith("@") else changes


class Case:
    """The checkpoint with changes to its configs, before both sides; ``words``: names of tokens for changes to use."""

    def __init__(self, checkpoint, model, heard, words):
        self.checkpoint, self.model, self.heard, self.words = checkpoint, model, heard, words
        self.config, self.generation = _read(checkpoint, "config"), _read(checkpoint, "generation_config")

    def change(self, generation, config):
        """Change both configs; generation None: there is none, and "gone" takes a key out."""
        self.config |= _named(config, self.words)
        if generation is None:
            self.config["max_new_tokens"], self.generation = MOST, {}
            return
        changed = self.generation | {"max_new_tokens": MOST} | _named(generation, self.words)
        self.generation = {key: one for key, one in changed.items() if one != "gone"}

    def protocol(self):
        """Return the token protocol that an export makes of it."""
        tokenizer = (self.checkpoint / "tokenizer.json").read_text()
        return FAMILY.bind(self.config, self.generation).protocol(tokenizer)

    def theirs(self, folder):
        """Return prompt and answer, all tokens, as transformers' generate gives them."""
        shutil.copytree(self.checkpoint, folder)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "generation_config.json").unlink()
        if self.generation:
            (folder / "generation_config.json").write_text(json.dumps(self.generation))
        whisper = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
        frames = torch.from_numpy(self.heard.frames)[None]
        # to try again it wants features, and without them a language
        features = torch.zeros(1, 128, 192) if "compression_ratio_threshold" in self.generation else None
        with torch.inference_mode():
            made = whisper.generate(
                features,
                encoder_outputs=transformers.modeling_outputs.BaseModelOutput(frames),
                return_dict_in_generate=True,
                force_unique_generate_call=True,
            )
        return made.sequences[0].tolist()

    def ours(self):
        """Return prompt and answer, all tokens, as the bundle's answerer feeds and writes them."""
        protocol = msgspec.structs.replace(self.protocol(), max_repeats=None)  # our own guard; random weights loop
        manifest = msgspec.structs.replace(self.model.manifest, protocol=protocol)
        backbone = Recorded(self.model.engines["backbone"])
        bundle, engines = replace(self.model.bundle, manifest=manifest), self.model.engines | {"backbone": backbone}
        told = probe.answer(replace(self.model, bundle=bundle, engines=engines), self.heard)
        table = self.model.table.rows(range(self.config["vocab_size"]))
        fed = [row for inputs, _ in backbone.calls for row in inputs["embeds"]]
        read = [int(np.abs(table - row).sum(axis=1).argmin()) for row in fed]
        prompt = cross_prompt(protocol)
        size = len(prompt.start) + bool(prompt.languages) + len(prompt.rest)
        assert read[size:] == list(told.tokens)[: len(read) - size]  # the last is not read back where nothing follows
        return read[:size] + list(told.tokens)


@pytest.fixture(scope="module")
def words(checkpoint, model, heard):
    """Return the special tokens by their names without brackets, and those of the answer by their places."""
    marks = marks_of((checkpoint / "tokenizer.json").read_text())
    found = {name.strip("<|>"): token for name, token in marks.items()}
    plain = Case(checkpoint, model, heard, found)
    plain.change({}, {})
    answer = plain.ours()[-MOST:]
    return found | {"1st": answer[0], "4th": answer[3]}


@pytest.fixture
def case(checkpoint, model, heard, words):
    """Return the checkpoint for a test to change."""
    return Case(checkpoint, model, heard, words)


SAME = {
    "as published": ({}, {}),
    "language by code": ({"language": "fr"}, {}),
    "language by name": ({"language": "French"}, {}),
    "language by token": ({"language": "<|fr|>"}, {}),
    "language and task": ({"language": "de", "task": "translate"}, {}),
    "forced language and task": ({"forced_decoder_ids": [[1, "@fr"], [2, "@translate"], [3, "@notimestamps"]]}, {}),
    "forced task, language open": ({"forced_decoder_ids": [[1, None], [2, "@translate"]]}, {}),
    "forced task without a language": ({"forced_decoder_ids": [[1, "@transcribe"], [2, "@notimestamps"]]}, {}),
    "forced language without a task": ({"forced_decoder_ids": [[1, "@fr"], [2, "@notimestamps"]]}, {}),
    "nothing forced but no times": ({"forced_decoder_ids": [[1, "@notimestamps"]]}, {}),
    "forced by config.json": ({}, {"forced_decoder_ids": [[1, "@fr"], [2, "@translate"], [3, "@notimestamps"]]}),
    "generation_config.json forces first": (
        {"forced_decoder_ids": [[1, "@de"], [2, "@transcribe"]]},
        {"forced_decoder_ids": [[1, "@fr"], [2, "@translate"]]},
    ),
    "language beats what is forced": (
        {"language": "zh", "forced_decoder_ids": [[1, "@fr"], [2, "@translate"], [3, "@notimestamps"]]}, {}
    ),
    "another start": ({"decoder_start_token_id": 11}, {}),
    "several ends": ({"eos_token_id": ["@endoftext", "@4th"]}, {}),
    "one end of another kind": ({"eos_token_id": "@4th"}, {"eos_token_id": "@endoftext"}),
    "forbidden words": ({"suppress_tokens": ["@1st", "@4th", -1]}, {"suppress_tokens": [1]}),
    "forbidden beginnings": ({"begin_suppress_tokens": ["@1st", -1]}, {}),
    "nothing forbidden": ({"suppress_tokens": None, "begin_suppress_tokens": []}, {"suppress_tokens": ["@1st"]}),
    "most tokens of all": ({"max_new_tokens": None, "max_length": 9}, {}),
    "english only": ({"is_multilingual": False, "lang_to_id": "gone", "task_to_id": "gone",
                      "forced_decoder_ids": [[1, "@notimestamps"]]}, {}),
    "of long sound": ({"condition_on_prev_tokens": True, "prev_sot_token_id": 9}, {}),
    "of times": ({"max_initial_timestamp_index": 3, "alignment_heads": [[0, 0]]}, {}),
    "another try": ({"compression_ratio_threshold": 0.1, "language": "fr"}, {}),
    "training": ({}, {"apply_spec_augment": True, "mask_time_prob": 0.9, "dropout": 0.5, "encoder_layerdrop": 0.9}),
    "other heads": ({}, {"use_weighted_layer_sum": True, "classifier_proj_size": 8}),
}  # fmt: skip


@pytest.mark.parametrize("row", SAME)
def test_prompt_and_greedy_tokens_are_those_of_generate(row, case, tmp_path):
    case.change(*SAME[row])
    if not {"forced_decoder_ids", "language"} & {*case.generation, *case.config}:
        case.generation["forced_decoder_ids"] = [[1, None], [2, case.words["transcribe"]]]  # as published
    theirs, ours = case.theirs(tmp_path / "c"), case.ours()
    ends = case.generation["eos_token_id"]
    assert ours == theirs[: len(ours)]
    assert theirs[len(ours) :] == [] or theirs[-1] in (ends if isinstance(ends, list) else [ends])


@pytest.mark.parametrize(
    "config",
    [
        {"forced_decoder_ids": [[1, "@fr"], [2, "@translate"], [3, "@notimestamps"]]},
        {"forced_decoder_ids": [[1, "@notimestamps"]], "suppress_tokens": ["@1st"], "begin_suppress_tokens": ["@4th"]},
    ],
)
def test_without_a_generation_config_it_is_so_too(config, case, tmp_path):
    case.change(None, config)
    assert case.ours() == case.theirs(tmp_path / "c")


@pytest.mark.parametrize("forced", [None, [[1, "@fr"]]])
def test_the_task_is_always_told_where_generate_leaves_it_out(forced, case, tmp_path):
    case.change({"forced_decoder_ids": forced}, {})
    theirs, task = case.theirs(tmp_path / "c"), case.words["transcribe"]
    assert case.ours()[:4] == [*theirs[:2], task, theirs[2]]
    assert task not in theirs[:3]


@pytest.mark.parametrize(("key", "given"), [("return_timestamps", True), ("num_beams", 3)])
def test_what_is_refused_changes_what_generate_writes(key, given, case, tmp_path):
    case.change({"forced_decoder_ids": [[1, None], [2, "@transcribe"]]}, {})
    ours = case.ours()
    case.change({key: given}, {})
    with pytest.raises(CheckpointError, match=f"^generation_config.json: {key} is {given}, "):
        case.protocol()
    assert case.theirs(tmp_path / "c") != ours


def test_generate_draws_where_the_generation_config_says_so(case, tmp_path):
    case.change({"do_sample": True, "temperature": 9.0, "language": "fr"}, {})
    sampling = case.protocol().sampling
    assert (sampling.temperature, sampling.top_k) == (9.0, 50)
    torch.manual_seed(1)
    drawn = case.theirs(tmp_path / "c")
    del case.generation["do_sample"]
    assert drawn != case.ours()


@pytest.mark.parametrize("key", ["logprob_threshold", "no_speech_threshold"])
def test_a_threshold_that_is_refused_stops_generate_too(key, case, tmp_path):
    case.change({key: -0.5}, {})
    with pytest.raises(CheckpointError, match=f"^generation_config.json: {key} is -0.5, "):
        case.protocol()
    with pytest.raises((AttributeError, KeyError, TypeError, UnboundLocalError)):
        case.theirs(tmp_path / "c")


def test_what_the_tokens_names_say_is_what_the_generation_config_says(case):
    said = case.protocol()
    for key in ("lang_to_id", "task_to_id", "no_timestamps_token_id"):
        del case.generation[key]
    assert case.protocol() == said
    assert set(said.languages) == {"en", "zh", "de", "fr"}
