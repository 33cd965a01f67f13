"""Stage ``embed_classes``: names of classes to CLIP's text embeddings, by prompt templates.

A class's embedding is the mean of the unit vectors of its name in every template, scaled to unit
length again, as CLIP's authors make ensembles of prompts (Radford et al., 2021, section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.artifacts.embeddings import ClassEmbeddings
from data.errors import UserError
from data.queries.classes import HUB_IDS, TEMPLATES
from data.types import Array
from models.text import ClipText, TextEncoder, UnreadableEncoder


def run(
    classes: Sequence[str], templates: str, clip: str, weights: Path | str, device: str = "cpu"
) -> ClassEmbeddings:
    """Embed ``classes``.

    Args:
        classes: names, each once.
        templates: a key of ``TEMPLATES``.
        clip: a key of ``HUB_IDS``; what to fetch is told where weights cannot be read.
        weights: folder or hub id of a CLIP model.
        device: "cpu" or "cuda[:i]".

    Raises:
        UserError: no weights, damaged ones, or no such device.
    """
    try:
        encoder = ClipText(weights, device)
    except UnreadableEncoder as error:
        raise UserError(
            f"--weights: CLIP {clip} cannot be read from {weights} ({error.reason}). Fetch it once "
            f"where there is a network (hf download {HUB_IDS[clip]} --local-dir FOLDER) and give "
            "--weights FOLDER: it holds config.json, the weights and the tokenizer's files."
        ) from error
    vectors = embed(classes, TEMPLATES[templates], encoder)
    return ClassEmbeddings(tuple(classes), TEMPLATES[templates], vectors)


def embed(classes: Sequence[str], templates: Sequence[str], encoder: TextEncoder) -> Array:
    """(C, D) float32 of unit length; ``templates`` hold one ``{}`` each.

    Raises UserError where vectors are not finite, or cancel each other out.
    """
    texts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = encoder.encode(texts).astype(np.float64)
    means = vectors.reshape(len(classes), len(templates), -1).mean(axis=1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(wrong):
        raise UserError(
            f"--weights: CLIP gives no direction for {len(wrong)} of {len(classes)} classes, "
            f"{classes[wrong[0]]!r} first: the weights are damaged, fetch them again"
        )
    return np.asarray(means / lengths, np.float32)
