"""The network of LISA (Lai et al., CVPR 2024) and LISA++, its sizes and its quantised form.

A CLIP tower and a projector turn the image into tokens of a Llama. The Llama's state that
predicts ``[SEG]`` passes a small MLP and becomes the only prompt of SAM's mask decoder. All
methods are differentiable and batched: the network is trained (LISA-nano) and used for inference
(all checkpoints). Other modules handle texts, image preprocessing and decoding.

A published ``config.json`` does not hold SAM's sizes; they are read from the shapes of the
weights. Numbers of heads, which no shape determines, have the published values unless
``config.json`` gives them under ``"sam"``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionEncoder

from data.errors import DataError, UserError

Bits = Literal["8bit", "4bit"]


def require_bitsandbytes(bits: Bits, device: torch.device) -> None:
    """Raise UserError unless weights can be quantised on ``device``."""
    if bits not in ("8bit", "4bit"):
        raise UserError(f"quantize must be 8bit or 4bit, not {bits!r}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{bits} weights need the package bitsandbytes, which is not installed: "
            "pip install bitsandbytes, or choose the dtype bfloat16, float16 or float32"
        )
    if device.type != "cuda" or not torch.cuda.is_available():
        raise UserError(
            f"{bits} weights need a CUDA GPU, and the device is {device}"
            f"{'' if torch.cuda.is_available() else ' (no GPU is visible)'}: "
            "choose another device, or the dtype bfloat16, float16 or float32"
        )


def is_quantised(name: str) -> bool:
    """Whether quantisation applies to the weight of this name in ``LisaNetwork``.

    As in transformers, the output layer keeps its precision.
    """
    return name.startswith("language_model.model.layers.") and name.endswith("proj.weight")


def quantise(model: LlamaForCausalLM, bits: Bits, dtype: torch.dtype, device: torch.device) -> None:
    """Replace the linear layers of all blocks by quantised layers.

    Memory mapped weights are read, quantised and moved to ``device`` one by one.
    """
    bnb = importlib.import_module("bitsandbytes")
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, _few_bits(bnb, linear, bits, dtype).to(device))


def _few_bits(bnb: Any, linear: nn.Linear, bits: Bits, dtype: torch.dtype) -> nn.Module:
    """Make a bitsandbytes layer, whose weights are quantised when it moves to the GPU."""
    sizes = (linear.in_features, linear.out_features)
    layer: nn.Module
    if bits == "4bit":
        layer = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4")
        weight = linear.weight.data.to(dtype)
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    else:
        layer = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False)
        weight = linear.weight.data.to(torch.float16)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    return layer


@dataclass(frozen=True, eq=False)
class LisaConfig:
    """Sizes of the network.

    ``select_layer`` is the index of the projected hidden state of CLIP (-2 in all published
    checkpoints); ``projector_layers`` is 1 (LISA) or 2 (LISA++). The width of [SEG] embeddings is
    ``sam.prompt_encoder_config.hidden_size``.
    """

    clip: CLIPVisionConfig
    llama: LlamaConfig
    sam: SamConfig
    select_layer: int = -2
    projector_layers: int = 1

    @property
    def embedding_dim(self) -> int:
        """Length C of a [SEG] embedding, equal to the channels of SAM's image embedding."""
        return int(cast(SamPromptEncoderConfig, self.sam.prompt_encoder_config).hidden_size)

    @property
    def sam_size(self) -> int:
        """Side of SAM's square input, pixels."""
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
    """LISA as one module: CLIP tower, projector, Llama, [SEG] head and SAM."""

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
        """Encode normalised pixels (B, 3, S, S) as the Llama's image tokens (B, N, hidden)."""
        return cast(Tensor, self.projector(self.clip_features(clip_pixels)))

    def clip_features(self, clip_pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, S, S) as patch features (B, N, width) of CLIP's selected layer.

        The class token is left out.
        """
        weight = self.vision_tower.embeddings.patch_embedding.weight
        states = self.vision_tower(
            pixel_values=clip_pixels.to(weight.dtype), output_hidden_states=True
        ).hidden_states
        return cast(Tensor, states[self.config.select_layer][:, 1:])

    def sam_embedding(self, sam_pixels: Tensor) -> Tensor:
        """Encode normalised, padded pixels (B, 3, S, S) as SAM's image embedding (B, C, g, g)."""
        weight = self.image_encoder.patch_embed.projection.weight
        return cast(Tensor, self.image_encoder(sam_pixels.to(weight.dtype)).last_hidden_state)

    def dense_positions(self) -> Tensor:
        """Return the positional codes (1, C, g, g) of the cell centres of SAM's embedding."""
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
        """Decode the masks of K prompts per image.

        ``sam_embedding`` is (B, C, g, g), ``seg_embeddings`` (B, K, C). Returns mask logits
        (B, K, 4g, 4g) and predicted IoUs (B, K). The mask is that of token 0, as in LISA, or with
        ``best_of_three`` that of tokens 1 to 3 with the highest predicted IoU, as in the release
        of MLLM-For3D.
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
    """Shapes by published key; an absent key has the shape of the published SAM.

    So a network can be built, and all missing keys be named, whichever keys are absent.
    """

    by_key: Mapping[str, Shape]

    def size(self, key: str, axis: int, otherwise: int) -> int:
        shape = self.by_key.get(key, ())
        return shape[axis] if -len(shape) <= axis < len(shape) else otherwise

    def count(self, start: str) -> int:
        """Return one more than the largest number that follows ``start`` in the keys."""
        pattern = re.compile(re.escape(start) + r"\.(\d+)\.")
        numbers = [int(match[1]) for key in self.by_key if (match := pattern.match(key))]
        return max(numbers, default=-1) + 1


def read_sizes(
    config_path: Path,
    config: Mapping[str, Any],
    clip: CLIPVisionConfig,
    shapes: Mapping[str, Shape],
) -> LisaConfig:
    """Read the network's sizes from the content of ``config.json`` and from ``shapes`` by key.

    Raises DataError when sizes are missing from ``config.json`` or contradict each other.
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
    """Read the vision tower's sizes from the content of a CLIP folder's ``config.json``.

    Raises DataError when sizes are missing or refused by transformers.
    """
    vision = config.get("vision_config", config)
    missing = [key for key in ("hidden_size", "patch_size", "image_size") if key not in vision]
    if missing:
        remedy = "Give the folder of a CLIP model, such as openai/clip-vit-large-patch14."
        raise DataError(config_path, "sizes of a CLIP vision tower", f"no {missing}", remedy)
    sizes = {key: vision[key] for key in _CLIP_KEYS if vision.get(key) is not None}
    try:
        return CLIPVisionConfig(**sizes)
    except (StrictDataclassError, ValueError, TypeError) as error:
        remedy = "Fetch config.json of the CLIP model again."
        raise DataError(config_path, "sizes of CLIP", _reason(error), remedy) from error


