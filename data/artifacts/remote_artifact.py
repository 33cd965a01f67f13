"""Artifacts in an object store: whether they are finished, and how they are made.

An artifact is finished when its ``metadata.json`` is there, which is put last, after every
object has been read back and is what this process put, or what an earlier attempt left. Hosts
share no lock there. Two that make one artifact at a time, which shards and luigid avoid, put
objects of the same names; whoever finds at the end that objects are not its own puts no
metadata, and says so. A teacher's writer looks before every view whether another host has
finished meanwhile, and stops; where its own last view may have replaced what that host's metadata
tells, it takes that metadata away and goes on (``stop_if_finished``). What a host that dies in
that moment leaves is found by every reader, as sizes, tags and checksums tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from data.artifacts.metadata import (
    HOLDER,
    METADATA,
    check_files,
    holder_text,
    metadata_text,
    parsed_metadata,
    read_metadata,
)
from data.artifacts.object_store import RemoteFolder, contents_of
from data.errors import ArtifactError, UserError

Describe = Callable[[float, Mapping[str, Mapping[str, Any]]], dict[str, Any]]
"""The metadata's content, of the seconds it took and the files by name."""
_FRESH = 60.0
"""Seconds for which it is believed that an artifact is not there."""


class Manifests:
    """The metadata of a stage's artifacts, asked for together.

    The first question about any of ``folders`` asks the store for all of them at once: a request
    each, many at a time. What is finished stays finished for this process. What was not is said
    once, and asked for anew when it is asked about again, for another host may have made it.
    """

    def __init__(self, folders: Callable[[], Iterable[RemoteFolder]]) -> None:
        self._folders = folders
        self._found: dict[str, dict[str, Any]] = {}
        self._absent: set[str] = set()
        self._time = 0.0
        self._is_asked = False

    def of(self, folder: RemoteFolder) -> dict[str, Any] | None:
        """A folder's metadata; None where it is not there, or damaged."""
        if not self._is_asked:
            self._ask_all()
        if folder.url not in self._found:
            is_known = folder.url in self._absent and time.monotonic() - self._time < _FRESH
            self._absent.discard(folder.url)
            if is_known:
                return None
            self.note(folder, read_metadata(folder))
        return self._found.get(folder.url)

    def note(self, folder: RemoteFolder, content: dict[str, Any] | None) -> None:
        """Remember metadata that was read or put."""
        if content is not None:
            self._found[folder.url] = content

    def _ask_all(self) -> None:
        folders = list(self._folders())
        self._is_asked = True
        texts = contents_of([folder / METADATA for folder in folders])
        for folder, text in zip(folders, texts, strict=True):
            self.note(folder, parsed_metadata(text) if text is not None else None)
        self._absent = {one.url for one in folders if one.url not in self._found}
        self._time = time.monotonic()


@dataclass(frozen=True, eq=False)
class RemoteArtifact:
    """Where an artifact lies in an object store, and what is known of others of its stage."""

    folder: RemoteFolder
    stage: Manifests

    def manifest(self) -> dict[str, Any] | None:
        """Its metadata; None where it is not finished."""
        return self.stage.of(self.folder)


class FinishedElsewhere(Exception):
    """Another host finished the artifact that this process is making."""


def stop_if_finished(folder: RemoteFolder) -> None:
    """Raise FinishedElsewhere when another host has finished the artifact, and it is whole.

    Metadata that what lies there does not fit is taken away: this process spoiled it, and will
    put its own.
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
    """Yield the folder for writing, and put its metadata on success, as ``store.writing`` does.

    Something is put before the body runs, so that a store that takes nothing is told of early.

    Raises:
        UserError: the store fails, or another process changed objects meanwhile.
    """
    folder, start = artifact.folder, time.monotonic()
    folder.forget_puts()
    (folder / METADATA).unlink()
    if not resumable:
        folder.remove()
    (folder / HOLDER).write_text(holder_text())
    try:
        yield folder
        content = describe(time.monotonic() - start, _as_put(folder))
        (folder / METADATA).write_text(metadata_text(content))
        artifact.stage.note(folder, content)
    except FinishedElsewhere:
        artifact.stage.note(folder, read_metadata(folder))
    finally:
        with suppress(UserError):
            (folder / HOLDER).unlink()


def _as_put(folder: RemoteFolder) -> dict[str, dict[str, Any]]:
    """Size, checksum and tag of every object, each read back; UserError where one changed."""
    listed = _listed(folder)
    digests = dict(folder.digests({name: entry.size for name, entry in listed.items()}))
    own = folder.put_digests()
    changed = [name for name in own if digests.get(name) != own[name]]
    if changed or _listed(folder) != listed:
        name = changed[0] if changed else ""
        raise UserError(
            f"{folder}{f'/{name}' if name else ''}: another process wrote there at the same time, "
            "so that it was not finished. Wait until that one is done, and run the same again."
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
    hidden = {METADATA, HOLDER}
    return {name: e for name, e in folder.files().items() if name not in hidden}
