"""Write artifacts into an object store, and tell whether they are finished.

An artifact is finished when its ``metadata.json`` exists. It is written last, after every object
was read back and equals what this process wrote or what an earlier attempt left.

Hosts share no lock in an object store. Two hosts that write one artifact at the same time, which
shards and luigid avoid, write objects of the same names; a host that finds changed objects at
the end writes no metadata and reports it. A teacher's writer checks before every view whether
another host has finished the cache, and stops if so. If its own last view may have replaced an
object of the finished cache, it deletes the other host's metadata and goes on
(``stop_if_finished``). If a host dies at that moment, readers find the damage by sizes, ETags
and checksums.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from data.artifacts.metadata import (
    METADATA,
    WRITER_FILE,
    check_files,
    metadata_text,
    parsed_metadata,
    read_metadata,
    writer_text,
)
from data.artifacts.object_store import RemoteFolder, contents_of
from data.errors import ArtifactError, UserError

Describe = Callable[[float, Mapping[str, Mapping[str, Any]]], dict[str, Any]]
"""Makes the metadata's content from the seconds of work and the files by name."""
_FRESH = 60.0
"""Seconds for which a missing artifact is remembered as missing."""


class Manifests:
    """The metadata of a stage's artifacts, fetched together.

    The first lookup fetches the metadata of all ``folders`` concurrently, one request each. A
    finished artifact stays finished for this process. A missing one is reported as missing once
    and fetched again at the next lookup, because another host may have made it.
    """

    def __init__(self, folders: Callable[[], Iterable[RemoteFolder]]) -> None:
        self._folders = folders
        self._found: dict[str, dict[str, Any]] = {}
        self._absent: set[str] = set()
        self._time = 0.0
        self._is_asked = False

    def of(self, folder: RemoteFolder) -> dict[str, Any] | None:
        """Return a folder's metadata; None where it is missing or damaged."""
        if not self._is_asked:
            self._ask_all()
        if folder.url not in self._found:
            is_recently_absent = (
                folder.url in self._absent and time.monotonic() - self._time < _FRESH
            )
            self._absent.discard(folder.url)
            if is_recently_absent:
                return None
            self.note(folder, read_metadata(folder))
        return self._found.get(folder.url)

    def note(self, folder: RemoteFolder, content: dict[str, Any] | None) -> None:
        """Remember metadata that was read or written."""
        if content is not None:
            self._found[folder.url] = content

    def _ask_all(self) -> None:
        folders = list(self._folders())
        self._is_asked = True
        texts = contents_of([folder / METADATA for folder in folders])
        for folder, text in zip(folders, texts, strict=True):
            self.note(folder, parsed_metadata(text) if text is not None else None)
        self._absent = {folder.url for folder in folders if folder.url not in self._found}
        self._time = time.monotonic()


@dataclass(frozen=True, eq=False)
class RemoteArtifact:
    """An artifact's folder in an object store, and the metadata of its stage's artifacts."""

    folder: RemoteFolder
    stage: Manifests

    def manifest(self) -> dict[str, Any] | None:
        """Return the artifact's metadata; None while it is not finished."""
        return self.stage.of(self.folder)


class FinishedElsewhere(Exception):
    """Another host finished the artifact that this process is making."""


def stop_if_finished(folder: RemoteFolder) -> None:
    """Raise FinishedElsewhere when another host has finished the artifact and it is intact.

    Metadata that does not match the objects is deleted: this process has replaced an object,
    and will write its own metadata.
    """
    if read_metadata(folder) is None:
        return
    try:
        check_files(folder, "")
    except ArtifactError:
        (folder / METADATA).unlink()
    else:
        raise FinishedElsewhere(folder.url)


@contextmanager
def writing_objects(
    artifact: RemoteArtifact, resumable: bool, describe: Describe
) -> Iterator[RemoteFolder]:
    """Yield the folder for writing and write its metadata on success, as ``store.writing`` does.

    The writer file is put before the body runs, so that a store without write access fails early.

    Raises:
        UserError: the store fails, or another process changed objects while the body ran.
    """
    folder, start = artifact.folder, time.monotonic()
    folder.forget_puts()
    (folder / METADATA).unlink()
    if not resumable:
        folder.remove()
    (folder / WRITER_FILE).write_text(writer_text())
    try:
        yield folder
        content = describe(time.monotonic() - start, _as_put(folder))
        (folder / METADATA).write_text(metadata_text(content))
        artifact.stage.note(folder, content)
    except FinishedElsewhere:
        artifact.stage.note(folder, read_metadata(folder))
    finally:
        with suppress(UserError):
            (folder / WRITER_FILE).unlink()


def _as_put(folder: RemoteFolder) -> dict[str, dict[str, Any]]:
    """Read every object back: size, SHA-256 and ETag by name; UserError where one has changed."""
    listed = _listed(folder)
    digests = dict(folder.digests({name: entry.size for name, entry in listed.items()}))
    own = folder.put_digests()
    changed = [name for name in own if digests.get(name) != own[name]]
    if changed or _listed(folder) != listed:
        name = changed[0] if changed else ""
        raise UserError(
            f"{folder}{f'/{name}' if name else ''}: another process wrote there at the same time, "
            "so the artifact was not finished. Wait for the other process, and run this one again."
        )
    return {
        name: {
            "bytes": entry.size,
            "sha256": digests[name],
            **({"tag": entry.tag} if entry.tag else {}),
        }
        for name, entry in listed.items()
    }


def _listed(folder: RemoteFolder) -> dict[str, Any]:
    hidden = {METADATA, WRITER_FILE}
    return {name: e for name, e in folder.files().items() if name not in hidden}
