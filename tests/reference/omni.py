"""A tiny Qwen3-Omni in torch, every weight random, and its parts as Engines.

The engines run the published modules themselves, so what a test of the runtime compares is order and state, not graphs.
"""

from collections.abc import Callable, Mapping

import torch
from transformers import DynamicCache, Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

from edgekit.bundle import Component, Embedding, Sampling, TensorRef
from edgekit.bundle.speech import TalkerSpeech
from edgekit.runtime.engine import Array
from tests.runtime.talkers import Rows

VOCABULARY = 400
TURN_START, TURN_END, NEWLINE, SYSTEM, USER, ASSISTANT = 300, 301, 302, 303, 304, 305
AUDIO_START, AUDIO, AUDIO_END, TTS_PAD, TTS_BOS, TTS_EOS = 310, 311, 312, 313, 314, 315
CODEBOOKS, CODES, CODEC = 4, 64, 1088  # the last 1024 codec ids are no codes
CONTEXT_FRAMES = 256


def model(seed: int) -> Qwen3OmniMoeForConditionalGeneration:
    """Return the model with every parameter drawn from ``seed``, in float32; its talker never ends speech by itself."""
    text = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "intermediate_size": 64,
        "norm_topk_prob": True, "vocab_size": VOCABULARY, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "interleaved": True},
    }  # fmt: skip
    ids = {
        "audio_token_id": AUDIO, "audio_start_token_id": AUDIO_START, "audio_end_token_id": AUDIO_END,
        "image_token_id": 390, "video_token_id": 391, "vision_start_token_id": 392, "vision_end_token_id": 393,
    }  # fmt: skip
    thinker = ids | {
        "audio_config": {
            "num_mel_bins": 128, "encoder_layers": 2, "d_model": 64, "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128, "downsample_hidden_size": 8, "output_dim": 64, "n_window": 50,
            "n_window_infer": 200, "max_source_positions": 64,
        },
        "vision_config": {
            "depth": 1, "hidden_size": 32, "num_heads": 4, "intermediate_size": 32, "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
        },
        "text_config": text,
    }  # fmt: skip
    talker = ids | {
        "text_config": text | {
            "vocab_size": CODEC, "hidden_size": 32, "num_hidden_layers": 2, "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 32,
        },
        "code_predictor_config": {
            "vocab_size": CODES, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "num_code_groups": CODEBOOKS,
        },
        "thinker_hidden_size": 64, "accept_hidden_layer": 2, "num_code_groups": CODEBOOKS, "spatial_merge_size": 2,
        "codec_pad_id": 64, "codec_bos_id": 65, "codec_eos_token_id": 66, "codec_nothink_id": 67,
        "codec_think_bos_id": 68, "codec_think_eos_id": 69, "speaker_id": {"ethan": 70, "chelsie": 71},
    }  # fmt: skip
    code2wav = {
        "codebook_size": CODES, "num_quantizers": CODEBOOKS, "hidden_size": 32, "num_attention_heads": 4,
        "num_key_value_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64, "decoder_dim": 32,
        "sliding_window": 8,
    }  # fmt: skip
    config = Qwen3OmniMoeConfig(
        thinker_config=thinker, talker_config=talker, code2wav_config=code2wav, im_start_token_id=TURN_START,
        im_end_token_id=TURN_END, tts_pad_token_id=TTS_PAD, tts_bos_token_id=TTS_BOS, tts_eos_token_id=TTS_EOS,
        system_token_id=SYSTEM, user_token_id=USER, assistant_token_id=ASSISTANT,
    )  # fmt: skip
    torch.manual_seed(seed)
    built = Qwen3OmniMoeForConditionalGeneration(config).eval().float()
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if weight.ndim >= 2:
                gain = 0.6 if name.startswith("code2wav") else 1.5  # more, and its sines blow rounding up
                weight.normal_(0, 1.0 if "embed" in name else gain / weight[0].numel() ** 0.5)
            else:  # norms, biases, layer scales, Snake's alpha and beta
                weight.normal_(1.0 if name.endswith("norm.weight") else 0.2, 0.3)
        built.talker.codec_head.weight[config.talker_config.codec_eos_token_id] = 0  # some other logit is positive
    return built


