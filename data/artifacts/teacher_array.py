"""The Zarr group of a teacher cache: one array of bytes, a record and a file per view.

One array per kind of value would be six writes of Zarr's a view, some 1.5 ms each, and files
that are written anew for every view.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import UnstableSpecificationWarning

from data.artifacts.remote import Place
from data.artifacts.remote_zarr import zarr_place

FILE = "teacher.zarr"
ARRAY = "views"
_AT_ONCE = 16
"""Records asked for together."""


def create_records(path: Place, num_views: int, attributes: dict[str, Any]) -> Any:
    """A new group with these attributes, over what was there; its array (V,) of bytes, empty."""
    with _bytes_known():
        place = zarr_place(path)
        group = zarr.create_group(place, overwrite=True, zarr_format=3, attributes=attributes)
        return group.create_array(
            ARRAY,
            shape=(num_views,),
            dtype="variable_length_bytes",
            chunks=(1,),
            compressors=Crc32cCodec(),
            fill_value=b"",
        )


def open_records(path: Place, mode: str) -> tuple[dict[str, Any], Any]:
    """The group's attributes and its array; whatever Zarr raises where there is none."""
    with _bytes_known():
        place = zarr_place(path, read_only=mode == "r")
        group = zarr.open_group(place, mode=mode, zarr_format=3)
        return dict(group.attrs), group[ARRAY]


def each_record(array: Any) -> Iterator[tuple[int, bytes]]:
    """Index and record of each view, b"" where there is none; a few are in memory at a time."""
    for start in range(0, array.shape[0], _AT_ONCE):
        for place, record in enumerate(array[start : start + _AT_ONCE]):
            yield start + place, bytes(record)


@contextmanager
def _bytes_known() -> Iterator[None]:
    """Zarr warns that its type of bytes has no specification yet: its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        yield
