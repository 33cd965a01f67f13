"""Point sets that the ScanNet++ toolbox prepares for training (``<scene_id>.pth``).

Their rows are points *sampled* on the mesh by area, as many as it has vertices more often than
not, and no row is the vertex of the same number. So they are a type of their own: what is
known of vertices (superpoints, predictions, ground truth) reaches a row through
``SampledPoints.nearest_vertex`` alone, and arrays made for one point set carry its
``point_set_hash``. Files made without sampling hold ``vtx_*`` keys instead, a row a vertex.

Ids are int32 here: the files' int16 is widened, never narrowed. ``instance_positions`` are
positions in ``segGroups``; ``object_ids`` are ``objectId`` (the toolbox's README says ``id``, its
code stores ``objectId``), and only of the classes on its list of instances: objects may be
missing, so truth is never made from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.torch_files import load_arrays
from data.types import Array

_REMEDY = "Prepare this scene again with the ScanNet++ toolbox."
_ROUNDING = 1e-6
_LARGEST = 2**31 - 1
_PREFIXES = ("sampled", "vtx")
_PER_POINT = {
    "labels": "class_ids",
    "num_labels": "num_groups",
    "instance_labels": "instance_positions",
    "instance_anno_id": "object_ids",
    "segment_ids": "segment_ids",
}


@dataclass(frozen=True, eq=False)
class SampledPoints:
    """One prepared point set of N rows, in the mesh's frame.

    ``points`` (N, 3) float32 metres; ``colors`` (N, 3) uint8. The rest is int32, (N,) or, with
    several labels a point, (N, k), and None where the file has none; in ``class_ids``,
    ``instance_positions`` and ``object_ids``, -100 says that a point has none. ``is_vertices``
    says that row i is the mesh's vertex i. ``point_set_hash`` (64 hex digits) is that of the
    points and their order.
    """

    scene_id: str
    is_vertices: bool
    points: Array
    colors: Array
    point_set_hash: str
    class_ids: Array | None = None
    num_groups: Array | None = None
    instance_positions: Array | None = None
    object_ids: Array | None = None
    segment_ids: Array | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.points)

    def nearest_vertex(self, vertices: Array) -> Array:
        """Vertex (N,) int32 of the mesh (V, 3) nearest to each row."""
        return nearest(self.points, vertices)

    def nearest_row(self, vertices: Array) -> Array:
        """Row (V,) int32 nearest to each vertex: how predictions on rows reach the mesh."""
        return nearest(vertices, self.points)


def nearest(queries: Array, points: Array) -> Array:
    """Index (Q,) int32 of the point (P, 3) nearest to each query (Q, 3); any of equals.

    Raises:
        ValueError: there is no point.
    """
    from scipy.spatial import cKDTree

    if not len(points):
        raise ValueError("no point to be near to")
    _, index = cKDTree(np.asarray(points, np.float64)).query(np.asarray(queries, np.float64))
    return np.asarray(index, np.int32)


def hash_points(points: Array) -> str:
    """SHA-256 (64 hex digits) of points (N, 3) as float32, in their order."""
    content = np.ascontiguousarray(points, "<f4")
    return hashlib.sha256(str(content.shape).encode() + content.tobytes()).hexdigest()


def read_sampled_points(path: Path) -> SampledPoints:
    """Read one ``.pth`` file of the toolbox, without running any code that may be in it.

    Raises:
        DataError: missing or damaged file, one that holds more than arrays, text and numbers,
            arrays that do not fit each other, colours that are not 0 to 1, ids that are not
            integers.
    """
    content = _load(path)
    prefix = next((p for p in _PREFIXES if f"{p}_coords" in content), None)
    if prefix is None:
        expected = "sampled_coords or vtx_coords"
        raise DataError(path, expected, f"the keys {sorted(map(str, content))[:8]}", _REMEDY)
    scene_id = content.get("scene_id")
    if not isinstance(scene_id, str) or not scene_id:
        raise DataError(path, "a text as scene_id", repr(scene_id)[:60], _REMEDY)
    points = _floats(content, f"{prefix}_coords", path)
    if not np.isfinite(points).all():
        raise DataError(path, f"finite {prefix}_coords", "some that are not", _REMEDY)
    colors = _colors(content, f"{prefix}_colors", len(points), path)
    ids = {
        name: _ids(content[f"{prefix}_{key}"], f"{prefix}_{key}", len(points), path)
        for key, name in _PER_POINT.items()
        if f"{prefix}_{key}" in content
    }
    points = points.astype(np.float32)
    return SampledPoints(scene_id, prefix == "vtx", points, colors, hash_points(points), **ids)


def _load(path: Path) -> Mapping[str, Any]:
    content = load_arrays(path, "a point set of the toolbox", _REMEDY)
    if not isinstance(content, dict):
        raise DataError(path, "a dictionary of arrays", type(content).__name__, _REMEDY)
    return content


def _array(value: Any) -> Array:
    """An array as it stands; of anything but an array or a tensor an empty one of objects."""
    value = value.numpy() if hasattr(value, "numpy") else value
    return value if isinstance(value, np.ndarray) else np.zeros(0, object)


def _floats(content: Mapping[str, Any], key: str, path: Path) -> Array:
    array = _array(content.get(key))
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] != 3 or not len(array):
        found = f"{array.shape}, {array.dtype}" if key in content else "nothing"
        raise DataError(path, f"{key} as (N, 3) floats", found, _REMEDY)
    return array


def _colors(content: Mapping[str, Any], key: str, count: int, path: Path) -> Array:
    """(N, 3) uint8 of colours that must be 0 to 1."""
    colors = _floats(content, key, path)
    low, high = float(colors.min()), float(colors.max())
    if len(colors) != count or not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        expected = f"{count} rows of {key} in 0 to 1"
        raise DataError(path, expected, f"{len(colors)} rows in {low:.4g} to {high:.4g}", _REMEDY)
    return np.asarray(np.rint(255 * np.clip(colors, 0, 1)), np.uint8)


def _ids(value: Any, key: str, count: int, path: Path) -> Array:
    array = _array(value)
    whole = array.dtype.kind in "iu" and array.ndim in (1, 2) and len(array) == count
    if whole and array.size and np.abs(array.astype(np.float64)).max() > _LARGEST:
        whole = False
    if not whole:
        found = f"{array.shape}, {array.dtype}"
        raise DataError(path, f"{key} as {count} integers of 32 bits", found, _REMEDY)
    return array.astype(np.int32)