def speech(omni: Qwen3OmniMoeForConditionalGeneration, max_frames: int) -> TalkerSpeech:
    """Return what a manifest would say of the model, its tables left out; both samplings greedy."""
    config = omni.config.talker_config
    table = Embedding(weight=TensorRef(file="", offset=0, dtype="float32", shape=()), scales=None, width=32)
    eos = config.codec_eos_token_id
    return TalkerSpeech(
        sample_rate_hz=24_000, samples_per_frame=int(omni.code2wav.total_upsample), codebooks=CODEBOOKS,
        codebook_size=CODES, codec_table=table, code_table=table, speakers=dict(config.speaker_id), speaker="ethan",
        turn_start=TURN_START, roles={"system": SYSTEM, "user": USER, "assistant": ASSISTANT}, tts_pad=TTS_PAD,
        tts_bos=TTS_BOS, tts_eos=TTS_EOS, codec_pad=config.codec_pad_id, codec_bos=config.codec_bos_id, codec_eos=eos,
        codec_nothink=config.codec_nothink_id, codec_think_bos=config.codec_think_bos_id,
        codec_think_eos=config.codec_think_eos_id,
        codec_suppress=tuple(code for code in range(CODEC - 1024, CODEC) if code != eos),
        talker_sampling=Sampling(), code_sampling=Sampling(), max_frames=max_frames, context_frames=CONTEXT_FRAMES,
    )  # fmt: skip


def table(*weights: torch.Tensor) -> Rows:
    """Return a Table of the rows of all ``weights``, one after another."""
    return Rows(torch.cat([weight.detach() for weight in weights]).numpy())


class TorchEngine:
    """An Engine whose Calls are made by ``call``."""

    def __init__(self, name: str, call: Callable[[], "TorchCall"]) -> None:
        self.component = Component(graph=name, data=None, inputs=(), outputs=(), precision="float32")
        self.counts, self.notes = {}, ()
        self._call = call

    def bind(self, sizes: Mapping[str, int]) -> "TorchCall":
        """Return a Call with state of its own; its caches grow, whatever ``sizes`` says."""
        return self._call()


class TorchCall:
    """A Call that hands its inputs to ``step`` as tensors and takes tensors back."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see Call."""
        with torch.inference_mode():
            outputs = self.step({name: torch.from_numpy(array.copy()) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def reset(self) -> None:
        """Forget nothing: caches are read as far as ``start`` says."""

    def step(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute; see the subclasses."""
        raise NotImplementedError


class AdapterCall(TorchCall):
    """talker_adapter: one of two projections for each row."""

    def __init__(self, omni: Qwen3OmniMoeForConditionalGeneration) -> None:
        self._talker = omni.talker

    def step(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = inputs["rows"]
        heard, read = self._talker.hidden_projection(rows), self._talker.text_projection(rows)
        return {"embeds": torch.where(inputs["heard"], heard, read)}


class _Cached(TorchCall):
    """A language model's body with its KV cache cut to ``start``."""

    def __init__(self, omni: Qwen3OmniMoeForConditionalGeneration) -> None:
        self._talker = omni.talker
        self._cache = DynamicCache()

    def _hidden(self, body: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        start = int(inputs["start"])
        assert start <= self._cache.get_seq_length()
        self._cache.crop(start)
        return body(inputs_embeds=inputs["embeds"][None], past_key_values=self._cache, use_cache=True)[0][0]


class TalkerCall(_Cached):
    """talker: logits and final hidden rows of the rows that are asked for."""

    def step(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = self._hidden(self._talker.model, inputs)[inputs["logit_rows"]]
        return {"logits": self._talker.codec_head(hidden), "hidden": hidden}


class PredictorCall(_Cached):
    """code_predictor: logits of the last row through head ``step``."""

    def step(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        predictor = self._talker.code_predictor
        hidden = self._hidden(predictor.model, inputs)[-1:]
        return {"logits": predictor.lm_head[int(inputs["step"])](hidden)}


class DecoderCall(TorchCall):
    """decoder: what code2wav says of all codes so far, less what was already said."""

    def __init__(self, omni: Qwen3OmniMoeForConditionalGeneration) -> None:
        self._code2wav = omni.code2wav
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        self._codes = torch.zeros((0, CODEBOOKS), dtype=torch.long)
        self._said = 0

    def step(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert int(inputs["start"]) == len(self._codes)
        self._codes = torch.cat((self._codes, inputs["codes"]))
        samples = self._code2wav(self._codes.T[None])[0, 0]
        new, self._said = samples[self._said :], len(samples)
        return {"samples": new}


def engines(omni: Qwen3OmniMoeForConditionalGeneration) -> dict[str, TorchEngine]:
    """Return the Engines of a Talker."""
    calls = {
        "talker_adapter": AdapterCall, "talker": TalkerCall, "code_predictor": PredictorCall, "decoder": DecoderCall,
    }  # fmt: skip
    return {name: TorchEngine(name, lambda call=call: call(omni)) for name, call in calls.items()}
