"""Encode sentences as query tokens by the text encoder of ``text`` and its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from data.artifacts.student import TextStudent
from data.errors import UserError
from data.queries.vocabulary import read_words
from models.text_adapter import Adapter
from stages.network_configs import TeacherConfig, TextConfig
from stages.teacher.identity import (
    place_of,
    require_language_model,
    text_identity,
    words_met,
)
from stages.teacher.make_teacher import make_teacher

if TYPE_CHECKING:
    from models.lisa.teacher import LisaWords
    from models.text import TextEncoder


FloatArray = NDArray[np.float32]


def encode_queries(
    student: TextStudent,
    texts: Sequence[str],
    cfg: TextConfig,
    teacher_cfg: TeacherConfig,
    device: str,
) -> tuple[FloatArray, FloatArray]:
    """Return (n, D) unit query tokens of ``texts`` and how well each is known, (n,); float32.

    The encoder is loaded once per process and config. No image is read. A text that the teacher's
    language model refuses, whatever is in the image, is known by at most one half: nothing fits.
    Encoders that refuse nothing know every text, by 1.

    Args:
        student: a text student, as returned by ``read_text_student``.
        texts: queries in any form that the teacher accepts.
        cfg, teacher_cfg: the configs of its distillation; folders of weights may differ.
        device: "cpu" or "cuda[:i]".

    Raises:
        UserError: weights are missing or differ from those of the distillation, or a text is too
            long for LISA.
    """
    identity = _identity(cfg.model_dump_json(), teacher_cfg.model_dump_json(by_alias=True))
    if (student.encoder, dict(student.identity)) != (cfg.encoder, identity):
        raise UserError(
            f"the text student was distilled with text.encoder={student.encoder} and other weights "
            f"than those of text.encoder={cfg.encoder} now: run DistilText again, or "
            "give the weights that it was distilled with"
        )
    features, known = _encoded(texts, student.mean_tokens, cfg, teacher_cfg, device)
    return Adapter(student.weight, student.bias).apply(features), known


def encode_features(
    texts: Sequence[str],
    mean_tokens: FloatArray | None,
    cfg: TextConfig,
    teacher_cfg: TeacherConfig,
    device: str,
) -> FloatArray:
    """Return (n, E) float32 vectors of the text encoder, before the adapter.

    ``mean_tokens`` (T, C) is the mean image for the teacher's language model, None for other
    encoders. Raises UserError like ``encode_queries``.
    """
    return _encoded(texts, mean_tokens, cfg, teacher_cfg, device)[0]


def _encoded(
    texts: Sequence[str],
    mean_tokens: FloatArray | None,
    cfg: TextConfig,
    teacher_cfg: TeacherConfig,
    device: str,
) -> tuple[FloatArray, FloatArray]:
    """Return vectors (n, E) and how well texts are known, (n,); only a teacher refuses any."""
    if cfg.encoder == "teacher":
        import torch

        if mean_tokens is None:
            raise ValueError("the teacher's language model needs a mean image")
        words = make_words(teacher_cfg, device)
        return words.encode_and_judge(texts, torch.from_numpy(np.array(mean_tokens)))
    vectors = _text_encoder(cfg.model_dump_json(), device).encode(texts)
    return vectors, np.ones(len(texts), np.float32)


def known_words(cfg: TextConfig, teacher_cfg: TeacherConfig) -> frozenset[str] | None:
    """Return the words that the text encoder has met; None where its weights do not tell.

    Raises UserError or DataError for weights or words that cannot be read.
    """
    if cfg.encoder == "teacher":
        return words_met(teacher_cfg)
    place = place_of(cfg.weights, "text.weights")
    return read_words(place) if isinstance(place, Path) else None


def make_words(teacher_cfg: TeacherConfig, device: str) -> LisaWords:
    """Make the teacher's text encoder, which shares the weights of ``make_teacher``.

    Raises UserError for a teacher that is not LISA, and for missing weights.
    """
    require_language_model(teacher_cfg)
    from models.lisa.teacher import LisaTeacher, LisaWords

    teacher = cast(LisaTeacher, make_teacher(teacher_cfg, device))
    return LisaWords(teacher.loaded, teacher.settings)


@cache
def _text_encoder(cfg_json: str, device: str) -> TextEncoder:
    from models.text import ClipText, SentenceEncoder

    cfg = TextConfig.model_validate_json(cfg_json)
    encoder_class = SentenceEncoder if cfg.encoder == "sentence" else ClipText
    return encoder_class(place_of(cfg.weights, "text.weights"), device)


@cache
def _identity(cfg_json: str, teacher_json: str) -> dict[str, str]:
    cfg = TextConfig.model_validate_json(cfg_json)
    return text_identity(cfg, TeacherConfig.model_validate_json(teacher_json))[1]
