"""What a Whisper is fed before its answer, whichever of its files says so: published ids, and the files in every state.

Published ids are those of OpenAI's tokenizer (whisper/tokenizer.py) and of the generation_config.json of each size.
"""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from edgekit.bundle import Sampling
from edgekit.errors import CheckpointError, RecipeError
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families.whisper import FAMILY
from edgekit.exporter.families.whisper import TOKENS as TABLE
from edgekit.exporter.families.whisper_keys import WHISPER, WHISPER_GENERATION
from edgekit.exporter.families.whisper_tokens import LANGUAGES, MAX_REPEATS
from edgekit.exporter.source import checkpoint_source
from edgekit.recipe import load_recipe
from tests.reference import checkpoints

CODES = list(dict.fromkeys(LANGUAGES.values()))  # in the order of the published tokens, Cantonese last
REST = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
END, START, EN, FR, TRANSLATE, TRANSCRIBE, SILENT = 50257, 50258, 50259, 50265, 50358, 50359, 50363
PUBLISHED = {
    "is_multilingual": True,
    "lang_to_id": {f"<|{code}|>": EN + index for index, code in enumerate(CODES[:-1])},
    "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    "no_timestamps_token_id": SILENT,
    "decoder_start_token_id": START,
    "eos_token_id": END,
    "suppress_tokens": [1, 2, 7],
    "begin_suppress_tokens": [220, END],
    "forced_decoder_ids": [[1, None], [2, TRANSCRIBE]],
    "max_length": 448,
}


def tokenizer(end=END, codes=CODES[:-1], without=(), stamps=0):
    """Return the text of a tokenizer.json with Whisper's special tokens from ``end`` on."""
    marks = ["endoftext", "startoftranscript", *codes, *REST, *(f"{index / 50:.2f}" for index in range(stamps))]
    added = [{"id": end + at, "content": f"<|{mark}|>"} for at, mark in enumerate(marks) if mark not in without]
    return json.dumps({"added_tokens": added, "model": {"type": "BPE", "vocab": {"the": 5}}})


def protocol(generation=None, text=None, **config):
    """Return the protocol of base's config with changes: None takes a key out, "null" makes it null."""
    whole = {
        "model_type": "whisper",
        "vocab_size": 51865,
        "decoder_start_token_id": START,
        "eos_token_id": END,
    } | config
    whole = {key: None if one == "null" else one for key, one in whole.items() if one is not None}
    return FAMILY.bind(whole, generation or {}).protocol(text or tokenizer())


@pytest.mark.parametrize(
    ("vocabulary", "end", "codes", "expected"),
    [
        (51864, 50256, CODES[:-1], (50257, {}, 50362)),
        (51865, 50257, CODES[:-1], (50258, {"transcribe": 50359, "translate": 50358}, 50363)),
        (51866, 50257, CODES, (50258, {"transcribe": 50360, "translate": 50359}, 50364)),
        (51872, 50257, CODES[:-1], (50258, {"transcribe": 50359, "translate": 50358}, 50363)),  # padded by people
        (51872, 50256, CODES[:-1], (50257, {}, 50362)),  # English only, extended by people
    ],
)
def test_without_a_generation_config_the_published_ids_come_from_the_tokens_names(vocabulary, end, codes, expected):
    start, tasks, silent = expected
    said = protocol(text=tokenizer(end, codes), vocab_size=vocabulary, eos_token_id=end, decoder_start_token_id=start)
    assert (said.start, said.tasks, said.start_tail, said.stop) == ((start,), tasks, (silent,), (end,))
    assert said.languages == ({code: start + 1 + index for index, code in enumerate(codes)} if tasks else {})
    assert (said.language, said.task) == (None, "transcribe" if tasks else None)


def test_with_and_without_the_published_generation_config_the_prompt_is_the_same():
    config = {key: PUBLISHED[key] for key in ("suppress_tokens", "begin_suppress_tokens", "max_length")}
    assert protocol(PUBLISHED) == protocol(**config)


def test_configs_that_say_no_ids_take_those_of_the_tokenizer():
    assert protocol(decoder_start_token_id=None, eos_token_id=None, begin_suppress_tokens="null") == protocol(
        begin_suppress_tokens="null"
    )
    assert protocol().begin_suppress == (220, 50256)  # the class's own


