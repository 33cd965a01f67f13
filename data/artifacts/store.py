"""Fingerprint, lock and complete cached artifacts.

An artifact is a folder named by the first 12 digits of its fingerprint. It is complete only when
``metadata.json`` exists, carries the same fingerprint, and every file has its listed size. The
metadata is written last (to a temporary file, synced, renamed), so a killed job leaves an
incomplete folder and never a wrong one. A stage that can resume finds its earlier files in the
folder; any other stage starts with an empty folder. A file lock keeps a second process out of
the folder; the kernel frees it however its owner dies.

An object store has no renames and no locks: see ``data.artifacts.remote_artifact``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from data.artifacts import metadata
from data.artifacts.metadata import (
    CHECKSUM,
    METADATA,
    canonical_json,
    check_files,
    content_checksum,
    files_of,
    listed_files,
    metadata_text,
    read_metadata,
    require_complete,
    sha256_of,
    size_of,
)
from data.artifacts.object_store import StoragePath
from data.artifacts.remote_artifact import RemoteArtifact, writing_objects

__all__ = (
    "METADATA",
    "ArtifactKey",
    "canonical_json",
    "check_files",
    "fingerprint",
    "is_complete",
    "lock_path",
    "read_metadata",
    "require_complete",
    "sha256_of",
    "write_text_atomic",
    "writing",
    "writing_anywhere",
)

_PACKAGES = ("numpy", "torch", "spconv-cu118", "open3d-cpu", "open3d", "h5py", "zarr")


def fingerprint(
    stage: str, schema_version: int, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """Compute the SHA-256 (64 hex digits) of everything that decides an artifact's content."""
    identity = {
        "stage": stage,
        "schema_version": schema_version,
        "config": dict(config),
        "inputs": dict(inputs),
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


@dataclass(frozen=True)
class ArtifactKey:
    """An artifact's folder and fingerprint.

    ``folder`` is ``<output>/<scene-set>/<stage>/[<scene>/]<fingerprint[:12]>``. ``config`` and
    ``inputs`` enter the fingerprint and are recorded in the metadata. ``remote`` is set for an
    artifact in an object store; then only the lock file lies beside ``folder``.
    """

    folder: Path
    fingerprint: str
    stage: str
    schema_version: int
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    remote: RemoteArtifact | None = field(default=None, compare=False)

    @property
    def place(self) -> StoragePath:
        """The folder of the artifact's files: ``folder``, or the one in the object store."""
        return self.remote.folder if self.remote else self.folder

    @classmethod
    def make(
        cls,
        root: Path,
        stage: str,
        schema_version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        scene_id: str | None = None,
    ) -> ArtifactKey:
        """Make the key of an artifact below ``root`` (``<output>/<scene-set>``)."""
        digest = fingerprint(stage, schema_version, config, inputs)
        parent = root / stage / scene_id if scene_id else root / stage
        return cls(parent / digest[:12], digest, stage, schema_version, config, inputs)


def is_complete(key: ArtifactKey) -> bool:
    """Whether the metadata has this fingerprint and all files have their listed sizes.

    In an object store only the metadata is checked: it is written last, and objects are whole.
    """
    if key.remote is not None:
        return (key.remote.manifest() or {}).get("fingerprint") == key.fingerprint
    content = read_metadata(key.folder)
    if content is None or content.get("fingerprint") != key.fingerprint:
        return False
    files = listed_files(content)
    if files is None:
        return False
    return all(size_of(key.folder / name) == file.size for name, file in files.items())


def lock_path(folder: Path) -> Path:
    """Path of the file that a process locks while it writes or removes an artifact."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def writing(key: ArtifactKey, resumable: bool = False) -> Iterator[Path | None]:
    """Lock the artifact's folder, yield it for writing, and write its metadata on success.

    Yields None when another process finished the artifact while this one waited for the lock.
    Unless ``resumable``, files of an earlier, unfinished attempt are removed first. When the body
    raises, no metadata is written and the error is recorded for ``status``.

    Raises:
        ArtifactError: another host took the folder over, as may happen when this host lost its
            connection to a network disk and with it the lock; no metadata is written.
    """
    key.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_path(key.folder)):
        if is_complete(key):
            yield None
            return
        (key.folder / METADATA).unlink(missing_ok=True)
        if not resumable and key.folder.exists():
            shutil.rmtree(key.folder)
        key.folder.mkdir(parents=True, exist_ok=True)
        # A process that was killed while it wrote the metadata leaves a temporary file.
        for temporary in key.folder.glob(f".{METADATA}.*.tmp"):
            temporary.unlink(missing_ok=True)
        start = time.monotonic()
        with metadata.recording_error(key.folder), metadata.recording_writer(key.folder):
            yield key.folder
        _finish(key, time.monotonic() - start)


@contextmanager
def writing_anywhere(key: ArtifactKey, resumable: bool = False) -> Iterator[StoragePath | None]:
    """Write an artifact on disk, as ``writing`` does, or in an object store.

    In an object store it raises as ``writing_objects`` does.
    """
    if key.remote is None:
        with writing(key, resumable) as folder:
            yield folder
        return
    key.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_path(key.folder)):
        if is_complete(key):
            yield None
            return
        objects = writing_objects(key.remote, resumable, partial(_content, key))
        with objects as place, metadata.recording_error(key.folder):
            yield place


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all: to a temporary file, synced, then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _finish(key: ArtifactKey, seconds: float) -> None:
    files: dict[str, dict[str, Any]] = {
        str(path.relative_to(key.folder)): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in files_of(key.folder)
    }
    write_text_atomic(key.folder / METADATA, metadata_text(_content(key, seconds, files)))


def _content(
    key: ArtifactKey, seconds: float, files: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Make the metadata of a complete artifact, with its checksum."""
    content = {
        "stage": key.stage,
        "fingerprint": key.fingerprint,
        "schema_version": key.schema_version,
        "config": dict(key.config),
        "inputs": dict(key.inputs),
        "packages": package_versions(),
        "host": platform.node(),
        "wall_seconds": round(seconds, 3),
        "peak_memory_mb": _peak_memory_mb(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "files": dict(files),
    }
    # The checksum is of the content as it will be read: JSON turns all keys into text.
    content = dict(json.loads(metadata_text(content)))
    content[CHECKSUM] = content_checksum(content)
    return content


def _peak_memory_mb() -> int:
    """Peak memory (MB) of this process, or of the largest of its finished child processes."""
    own, started = (
        resource.getrusage(who).ru_maxrss // 1024  # Kilobytes on Linux.
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(own, started)


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine results, by name."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = package_metadata.version(name)
        except package_metadata.PackageNotFoundError:
            continue
    return versions
