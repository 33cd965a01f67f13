"""LISA-nano: its sizes, its initial weights, and the additional heads of its training.

The network is a ``LisaNetwork``. ``NanoTrainee`` adds heads for training only: embeddings per
label and colour that prompt the mask decoder before the language model is trained, dense
classifiers on both towers, a classifier of the labels in view at the end of the image tokens, and
prototypes that separate the [SEG] embeddings of different labels and colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, LlamaConfig
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from models.lisa.network import LisaConfig, LisaNetwork

SAM_SIZE = 240
CLIP_SIZE = 224
PATCH = 16
CELLS = 4
"""Mask cells per side of one patch of SAM's grid."""

_CHANNELS = 128
_TOKEN_SCALE = 12.0


def nano_config(vocab_size: int) -> LisaConfig:
    """Return the sizes of LISA-nano: about 5 M parameters, masks of 60 x 60 cells.

    CLIP has 6 layers, SAM's encoder 4, the Llama 3.
    """
    clip = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=CLIP_SIZE,
        patch_size=PATCH,
        projection_dim=_CHANNELS,
    )
    llama = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    vision = SamVisionConfig(
        hidden_size=160,
        output_channels=_CHANNELS,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SAM_SIZE,
        patch_size=PATCH,
        mlp_ratio=3.0,
        use_rel_pos=False,
        window_size=0,
        global_attn_indexes=[0, 1, 2, 3],
        num_pos_feats=_CHANNELS // 2,
        initializer_range=0.02,
    )
    prompt = SamPromptEncoderConfig(hidden_size=_CHANNELS, image_size=SAM_SIZE, patch_size=PATCH)
    decoder = SamMaskDecoderConfig(
        hidden_size=_CHANNELS,
        mlp_dim=256,
        num_attention_heads=4,
        iou_head_hidden_dim=64,
        layer_norm_eps=1e-5,
    )
    sam = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    # The backward pass of the fused attention kernel is slow on a CPU.
    clip._attn_implementation = decoder._attn_implementation = "eager"
    return LisaConfig(clip, llama, sam, select_layer=-1, projector_layers=2)


def nano_network(vocab_size: int) -> LisaNetwork:
    """Make a network with weights drawn from torch's random generator.

    transformers initialises SAM for loading, not for training (weights are nearly 0), so SAM's
    weights and positional codes are drawn here.
    """
    network = LisaNetwork(nano_config(vocab_size))
    with torch.no_grad():
        code = network.prompt_encoder.shared_embedding.positional_embedding
        code.copy_(torch.randn_like(code))
        nn.init.trunc_normal_(cast(Tensor, network.image_encoder.pos_embed), std=0.02)
        for module in network.mask_decoder.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.2)
        nn.init.normal_(network.prompt_encoder.no_mask_embed.weight, std=0.02)
        for part in (network.projector, network.seg_head):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)
    return network


@dataclass(frozen=True, eq=False)
class Sequences:
    """Several questions on one image, packed; each attends to the image and to itself only.

    ``prefix`` (P,) int64 are the ids before the image. ``ids``, ``segments`` and ``positions``
    (B, S) int64 are the token, its question (-1 for padding) and its position after the image.
    """

    prefix: Tensor
    ids: Tensor
    segments: Tensor
    positions: Tensor


class NanoTrainee(nn.Module):
    """LISA-nano with the additional heads of its training."""

    def __init__(self, network: LisaNetwork, num_labels: int, num_colors: int) -> None:
        super().__init__()
        config, width = network.config, network.config.clip.hidden_size
        channels, hidden = config.embedding_dim, config.llama.hidden_size
        self.network = network
        self.label_prompts = nn.Embedding(num_labels, channels)
        self.color_prompts = nn.Embedding(num_colors + 1, channels, padding_idx=0)
        self.dense_sam = nn.Conv2d(channels, CELLS * CELLS * (num_labels + 1), 1)
        self.dense_clip = nn.Linear(width, num_labels + 1)
        self.paint_sam = nn.Conv2d(channels, CELLS * CELLS * 3, 1)
        self.paint_clip = nn.Linear(width, 3)
        self.in_view = nn.Linear(hidden, num_labels)
        self.label_prototypes = nn.Parameter(torch.randn(num_labels, channels))
        self.color_prototypes = nn.Parameter(torch.randn(num_colors, channels))

    def prompts(self, labels: Tensor, colors: Tensor) -> Tensor:
        """Embed label and colour ids (...) as prompts of masks, (..., C); colour 0 adds nothing."""
        return cast(Tensor, self.label_prompts(labels) + self.color_prompts(colors))

    def sam_labels(self, sam_embedding: Tensor) -> Tensor:
        """Classify mask cells: (B, C, g, g) to logits (B, labels + 1, 4g, 4g)."""
        return functional.pixel_shuffle(self.dense_sam(sam_embedding), CELLS)

    def sam_paint(self, sam_embedding: Tensor) -> Tensor:
        """Predict the colour of mask cells: (B, C, g, g) to (B, 3, 4g, 4g)."""
        return functional.pixel_shuffle(self.paint_sam(sam_embedding), CELLS)

    def read(self, image: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Run the Llama on images, (B, N, hidden) projected features, and questions.

        Returns the states (B, S, hidden) of the questions and (B, hidden) at the image's end.
        """
        llama = self.network.language_model.model
        batch, length = sequences.ids.shape
        before = llama.embed_tokens(sequences.prefix).expand(batch, -1, -1)
        tokens = torch.cat([before, image, llama.embed_tokens(sequences.ids)], dim=1)
        shared = before.shape[1] + image.shape[1]
        device = sequences.ids.device
        prefix_positions = torch.arange(shared, device=device).expand(batch, -1)
        positions = torch.cat([prefix_positions, shared + sequences.positions], dim=1)
        segments = torch.cat([torch.full_like(prefix_positions, -2), sequences.segments], dim=1)
        same = segments[:, :, None] == segments[:, None]
        same |= segments[:, None] == -2
        total = shared + length
        same &= torch.ones(total, total, dtype=torch.bool, device=device).tril()
        states = llama(
            inputs_embeds=tokens,
            attention_mask=same[:, None],
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        return states[:, shared:], states[:, shared - 1]

    def token_logits(self, seg_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Compare [SEG] embeddings (n, C) with the prototypes.

        Returns scaled cosines with each label (n, labels) and each colour (n, colours).
        """
        unit = functional.normalize(seg_embeddings, dim=-1)
        labels = functional.normalize(self.label_prototypes, dim=-1)
        colors = functional.normalize(self.color_prototypes, dim=-1)
        return _TOKEN_SCALE * unit @ labels.T, _TOKEN_SCALE * unit @ colors.T
