"""Damaged files of a checkpoint's tokenizer are refused by an export, or make one that the runtime can use."""

from edgekit.exporter.sources.tokenizer import marks_of, token_id, tokenizer_json
from edgekit.runtime.answer.text import Tokenizer
from tests.exporter.vocabularies import EOT, FIRST, write
from tests.fuzz.worker import must_work

TEXTS = ("hello <|EOT|> 12", "\u00e9\U0001f600\n\n\n_l")


def use(folder, path):
    """Do with the tokenizer of a checkpoint what export and runtime do."""
    text = tokenizer_json(folder)
    with must_work():
        marks = marks_of(text)
        assert all(token_id(text, name) == number for name, number in marks.items())
        path.write_text(text, encoding="utf-8")
        loaded = Tokenizer(path)
        for one in TEXTS:
            loaded.decode(loaded.encode(one))
        loaded.decode([0, 255, FIRST, 10**6])


def test_a_damaged_tokenizer_json_is_refused_by_an_export_or_works(fuzz, tmp_path):
    whole = tokenizer_json(write(tmp_path / "parts", {"<|EOT|>": FIRST}))
    folder = tmp_path / "published"
    folder.mkdir()

    def attempt(case):
        (folder / "tokenizer.json").write_bytes(case.document(whole) if case.which % 4 else case.data(whole.encode()))
        use(folder, tmp_path / "written.json")

    fuzz("tokenizer.json at export", attempt, whole=2)


def test_damaged_parts_of_a_tokenizer_are_refused_by_an_export_or_work(fuzz, tmp_path):
    folder = write(tmp_path / "parts", {"<|EOT|>": FIRST, "<|BOT|>": FIRST + 3}, {str(FIRST): EOT})
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|EOT|>", "more": [{"content": "<|BOT|>"}]}')
    texts = {path: path.read_bytes() for path in sorted(folder.iterdir())}

    def attempt(case):
        for path, text in texts.items():
            path.write_bytes(text)
        path = case.chosen(list(texts))
        path.write_bytes(case.data(texts[path]) if path.suffix == ".txt" else case.document(texts[path]))
        use(folder, tmp_path / "written.json")

    fuzz("vocab.json and merges.txt", attempt)
