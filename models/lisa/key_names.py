"""Translate names of weights between published checkpoints (LISA, SAM, CLIP) and ``LisaNetwork``.

Each row of the tables renames the start of a name; ``#`` stands for a number. The first row that
matches applies, so specific rows come before general rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_SAM = "model.visual_model"
_HYPERNETWORK = "mask_decoder.output_hypernetworks_mlps.#"
_IOU_HEAD = "mask_decoder.iou_prediction_head"
_MLP_LAYERS = (("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out"))

_RENAMES = (
    ("lm_head", "language_model.lm_head"),
    ("model.embed_tokens", "language_model.model.embed_tokens"),
    ("model.layers", "language_model.model.layers"),
    ("model.norm", "language_model.model.norm"),
    ("model.mm_projector", "projector"),
    ("model.text_hidden_fcs.0", "seg_head"),
    (f"{_SAM}.image_encoder.patch_embed.proj", "image_encoder.patch_embed.projection"),
    (f"{_SAM}.image_encoder.blocks.#.norm#", "image_encoder.layers.#.layer_norm#"),
    (f"{_SAM}.image_encoder.blocks", "image_encoder.layers"),
    (f"{_SAM}.image_encoder.neck.0", "image_encoder.neck.conv1"),
    (f"{_SAM}.image_encoder.neck.1", "image_encoder.neck.layer_norm1"),
    (f"{_SAM}.image_encoder.neck.2", "image_encoder.neck.conv2"),
    (f"{_SAM}.image_encoder.neck.3", "image_encoder.neck.layer_norm2"),
    (f"{_SAM}.image_encoder", "image_encoder"),
    (
        f"{_SAM}.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (f"{_SAM}.prompt_encoder.point_embeddings", "prompt_encoder.point_embed"),
    (f"{_SAM}.prompt_encoder.mask_downscaling.0", "prompt_encoder.mask_embed.conv1"),
    (f"{_SAM}.prompt_encoder.mask_downscaling.1", "prompt_encoder.mask_embed.layer_norm1"),
    (f"{_SAM}.prompt_encoder.mask_downscaling.3", "prompt_encoder.mask_embed.conv2"),
    (f"{_SAM}.prompt_encoder.mask_downscaling.4", "prompt_encoder.mask_embed.layer_norm2"),
    (f"{_SAM}.prompt_encoder.mask_downscaling.6", "prompt_encoder.mask_embed.conv3"),
    (f"{_SAM}.prompt_encoder", "prompt_encoder"),
    (
        f"{_SAM}.mask_decoder.transformer.layers.#.norm#",
        "mask_decoder.transformer.layers.#.layer_norm#",
    ),
    (
        f"{_SAM}.mask_decoder.transformer.norm_final_attn",
        "mask_decoder.transformer.layer_norm_final_attn",
    ),
    (f"{_SAM}.mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"),
    (f"{_SAM}.mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"),
    (f"{_SAM}.mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"),
    *(
        (f"{_SAM}.{mlp}.{theirs}", f"{mlp}.{ours}")
        for mlp in (_HYPERNETWORK, _IOU_HEAD)
        for theirs, ours in _MLP_LAYERS
    ),
    (f"{_SAM}.mask_decoder", "mask_decoder"),
)
_TOWER_RENAMES = (("vision_model", "vision_tower"),)

_RECOMPUTED = ("rotary_emb.inv_freq", "pixel_mean", "pixel_std")
_NOT_OF_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


def to_network(key: str) -> str | None:
    """Return the name in ``LisaNetwork`` of a published key; None for a key that is not LISA's."""
    return _both_ways(key, _RENAMES)


def to_published(name: str) -> str:
    """Return the published key of a name in ``LisaNetwork``; KeyError for the vision tower's."""
    return _known(name, _RENAMES)


def tower_to_network(key: str) -> str | None:
    """Return the name in ``LisaNetwork`` of a key in a CLIP folder; None for other keys.

    transformers 5 may omit the leading ``vision_model.``.
    """
    start = "" if key.startswith("vision_model.") else "vision_model."
    return _both_ways(start + key, _TOWER_RENAMES)


def tower_to_published(name: str) -> str:
    """Return the key in a CLIP folder of a name in ``LisaNetwork``; KeyError for other parts."""
    return _known(name, _TOWER_RENAMES)


def is_ignored(key: str) -> bool:
    """Whether the loader skips a key of a LISA checkpoint.

    It skips buffers, which are recomputed, and the vision tower, which has a separate folder.
    """
    return key.endswith(_RECOMPUTED) or "vision_tower" in key


def is_ignored_in_tower(key: str) -> bool:
    """Whether the loader skips a key of a CLIP folder, such as those of the text tower."""
    return key.startswith(_NOT_OF_TOWER) or key.endswith("position_ids")


def is_tower(name: str) -> bool:
    """Whether a name in ``LisaNetwork`` belongs to the vision tower."""
    return name.startswith("vision_tower.")


_Table = tuple[tuple[str, str], ...]


def _both_ways(key: str, table: _Table) -> str | None:
    """Rename a key; None unless renaming back gives ``key``, which rejects partial matches."""
    name = _rename(key, _rows(table))
    return name if name is not None and _rename(name, _rows(table, back=True)) == key else None


def _known(name: str, table: _Table) -> str:
    key = _rename(name, _rows(table, back=True))
    if key is None:
        raise KeyError(name)
    return key


@cache
def _rows(table: _Table, back: bool = False) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return patterns of the starts of names, and their new starts; ``back`` swaps old and new."""
    swapped = tuple((ours, theirs) for theirs, ours in table)
    return tuple(
        (re.compile(re.escape(old).replace(r"\#", r"(\d+)") + r"(?=\.|$)"), new)
        for old, new in (swapped if back else table)
    )


def _rename(name: str, rows: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, new in rows:
        match = pattern.match(name)
        if match:
            numbers = iter(match.groups())
            return re.sub("#", lambda _: next(numbers), new) + name[match.end() :]
    return None
