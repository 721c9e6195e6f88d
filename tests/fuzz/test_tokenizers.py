"""A damaged tokenizer.json is refused, or writes and reads texts."""

import json

from edgekit.runtime.answer.text import Detokenizer, Tokenizer
from tests.fuzz.worker import must_work


def test_a_damaged_tokenizer_is_refused_or_works(fuzz, tiny_bundle, tmp_path):
    whole = (tiny_bundle().folder / "tokenizer.json").read_bytes()
    other = json.loads(whole) | {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Strip", "strip_left": True, "strip_right": False},
        ]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+|\\w+"}, "behavior": "Isolated", "invert": False},
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a",
        },
    }  # fmt: skip
    path = tmp_path / "tokenizer.json"

    def attempt(case):
        path.write_bytes(case.document(case.chosen([whole, json.dumps(other)])))
        tokenizer = Tokenizer(path)
        with must_work():
            tokens = tokenizer.encode("Ein Test <en> \u00e9\U0001f600")
            tokenizer.mark_in("a <stop> b")
            tokenizer.decode([*tokens, 0, 255, 264, 10**6])
            detokenizer = Detokenizer(tokenizer)
            for token in (*tokens[:8], 0, 200, 255):
                detokenizer.push(token)
            detokenizer.finish()

    fuzz("tokenizer", attempt, whole=2)
