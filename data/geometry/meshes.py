"""Read triangle meshes from PLY files, check them, write them, and compute vertex normals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from data.errors import DataError
from data.types import Array

_REMEDY = "Download or export this mesh again."
_FACE_LISTS = ("vertex_indices", "vertex_index")


@dataclass(frozen=True, eq=False)
class Mesh:
    """A mesh: ``points`` (V, 3) float32 m, ``colors`` (V, 3) uint8, ``triangles`` (F, 3) int32."""

    points: Array
    colors: Array
    triangles: Array


def read_mesh(path: Path) -> Mesh:
    """Read a coloured triangle mesh (PLY, binary or ASCII).

    Raises:
        DataError: the file is missing, truncated or no PLY; it lacks x, y, z, red, green,
            blue or triangles; a vertex is not finite; a triangle's vertex does not exist.
    """
    content = _parse(path)
    vertex = _element(content, "vertex", path)
    names = {item.name for item in vertex.properties}
    missing = [n for n in ("x", "y", "z", "red", "green", "blue") if n not in names]
    if missing:
        raise DataError(path, "vertices with x, y, z, red, green, blue", f"no {missing}", _REMEDY)
    points = np.stack([np.asarray(vertex[axis]) for axis in "xyz"], axis=1).astype(np.float32)
    channels = [np.asarray(vertex[name]) for name in ("red", "green", "blue")]
    if any(channel.dtype != np.uint8 for channel in channels):
        found = f"type {channels[0].dtype}"
        raise DataError(path, "colours as uchar (0 to 255)", found, _REMEDY)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        found = f"{int(bad.sum())} vertices that are not, the first with index {int(bad.argmax())}"
        raise DataError(path, "finite vertices", found, _REMEDY)
    return Mesh(points, np.stack(channels, axis=1), _triangles(content, path, len(points)))


def _parse(path: Path) -> PlyData:
    list_lengths = {"face": {name: 3 for name in _FACE_LISTS}}
    try:
        return PlyData.read(str(path), known_list_len=list_lengths)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(path, "a PLY mesh", "no such file", _REMEDY) from None
    except (PlyParseError, OSError, ValueError, MemoryError, OverflowError) as error:
        raise DataError(path, "a whole PLY triangle mesh", str(error), _REMEDY) from error


def _element(content: PlyData, name: str, path: Path) -> PlyData:
    if name not in content or len(content[name].data) == 0:
        raise DataError(path, f"a mesh with a {name} element", "none", _REMEDY)
    return content[name]


def _triangles(content: PlyData, path: Path, num_vertices: int) -> Array:
    face = _element(content, "face", path)
    names = {item.name for item in face.properties}
    name = next((n for n in _FACE_LISTS if n in names), None)
    if name is None:
        raise DataError(path, f"faces with a list {_FACE_LISTS[0]}", f"{sorted(names)}", _REMEDY)
    column = face[name]
    if column.dtype == object:
        sizes = {len(row) for row in column}
        if sizes != {3}:
            raise DataError(path, "triangles only", f"faces of {sorted(sizes)} corners", _REMEDY)
        column = np.stack(list(column))
    triangles = np.asarray(column).astype(np.int64)
    if triangles.ndim != 2 or triangles.min() < 0 or triangles.max() >= num_vertices:
        found = f"{triangles.min()} to {triangles.max()}"
        raise DataError(path, f"faces naming vertices 0 to {num_vertices - 1}", found, _REMEDY)
    return triangles.astype(np.int32)


def write_ply(path: Path, vertices: Array, triangles: Array) -> None:
    """Write a binary little-endian PLY; the fields of ``vertices`` (V,) become its properties.

    ``vertices`` is a structured array of types f4, u1 and i4; ``triangles`` is (F, 3). The
    package plyfile would take a second for the faces of one room.
    """
    types = {"f4": "float", "u1": "uchar", "i4": "int"}
    table = vertices.astype(vertices.dtype.newbyteorder("<"))
    faces = np.empty(len(triangles), dtype=[("count", "u1"), ("vertex_indices", "<i4", (3,))])
    faces["count"], faces["vertex_indices"] = 3, triangles
    kinds = [(name, table.dtype[name]) for name in table.dtype.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property {types[kind.str[1:]]} {name}" for name, kind in kinds]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    text = "".join(f"{line}\n" for line in header).encode("ascii")
    path.write_bytes(text + table.tobytes() + faces.tobytes())


def unique_rows(rows: Array) -> tuple[Array, Array]:
    """Find the different rows of (N, D) numbers, in rising order of their columns.

    Return (M,) the index of the first of each kind, and (N,) the kind of each row. Several times
    faster than ``np.unique`` with ``axis=0``.
    """
    order = np.lexsort(rows.T[::-1])
    in_order = rows[order]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    kinds = np.empty(len(rows), np.int64)
    kinds[order] = np.cumsum(is_new) - 1
    return order[is_new], kinds


def vertex_normals(points: Array, triangles: Array) -> Array:
    """Return unit normals (V, 3) float32: each vertex's mean face normal, weighted by area.

    The winding of the faces decides the direction. A vertex without a face of positive area gets
    (0, 0, 1).
    """
    corners = points[triangles].astype(np.float64)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = np.empty((len(points), 3))
    for axis in range(3):
        weights = np.repeat(face_normals[:, axis], 3)
        sums[:, axis] = np.bincount(triangles.ravel(), weights, minlength=len(points))
    length = np.linalg.norm(sums, axis=1)
    flat = length < 1e-20
    sums[flat], length[flat] = (0.0, 0.0, 1.0), 1.0
    return np.asarray(sums / length[:, None], np.float32)


def floor_height(points: Array) -> float:
    """Return the floor's height in metres: the first percentile of z, robust to outliers."""
    return float(np.percentile(points[:, 2], 1))
