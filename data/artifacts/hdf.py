"""Writing HDF5 so that a full disk is an error, and not the end of the process.

When HDF5 cannot write, it fails again on everything it then closes, and may crash the process.
So it never hears of it: what the disk does not take stays in memory, and is an error at the end.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class _PatientFile(io.RawIOBase):
    """A file to write and read, whose writes never fail; ``error`` is the first that did."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._stream = open(path, "w+b", buffering=0)
        self._kept: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._stream.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def write(self, data: Any) -> int:
        content, start = bytes(data), self._stream.tell()
        if self.error is None:
            try:
                done = 0
                while done < len(content):
                    done += self._stream.write(content[done:])
                return len(content)
            except OSError as error:
                self.error = error
        self._kept.append((start, content))
        self._stream.seek(start + len(content))
        return len(content)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start = self._stream.tell()
        got = self._stream.readinto(view)
        view[got:] = bytes(len(view) - got)
        for place, content in self._kept:
            first, last = max(place, start), min(place + len(content), start + len(view))
            if first < last:
                view[first - start : last - start] = content[first - place : last - place]
        self._stream.seek(start + len(view))
        return len(view)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def create_hdf(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file to fill; at the end OSError, when the disk did not take all of it."""
    stream = _PatientFile(path)
    try:
        with h5py.File(stream, "w") as file:
            yield file
    finally:
        stream.close()
    if stream.error is not None:
        raise stream.error
