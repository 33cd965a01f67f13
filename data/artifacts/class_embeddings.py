"""Class embeddings: one text vector a class, for this project and for scripts of others.

``embeddings.safetensors`` holds ``embeddings`` (C, D) float32 of unit length; ``classes.json`` the
classes in their order, the templates and the model; ``<set>_<model>_clip_text.pth`` the same
tensor by itself, as ``torch.load`` reads it.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.artifacts.store import require_complete, write_text_atomic
from data.artifacts.versions import VERSIONS
from data.errors import ArtifactError
from data.types import Array

SCHEMA_VERSION = VERSIONS["embed_classes"]
EMBEDDINGS = "embeddings.safetensors"
CLASSES = "classes.json"
_REMEDY = "Run EmbedClasses again."


@dataclass(frozen=True, eq=False)
class ClassEmbeddings:
    """``embeddings`` (C, D) float32, rows of unit length in the order of ``classes``."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    embeddings: Array

    def __post_init__(self) -> None:
        """Raise ValueError unless there is one finite vector a class."""
        shape = self.embeddings.shape
        if len(shape) != 2 or shape[0] != len(self.classes) or self.embeddings.dtype != np.float32:
            raise ValueError(f"{len(self.classes)} classes, but vectors of shape {shape}")
        if not np.isfinite(self.embeddings).all():
            raise ValueError("a vector is not finite")


def write_class_embeddings(folder: Path, content: ClassEmbeddings, tensor_name: str) -> None:
    """Write all three files; ``tensor_name`` is that of the plain tensor."""
    import torch
    from safetensors.numpy import save

    told = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(content.classes),
        "templates": list(content.templates),
    }
    write_text_atomic(folder / CLASSES, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    rows = np.ascontiguousarray(content.embeddings)
    (folder / EMBEDDINGS).write_bytes(save({"embeddings": rows}))
    # Through memory, for a file's own name would become part of its content.
    stream = io.BytesIO()
    torch.save(torch.from_numpy(rows.copy()), stream)
    (folder / tensor_name).write_bytes(stream.getvalue())


def read_class_embeddings(folder: Path) -> ClassEmbeddings:
    """What ``write_class_embeddings`` wrote; ArtifactError when it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    require_complete(folder, _REMEDY)
    path = folder / CLASSES
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        classes, templates = tuple(told["classes"]), tuple(told["templates"])
        path = folder / EMBEDDINGS
        return ClassEmbeddings(classes, templates, load_file(path)["embeddings"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(path, "class embeddings of this schema", found, _REMEDY) from error
