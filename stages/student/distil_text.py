"""Stage: distil query tokens into a text student, which needs neither teacher nor image.

The target of a sentence is its [SEG] embedding, averaged over views and scenes; the feature is
the text encoder's vector of the sentence; a ridge regression maps features to targets. No label
is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.artifacts.student import TextStudent
from data.errors import UserError
from data.types import Array, Progress, View, silent
from models.text_adapter import fit_adapter
from stages.network_configs import TeacherConfig, TextConfig
from stages.scene.view_images import read_image
from stages.student.text_encoding import encode_features, make_words
from stages.teacher.identity import text_identity

if TYPE_CHECKING:
    from models.lisa.teacher import LisaWords


@dataclass(frozen=True, eq=False)
class TextScene:
    """The inputs of distillation from one scene with Q queries.

    ``tokens`` (Q, D) float32 hold one token per text, zero rows where no view answered with a
    mask (``PseudoLabels.query_tokens``); ``views`` are read only for the mean image.
    """

    scene_id: str
    texts: tuple[str, ...]
    tokens: Array
    views: tuple[View, ...]

    def __post_init__(self) -> None:
        """Raise ValueError unless there is one token per text."""
        if self.tokens.ndim != 2 or len(self.tokens) != len(self.texts):
            raise ValueError(
                f"{self.scene_id}: {len(self.texts)} texts, but tokens {self.tokens.shape}"
            )


def run(
    scenes: Sequence[TextScene],
    cfg: TextConfig,
    teacher_cfg: TeacherConfig,
    device: str = "cpu",
    progress: Progress = silent,
) -> TextStudent:
    """Fit the adapter from the encoder of ``cfg`` to the tokens of ``scenes``.

    Args:
        scenes: read one at a time, each once.
        cfg: the encoder and the number of images of its mean image.
        teacher_cfg: the teacher that made the tokens.
        device: "cpu" or "cuda[:i]"; not part of the result's identity.
        progress: called with (scenes done, number of scenes).

    Raises:
        UserError: missing weights, a teacher without a language model for the encoder
            "teacher", no sentence with a token, no image, tokens of different lengths, or a
            text too long for LISA.
        DataError: an image cannot be read.
    """
    identity = text_identity(cfg, teacher_cfg)[1]
    mean_image = _MeanImage(make_words(teacher_cfg, device)) if cfg.encoder == "teacher" else None
    targets = _Targets()
    for done, scene in enumerate(scenes):
        targets.add(scene)
        if mean_image is not None:
            for view in _spread(scene.views, cfg.images_per_scene):
                mean_image.add(view)
        progress(done + 1, len(scenes))
    texts, tokens = targets.unit_means()
    mean_tokens = None if mean_image is None else mean_image.mean()
    features = encode_features(texts, mean_tokens, cfg, teacher_cfg, device)
    fit = fit_adapter(features, tokens)
    return TextStudent(
        encoder=cfg.encoder,
        identity=identity,
        weight=fit.adapter.weight,
        bias=fit.adapter.bias,
        mean_tokens=mean_tokens,
        num_sentences=len(texts),
        left_out_cosine=fit.left_out_cosine if math.isfinite(fit.left_out_cosine) else None,
        penalty=fit.penalty,
        residual=fit.residual,
    )


class _Targets:
    """Sums of unit tokens by text."""

    def __init__(self) -> None:
        self._sums: dict[str, Array] = {}
        self._first = ""
        self._dim = 0

    def add(self, scene: TextScene) -> None:
        """Add the tokens of a scene; UserError when they have another length."""
        dim = scene.tokens.shape[1]
        if self._dim not in (0, dim):
            raise UserError(
                f"tokens of {self._first} have length {self._dim}, those of {scene.scene_id} "
                f"{dim}: fuse all scenes with the same teacher"
            )
        self._first, self._dim = self._first or scene.scene_id, dim
        for text, token in zip(scene.texts, scene.tokens.astype(np.float64), strict=True):
            length = np.linalg.norm(token)
            if length > 0:
                self._sums[text] = self._sums.get(text, 0) + token / length

    def unit_means(self) -> tuple[list[str], Array]:
        """Return sorted texts and their (n, D) float64 unit means; UserError without any."""
        # Tokens of one text that cancel out have no direction.
        lengths = {text: float(np.linalg.norm(total)) for text, total in self._sums.items()}
        texts = sorted(text for text, length in lengths.items() if length > 1e-6)
        if not texts:
            raise UserError(
                "no sentence has a query token: the teacher answered no query of any training "
                "scene with a mask, so there is nothing to distil. Choose another teacher, or "
                "queries that it answers"
            )
        return texts, np.stack([self._sums[text] / lengths[text] for text in texts])


class _MeanImage:
    """Running mean of the image tokens of views."""

    def __init__(self, words: LisaWords) -> None:
        self._words = words
        self._sum: Array | None = None
        self._count = 0

    def add(self, view: View) -> None:
        """Add the image of one view; DataError when it cannot be read."""
        tokens = self._words.image_tokens(read_image(view)).numpy().astype(np.float64)
        self._sum = tokens if self._sum is None else self._sum + tokens
        self._count += 1

    def mean(self) -> Array:
        """Return the mean image (T, C) float32; UserError without any image."""
        if self._sum is None:
            raise UserError(
                "the scenes have no view for a mean image: choose text.encoder=sentence "
                "or text.encoder=clip and its text.weights"
            )
        return np.asarray(self._sum / self._count, np.float32)


def _spread(views: Sequence[View], count: int) -> Iterator[View]:
    """Yield ``count`` evenly spaced views, all if there are fewer."""
    count = min(count, len(views))
    for step in range(count):
        yield views[(2 * step + 1) * len(views) // (2 * count)]
