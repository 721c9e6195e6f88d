"""Make the golden of Qwen3-Omni's audio parts from torch: ``python -m tests.reference.omni_audio_golden`` writes it."""

import numpy as np
import torch
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeCode2WavConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeCode2Wav

from edgekit.exporter.reference.qwen3_omni_ears import Qwen3OmniEarsReference
from tests.reference import omni_audio
from tests.reference.omni_audio import Array

SEGMENT_POSITIONS = 13


def code2wav(config, weights):
    """Return transformers' own module with our weights, every one of them and no other."""
    module = Qwen3OmniMoeCode2Wav(Qwen3OmniMoeCode2WavConfig(**config)).eval()
    module.config._attn_implementation = module.pre_transformer.config._attn_implementation = "eager"
    module.load_state_dict({name.removeprefix("code2wav."): torch.from_numpy(one) for name, one in weights.items()})
    return module


@torch.inference_mode()
def spoken(module, codes) -> Array:
    """Return the samples of codes (frames, codebooks), all at once."""
    return module(torch.from_numpy(codes.T.copy())[None])[0, 0].numpy()


def make() -> dict[str, np.ndarray]:
    """Return the golden; ``tests/reference/omni_audio.py`` describes it."""
    ears, voice = omni_audio.ears_weights(), omni_audio.voice_weights()
    reference = Qwen3OmniEarsReference(omni_audio.EARS, ears)
    golden = {"digest": np.array(omni_audio.digest(ears, voice))}
    for mode, lengths, chunk in (("exact", omni_audio.EXACT, 0), ("chunked", omni_audio.CHUNKED, SEGMENT_POSITIONS)):
        for frames in lengths:
            golden[f"{mode}-{frames}"] = reference.hear(omni_audio.mel(frames), chunk)
    golden["samples"] = spoken(code2wav(omni_audio.VOICE, voice), omni_audio.codes(omni_audio.CODE_FRAMES))
    return golden


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.savez_compressed(omni_audio.GOLDEN, **make())
    print(f"{omni_audio.GOLDEN.name}: {omni_audio.GOLDEN.stat().st_size} bytes")
