"""Arrays of one row a query, as the Zarr artifacts store them."""

from __future__ import annotations

import zarr
from zarr.codecs import ZstdCodec

from data.types import Array


def write_rows(group: zarr.Group, name: str, array: Array) -> None:
    """Store ``array`` (Q, ...) in one file, each row a chunk of its own with a checksum."""
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
