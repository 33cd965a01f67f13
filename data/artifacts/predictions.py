"""Predictions artifact: ``predictions.zarr``, probabilities and masks on the original points.

Probabilities are stored as uint8, n / 255; masks as packed bits, eight points a byte, the
first point in the highest bit. One chunk per query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """What the student says of one scene: ``probs`` (Q, N) float32, ``masks`` (Q, N) bool."""

    scene_id: str
    prompt_ids: tuple[str, ...]
    probs: Array
    masks: Array

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not fit each other."""
        for name, dtype in (("probs", np.float32), ("masks", np.bool_)):
            array = getattr(self, name)
            if array.ndim != 2 or len(array) != len(self.prompt_ids) or array.dtype != dtype:
                raise ValueError(
                    f"{name} must be {np.dtype(dtype)} with {len(self.prompt_ids)} rows, "
                    f"got {array.dtype} {array.shape}"
                )
        if self.probs.shape != self.masks.shape:
            raise ValueError(f"probs are {self.probs.shape}, masks {self.masks.shape}")


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
        packed = np.asarray(group["masks"][...], np.uint8)
        return Predictions(
            str(attrs["scene_id"]),
            tuple(attrs["prompt_ids"]),
            np.asarray(group["probs"][...], np.float32) / np.float32(255),
            np.unpackbits(packed, axis=1, count=num_points).astype(bool),
        )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(path, "predictions of this schema", str(error), _REMEDY) from error
