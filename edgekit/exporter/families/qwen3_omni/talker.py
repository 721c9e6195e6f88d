"""What of Qwen3-Omni turns an answer into codes: adapter, talker and code predictor; ``code2wav`` makes sound of them.

The talker is a text model over codec tokens: one token a frame, the first of its codes. The code predictor adds the
others, one a step: step j takes code j and gives code j + 1 through a head of its own. Everything that multiplies, and
both kinds of tables, is of the group ``decoder``. Source: transformers, modeling_qwen3_omni_moe.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Embedding, Sampling
from edgekit.bundle.speech import TalkerSpeech
from edgekit.errors import CheckpointError
from edgekit.exporter.blocks import fixed_shapes, linear, steps
from edgekit.exporter.families.base import Part, Shapes
from edgekit.exporter.families.config import ANY, section, value
from edgekit.exporter.families.qwen import Qwen, QwenNames
from edgekit.exporter.families.qwen3_omni.keys import OMNI, PREDICTOR, TALKER, TALKER_TEXT
from edgekit.exporter.families.qwen_keys import TEXTS
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.sources.tokenizer import token_id
from edgekit.exporter.weights import Weights
from edgekit.recipe import Group

SAMPLE_RATE_HZ = 24_000  # of the published decoder; stands in no config
SPECIAL_CODES = 1024  # the last ids of the codec vocabulary, of which only the end may be drawn
MOST_FRAMES = 4096  # of the talker's cache, 20 KiB each in the published model; half of it for one answer
# Source: the arguments of generate() and of its call of the code predictor, which are the defaults published.
TALKER_SAMPLING = Sampling(temperature=0.9, top_k=50, repetition_penalty=1.05)
CODE_SAMPLING = Sampling(temperature=1.0, top_k=50, top_p=0.8)
USUAL_SPEAKER = "ethan"
_CODEC_IDS = {f"codec_{name}": f"codec_{name}_id" for name in ("pad", "bos", "nothink", "think_bos", "think_eos")}
_CODEC_IDS |= {"codec_eos": "codec_eos_token_id"}
TURN_START, ROLES = "<|im_start|>", ("system", "user", "assistant")
_PROJECTIONS = ("text_projection", "hidden_projection")
_TALKER = QwenNames("talker.model", "talker.model.codec_embedding.weight", "talker.codec_head.weight", "decoder")
_PREDICTOR = QwenNames("talker.code_predictor.model", "", "", "decoder")
_CODES = "talker.code_predictor.model.codec_embedding"
_HEADS = "talker.code_predictor.lm_head"


class Talker(Part):
    """The speaking part of a whole config, bound to the thinker it listens to.

    ``accepted``: which of the thinker's hidden states stands for sound.
    """

    components: Mapping[str, Group | None] = {
        "talker_adapter": "decoder", "talker": "decoder", "code_predictor": "decoder",
    }  # fmt: skip

    def __init__(self, config: Mapping[str, Any], thinker: Qwen) -> None:
        config = OMNI.filled(config)
        self._tts = {name: value(config, f"tts_{name}_token_id", int) for name in ("pad", "bos", "eos")}
        self.thinker_width = thinker.width
        config = TALKER.filled(section(config, "talker_config"))
        self._codec = {name: value(config, key, int) for name, key in _CODEC_IDS.items()}
        speakers = section(config, "speaker_id")
        self._speakers = {name: value(speakers, name, int, within=ANY) for name in speakers}
        inner = section(config, "text_config")
        self.talker = Qwen(inner, _TALKER, "talker_config.text_config", TALKER_TEXT)
        made = section(config, "code_predictor_config")
        self.predictor = Qwen(made, _PREDICTOR, "talker_config.code_predictor_config", PREDICTOR)
        self.codebooks = value(config, "num_code_groups", int)
        self.accepted = value(config, "accept_hidden_layer", int)
        rules = (
            ("thinker_hidden_size", value(config, "thinker_hidden_size", int), thinker.width),
            ("code_predictor_config.hidden_size", self.predictor.width, self.talker.width),
            (
                "code_predictor_config.num_code_groups",
                value(TEXTS[PREDICTOR].filled(made), "num_code_groups", int),
                self.codebooks,
            ),
        )
        self._check(thinker, rules)
        self.attends = (*self.talker.attends, *self.predictor.attends)
        heads = range(self.codebooks - 1)
        self._tables = tuple(f"{_CODES}.{head}.weight" for head in heads)
        self._heads = tuple(f"{_HEADS}.{head}.weight" for head in heads)
        self._stored = f"{_CODES}.0-{self.codebooks - 2}.weight"
        self.tables = {"codec_table": (self.talker.embedding,), "code_table": self._tables}

    def _check(self, thinker: Qwen, rules: tuple[tuple[str, int, int], ...]) -> None:
        """Raise CheckpointError where two parts contradict each other, or an id is beyond its vocabulary."""
        for name, found, wanted in rules:
            if found != wanted:
                raise CheckpointError(
                    f"config.json: talker_config.{name} is {found}, the other parts have {wanted}; "
                    "use the published config.json"
                )
        if self.codebooks < 2 or not 0 <= self.accepted <= thinker.layers:
            raise CheckpointError(
                f"config.json: talker_config has num_code_groups {self.codebooks} and accept_hidden_layer "
                f"{self.accepted}; 2 or more and 0 to {thinker.layers} are possible; use the published config.json"
            )
        if self.talker.vocabulary <= SPECIAL_CODES:
            raise CheckpointError(
                f"config.json: talker_config.text_config.vocab_size is {self.talker.vocabulary}, its last "
                f"{SPECIAL_CODES} are no codes; use the published config.json"
            )
        if not self._speakers:
            raise CheckpointError("config.json: talker_config.speaker_id names no voice; use the published config.json")
        ids = {f"tts_{name}_token_id": (number, thinker.vocabulary) for name, number in self._tts.items()}
        ids |= {
            f"talker_config.{name}": (number, self.talker.vocabulary)
            for name, number in (
                *((_CODEC_IDS[name], number) for name, number in self._codec.items()),
                *((f"speaker_id.{name}", number) for name, number in self._speakers.items()),
            )
        }
        for name, (number, vocabulary) in ids.items():
            if not 0 <= number < vocabulary:
                raise CheckpointError(
                    f"config.json: {name} is {number}, its vocabulary has {vocabulary}; use the published config.json"
                )

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        found = {**self.talker.expected(), **self.predictor.expected()}
        sizes = (self.talker.inner, self.thinker_width), (self.talker.width, self.talker.inner)
        for part in _PROJECTIONS:
            for index, size in enumerate(sizes, start=1):
                found[f"talker.{part}.linear_fc{index}.weight"] = size
                found[f"talker.{part}.linear_fc{index}.bias"] = size[:1]
        found |= dict.fromkeys((*self._tables, *self._heads), (self.predictor.vocabulary, self.predictor.width))
        return found

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor: ``decoder``; None keeps it float."""
        if name in self._tables or name in self._heads:
            return "decoder"
        if name.split(".")[1] in _PROJECTIONS:
            return "decoder" if name.endswith(".weight") else None
        part = self.predictor if name.startswith(_PREDICTOR.model) else self.talker
        return part.group(name)

    def stored(self, name: str) -> str:
        """Return the name under which the bundle stores a tensor: experts and code tables are stacked."""
        return self._stored if name in self._tables else self.talker.stored(name)

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank."""
        return self.talker.expert_rows(source, stored, expert)

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        builders = {"talker_adapter": self._adapter, "talker": self._talker, "code_predictor": self._predictor}
        builders[component](g, w)

    def speech(self, samples_per_frame: int, tables: Mapping[str, Embedding], tokenizer: str) -> TalkerSpeech:
        """Return the manifest's part on speech; ids of turns come from the tokenizer, all others from the config."""
        last = range(self.talker.vocabulary - SPECIAL_CODES, self.talker.vocabulary)
        frames = min(MOST_FRAMES, self.talker.positions)
        return TalkerSpeech(
            sample_rate_hz=SAMPLE_RATE_HZ,
            samples_per_frame=samples_per_frame,
            codebooks=self.codebooks,
            codebook_size=self.predictor.vocabulary,
            codec_table=tables["codec_table"],
            code_table=tables["code_table"],
            speakers=self._speakers,
            turn_start=token_id(tokenizer, TURN_START),
            roles={role: token_id(tokenizer, role) for role in ROLES},  # type: ignore[misc]
            tts_pad=self._tts["pad"],
            tts_bos=self._tts["bos"],
            tts_eos=self._tts["eos"],
            **self._codec,
            codec_suppress=tuple(number for number in last if number != self._codec["codec_eos"]),
            talker_sampling=TALKER_SAMPLING,
            code_sampling=CODE_SAMPLING,
            max_frames=frames // 2,
            context_frames=frames,
            speaker=USUAL_SPEAKER if USUAL_SPEAKER in self._speakers else "",
        )

    def _adapter(self, g: GraphWriter, w: Weights) -> None:
        """Project rows of the thinker: its token rows one way, what it made of sound another; each row once."""
        rows = g.input("rows", "float32", ("n", self.thinker_width))
        heard = g.input("heard", "bool", ("n", 1))
        if fixed_shapes(g):  # both for each row
            text, sound = (self._projected(g, w, rows, part) for part in _PROJECTIONS)
            g.output(g.node("Where", heard, sound, text), "embeds", "float32", ("n", self.talker.width))
            return
        heard = g.node("Squeeze", heard, g.constant([1]))
        count = g.node("Shape", rows, start=0, end=1)
        out = g.node("Expand", g.constant(0.0), g.node("Concat", count, g.constant([self.talker.width]), axis=0))
        for part, chosen in zip(_PROJECTIONS, (g.node("Not", heard), heard), strict=True):
            places = g.node("Transpose", g.node("NonZero", chosen), perm=[1, 0])
            x = self._projected(g, w, g.node("GatherND", rows, places), part)
            out = g.node("ScatterND", out, places, x)
        g.output(out, "embeds", "float32", ("n", self.talker.width))

    def _projected(self, g: GraphWriter, w: Weights, x: str, part: str) -> str:
        x = self._linear(g, w, x, f"talker.{part}.linear_fc1")
        x = g.node("Mul", x, g.node("Sigmoid", x))
        return self._linear(g, w, x, f"talker.{part}.linear_fc2")

    @staticmethod
    def _linear(g: GraphWriter, w: Weights, x: str, name: str) -> str:
        return linear(g, w, x, f"{name}.weight", "decoder", f"{name}.bias")

    def _talker(self, g: GraphWriter, w: Weights) -> None:
        """Write logits and normed states of the asked rows; the state is what the code predictor begins with."""
        model = self.talker
        x = g.input("embeds", "float32", ("tokens", model.width))
        at = steps(g, x, g.input("start", "int64", (1,)))
        rows = g.input("logit_rows", "int64", ("rows",))
        assert model.experts, "of every kind that it can be"
        x = model.states(g, w, x, at, g.constant([model.experts.chosen]))[-1]
        x = model.normed(g, w, g.node("Gather", x, rows))
        g.output(linear(g, w, x, model.names.head, "decoder"), "logits", "float32", ("rows", model.vocabulary))
        g.output(x, "hidden", "float32", ("rows", model.width))

    def _predictor(self, g: GraphWriter, w: Weights) -> None:
        """Write the logits of the last row through head ``step``.

        The other heads multiply no row and cost nothing; but where shapes may not depend on values, all multiply it.
        """
        model = self.predictor
        x = g.input("embeds", "float32", ("tokens", model.width))
        at = steps(g, x, g.input("start", "int64", (1,)))
        step = g.input("step", "int64", (1,))
        x = model.states(g, w, x, at, "", self.codebooks)[-1]
        last = g.node("Slice", x, g.constant([-1]), g.constant([2**62]), g.constant([0]))
        heads = range(len(self._heads))
        size = (1, model.vocabulary)
        if fixed_shapes(g):
            last = model.normed(g, w, last)
            every = g.node("Concat", *(linear(g, w, last, name, "decoder") for name in self._heads), axis=0)
            g.output(g.node("Gather", every, step), "logits", "float32", size)
            return
        counts = g.node("Cast", g.node("Equal", step, g.constant([*heads])), to=7)  # int64: 1 for this head, else 0
        parts = g.nodes("Split", model.normed(g, w, last), counts, outs=(None,) * len(heads), axis=0)
        made = [linear(g, w, part, name, "decoder") for part, name in zip(parts, self._heads, strict=True)]
        g.output(g.node("Concat", *made, axis=0), "logits", "float32", size)
