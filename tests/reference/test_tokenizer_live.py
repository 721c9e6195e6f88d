"""Tokenizers built from vocab.json and merges.txt, against transformers' own on the same files."""

import numpy as np
import pytest

from edgekit.exporter.sources.tokenizer import tokenizer_json
from tests.exporter.sources.test_tokenizer import FIRST, write

pytestmark = pytest.mark.reference

SAID = [
    "",
    "hello hello",
    "HE'LL we'Ll 12345",
    "a\n\n b \r\n\tc  ",
    "e\u0301 \u00e9 你好,世界 \U0001f399",
    "<|EOT|>hello<|EOT|> 1",
]


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "WhisperTokenizer"])
def test_encoding_equals_transformers_tokenizer(tmp_path, kind):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False) | {"special": True}
    # transformers adds the first by itself, and looks the last ones up when Whisper's decodes
    marks = ["<|endoftext|>", "<|EOT|>", "<|startofprev|>", "<|startoftranscript|>", "<|notimestamps|>"]
    decoder = {str(FIRST + i): {"content": mark, **flags} for i, mark in enumerate(marks)}
    ours = tokenizers.Tokenizer.from_str(tokenizer_json(write(tmp_path, decoder=decoder, kind=kind)))
    theirs = getattr(transformers, f"{kind}Fast").from_pretrained(tmp_path)
    draw = np.random.default_rng(3)
    alphabet = list(" \n\r\t'helo12.,!-_\u00e9\u0301\u4f60\U0001f399sST")
    said = SAID + ["".join(draw.choice(alphabet, draw.integers(1, 40))) for _ in range(500)]

    for text in said:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text).ids == ids, repr(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), repr(text)
