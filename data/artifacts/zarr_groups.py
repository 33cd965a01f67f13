"""Open Zarr groups on disk or in an object store, and write arrays with one chunk a query."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import ZstdCodec
from zarr.storage import FsspecStore

from data.artifacts.object_store import PUT, RemoteFolder, StoragePath, filesystem, reporting_errors
from data.types import Array

_HELD = 256 * 2**20
"""Bytes of objects that a ``ReadingStore`` keeps in memory."""


class BucketStore(FsspecStore):  # type: ignore[misc]  # Zarr is not followed by mypy.
    """Zarr's fsspec store that raises UserError naming the object when the store fails.

    The SHA-256 of every object that it writes is recorded in ``PUT``.
    """

    def _url(self, key: str) -> str:
        name = f"{self.path}/{key}"
        return str(self.fs.unstrip_protocol(name))

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read the bytes of a key; None where there is none."""
        with reporting_errors(self._url(key), "read"):
            return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        """Read byte ranges of several keys."""
        with reporting_errors(self._url(""), "read"):
            return await super().get_partial_values(prototype, key_ranges)

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        """Write the bytes of a key."""
        url = self._url(key)
        with reporting_errors(url, "written", is_absence_told=True):
            await super().set(key, value, byte_range)
        PUT[f"{self.path}/{key}"] = hashlib.sha256(value.to_bytes()).hexdigest()

    async def delete(self, key: str) -> None:
        """Delete a key if it exists."""
        with reporting_errors(self._url(key), "deleted"):
            await super().delete(key)
        PUT.pop(f"{self.path}/{key}", None)


class ReadingStore(BucketStore):
    """A store of finished groups that fetches whole objects and keeps up to ``_HELD`` bytes.

    Stages read a scene's views several times and read adjacent parts of large objects: one
    request for each part would cost more than fetching the whole object once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._objects: OrderedDict[str, Any] = OrderedDict()
        self._size = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read the bytes of a key or a range of them; None where there is no such key."""
        if key in self._objects:
            self._objects.move_to_end(key)
        else:
            value = await super().get(key, prototype)
            if value is None:
                return None
            self._hold(key, value)
        return _part(self._objects[key], byte_range)

    def _hold(self, key: str, value: Any) -> None:
        self._size += len(value) - len(self._objects.pop(key, b""))
        self._objects[key] = value
        while self._size > _HELD and len(self._objects) > 1:
            self._size -= len(self._objects.popitem(last=False)[1])


def _part(value: Any, byte_range: Any) -> Any:
    if isinstance(byte_range, RangeByteRequest):
        return value[byte_range.start : byte_range.end]
    if isinstance(byte_range, OffsetByteRequest):
        return value[byte_range.offset :]
    if isinstance(byte_range, SuffixByteRequest):
        return value[max(0, len(value) - byte_range.suffix) :]
    return value


def zarr_location(place: StoragePath, read_only: bool = False) -> Path | BucketStore:
    """Return the argument that ``zarr.open_group`` takes for a group at ``place``."""
    if not isinstance(place, RemoteFolder):
        return place
    fs, path = filesystem(place.url, asynchronous=True)
    if not fs.async_impl:
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        fs = AsyncFileSystemWrapper(fs, asynchronous=True)
    return (ReadingStore if read_only else BucketStore)(fs=fs, path=path, read_only=read_only)


def write_rows(group: zarr.Group, name: str, array: Array) -> None:
    """Store ``array`` (Q, ...) in one file; each row is one chunk with a checksum."""
    rows, *rest = (max(size, 1) for size in array.shape)
    stored = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(1, *rest),
        shards=(rows, *rest),
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=0,
    )
    if array.size:
        stored[...] = array
