"""A damaged container of CTranslate2, or what lies beside it, is refused, or is a Whisper whose weights can be read."""

from edgekit.exporter.families import find_family
from edgekit.exporter.sources.checkpoint import check_names, open_checkpoint
from tests.exporter.containers import TIED, container, whisper, write
from tests.fuzz.test_safetensors import read_all

FILES = ("model.bin", "model.bin", "model.bin", "config.json", "tokenizer.json")


def test_a_damaged_container_is_refused_or_read(fuzz, tmp_path):
    folder = write(tmp_path, container(whisper()[0], TIED))
    texts = {name: (folder / name).read_bytes() for name in FILES}

    def attempt(case):
        name = case.chosen(FILES)
        for other, text in texts.items():
            (folder / other).write_bytes(text)
        damaged = case.data(texts[name]) if name == "model.bin" else case.document(texts[name])
        (folder / name).write_bytes(damaged)
        opened = open_checkpoint(folder)
        family = find_family(opened.config).bind(opened.config, opened.generation)
        check_names(opened, family.expected(), family.ignored)
        read_all(opened)

    fuzz("CTranslate2", attempt)
