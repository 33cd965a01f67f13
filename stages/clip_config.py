"""Which CLIP models and prompt templates class embeddings are made with; imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from data.errors import DataError

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

_PATCHES: Mapping[str, int] = {"ViT-B/16": 16, "ViT-B/32": 32, "ViT-L/14": 14}
_DIMS: Mapping[str, int] = {"ViT-B/16": 512, "ViT-B/32": 512, "ViT-L/14": 768}


def check_clip(folder: Path, clip: str) -> None:
    """Refuse a folder whose ``config.json`` says that it is another of ``HUB_IDS``.

    Of a whole CLIP the patches of its picture tower tell which it is, of a text tower alone the
    length of its vectors. What is none of the three is let through.

    Raises DataError for another CLIP, and for a config that is no JSON object.
    """
    path, remedy = folder / "config.json", f"Give the folder of {HUB_IDS[clip]}, or another --clip."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vision = content.get("vision_config") or {}
        patch, dim = vision.get("patch_size"), content.get("projection_dim")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(path, "the config of a CLIP", str(error), remedy) from error
    if patch in _PATCHES.values() and patch != _PATCHES[clip]:
        raise DataError(path, f"{clip}, patches of {_PATCHES[clip]} pixels", f"{patch}", remedy)
    if dim in _DIMS.values() and dim != _DIMS[clip]:
        raise DataError(path, f"{clip}, vectors of {_DIMS[clip]} numbers", f"{dim}", remedy)