def test_of_the_class_s_own_tokens_those_that_the_vocabulary_has_are_kept():
    text = tokenizer(end=500, codes=CODES[:5])
    config = {"vocab_size": 1000, "eos_token_id": 500, "decoder_start_token_id": 501, "forced_decoder_ids": [[1, None]]}
    assert protocol(text=text, **config).begin_suppress == (220,)


def test_the_language_tokens_that_people_added_count_too():
    content = json.loads(tokenizer())
    content["added_tokens"].append({"id": 51865, "content": "<|xyz|>"})
    said = protocol(text=json.dumps(content), vocab_size=51866)
    assert said.languages["xyz"] == 51865
    assert len(said.languages) == 100


@pytest.mark.parametrize(
    ("without", "missing"),
    [("notimestamps", r"<\|notimestamps\|>"), ("transcribe", r"<\|transcribe\|>")],
)
def test_a_token_that_no_file_names_is_refused_with_the_file(without, missing):
    with pytest.raises(CheckpointError, match=rf"^tokenizer.json: no token {missing}, and no generation_config.json"):
        protocol(text=tokenizer(without=(without,)))


def test_a_trimmed_vocabulary_must_say_whether_it_is_english_only():
    config = {
        "vocab_size": 900,
        "eos_token_id": 500,
        "decoder_start_token_id": 501,
        "text": tokenizer(500, ["en", "de"]),
    }
    with pytest.raises(CheckpointError, match="^generation_config.json: not there .* 900 tokens writes English only"):
        protocol(**config)
    assert protocol({"is_multilingual": False}, **config).languages == {}
    assert protocol({"is_multilingual": True}, **config).languages == {"en": 502, "de": 503}
    assert protocol(forced_decoder_ids=[[1, 503], [2, 505]], **config).language == "de"
    assert protocol(forced_decoder_ids=[[1, 509]], **config).languages == {}
    assert protocol(**config | {"text": tokenizer(500, [])}).languages == {}


@pytest.mark.parametrize(
    ("text", "generation", "message"),
    [
        (tokenizer(50256), {}, r"config.json: decoder_start_token_id is 50258, tokenizer.json has .* at 50257"),
        (tokenizer(codes=CODES), PUBLISHED, r"_token_id is 50363, tokenizer.json has <\|notimestamps\|> at 50364"),
        (tokenizer(codes=CODES, stamps=1501), {}, r"tokenizer.json: <\|30.00\|> has id 51865, the weights have 51865"),
        (tokenizer(), PUBLISHED | {"lang_to_id": {"<|fr|>": EN}}, r"lang_to_id.<\|fr\|> is 50259, .* at 50265"),
        (tokenizer(), PUBLISHED | {"task_to_id": {"transcribe": 5}}, r"task_to_id.transcribe is 5, .* at 50359"),
    ],
)
def test_a_tokenizer_of_other_weights_is_refused(text, generation, message):
    with pytest.raises(CheckpointError, match=message):
        protocol(generation, text=text)


@pytest.mark.parametrize("form", ["fr", "FR", "french", "French", "<|fr|>", ["fr"]])
def test_a_language_that_the_checkpoint_fixes_is_the_default(form):
    said = protocol(PUBLISHED | {"language": form})
    assert (said.language, said.task) == ("fr", "transcribe")
    assert len(said.languages) == 99


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (None, "transcribe")),
        ({"task": "translate"}, (None, "translate")),
        ({"language": "haitian creole", "task": "translate"}, ("ht", "translate")),
        ({"language": "castilian"}, ("es", "transcribe")),
        ({"forced_decoder_ids": None}, (None, "transcribe")),
        ({"forced_decoder_ids": []}, (None, "transcribe")),
        ({"forced_decoder_ids": [[1, FR], [2, TRANSLATE], [3, SILENT]]}, ("fr", "translate")),
        ({"forced_decoder_ids": [[1, FR]]}, ("fr", "transcribe")),
        ({"forced_decoder_ids": [[2, TRANSLATE], [3, SILENT]]}, (None, "translate")),
        ({"forced_decoder_ids": [[1, FR], [2, TRANSLATE]], "language": "de"}, ("de", "transcribe")),
        ({"forced_decoder_ids": [[1, FR], [2, TRANSLATE]], "task": "transcribe"}, (None, "transcribe")),
    ],
)
def test_the_defaults_that_a_generation_config_fixes(changes, expected):
    said = protocol(PUBLISHED | changes)
    assert (said.language, said.task) == expected
    assert len(said.languages) == 99
    assert len(said.tasks) == 2


