"""LISA-nano: the sizes of the smallest LISA, and what is added to it while it is trained.

The network is ``LisaNetwork`` itself. ``NanoTrainee`` adds heads that training needs and
serving does not: embeddings per label and colour that prompt the mask decoder before there is
any language, dense classifiers on both towers, a list of what is in view after the image
tokens, and prototypes that keep [SEG] embeddings of unlike things apart.
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
"""Mask cells per side of a patch of SAM's grid."""

_CHANNELS = 128
_TOKEN_SCALE = 12.0


def nano_config(vocab_size: int) -> LisaConfig:
    """About 5 M parameters: towers 6 and 4 layers deep, a Llama of 3; masks of 60 x 60 cells."""
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
    # On CPU the fused kernel's backward pass is slow without a mask to skip work by.
    clip._attn_implementation = decoder._attn_implementation = "eager"
    return LisaConfig(clip, llama, sam, select_layer=-1, projector_layers=2)


def nano_network(vocab_size: int) -> LisaNetwork:
    """A new network, its weights drawn from torch's generator.

    transformers means SAM to be loaded, not trained: its default weights are next to zero and
    its positional codes noise, so these are drawn here.
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
    """Several questions behind one image, packed: each sees the image and itself only.

    ``prefix`` (P,) int64 ids before the image and ``after`` (A,) ids after it that all share;
    ``ids``, ``segments``, ``positions`` (B, S) int64: token, which question it belongs to (-1
    padding) and its place counted from the end of the shared part.
    """

    prefix: Tensor
    ids: Tensor
    segments: Tensor
    positions: Tensor


class NanoTrainee(nn.Module):
    """LISA-nano with what only its training needs."""

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
        """What prompts a mask (..., C) for label and colour ids (...), colour 0 being none."""
        return cast(Tensor, self.label_prompts(labels) + self.color_prompts(colors))

    def sam_labels(self, sam_embedding: Tensor) -> Tensor:
        """(B, C, g, g) to logits per mask cell (B, labels + 1, 4g, 4g)."""
        return functional.pixel_shuffle(self.dense_sam(sam_embedding), CELLS)

    def sam_paint(self, sam_embedding: Tensor) -> Tensor:
        """(B, C, g, g) to the colour of each mask cell (B, 3, 4g, 4g)."""
        return functional.pixel_shuffle(self.paint_sam(sam_embedding), CELLS)

    def read(self, clip_features: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """The Llama reads: states (B, S, h) of the questions, (B, h) at the image's end."""
        llama = self.network.language_model.model
        batch, length = sequences.ids.shape
        image = self.network.projector(clip_features)
        before = llama.embed_tokens(sequences.prefix).expand(batch, -1, -1)
        tokens = torch.cat([before, image, llama.embed_tokens(sequences.ids)], dim=1)
        shared = before.shape[1] + image.shape[1]
        device = sequences.ids.device
        places = torch.arange(shared, device=device).expand(batch, -1)
        positions = torch.cat([places, shared + sequences.positions], dim=1)
        segments = torch.cat([torch.full_like(places, -2), sequences.segments], dim=1)
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
        """(n, C) to how alike they are to each label (n, labels) and colour (n, colours)."""
        unit = functional.normalize(seg_embeddings, dim=-1)
        labels = functional.normalize(self.label_prototypes, dim=-1)
        colors = functional.normalize(self.color_prototypes, dim=-1)
        return _TOKEN_SCALE * unit @ labels.T, _TOKEN_SCALE * unit @ colors.T
