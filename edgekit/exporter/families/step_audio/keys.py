"""What EdgeKit makes of each key of Step-Audio 2's config.json.

Source: stepfun-ai/Step-Audio-2-mini, configuration_step_audio_2.py. A text model whose ``model_type`` is one of
transformers' has that class's keys and defaults.
"""

from edgekit.exporter.families.common import COMMON, TRAINING
from edgekit.exporter.families.keys import Keys, nested, unused, used
from edgekit.exporter.families.qwen_keys import text_keys

TEXT = "step_audio_2_text"
_DROPPED = unused("the published class hands it to no model")

EARS = Keys(
    "configuration_step_audio_2.py, StepAudio2EncoderConfig",
    {
        **COMMON,
        "n_mels": used("StepAudioEars", 128),
        "n_audio_ctx": used("StepAudioEars", 1500),
        "n_audio_state": used("StepAudioEars", 512),
        "n_audio_head": used("StepAudioEars", 8),
        "n_audio_layer": used("StepAudioEars", 6),
        "llm_dim": used("StepAudioEars", 4096),
        "kernel_size": used("StepAudioEars", 3),
        "adapter_stride": used("StepAudioEars", 2),
        "n_codebook_size": unused("codes are token2wav's"),
    },
)
STEP_AUDIO = Keys(
    "configuration_step_audio_2.py, StepAudio2Config",
    {
        **COMMON,
        **TRAINING,
        "text_config": nested("Qwen", lambda config: text_keys(config["text_config"], TEXT)),
        "audio_encoder_config": nested("StepAudioEars", EARS),
        "edgekit": used("token2wav's sizes, whether it thinks, the recipe"),
        **dict.fromkeys(("max_window_layers", "sliding_window", "use_sliding_window"), _DROPPED),
    },
)
