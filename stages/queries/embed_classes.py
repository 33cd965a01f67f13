"""Stage ``embed_classes``: compute CLIP's text embeddings of class names by prompt templates.

The embedding of a class is the mean of the unit vectors of its name in every template, scaled to
unit length (prompt ensembles of Radford et al., 2021, section 3.1.4).
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
        clip: a key of ``HUB_IDS``, named in the message where weights cannot be read.
        weights: folder or hub id of a CLIP model.
        device: "cpu" or "cuda[:i]".

    Raises:
        UserError: no weights, damaged weights, or no such device.
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
    """Return embeddings (C, D) float32 of unit length; ``templates`` hold one ``{}`` each.

    Raises UserError for vectors that are not finite and for vectors that cancel each other.
    """
    texts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = encoder.encode(texts).astype(np.float64)
    means = vectors.reshape(len(classes), len(templates), -1).mean(axis=1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(wrong):
        raise UserError(
            f"--weights: CLIP gives no direction for {len(wrong)} of {len(classes)} classes, "
            f"the first is {classes[wrong[0]]!r}: the weights are damaged, fetch them again"
        )
    return np.asarray(means / lengths, np.float32)
