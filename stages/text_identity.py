"""What a text encoder's vectors depend on, found out without importing any of it."""

from __future__ import annotations

from typing import Any

from data.errors import ConfigError
from stages.teacher_config import TeacherConfig
from stages.teacher_identity import identity_of, place_of, teacher_identity
from stages.text_config import TextConfig


def text_identity(
    cfg: TextConfig, teacher_cfg: TeacherConfig
) -> tuple[dict[str, Any], dict[str, str]]:
    """The part of both configs that matters to the encoder, and its weights by their content.

    Raises UserError when the weights are missing or the teacher has no language model.
    """
    if cfg.encoder != "teacher":
        weights = {"text_weights": identity_of(place_of(cfg.weights, "text.weights"))}
        return {"encoder": cfg.encoder}, weights
    require_language_model(teacher_cfg)
    asked, weights = teacher_identity(teacher_cfg)
    content = {"encoder": cfg.encoder, "images_per_scene": cfg.images_per_scene, "teacher": asked}
    return content, weights


def require_language_model(teacher_cfg: TeacherConfig) -> None:
    """Raise ConfigError for a teacher that is no LISA."""
    if not teacher_cfg.is_lisa:
        raise ConfigError(
            f"the teacher {teacher_cfg.name!r} has no language model to encode sentences with: "
            "set text.encoder=sentence or text.encoder=clip, and text.weights to the folder of "
            "its weights"
        )
