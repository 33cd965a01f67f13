"""A finished student as the start of further training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data.artifacts.store import read_metadata
from data.artifacts.student import CONFIG, read_model
from data.errors import ArtifactError, UserError
from models.student import Student

_IMAGE_HEAD = "image_head."


@dataclass(frozen=True, eq=False)
class Start:
    """``network`` builds the student; ``weights`` are those it starts with."""

    network: dict[str, Any]
    weights: dict[str, Tensor]
    fingerprint: str
    folder: Path

    def load_into(self, model: Student) -> None:
        """Give ``model``, built from ``network``, the weights; a head it lacks keeps its own.

        Raises ArtifactError for weights that are not of this network.
        """
        try:
            left = model.load_state_dict(self.weights, strict=False)
        except RuntimeError as error:
            raise self._damaged(str(error).split("\n", 1)[-1].strip()) from error
        missing = [name for name in left.missing_keys if not name.startswith(_IMAGE_HEAD)]
        if missing or left.unexpected_keys:
            raise self._damaged(f"missing {missing[:3]}, unknown {left.unexpected_keys[:3]}")

    def _damaged(self, found: str) -> ArtifactError:
        return ArtifactError(
            self.folder / CONFIG, "the config of these weights", found, "Train that student again."
        )


def read_start(student_dir: Path, wanted: Mapping[str, Any], voxel_size: float) -> Start:
    """The student in a folder, to be trained on tokens and features as ``wanted`` has them.

    Its network stays as it is, whatever the config says of presets and lengths. The head for the
    teacher's image features is the exception: it goes, or is drawn anew, as ``wanted`` says.

    Raises:
        ArtifactError: the student is missing or damaged.
        UserError: it takes tokens of another length, or sees voxels of another size.
    """
    weights, described = read_model(student_dir)
    try:
        network = dict(described["network"])
        token_dim, image_dim = network["token_dim"], network.get("image_dim", 0)
        edge = float(described["training"]["voxel_size"])
    except (KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(
            student_dir / CONFIG, "a student's config", found, "Train that student again."
        ) from error
    if token_dim != wanted["token_dim"]:
        raise UserError(
            f"The student in {student_dir} takes tokens of length {token_dim}, but this teacher's "
            f"have length {wanted['token_dim']}. Start from one that this teacher taught."
        )
    if edge != voxel_size:
        raise UserError(
            f"The student in {student_dir} sees voxels of {edge} m, but student.voxel_size is "
            f"{voxel_size} m. Set it to {edge}."
        )
    if image_dim != wanted["image_dim"]:
        network["image_dim"] = wanted["image_dim"]
        weights = {key: value for key, value in weights.items() if not key.startswith(_IMAGE_HEAD)}
    content = read_metadata(student_dir) or {}
    return Start(network, weights, str(content.get("fingerprint")), student_dir)