def test_config_json_fixes_them_too_where_generation_config_does_not():
    forced = [[1, FR], [2, TRANSLATE], [3, SILENT]]
    for generation in ({}, PUBLISHED | {"forced_decoder_ids": None}):
        said = protocol(generation, forced_decoder_ids=forced)
        assert (said.language, said.task) == ("fr", "translate")
    assert protocol(PUBLISHED, forced_decoder_ids=forced).language is None


@pytest.mark.parametrize(
    ("forced", "languages", "tasks"),
    [([[1, TRANSCRIBE], [2, SILENT]], 0, 2), ([[1, SILENT]], 0, 0), ([[1, FR], [2, SILENT]], 99, 0)],
)
def test_a_checkpoint_trained_without_language_or_task_is_fed_none(forced, languages, tasks):
    said = protocol(PUBLISHED | {"forced_decoder_ids": forced})
    assert (len(said.languages), len(said.tasks)) == (languages, tasks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "klingon"}, "language is klingon, must be one that its tokens name: en, zh"),
        ({"language": ["fr", "de"]}, "language is .*, must be one"),
        ({"language": 7}, "language is 7, must be one"),
        ({"task": "summarise"}, "task is summarise, must be one of transcribe, translate"),
        ({"forced_decoder_ids": [[1, EN], [3, SILENT]]}, "forced_decoder_ids is .*, must be .* without gaps"),
        ({"forced_decoder_ids": [[1, EN], [2, 17]]}, "forced_decoder_ids is .17., must be a language, a task"),
        ({"forced_decoder_ids": 5}, "forced_decoder_ids is 5, must be"),
        ({"suppress_tokens": [END]}, "suppress_tokens forbids 50257, which ends an answer"),
        ({"decoder_start_token_id": 51865}, "decoder_start_token_id is 51865, must be a token below 51865"),
        ({"eos_token_id": ["x"]}, "eos_token_id is .*, must be a token"),
        ({"lang_to_id": [1]}, "lang_to_id is .1., must be names with token ids"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(CheckpointError, match=f"^generation_config.json: {message}") as caught:
        protocol(PUBLISHED | changes)
    assert "\n" not in str(caught.value)


def test_an_english_whisper_has_no_language_to_choose():
    english = {"text": tokenizer(50256), "vocab_size": 51864, "eos_token_id": 50256, "decoder_start_token_id": 50257}
    assert protocol({"is_multilingual": False}, forced_decoder_ids=[[1, 50362]], **english).languages == {}
    with pytest.raises(CheckpointError, match="language is fr, must be left out"):
        protocol({"is_multilingual": False, "language": "fr"}, **english)


def test_generation_config_wins_over_config_json():
    said = protocol(
        {
            "decoder_start_token_id": 11,
            "eos_token_id": [12, END],
            "is_multilingual": False,
            "no_timestamps_token_id": SILENT,
        },
        suppress_tokens=[3],
    )
    assert (said.start, said.stop, said.suppress) == ((11,), (12, END), ())


def test_tokens_that_are_none_forbid_nothing():
    said = protocol(PUBLISHED | {"suppress_tokens": [-1, 3, 51865], "begin_suppress_tokens": [-1]})
    assert (said.suppress, said.begin_suppress) == ((3,), ())


def test_one_of_several_ends_may_be_forbidden():
    assert protocol(PUBLISHED | {"eos_token_id": [END, 9], "suppress_tokens": [END]}).stop == (9,)


def test_an_answer_is_as_long_as_the_files_allow():
    assert (protocol().max_tokens, protocol().max_length) == (224, None)
    assert protocol(PUBLISHED | {"max_length": 100}).max_length == 100
    assert protocol(PUBLISHED | {"max_new_tokens": 30}).max_tokens == 30


def test_tokens_are_drawn_and_penalised_where_the_generation_config_says_so():
    drawn = {"do_sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.5, "repetition_penalty": 1.3}
    assert protocol(PUBLISHED | drawn).sampling == Sampling(temperature=0.7, top_k=3, top_p=0.5, repetition_penalty=1.3)
    assert protocol(PUBLISHED | drawn | {"do_sample": False}).sampling == Sampling(repetition_penalty=1.3)


def test_every_whisper_ends_a_loop():
    assert protocol().max_repeats == MAX_REPEATS


@pytest.mark.parametrize(("said", "made"), [("", MAX_REPEATS), ("max_repeats = 3", 3), ("max_repeats = 0", None)])
def test_a_recipe_may_say_how_often_a_phrase_may_come(said, made, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"{said}\n[check]\ntwin_limit_mib = 0\n")
    options = ExportOptions(recipe=recipe, precision="float32")
    manifest = export(checkpoints.write(tmp_path / "c", "whisper-dense"), tmp_path / "b", options)
    assert manifest.protocol.max_repeats == made


@pytest.mark.parametrize("repeats", [-1, 1])
def test_a_number_of_repeats_that_every_text_has_is_refused(repeats, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"max_repeats = {repeats}\n")
    with pytest.raises(RecipeError, match=f"max_repeats is {repeats}, must be 0 for no limit, or 2 or more"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("return_timestamps", True), ("num_beams", 5), ("logprob_threshold", -1.0), ("no_speech_threshold", 0.6),
    ],
)  # fmt: skip
def test_a_generation_key_that_changes_the_words_is_refused_by_name(key, given):
    assert WHISPER_GENERATION.rows[key].effect == "refused"
    with pytest.raises(CheckpointError, match=f"^generation_config.json: {key} is {given}, "):
        protocol(PUBLISHED | {key: given})
    with pytest.raises(CheckpointError, match=f"^config.json: {key} is {given}, "):
        protocol(**{key: given})
    protocol(PUBLISHED, **{key: given})  # it does not count there once the other file is


@pytest.mark.parametrize(
    ("key", "given"),
    [("activation_function", "gelu_new"), ("scale_embedding", True), ("tie_word_embeddings", False)],
)
def test_a_config_key_that_changes_the_arithmetic_is_refused_by_name(key, given):
    with pytest.raises(CheckpointError, match=f"^config.json: {key} is {given!r}, "):
        protocol(**{key: given})


def test_sizes_that_a_config_leaves_out_are_the_class_s():
    opened = FAMILY.bind({"model_type": "whisper"}, {})
    assert opened.expected()["model.decoder.embed_tokens.weight"] == (51865, 384)
    assert opened.expected()["model.encoder.layers.3.fc1.weight"] == (1536, 384)
    assert WHISPER.rows["max_target_positions"].default == opened.max_context == 448


def test_an_alias_of_a_size_is_that_size_and_may_not_contradict_it():
    assert FAMILY.bind({"hidden_size": 96}, {}).expected()["model.decoder.embed_tokens.weight"] == (51865, 96)
    with pytest.raises(CheckpointError, match="hidden_size is 96 and d_model is 384"):
        FAMILY.bind({"hidden_size": 96, "d_model": 384}, {})


def test_a_projection_that_is_not_the_token_table_is_refused(tmp_path):
    folder = checkpoints.write(tmp_path / "given", "whisper-dense")
    tensors = load_file(folder / "model.safetensors")
    for name, projection in (("same", tensors[TABLE]), ("other", tensors[TABLE] + 1), ("short", tensors[TABLE][:-1])):
        shutil.copytree(folder, tmp_path / name)
        save_file(tensors | {"proj_out.weight": projection}, tmp_path / name / "model.safetensors")
    assert checkpoint_source(tmp_path / "same").opened.copied("proj_out.weight") == TABLE
    for name in ("other", "short"):
        with pytest.raises(CheckpointError, match=f"^proj_out.weight: differs from {TABLE}, which it must repeat"):
            checkpoint_source(tmp_path / name)
