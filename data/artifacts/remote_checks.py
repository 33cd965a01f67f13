"""Finished artifacts in an object store, and what of them is no longer as it was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from data.artifacts.checks import ARTIFACT_NAME, Finding, check_metadata, differs
from data.artifacts.holder import HOLDER
from data.artifacts.record import METADATA, listed_files, read_metadata
from data.artifacts.remote import RemoteFolder


class RemoteArtifacts(NamedTuple):
    """Folders of artifacts, in order."""

    finished: tuple[RemoteFolder, ...]
    unfinished: tuple[RemoteFolder, ...]


def objects_below(start: RemoteFolder) -> RemoteArtifacts:
    """Artifacts at and below a folder, by their metadata or, unfinished, by their name."""
    finished: dict[str, None] = {}
    named: dict[str, None] = {}
    depth = len(start.parts)
    for name in start.files():
        parts = (*start.parts, *name.split("/"))
        folders = [i for i in range(depth, len(parts)) if ARTIFACT_NAME.fullmatch(parts[i - 1])]
        if folders:
            named["/".join(parts[: folders[0]])] = None
        if parts[-1] == METADATA:
            finished["/".join(parts[:-1])] = None
    unfinished = (url for url in named if url not in finished)
    return RemoteArtifacts(tuple(map(RemoteFolder, finished)), tuple(map(RemoteFolder, unfinished)))


def check_objects(folder: RemoteFolder, step: Callable[[], None]) -> list[Finding]:
    """Compare all objects of a finished artifact with its metadata, reading each.

    ``step`` is called after every object.
    """
    content = read_metadata(folder)
    files = listed_files(content) if content is not None else None
    if content is None or files is None:
        return [Finding(folder / METADATA, "damaged: not the content that was written")]
    findings = list(check_metadata(folder, content))
    stored = folder.files()
    whole = {}
    for name, file in files.items():
        what = differs(stored[name].size if name in stored else -1, file)
        if what:
            findings.append(Finding(folder / name, what))
            step()
        else:
            whole[name] = file.size
    for name, digest in folder.digests(whole):
        if digest != files[name].sha256:
            written = f"{files[name].sha256[:12]}... was written"
            findings.append(Finding(folder / name, f"damaged: SHA-256 {digest[:12]}..., {written}"))
        step()
    others = (name for name in stored if name not in {*files, METADATA, HOLDER})
    extra = (Finding(folder / n, "not listed in metadata.json", is_extra=True) for n in others)
    return [*findings, *extra]
