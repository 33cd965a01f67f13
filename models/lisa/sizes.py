"""Sizes of a LISA network, read from ``config.json`` and from the shapes of its weights.

SAM's sizes stand in no published ``config.json``: its weights tell them. Heads that no shape
tells have the published values unless ``config.json`` gives them under ``"sam"``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from data.errors import DataError
from models.lisa.network import LisaConfig

Shape = tuple[int, ...]

_SAM = "model.visual_model"
_ENCODER = f"{_SAM}.image_encoder"
_PROMPTS = f"{_SAM}.prompt_encoder"
_DECODER = f"{_SAM}.mask_decoder"
_CLIP_KEYS = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_channels image_size "
    "patch_size hidden_act layer_norm_eps"
).split()
_LLAMA_KEYS = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "rms_norm_eps max_position_embeddings hidden_act rope_theta rope_scaling rope_parameters "
    "head_dim bos_token_id eos_token_id pad_token_id"
).split()
_LLAMA_REQUIRED = _LLAMA_KEYS[:4]


@dataclass(frozen=True)
class _Shapes:
    """Shapes by published key; a key that is absent has the shape of the published SAM.

    So a network can be built, and all that it misses be named, whatever is absent.
    """

    by_key: Mapping[str, Shape]

    def size(self, key: str, axis: int, otherwise: int) -> int:
        shape = self.by_key.get(key, ())
        return shape[axis] if -len(shape) <= axis < len(shape) else otherwise

    def count(self, start: str) -> int:
        """How many numbers follow ``start`` in the keys: one more than the largest."""
        pattern = re.compile(re.escape(start) + r"\.(\d+)\.")
        numbers = [int(found[1]) for key in self.by_key if (found := pattern.match(key))]
        return max(numbers, default=-1) + 1


def read_sizes(
    config_path: Path,
    config: Mapping[str, Any],
    clip: CLIPVisionConfig,
    shapes: Mapping[str, Shape],
) -> LisaConfig:
    """The network's sizes from ``config.json``'s content and ``shapes`` by published key.

    DataError when sizes are missing from ``config.json`` or contradict each other.
    """
    missing = [key for key in _LLAMA_REQUIRED if not isinstance(config.get(key), int)]
    if missing:
        remedy = "Fetch config.json of the checkpoint again."
        raise DataError(config_path, "sizes of the language model", f"no {missing}", remedy)
    table = _Shapes(shapes)
    try:
        extra = dict(config.get("sam") or {})
        return LisaConfig(
            clip=clip,
            llama=_llama(config, table),
            sam=_sam(table, extra),
            select_layer=int(config.get("mm_vision_select_layer", -2)),
            projector_layers=2 if table.count("model.mm_projector") else 1,
        )
    except (StrictDataclassError, ValueError, TypeError, ArithmeticError) as error:
        expected = "sizes of one network here and in the weights"
        remedy = "Do config.json and the weights belong together?"
        raise DataError(config_path, expected, _reason(error), remedy) from error


def read_clip_sizes(config_path: Path, config: Mapping[str, Any]) -> CLIPVisionConfig:
    """The vision tower's sizes from the content of a CLIP folder's ``config.json``."""
    vision = config.get("vision_config", config)
    missing = [key for key in ("hidden_size", "patch_size", "image_size") if key not in vision]
    if missing:
        remedy = "Give the folder of a CLIP model, such as openai/clip-vit-large-patch14."
        raise DataError(config_path, "sizes of a CLIP vision tower", f"no {missing}", remedy)
    given = {key: vision[key] for key in _CLIP_KEYS if vision.get(key) is not None}
    try:
        return CLIPVisionConfig(**given)
    except (StrictDataclassError, ValueError, TypeError) as error:
        remedy = "Fetch config.json of the CLIP model again."
        raise DataError(config_path, "sizes of CLIP", _reason(error), remedy) from error


def extra_sizes(config: LisaConfig) -> dict[str, Any]:
    """What ``config.json`` must say under ``"sam"`` because no shape tells it."""
    vision = cast(SamVisionConfig, config.sam.vision_config)
    decoder = cast(SamMaskDecoderConfig, config.sam.mask_decoder_config)
    return {
        "num_attention_heads": vision.num_attention_heads,
        "window_size": vision.window_size,
        "global_attn_indexes": list(vision.global_attn_indexes),
        "decoder_num_attention_heads": decoder.num_attention_heads,
    }


def _reason(error: Exception) -> str:
    """Why transformers refuses a config: the cause, where it is wrapped."""
    return " ".join(str(error.__cause__ or error).split())


def _llama(config: Mapping[str, Any], shapes: _Shapes) -> LlamaConfig:
    given = {key: config[key] for key in _LLAMA_KEYS if config.get(key) is not None}
    # A tokenizer's added tokens lengthen the table, and not every config.json counts them.
    rows = shapes.size("model.embed_tokens.weight", 0, int(config.get("vocab_size") or 32000))
    return LlamaConfig(vocab_size=rows, **given)


def _sam(shapes: _Shapes, extra: Mapping[str, Any]) -> SamConfig:
    decoder = _sam_decoder(shapes, extra)
    sam = SamConfig(
        vision_config=_sam_vision(shapes, extra),
        prompt_encoder_config=_sam_prompts(shapes),
        mask_decoder_config=decoder,
    )
    # Only SamModel chooses for its mask decoder; left open, transformers warns.
    decoder._attn_implementation = "sdpa"
    return sam


def _sam_vision(shapes: _Shapes, extra: Mapping[str, Any]) -> SamVisionConfig:
    width = shapes.size(f"{_ENCODER}.patch_embed.proj.weight", 0, 1280)
    patch = shapes.size(f"{_ENCODER}.patch_embed.proj.weight", -1, 16)
    depth = shapes.count(f"{_ENCODER}.blocks") or 32
    rows = [shapes.size(f"{_ENCODER}.blocks.{n}.attn.rel_pos_h", 0, 0) for n in range(depth)]
    grid = shapes.size(f"{_ENCODER}.pos_embed", 1, (max(rows) + 1) // 2 or 64)
    head = max(shapes.size(f"{_ENCODER}.blocks.{n}.attn.rel_pos_h", 1, 0) for n in range(depth))
    window, everywhere = _attention_reach(rows, grid)
    if not any(rows):
        window = int(extra.get("window_size", window))
        everywhere = extra.get("global_attn_indexes", everywhere)
    return SamVisionConfig(
        hidden_size=width,
        output_channels=shapes.size(f"{_ENCODER}.neck.0.weight", 0, 256),
        num_hidden_layers=depth,
        num_attention_heads=width // head if head else int(extra.get("num_attention_heads", 16)),
        image_size=grid * patch,
        patch_size=patch,
        mlp_dim=shapes.size(f"{_ENCODER}.blocks.0.mlp.lin1.weight", 0, 4 * width),
        use_rel_pos=any(rows),
        window_size=window,
        global_attn_indexes=list(everywhere),
        num_pos_feats=shapes.size(
            f"{_PROMPTS}.pe_layer.positional_encoding_gaussian_matrix", 1, 128
        ),
    )


def _attention_reach(rows: Sequence[int], grid: int) -> tuple[int, list[int]]:
    """Window side, and the blocks that see the whole grid, from rows of ``rel_pos_h``.

    A table for a window of w cells has 2 w - 1 rows; without a table a block is global.
    """
    everywhere = [block for block, count in enumerate(rows) if count in (0, 2 * grid - 1)]
    windows = {(count + 1) // 2 for count in rows if count not in (0, 2 * grid - 1)}
    if len(windows) > 1:
        raise ValueError(f"SAM's blocks have windows of different sizes: {sorted(windows)}")
    return (windows.pop() if windows else 14), everywhere


def _sam_prompts(shapes: _Shapes) -> SamPromptEncoderConfig:
    patch = shapes.size(f"{_ENCODER}.patch_embed.proj.weight", -1, 16)
    return SamPromptEncoderConfig(
        hidden_size=shapes.size(f"{_PROMPTS}.no_mask_embed.weight", 1, 256),
        image_size=patch * shapes.size(f"{_ENCODER}.pos_embed", 1, 64),
        patch_size=patch,
        mask_input_channels=shapes.size(f"{_PROMPTS}.mask_downscaling.3.weight", 0, 16),
        num_point_embeddings=shapes.count(f"{_PROMPTS}.point_embeddings") or 4,
    )


def _sam_decoder(shapes: _Shapes, extra: Mapping[str, Any]) -> SamMaskDecoderConfig:
    width = shapes.size(f"{_DECODER}.mask_tokens.weight", 1, 256)
    inner = shapes.size(f"{_DECODER}.transformer.final_attn_token_to_image.q_proj.weight", 0, 128)
    return SamMaskDecoderConfig(
        hidden_size=width,
        mlp_dim=shapes.size(f"{_DECODER}.transformer.layers.0.mlp.lin1.weight", 0, 2048),
        num_hidden_layers=shapes.count(f"{_DECODER}.transformer.layers") or 2,
        num_attention_heads=int(extra.get("decoder_num_attention_heads", 8)),
        attention_downsample_rate=width // inner,
        num_multimask_outputs=shapes.size(f"{_DECODER}.mask_tokens.weight", 0, 4) - 1,
        iou_head_depth=shapes.count(f"{_DECODER}.iou_prediction_head.layers") or 3,
        iou_head_hidden_dim=shapes.size(f"{_DECODER}.iou_prediction_head.layers.0.weight", 0, 256),
        # The public two-way blocks use torch's default, transformers' config does not.
        layer_norm_eps=1e-5,
    )
