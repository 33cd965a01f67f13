"""Read and write vectors: text embeddings of classes and image features of superpoints.

Class embeddings: ``embeddings.safetensors`` holds ``embeddings`` (C, D) float32 of unit length;
``classes.json`` holds the classes in their order and the templates; and
``<set>_<model>_clip_text.pth`` holds the same tensor alone, for ``torch.load``.

Features: ``features.zarr`` stores ``features`` (S, C) as float16, whose rounding is smaller than
the differences between views, and ``seen`` (S,) bool.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from data.artifacts.store import require_complete, write_text_atomic
from data.errors import ArtifactError
from data.types import Array

SCHEMA_VERSION = 1
EMBEDDINGS = "embeddings.safetensors"
CLASSES = "classes.json"
_CLASSES_REMEDY = "Run EmbedClasses again."


@dataclass(frozen=True, eq=False)
class ClassEmbeddings:
    """Text embeddings (C, D) float32: one row of unit length for each of ``classes``."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    embeddings: Array

    def __post_init__(self) -> None:
        """Raise ValueError unless each class has one finite vector."""
        shape = self.embeddings.shape
        if len(shape) != 2 or shape[0] != len(self.classes) or self.embeddings.dtype != np.float32:
            raise ValueError(
                f"expected a float32 row for each of {len(self.classes)} classes, got {shape}"
            )
        if not np.isfinite(self.embeddings).all():
            raise ValueError("a vector is not finite")


def write_class_embeddings(folder: Path, content: ClassEmbeddings, tensor_name: str) -> None:
    """Write all three files; ``tensor_name`` is the name of the plain tensor's file."""
    import torch
    from safetensors.numpy import save

    entries = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(content.classes),
        "templates": list(content.templates),
    }
    write_text_atomic(folder / CLASSES, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    rows = np.ascontiguousarray(content.embeddings)
    (folder / EMBEDDINGS).write_bytes(save({"embeddings": rows}))
    # Saved to memory first: torch.save would write the file's name into its content.
    stream = io.BytesIO()
    torch.save(torch.from_numpy(rows.copy()), stream)
    (folder / tensor_name).write_bytes(stream.getvalue())


def read_class_embeddings(folder: Path) -> ClassEmbeddings:
    """Read what ``write_class_embeddings`` wrote; ArtifactError when it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    require_complete(folder, _CLASSES_REMEDY)
    path = folder / CLASSES
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        classes, templates = tuple(entries["classes"]), tuple(entries["templates"])
        path = folder / EMBEDDINGS
        return ClassEmbeddings(classes, templates, load_file(path)["embeddings"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(
            path, "class embeddings of this schema", found, _CLASSES_REMEDY
        ) from error


FILE = "features.zarr"
LARGEST = float(np.finfo(np.float16).max)
"""Largest absolute value that float16 can store."""
_ROWS = 4096
_FEATURES_REMEDY = "Run LiftFeatures again."


@dataclass(frozen=True, eq=False)
class LiftedFeatures:
    """Image features of S superpoints: ``features`` (S, C) float32, ``seen`` (S,) bool.

    ``seen`` marks superpoints that a view saw; the other rows of ``features`` are 0.
    """

    scene_id: str
    features: Array
    seen: Array

    def __post_init__(self) -> None:
        """Raise ValueError for shapes, types or values that do not fit each other."""
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
    """Read the features of one scene; ArtifactError when the artifact cannot be read."""
    require_complete(folder, _FEATURES_REMEDY)
    path = folder / FILE
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        return LiftedFeatures(
            str(group.attrs["scene_id"]),
            np.asarray(group["features"][...], np.float32),
            np.asarray(group["seen"][...]),
        )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(
            path, "features of this schema", str(error), _FEATURES_REMEDY
        ) from error
