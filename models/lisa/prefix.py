"""The start that all questions about an image share, read once: system text and image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True, eq=False)
class Prefix:
    """The start that all sequences about an image share, read.

    Attributes:
        ids: its tokens, IMAGE_TOKEN_ID for the whole image.
        length: positions P it takes; an image takes many.
        keys, values: per layer (1, heads, P, head size).
    """

    ids: tuple[int, ...]
    length: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def read_prefix(model: LlamaForCausalLM, ids: Sequence[int], image_tokens: Tensor) -> Prefix:
    """Read what comes before the question: ``ids`` end with the image's one id.

    ``image_tokens`` (1, N, hidden) take its place.
    """
    return read_prefixes(model, ids, image_tokens)[0]


def read_prefixes(
    model: LlamaForCausalLM, ids: Sequence[int], image_tokens: Tensor
) -> list[Prefix]:
    """The same before each of B images, (B, N, hidden), which are read together."""
    words = embed_words(model, [list(ids[:-1])]).expand(len(image_tokens), -1, -1)
    embeddings = torch.cat([words, image_tokens.to(words.dtype)], dim=1)
    cache = DynamicCache()
    model.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
    layers = cast(list[DynamicLayer], cache.layers)
    # (B, heads, P, head size) each, taken apart by image.
    keys = zip(*(torch.split(cast(Tensor, layer.keys), 1) for layer in layers), strict=True)
    values = zip(*(torch.split(cast(Tensor, layer.values), 1) for layer in layers), strict=True)
    length = embeddings.shape[1]
    return [Prefix(tuple(ids), length, *pair) for pair in zip(keys, values, strict=True)]


def embed_words(model: LlamaForCausalLM, ids: list[list[int]]) -> Tensor:
    """(B, S) ids of words to (B, S, hidden)."""
    table = model.model.embed_tokens
    return cast(Tensor, table(torch.tensor(ids, dtype=torch.long, device=table.weight.device)))
