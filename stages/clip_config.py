"""Which CLIP models and prompt templates class embeddings are made with; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

HUB_IDS: Mapping[str, str] = {
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-L/14": "openai/clip-vit-large-patch14",
}
FILE_NAMES: Mapping[str, str] = {"ViT-B/16": "ViT16", "ViT-B/32": "ViT32", "ViT-L/14": "ViTL14"}
"""How the original scripts abbreviate a model in the name of its file."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "indoor": (
        "a photo of a {}.",
        "a photo of a {} in a room.",
        "a {} in a scene.",
        "there is a {} in the room.",
        "an indoor picture that shows a {}.",
        "a close view of a {}.",
        "a {} seen from far away.",
        "part of a {}.",
    ),
}
"""``{}`` is the name of a class; those of ``indoor`` are averaged."""
