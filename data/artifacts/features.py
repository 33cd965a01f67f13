"""Image features artifact: ``features.zarr``, the teacher's features of a scene's superpoints.

Stored as float16, which is finer than what views disagree by.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from data.artifacts.store import require_complete
from data.errors import ArtifactError
from data.types import Array

FILE = "features.zarr"
LARGEST = float(np.finfo(np.float16).max)
"""No feature may be further from 0, or it could not be stored."""
_ROWS = 4096
_REMEDY = "Run LiftFeatures again."


@dataclass(frozen=True, eq=False)
class LiftedFeatures:
    """Image features of S superpoints: ``features`` (S, C) float32, ``seen`` (S,) bool.

    The rows of superpoints that no view saw are 0.
    """

    scene_id: str
    features: Array
    seen: Array

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not fit each other."""
        features, seen = self.features, self.seen
        if features.ndim != 2 or features.dtype != np.float32 or not features.shape[1]:
            raise ValueError(
                f"features must be float32 (S, C), got {features.dtype} {features.shape}"
            )
        if seen.shape != features.shape[:1] or seen.dtype != np.bool_:
            raise ValueError(f"seen must be bool ({len(features)},), got {seen.dtype} {seen.shape}")
        if not np.all(np.abs(features) <= LARGEST) or features[~seen].any():
            raise ValueError(f"features must be within {LARGEST:g}, and 0 where nothing was seen")


def write_features(folder: Path, lifted: LiftedFeatures) -> None:
    """Write ``features.zarr`` into ``folder``, replacing one that is there."""
    group = zarr.create_group(folder / FILE, overwrite=True, zarr_format=3)
    group.attrs.update(scene_id=lifted.scene_id)
    for name, array in (("features", lifted.features.astype(np.float16)), ("seen", lifted.seen)):
        stored = group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(_ROWS, *array.shape[1:]),
            compressors=ZstdCodec(level=3, checksum=True),
            fill_value=0,
        )
        if array.size:
            stored[...] = array


def read_features(folder: Path) -> LiftedFeatures:
    """The features of one scene; ArtifactError when the artifact cannot be read."""
    require_complete(folder, _REMEDY)
    path = folder / FILE
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        return LiftedFeatures(
            str(group.attrs["scene_id"]),
            np.asarray(group["features"][...], np.float32),
            np.asarray(group["seen"][...]),
        )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(path, "features of this schema", str(error), _REMEDY) from error
