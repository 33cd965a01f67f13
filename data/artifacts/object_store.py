"""Access object stores (``s3://bucket/prefix``) through fsspec: file systems and folders.

For ``s3://`` the driver is s3fs, which reads credentials, region and ``AWS_ENDPOINT_URL`` as all
AWS tools do. The timeouts and retries below are defaults; fsspec's configuration, such as
``FSSPEC_S3='{"config_kwargs": {"read_timeout": 120}}'``, replaces them. Other protocols use the
defaults of their driver.

An object store has no folders, locks or renames: a folder is a common prefix of object names,
and an object is written whole or not at all. A failure that remains after the client's retries
is a UserError that names the object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import ConfigError, UserError

CACHE_VARIABLE = "MLLM3D_CACHE"
_CLIENT = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "max_pool_connections": 64,
    "retries": {"mode": "standard", "max_attempts": 4},
}
"""Options of botocore; timeouts in seconds. It retries server errors and lost connections."""
_TRIES = 2
"""Attempts of s3fs, which cover a connection lost while an object is read; botocore does not."""
_OPEN: set[Any] = set()
"""File systems in use. The reference keeps a forked child from closing inherited ones, with errors.
"""
REFUSED = "Check the credentials, and that they may list, get, put and delete there."
_REMEDIES = {
    "credentials": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the "
    "machine a role.",
    "refused": REFUSED,
    "other": "Several attempts failed. Check the network and the store (AWS_ENDPOINT_URL, if it is "
    "not Amazon's) and run the same command again: finished objects are kept.",
}


def filesystem(url: str, asynchronous: bool = False) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it.

    Call it at each use: fsspec keeps one file system for each process, and a forked process must
    not use its parent's. Raises ConfigError when the driver is not installed.
    """
    import fsspec
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False, "asynchronous": asynchronous}
    if protocol == "s3":
        user_options = conf.get("s3", {})
        # One part at a time: s3fs asks for an object's size first where it may read several.
        options |= {"max_concurrency": 1, **user_options}
        options["config_kwargs"] = {**_CLIENT, **user_options.get("config_kwargs", {})}
    try:
        fs, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = " (pip install s3fs, or the extra s3 of this package)" if protocol == "s3" else ""
        raise ConfigError(
            f"{CACHE_VARIABLE}: {protocol}:// needs a driver of fsspec that is not installed"
            f"{extra}: {error}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{CACHE_VARIABLE}: {url}: {error}") from error
    if protocol == "s3":
        fs.retries = _TRIES
    _OPEN.add(fs)
    return fs, str(path)


