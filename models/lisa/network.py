"""The network of LISA (Lai et al., CVPR 2024) and LISA++, put together from transformers' parts.

A CLIP tower and a projector turn the image into tokens of a Llama; the Llama's state that
predicts ``[SEG]`` passes a small MLP and becomes the only prompt of SAM's mask decoder. What
is computed here is differentiable and batched: the same network is trained (LISA-nano) and
served (all checkpoints). Texts, pixels before normalisation and decoding are for others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPromptEncoder,
    SamVisionEncoder,
)


@dataclass(frozen=True, eq=False)
class LisaConfig:
    """Sizes of the network.

    ``select_layer`` is the hidden state of CLIP that is projected (-2 in all published
    checkpoints); ``projector_layers`` 1 (LISA) or 2 (LISA++); the [SEG] head ends in SAM's
    prompt width ``sam.prompt_encoder_config.hidden_size``.
    """

    clip: CLIPVisionConfig
    llama: LlamaConfig
    sam: SamConfig
    select_layer: int = -2
    projector_layers: int = 1

    @property
    def num_image_tokens(self) -> int:
        """Tokens N that stand for one image in the Llama's sequence."""
        side = cast(int, self.clip.image_size) // cast(int, self.clip.patch_size)
        return side * side

    @property
    def embedding_dim(self) -> int:
        """Length C of a [SEG] embedding and channels of SAM's image embedding."""
        return cast(SamPromptEncoderConfig, self.sam.prompt_encoder_config).hidden_size

    @property
    def sam_size(self) -> int:
        """Side of the square SAM sees, pixels."""
        return cast(int, self.sam_vision.image_size)

    @property
    def sam_grid(self) -> int:
        """Side g of SAM's image embedding; masks have side 4 g."""
        return self.sam_size // cast(int, self.sam_vision.patch_size)

    @property
    def sam_vision(self) -> SamVisionConfig:
        """Sizes of SAM's image encoder."""
        return cast(SamVisionConfig, self.sam.vision_config)


class LisaNetwork(nn.Module):
    """LISA as one module; the parts carry the names used throughout ``models.lisa``."""

    def __init__(self, config: LisaConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.llama.hidden_size
        self.vision_tower = CLIPVisionModel(config.clip)
        self.projector = _projector(config.clip.hidden_size, hidden, config.projector_layers)
        self.language_model = LlamaForCausalLM(config.llama)
        self.seg_head = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, config.embedding_dim)
        )
        self.image_encoder = SamVisionEncoder(config.sam_vision)
        self.prompt_encoder = SamPromptEncoder(config.sam)
        decoder = cast(SamMaskDecoderConfig, config.sam.mask_decoder_config)
        self.mask_decoder = SamMaskDecoder(decoder)

    def image_tokens(self, clip_pixels: Tensor) -> Tensor:
        """Normalised (B, 3, S, S) to the Llama's image tokens (B, N, hidden)."""
        return cast(Tensor, self.projector(self.clip_features(clip_pixels)))

    def clip_features(self, clip_pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to patch features (B, N, width): a hidden layer without class token."""
        weight = self.vision_tower.embeddings.patch_embedding.weight
        states = self.vision_tower(
            pixel_values=clip_pixels.to(weight.dtype), output_hidden_states=True
        ).hidden_states
        return cast(Tensor, states[self.config.select_layer][:, 1:])

    def sam_embedding(self, sam_pixels: Tensor) -> Tensor:
        """Normalised, padded (B, 3, S, S) to SAM's image embedding (B, C, g, g)."""
        weight = self.image_encoder.patch_embed.projection.weight
        return cast(Tensor, self.image_encoder(sam_pixels.to(weight.dtype)).last_hidden_state)

    def dense_positions(self) -> Tensor:
        """(1, C, g, g): the code of each cell centre of SAM's image embedding."""
        code = self.prompt_encoder.shared_embedding
        side = self.config.sam_grid
        weight = code.positional_embedding
        centres = (torch.arange(side, device=weight.device, dtype=torch.float32) + 0.5) / side
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        grid = torch.stack([columns, rows], dim=-1).to(weight.dtype)
        return cast(Tensor, code(grid).permute(2, 0, 1)[None])

    def decode_masks(
        self, sam_embedding: Tensor, seg_embeddings: Tensor, best_of_three: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Masks of K prompts per image: (B, C, g, g), (B, K, C) to (B, K, 4g, 4g), (B, K).

        The mask of token 0, as LISA takes it; with ``best_of_three`` of tokens 1 to 3 the one
        of the highest predicted IoU, as the MLLM-For3D release does. The second value is the
        predicted IoU.
        """
        dtype = self.mask_decoder.iou_token.weight.dtype
        batch, side = sam_embedding.shape[0], self.config.sam_grid
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        masks, iou = self.mask_decoder(
            image_embeddings=sam_embedding.to(dtype),
            image_positional_embeddings=self.dense_positions().expand(batch, -1, -1, -1),
            sparse_prompt_embeddings=seg_embeddings[:, :, None].to(dtype),
            dense_prompt_embeddings=dense.expand(batch, -1, side, side),
            multimask_output=best_of_three,
        )
        best = iou.argmax(dim=-1, keepdim=True)
        cells = best[..., None, None].expand(*best.shape, *masks.shape[-2:])
        return masks.gather(2, cells)[:, :, 0], iou.gather(2, best)[:, :, 0]


def _projector(width: int, hidden: int, layers: int) -> nn.Module:
    if layers == 1:
        return nn.Linear(width, hidden)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
