"""Config of the text encoder behind text-only queries."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from stages.config_base import Count, StageConfig


class TextConfig(StageConfig):
    """What turns a new sentence into a query token when there is no teacher and no image."""

    encoder: Literal["teacher", "sentence", "clip"] = "teacher"
    """``teacher``: LISA's own language model behind a mean image; ``sentence``: a sentence
    encoder such as MiniLM; ``clip``: CLIP's text tower."""
    weights: str = ""
    """Folder or hub id of the ``sentence`` or ``clip`` encoder; empty with ``teacher``."""
    images_per_scene: Count = 2
    """``teacher``: pictures of each scene that the mean image is averaged over."""

    @model_validator(mode="after")
    def _weights_belong_to_the_encoder(self) -> TextConfig:
        if self.encoder == "teacher" and self.weights:
            raise ValueError(
                "text.weights are for text.encoder=sentence or clip; the encoder 'teacher' "
                "takes those of the teacher (teacher.lisa.weights)"
            )
        if self.encoder != "teacher" and not self.weights:
            raise ValueError(
                f"text.encoder={self.encoder} needs text.weights: a folder with config.json, "
                "weights and tokenizer, or a hub id"
            )
        return self
