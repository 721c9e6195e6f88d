"""The torch reference of Qwen3-Omni's ears: transformers' own audio tower, with the mask that it leaves to flash-attn.

Published attention stays in blocks of ``n_window_infer`` frames. Without flash-attn transformers 4.57 gives its layers
the blocks' bounds, which nobody reads then, and no mask: beyond one block it computes something else. The mask is given
to every layer here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeAudioEncoderConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

from edgekit.exporter.families.qwen3_omni.ears import PREFIX, Qwen3OmniEars
from edgekit.exporter.reference.base import Array
from edgekit.exporter.reference.chunks import HIDDEN


class Qwen3OmniEarsReference:
    """An audio tower in float32 on the CPU; ``tensors`` by full name, ``config`` the audio_config."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        self._block = Qwen3OmniEars(config).size.positions
        self.tower = Qwen3OmniMoeAudioEncoder(Qwen3OmniMoeAudioEncoderConfig(**config)).eval()
        self.tower.config._attn_implementation = "eager"
        self.tower.load_state_dict(
            {
                name.removeprefix(f"{PREFIX}."): torch.from_numpy(tensor)
                for name, tensor in tensors.items()
                if name.startswith(f"{PREFIX}.")
            }
        )
        self._chunk = self._block
        self._frames = torch.zeros(0)
        for layer in self.tower.layers:
            layer.register_forward_pre_hook(self._masked, with_kwargs=True)
        self.tower.ln_post.register_forward_pre_hook(self._keep)

    @torch.inference_mode()
    def hear(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return embeddings (positions, hidden) of normalised log-mel (mel_bins, frames), at least one frame.

        ``chunk_positions`` 0 is the published tower; otherwise a position sees its own and earlier chunks of its block.
        """
        self._chunk = chunk_positions or self._block
        heard = self.tower(torch.from_numpy(mel), feature_lens=torch.tensor([mel.shape[1]]))
        return heard.last_hidden_state.numpy()

    def encode(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return the frames (positions, width) that ``hear`` projects to embeddings."""
        self.hear(mel, chunk_positions)
        return self._frames.numpy()

    def mask(self, positions: int) -> Tensor:
        """Return what is added to attention scores, (1, 1, positions, positions)."""
        places = torch.arange(positions)
        blocks, chunks = places // self._block, places % self._block // self._chunk
        seen = (blocks[:, None] == blocks) & (chunks[:, None] >= chunks)
        return torch.zeros(seen.shape).masked_fill(~seen, HIDDEN)[None, None]

    def _masked(self, _layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"attention_mask": self.mask(len(args[0]))}

    def _keep(self, _norm: Any, args: tuple[Any, ...]) -> None:
        self._frames = args[0]
