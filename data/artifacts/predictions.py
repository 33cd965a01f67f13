"""Predictions artifact: ``predictions.zarr``, probabilities and masks on the original points.

Probabilities are stored as uint8, n / 255; masks as packed bits, eight points a byte, the
first point in the highest bit. One chunk per query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import zarr

from data.artifacts.rows import write_rows
from data.artifacts.store import require_complete
from data.errors import ArtifactError
from data.types import Array

FILE = "predictions.zarr"
_REMEDY = "Run PredictMasks again."


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is answered on one scene of N points to Q queries.

    ``probs`` (Q, N) float32 and ``masks`` (Q, N) bool are the student's; ``together`` (Q, N)
    bool are the masks of student and lifted labels together, the student's own where it had
    only words; ``scores`` (Q, 2) float32 tell how sure either is that the object is there.
    """

    scene_id: str
    prompt_ids: tuple[str, ...]
    probs: Array
    masks: Array
    together: Array
    scores: Array

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not fit each other."""
        kinds = {"probs": np.float32, "masks": np.bool_, "together": np.bool_, "scores": np.float32}
        for name, dtype in kinds.items():
            array = getattr(self, name)
            if array.ndim != 2 or len(array) != len(self.prompt_ids) or array.dtype != dtype:
                raise ValueError(
                    f"{name} must be {np.dtype(dtype)} with {len(self.prompt_ids)} rows, "
                    f"got {array.dtype} {array.shape}"
                )
        shapes = self.probs.shape, self.masks.shape, self.together.shape
        if len(set(shapes)) > 1 or self.scores.shape[1] != 2:
            raise ValueError(f"probs, masks, together are {shapes}, scores {self.scores.shape}")

    def only(self, prompt_ids: Sequence[str]) -> Predictions:
        """Those of some prompts, in their order; ValueError for one that is not there."""
        rows = [self.prompt_ids.index(prompt_id) for prompt_id in prompt_ids]
        arrays = (self.probs, self.masks, self.together, self.scores)
        return Predictions(self.scene_id, tuple(prompt_ids), *(array[rows] for array in arrays))

    def score(self, source: Literal["student", "together"]) -> Array:
        """(Q,) float32: how sure one of the answers is that the object is there."""
        return np.asarray(self.scores[:, ("student", "together").index(source)])


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write ``predictions.zarr`` into ``folder``, replacing one that is there."""
    group = zarr.create_group(folder / FILE, overwrite=True, zarr_format=3)
    group.attrs.update(
        scene_id=predictions.scene_id,
        prompt_ids=list(predictions.prompt_ids),
        num_points=predictions.probs.shape[1],
    )
    arrays = {
        "probs": np.rint(np.clip(predictions.probs, 0, 1) * 255).astype(np.uint8),
        "masks": np.packbits(predictions.masks, axis=1),
        "together": np.packbits(predictions.together, axis=1),
        "scores": predictions.scores,
    }
    for name, array in arrays.items():
        write_rows(group, name, array)


def read_predictions(folder: Path) -> Predictions:
    """The predictions of one scene; ArtifactError when the artifact cannot be read."""
    require_complete(folder, _REMEDY)
    path = folder / FILE
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attrs = dict(group.attrs)
        num_points = int(str(attrs["num_points"]))
        masks, together = (
            np.unpackbits(np.asarray(group[name][...], np.uint8), axis=1, count=num_points)
            for name in ("masks", "together")
        )
        return Predictions(
            str(attrs["scene_id"]),
            tuple(attrs["prompt_ids"]),
            np.asarray(group["probs"][...], np.float32) / np.float32(255),
            masks.astype(bool),
            together.astype(bool),
            np.asarray(group["scores"][...], np.float32),
        )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(path, "predictions of this schema", str(error), _REMEDY) from error