@contextmanager
def reporting_errors(url: str, done: str, is_absence_told: bool = False) -> Iterator[None]:
    """Turn errors of a store's client into UserError ("<url>: could not be <done> ...").

    FileNotFoundError passes through unless ``is_absence_told``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not is_absence_told:
            raise
        text = " ".join(str(error).split()) or "without a message"
        what = f"{url}: could not be {done} ({type(error).__name__}: {text})"
        raise UserError(f"{what}. {_REMEDIES[_kind(error)]}") from error


def _kind(error: BaseException) -> str:
    # Compared by name, because botocore may not be installed.
    names = {type(error_or_cause).__name__ for error_or_cause in (error, error.__cause__)}
    if any("Credential" in name or "Profile" in name for name in names):
        return "credentials"
    return "refused" if isinstance(error, PermissionError) else "other"


_AT_ONCE = 64 * 2**20
"""Bytes of objects that are read into memory at once."""
PUT: dict[str, str] = {}
"""SHA-256 of the objects that this process last wrote into Zarr groups, by path in the store."""


class StoredObject(NamedTuple):
    """An object in a listing: size in bytes, and ETag (changes with the content; "" if unknown)."""

    size: int
    tag: str


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an object store or an object in it; ``url`` has no slash at its end.

    Methods that have the name of a method of ``Path`` do the same. All methods raise UserError
    when the store fails.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the address, split at slashes."""
        return tuple(self.url.split("/"))

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.parts[-1]

    def read_bytes(self) -> bytes:
        """Read the whole object; FileNotFoundError where there is none."""
        with reporting_errors(self.url, "read"):
            fs, path = filesystem(self.url)
            return bytes(fs.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the whole object as text; raises as ``read_bytes`` does."""
        return self.read_bytes().decode(encoding)

    def write_text(self, text: str) -> None:
        """Write an object, whole or not at all; an existing one is replaced."""
        with reporting_errors(self.url, "written", is_absence_told=True):
            fs, path = filesystem(self.url)
            fs.pipe_file(path, text.encode())

    def exists(self) -> bool:
        """Whether the object exists."""
        with reporting_errors(self.url, "looked for"):
            fs, path = filesystem(self.url)
            try:
                fs.info(path)
            except FileNotFoundError:
                return False
        return True

    def unlink(self) -> None:
        """Delete the object if it exists."""
        with reporting_errors(self.url, "deleted"):
            fs, path = filesystem(self.url)
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                return

    def files(self) -> dict[str, StoredObject]:
        """List all objects below, sorted, by name relative to here; one request per thousand."""
        with reporting_errors(self.url, "listed"):
            fs, path = filesystem(self.url)
            listing = fs.find(path, detail=True)
        return {
            name.removeprefix(f"{path}/"): StoredObject(int(info["size"]), _tag(info))
            for name, info in sorted(listing.items())
            if name.startswith(f"{path}/")
        }

    def digests(self, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Read objects below, many at once, and yield name and SHA-256; "" for a missing object.

        ``sizes`` holds their sizes in bytes, by name.
        """
        for names in _batches(sizes):
            contents = contents_of([self / name for name in names])
            for name, content in zip(names, contents, strict=True):
                yield name, hashlib.sha256(content).hexdigest() if content is not None else ""

    def put_digests(self) -> dict[str, str]:
        """SHA-256 of the objects below that this process last wrote into Zarr groups, by name."""
        start = f"{filesystem(self.url)[1]}/"
        return {path.removeprefix(start): d for path, d in PUT.items() if path.startswith(start)}

    def forget_puts(self) -> None:
        """Forget which objects this process wrote below."""
        start = f"{filesystem(self.url)[1]}/"
        for path in [path for path in PUT if path.startswith(start)]:
            del PUT[path]

    def remove(self) -> None:
        """Delete every object below."""
        names = list(self.files())
        if not names:
            return
        with reporting_errors(self.url, "deleted"):
            fs, path = filesystem(self.url)
            fs.rm([f"{path}/{name}" for name in names])
        # S3 reports success for a deletion of many objects even where single ones failed.
        remaining = [name for name in self.files() if name in names]
        if remaining:
            raise UserError(f"{self / remaining[0]}: could not be deleted. {REFUSED}")


StoragePath = Path | RemoteFolder
"""A folder or file of an artifact: on disk, or in an object store."""


def _tag(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag") or info.get("etag") or "").strip('"')


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    batch_size = 0
    for name, size in sizes.items():
        if batch and batch_size + size > _AT_ONCE:
            yield batch
            batch, batch_size = [], 0
        batch.append(name)
        batch_size += size
    if batch:
        yield batch


def contents_of(objects: Iterable[RemoteFolder]) -> list[bytes | None]:
    """Read objects of one store concurrently; None for each missing object."""
    urls = [folder.url for folder in objects]
    if not urls:
        return []
    fs, _ = filesystem(urls[0])
    paths = [str(fs._strip_protocol(url)) for url in urls]
    with reporting_errors(urls[0], "read"):
        results = fs.cat(paths, on_error="return")
    contents: list[bytes | None] = []
    for url, path in zip(urls, paths, strict=True):
        content = results[path]
        if isinstance(content, Exception):
            with reporting_errors(url, "read"):
                if not isinstance(content, FileNotFoundError):
                    raise content
        contents.append(None if isinstance(content, Exception) else bytes(content))
    return contents


@lru_cache(maxsize=None)
def reachable(url: str) -> RemoteFolder:
    """Return the folder of a user's address after checking that its bucket can be reached.

    Raises ConfigError for a malformed address, a driver that is not installed or a bucket that
    does not exist; UserError for a store that does not answer or refuses access.
    """
    if "://" not in url:
        raise ConfigError(
            f"{CACHE_VARIABLE}: expected an address such as s3://bucket/prefix, found {url!r}. "
            "To cache in a folder on disk, set MLLM3D_OUTPUT instead."
        )
    fs, path = filesystem(url)
    bucket = path.split("/")[0]
    try:
        with reporting_errors(url, "reached"):
            fs.info(bucket)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{CACHE_VARIABLE}: {url}: expected an existing bucket, found no bucket {bucket!r}. "
            "Create it or correct its name (AWS_ENDPOINT_URL names the server, if not Amazon's)."
        ) from error
    return RemoteFolder(url.rstrip("/"))
