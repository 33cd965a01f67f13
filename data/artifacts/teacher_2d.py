"""Read and write ``teacher_2d.npz``: the overlap of a teacher's 2D masks with ground truth.

The artifact depends on labels: evaluation and report may read it, label-free steps may not.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.artifacts.store import require_complete
from data.errors import ArtifactError
from data.types import Array

SCHEMA_VERSION = 2
FILE = "teacher_2d.npz"
_REMEDY = "Run EvaluateTeacher2D again."
_DTYPES = {
    "status": np.uint8,
    "covered": np.int32,
    "intersection": np.int32,
    "union": np.int32,
    "predicted_iou": np.float32,
}


@dataclass(frozen=True, eq=False)
class Teacher2D:
    """The teacher's masks of one scene, compared with ground truth: V views, Q queries.

    ``cells`` is the number of mask cells in a picture. All arrays are (V, Q). ``status`` uint8 is
    the status in the teacher cache; ``covered`` int32 counts the cells that show the query's
    target; ``intersection`` and ``union`` int32 count cells of the teacher's mask and the target,
    where an answer without a mask counts as an empty mask; ``predicted_iou`` float32 is the
    teacher's prediction, 0 without a mask.
    """

    scene_id: str
    view_ids: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    cells: int
    status: Array
    covered: Array
    intersection: Array
    union: Array
    predicted_iou: Array

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not fit each other."""
        shape = (len(self.view_ids), len(self.prompt_ids))
        for name, dtype in _DTYPES.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
                )
        counts = (self.intersection, self.covered, self.union)
        ordered = all(bool(np.all(a <= b)) for a, b in zip(counts, counts[1:], strict=False))
        if not ordered or np.any(self.intersection < 0) or np.any(self.union > self.cells):
            raise ValueError("expected 0 <= intersection <= covered <= union <= cells")


def write_teacher_2d(folder: Path, teacher_2d: Teacher2D) -> None:
    """Write ``teacher_2d.npz`` into ``folder``, replacing one that is there."""
    np.savez_compressed(
        folder / FILE,
        schema_version=np.int64(SCHEMA_VERSION),
        scene_id=np.str_(teacher_2d.scene_id),
        view_ids=np.array(teacher_2d.view_ids, np.str_),
        prompt_ids=np.array(teacher_2d.prompt_ids, np.str_),
        cells=np.int64(teacher_2d.cells),
        **{name: getattr(teacher_2d, name) for name in _DTYPES},
    )


def read_teacher_2d(folder: Path) -> Teacher2D:
    """Read the comparison of one scene; ArtifactError when it is unfinished or damaged."""
    require_complete(folder, _REMEDY)
    path = folder / FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["schema_version"]) != SCHEMA_VERSION:
                raise ValueError(f"schema {int(file['schema_version'])}, not {SCHEMA_VERSION}")
            return Teacher2D(
                str(file["scene_id"]),
                tuple(file["view_ids"].tolist()),
                tuple(file["prompt_ids"].tolist()),
                int(file["cells"]),
                **{name: file[name] for name in _DTYPES},
            )
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(path, "2D overlaps of this schema", found, _REMEDY) from error
