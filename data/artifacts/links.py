"""Read and write links: ``links.zarr``, the points that each view sees and their pixels.

The arrays form one CSR matrix over V views: ``offsets`` (V + 1), ``point_ids`` and ``uv`` of all
views, concatenated. They lie in few files (Zarr v3 shards), and each view's slice is read alone.
The view ids are written last, so an unfinished store is recognised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from data.artifacts.object_store import StoragePath
from data.artifacts.store import check_files
from data.artifacts.zarr_groups import zarr_location
from data.errors import ArtifactError
from data.types import Array

SCHEMA_VERSION = 3
FOLDER = "links.zarr"
_REMEDY = "Run LinkPoints again."
_CHUNK = 1 << 16
_SHARD = 1 << 20


@dataclass(frozen=True, eq=False)
class ViewLinks:
    """The points one view sees: ``point_ids`` (L,) int32, sorted, ``uv`` (L, 2) float32 pixels.

    The pixel of a link is ``floor(uv)``, which is always inside the image.
    """

    view_id: str
    point_ids: Array
    uv: Array


class Links:
    """A scene's links, open for reading; ``view`` reads one view at a time."""

    def __init__(self, group: zarr.Group, path: str) -> None:
        attributes = dict(group.attrs)
        if attributes.get("schema_version") != SCHEMA_VERSION:
            found = f"{attributes.get('schema_version')}"
            raise ArtifactError(path, f"links of schema {SCHEMA_VERSION}", found, _REMEDY)
        self.view_ids: tuple[str, ...] = tuple(_attribute(attributes, "view_ids", path))
        self.num_points = int(_attribute(attributes, "num_points", path))
        self._path = path
        self._point_ids, self._uv = _array(group, "point_ids"), _array(group, "uv")
        self._offsets = np.asarray(_array(group, "offsets")[:]).astype(np.int64)
        size = (len(self.view_ids) + 1, self._point_ids.shape[0], self._uv.shape[0])
        if size != (len(self._offsets), self._offsets[-1], self._offsets[-1]):
            raise ArtifactError(path, "offsets that fit the links", f"{size}", _REMEDY)

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.view_ids)

    def view(self, index: int) -> ViewLinks:
        """Read one view's links; IndexError outside 0..len - 1, ArtifactError when damaged."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = slice(int(self._offsets[index]), int(self._offsets[index + 1]))
        try:
            point_ids, uv = self._point_ids[part], self._uv[part]
        except (OSError, ValueError, RuntimeError) as error:
            raise ArtifactError(self._path, "readable links", str(error), _REMEDY) from error
        return ViewLinks(self.view_ids[index], np.asarray(point_ids), np.asarray(uv))


def _attribute(attributes: dict[str, Any], name: str, path: str) -> Any:
    if name not in attributes:
        raise ArtifactError(path, f"finished links ({name})", "unfinished ones", _REMEDY)
    return attributes[name]


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return array


class _Appender:
    """Appends rows to one array by whole shards, so that each shard is written once."""

    def __init__(self, group: zarr.Group, name: str, dtype: str, columns: tuple[int, ...]) -> None:
        self._array = group.create_array(
            name,
            shape=(0, *columns),
            dtype=dtype,
            chunks=(_CHUNK, *columns),
            shards=(_SHARD, *columns),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
        )
        self._pending: list[Array] = []
        self._held = 0

    def add(self, rows: Array) -> None:
        self._pending.append(rows)
        self._held += len(rows)
        if self._held >= _SHARD:
            self.flush(self._held // _SHARD * _SHARD)

    def flush(self, count: int | None = None) -> None:
        """Write the first ``count`` pending rows (all of them by default)."""
        if self._held == 0:
            return
        rows = np.concatenate(self._pending)
        count = len(rows) if count is None else count
        start = self._array.shape[0]
        self._array.resize((start + count, *rows.shape[1:]))
        self._array[start : start + count] = rows[:count]
        self._pending, self._held = [rows[count:]], len(rows) - count


def write_links(
    folder: StoragePath, view_ids: Sequence[str], num_points: int, per_view: Iterable[ViewLinks]
) -> None:
    """Write ``links.zarr`` below ``folder``, one view at a time, in the order of ``view_ids``.

    Raises:
        ValueError: the views given do not follow ``view_ids``.
    """
    group = zarr.open_group(zarr_location(folder / FOLDER), mode="w", zarr_format=3)
    point_ids = _Appender(group, "point_ids", "int32", ())
    uv = _Appender(group, "uv", "float32", (2,))
    offsets = [0]
    for view_id, links in zip(view_ids, per_view, strict=True):
        if links.view_id != view_id:
            raise ValueError(f"expected the links of view {view_id}, got {links.view_id}")
        point_ids.add(links.point_ids)
        uv.add(links.uv)
        offsets.append(offsets[-1] + len(links.point_ids))
    point_ids.flush()
    uv.flush()
    group.create_array("offsets", data=np.asarray(offsets, np.int64))
    group.attrs.update(
        schema_version=SCHEMA_VERSION, view_ids=list(view_ids), num_points=int(num_points)
    )


def read_links(folder: StoragePath) -> Links:
    """Open a scene's links; ArtifactError when they are missing, unfinished or damaged."""
    check_files(folder, _REMEDY)
    path = folder / FOLDER
    try:
        return Links(zarr.open_group(zarr_location(path, read_only=True), mode="r"), str(path))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(str(path), "links of this schema", str(error), _REMEDY) from error
