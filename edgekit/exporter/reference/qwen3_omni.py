"""The torch reference of Qwen3-Omni: transformers' own modules, taken one by one so that images and vocoder stay away.

The thinker's text model with its head, the talker with its code predictor, the audio encoder.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3OmniMoeConfig
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as published

from edgekit.exporter.families.qwen3_omni.ears import PREFIX
from edgekit.exporter.reference.base import Array, PrefixReference, Written
from edgekit.exporter.reference.qwen3_omni_ears import Qwen3OmniEarsReference
from edgekit.exporter.sources.checkpoint import open_checkpoint, read

SPECIAL_CODES = 1024  # ids at the end of the codec vocabulary that are no codes


class Qwen3OmniReference(PrefixReference):
    """A checkpoint's config and tensors as transformers runs them; parts whose tensors are absent are None."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        made = Qwen3OmniMoeConfig(**config)
        for part in (made.thinker_config.text_config, made.talker_config):
            part._attn_implementation = "eager"
        self.accepted = made.talker_config.accept_hidden_layer
        thinker = made.thinker_config
        self.thinker = _load(published.Qwen3OmniMoeThinkerTextModel, thinker.text_config, tensors, "thinker.model.")
        self.ears: Qwen3OmniEarsReference | None = None
        if any(name.startswith(f"{PREFIX}.") for name in tensors):
            self.ears = Qwen3OmniEarsReference(config["thinker_config"]["audio_config"], tensors)
        self.talker = _load(
            published.Qwen3OmniMoeTalkerForConditionalGeneration, made.talker_config, tensors, "talker."
        )
        self.head = torch.from_numpy(tensors["thinker.lm_head.weight"])
        self._gap = float("inf")
        self._blocks: list[Any] = []
        kinds = (published.Qwen3OmniMoeThinkerTextSparseMoeBlock, published.Qwen3OmniMoeTalkerTextSparseMoeBlock)
        for model in (self.thinker, self.talker):
            for block in model.modules() if model is not None else ():
                if isinstance(block, kinds):
                    block.gate.register_forward_hook(self._watch(block))
                    self._blocks.append(block)
        self._default = {id(block): block.top_k for block in self._blocks}

    @classmethod
    def open(cls, folder: Path) -> "Qwen3OmniReference":
        """Return the reference of a checkpoint's folder; what sees and the vocoder are not read."""
        found = open_checkpoint(folder)
        skipped = ("thinker.visual.", "code2wav.")
        names = [name for name in found.names() if not name.startswith(skipped)]
        return cls(found.config, {name: read(found, name) for name in names})

    def hear(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return what the backbone hears (n, hidden) of features (mel_bins, frames), in blocks or chunks of them."""
        assert self.ears is not None, "these tensors have no audio tower"
        return self.ears.hear(mel, chunk_positions)

    @torch.inference_mode()
    def embed(self, tokens: list[int]) -> Array:
        """Return rows (tokens, hidden) of the token table."""
        return self.thinker.embed_tokens(torch.tensor(tokens, dtype=torch.int64)).numpy()

    @torch.inference_mode()
    def think(self, embeds: Array, experts_per_token: int | None = None, layer: int | None = None) -> tuple[Array, ...]:
        """Return logits (rows, vocabulary) after each row of ``embeds``, and the hidden states that ``layer`` names.

        None takes the config's experts per token and the talker's layer.
        """
        self._choose(experts_per_token)
        found = self.thinker(inputs_embeds=torch.from_numpy(embeds)[None], use_cache=False, output_hidden_states=True)
        hidden = found.hidden_states[self.accepted if layer is None else layer]
        return (found.last_hidden_state[0] @ self.head.T).numpy(), hidden[0].numpy()

    def logits(self, embeds: Array, experts_per_token: int | None = None) -> Array:
        """Return logits (rows, vocabulary) after each row of ``embeds``."""
        return self.think(embeds, experts_per_token, 0)[0]

    @torch.inference_mode()
    def write(self, embeds: Array, count: int, experts_per_token: int | None = None) -> Written:
        """Return ``count`` greedy tokens after ``embeds``; nothing is suppressed and nothing stops it."""
        self._choose(experts_per_token)
        tokens: list[int] = []
        lead, cache, fresh = float("inf"), None, embeds
        for _ in range(count):
            answer = self.thinker(inputs_embeds=torch.from_numpy(fresh)[None], past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            best = (answer.last_hidden_state[0, -1] @ self.head.T).topk(2)
            lead = min(lead, _lead(best))
            tokens.append(int(best.indices[0]))
            fresh = self.embed(tokens[-1:])
        return Written(tokens, lead)

    @torch.inference_mode()
    def adapt(self, rows: Array, heard: NDArray[np.bool_]) -> Array:
        """Return what the talker takes (n, width) for rows of the thinker: of sound where ``heard`` (n,), else text."""
        given, chosen = torch.from_numpy(rows), torch.from_numpy(heard)[:, None]
        return torch.where(chosen, self.talker.hidden_projection(given), self.talker.text_projection(given)).numpy()

    @torch.inference_mode()
    def talk(self, embeds: Array) -> tuple[Array, Array]:
        """Return the talker's logits and its last hidden state of every row."""
        self._choose(None)
        found = self.talker(inputs_embeds=torch.from_numpy(embeds)[None], output_hidden_states=True, use_cache=False)
        return found.logits[0].numpy(), found.hidden_states[0][-1][0].numpy()

    @torch.inference_mode()
    def predict(self, embeds: Array) -> Array:
        """Return the code predictor's logits (codebooks - 1, codebook size): row j + 1 through head j."""
        predictor = self.talker.code_predictor
        states = predictor.model(inputs_embeds=torch.from_numpy(embeds)[None]).last_hidden_state[0]
        rows = [head(state) for head, state in zip(predictor.lm_head, states[1:], strict=True)]
        return torch.stack(rows).numpy()

    @torch.inference_mode()
    def speak(self, prompt: Array, trailing: Array, pad: Array, frames: int) -> tuple[NDArray[np.int64], float]:
        """Return ``frames`` greedy frames of codes (frames, codebooks) by transformers' own generate(), and the lead.

        prompt (n, width), trailing (m, width) and pad (width,): rows for the talker. Nothing ends it. The lead is the
        smallest by which a code was likelier than the next.
        """
        self._choose(None)
        leads: list[float] = []
        predictor = self.talker.code_predictor
        sampled = predictor.generate

        def greedy(**arguments: Any) -> Any:
            kept = {key: one for key, one in arguments.items() if key not in ("do_sample", "top_k", "top_p")}
            found = sampled(**kept, do_sample=False, output_logits=True)
            leads.extend(_lead(row[0].topk(2)) for row in found.logits)
            return found

        vocabulary = self.talker.config.text_config.vocab_size
        predictor.generate = greedy
        try:
            found = self.talker.generate(
                inputs_embeds=torch.from_numpy(prompt)[None],
                trailing_text_hidden=torch.from_numpy(trailing)[None],
                tts_pad_embed=torch.from_numpy(pad)[None, None],
                talker_input_ids=torch.zeros((1, len(prompt)), dtype=torch.int64),
                max_new_tokens=frames + 1,
                do_sample=False,
                suppress_tokens=list(range(vocabulary - SPECIAL_CODES, vocabulary)),
                output_hidden_states=True,
                output_scores=True,
                return_dict_in_generate=True,
            )
        finally:
            predictor.generate = sampled
        leads.extend(_lead(row[0].topk(2)) for row in found.scores[:frames])
        codes = torch.cat([step[-1] for step in found.hidden_states if step[-1] is not None])
        return codes.numpy(), min(leads)

    def router_gap(self) -> float:
        """Return the smallest distance between a chosen router score and another one in the latest answer."""
        return self._gap

    def _watch(self, block: Any) -> Callable[..., None]:
        def see(_gate: Any, _inputs: Any, logits: Tensor) -> None:
            ranked = logits.softmax(dim=-1).sort(dim=-1, descending=True).values
            if block.top_k < ranked.shape[-1]:
                gap = (ranked[..., block.top_k - 1] - ranked[..., block.top_k]).min()
                self._gap = min(self._gap, float(gap))

        return see

    def _choose(self, experts_per_token: int | None) -> None:
        self._gap = float("inf")
        for block in self._blocks:
            block.top_k = experts_per_token or self._default[id(block)]


def _lead(best: Any) -> float:
    return float(best.values[0] - best.values[1])


def _load(kind: Any, config: Any, tensors: Mapping[str, Array], prefix: str) -> Any:
    held = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    if not held:
        return None
    model = kind._from_config(config).eval()
    model.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in held.items()})
    return model