def extra_sizes(config: LisaConfig) -> dict[str, Any]:
    """Return the sizes for ``"sam"`` in ``config.json``, which no shape determines."""
    vision = cast(SamVisionConfig, config.sam.vision_config)
    decoder = cast(SamMaskDecoderConfig, config.sam.mask_decoder_config)
    return {
        "num_attention_heads": vision.num_attention_heads,
        "window_size": vision.window_size,
        "global_attn_indexes": list(vision.global_attn_indexes),
        "decoder_num_attention_heads": decoder.num_attention_heads,
    }


def _reason(error: Exception) -> str:
    """Return the reason why transformers refuses a config, from the cause of the exception."""
    return " ".join(str(error.__cause__ or error).split())


def _llama(config: Mapping[str, Any], shapes: _Shapes) -> LlamaConfig:
    sizes = {key: config[key] for key in _LLAMA_KEYS if config.get(key) is not None}
    # Added tokens lengthen the embedding table, and not every config.json counts them.
    rows = shapes.size("model.embed_tokens.weight", 0, int(config.get("vocab_size") or 32000))
    return LlamaConfig(vocab_size=rows, **sizes)


def _sam(shapes: _Shapes, extra: Mapping[str, Any]) -> SamConfig:
    decoder = _sam_decoder(shapes, extra)
    sam = SamConfig(
        vision_config=_sam_vision(shapes, extra),
        prompt_encoder_config=_sam_prompts(shapes),
        mask_decoder_config=decoder,
    )
    # Only SamModel sets this for its mask decoder; transformers warns if it is unset.
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
    """Return the window side in cells and the blocks with global attention.

    ``rows`` are the numbers of rows of ``rel_pos_h`` by block: 2 w - 1 for a window of w cells, 0
    without a table. A block without a table is global. Raises ValueError for several windows.
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
        # SAM's published code uses torch's default, the config of transformers another value.
        layer_norm_eps=1e-5,
    )
