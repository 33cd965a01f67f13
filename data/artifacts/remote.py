"""Folders of an object store (``s3://bucket/prefix``), through fsspec.

An object store has no folders, no locks and no renames: a folder is what its objects' names
begin with, and an object is put whole or not at all. Every failure that the store's client does
not mend by trying again is a UserError that names the object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data.artifacts.object_store import CACHE_VARIABLE, REFUSED, filesystem, told
from data.errors import ConfigError, UserError

_AT_ONCE = 64 * 2**20
"""Bytes of objects that are held in memory together."""
PUT: dict[str, str] = {}
"""SHA-256 of what this process last put below Zarr groups, by path in the store."""


class Entry(NamedTuple):
    """An object as a listing tells it: bytes, and a tag that changes with its content, or ""."""

    size: int
    tag: str


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an object store, or one object in it; ``url`` ends without a slash.

    Methods named as those of ``Path`` do the same; all raise UserError when the store fails.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the address between slashes."""
        return tuple(self.url.split("/"))

    @property
    def name(self) -> str:
        """The last part."""
        return self.parts[-1]

    def read_bytes(self) -> bytes:
        """The whole object; FileNotFoundError where there is none."""
        with told(self.url, "read"):
            fs, path = filesystem(self.url)
            return bytes(fs.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text; errors as of ``read_bytes``."""
        return self.read_bytes().decode(encoding)

    def write_text(self, text: str) -> None:
        """Put an object, whole or not at all, over what is there."""
        with told(self.url, "written", is_absence_told=True):
            fs, path = filesystem(self.url)
            fs.pipe_file(path, text.encode())

    def exists(self) -> bool:
        """Whether the object is there."""
        with told(self.url, "looked for"):
            fs, path = filesystem(self.url)
            try:
                fs.info(path)
            except FileNotFoundError:
                return False
        return True

    def unlink(self) -> None:
        """Delete the object, where it is there."""
        with told(self.url, "deleted"):
            fs, path = filesystem(self.url)
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                return

    def files(self) -> dict[str, Entry]:
        """All objects below by name from here, in order; one request for each thousand."""
        with told(self.url, "listed"):
            fs, path = filesystem(self.url)
            found = fs.find(path, detail=True)
        return {
            name.removeprefix(f"{path}/"): Entry(int(info["size"]), _tag(info))
            for name, info in sorted(found.items())
            if name.startswith(f"{path}/")
        }

    def digests(self, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Name and SHA-256 of objects below, which are read, many at once; "" where none is.

        ``sizes`` are their bytes by name.
        """
        for names in _batches(sizes):
            contents = contents_of([self / name for name in names])
            for name, content in zip(names, contents, strict=True):
                yield name, hashlib.sha256(content).hexdigest() if content is not None else ""

    def put_digests(self) -> dict[str, str]:
        """SHA-256 of what this process last put into Zarr groups below, by name from here."""
        start = f"{filesystem(self.url)[1]}/"
        return {path.removeprefix(start): d for path, d in PUT.items() if path.startswith(start)}

    def forget_puts(self) -> None:
        """Note nothing any more of what was put below."""
        start = f"{filesystem(self.url)[1]}/"
        for path in [path for path in PUT if path.startswith(start)]:
            del PUT[path]

    def remove(self) -> None:
        """Delete every object below."""
        names = list(self.files())
        if not names:
            return
        with told(self.url, "deleted"):
            fs, path = filesystem(self.url)
            fs.rm([f"{path}/{name}" for name in names])
        # S3 answers a deletion of many objects with success, whatever became of each.
        kept = [name for name in self.files() if name in names]
        if kept:
            raise UserError(f"{self / kept[0]}: could not be deleted. {REFUSED}")


Place = Path | RemoteFolder
"""Where an artifact lies."""


def _tag(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag") or info.get("etag") or "").strip('"')


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for name, size in sizes.items():
        if batch and held + size > _AT_ONCE:
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += size
    if batch:
        yield batch


def contents_of(objects: Iterable[RemoteFolder]) -> list[bytes | None]:
    """Objects of one store, read at the same time; None for each that is not there."""
    urls = [one.url for one in objects]
    if not urls:
        return []
    fs, _ = filesystem(urls[0])
    paths = [str(fs._strip_protocol(url)) for url in urls]
    with told(urls[0], "read"):
        found = fs.cat(paths, on_error="return")
    contents: list[bytes | None] = []
    for url, path in zip(urls, paths, strict=True):
        content = found[path]
        if isinstance(content, Exception):
            with told(url, "read"):
                if not isinstance(content, FileNotFoundError):
                    raise content
        contents.append(None if isinstance(content, Exception) else bytes(content))
    return contents


@lru_cache(maxsize=None)
def reachable(url: str) -> RemoteFolder:
    """The folder of an address that a user gave, once its bucket has answered.

    Raises ConfigError for what is no address, a driver that is not installed and a bucket that
    is not there; UserError for a store that does not answer, or refuses.
    """
    if "://" not in url:
        raise ConfigError(
            f"{CACHE_VARIABLE}: expected an address such as s3://bucket/prefix, found {url!r}. "
            "Where a folder is meant, MLLM3D_OUTPUT is its variable."
        )
    fs, path = filesystem(url)
    bucket = path.split("/")[0]
    try:
        with told(url, "reached"):
            fs.info(bucket)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{CACHE_VARIABLE}: {url}: there is no bucket {bucket!r} there. Make it first, or "
            "mend the name (AWS_ENDPOINT_URL says where, if it is not Amazon's)."
        ) from error
    return RemoteFolder(url.rstrip("/"))
