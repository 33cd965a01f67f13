"""Caches of single scenes that lie in an object store: their keys, and their records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from data.artifacts.metadata import METADATA, read_metadata
from data.artifacts.object_store import CACHE_VARIABLE, RemoteFolder, reachable
from data.artifacts.remote_artifact import Manifests, RemoteArtifact
from data.artifacts.store import ArtifactKey
from pipeline.provenance import Record, record_of

_STAGES = {"links": "link_points", "teacher": "run_teacher"}
"""By what an artifact calls them as its inputs, the stages whose artifacts may lie there."""


def cache_root() -> RemoteFolder | None:
    """Where caches of teacher and links go: ``$MLLM3D_CACHE``; None for with everything else.

    Raises ConfigError or UserError as of ``reachable``, before anything is made.
    """
    url = os.environ.get(CACHE_VARIABLE, "")
    return reachable(url) if url else None


def manifests_of(
    scenes: Callable[[], Iterable[str]], key_of: Callable[[str], ArtifactKey]
) -> Manifests:
    """The metadata of one stage's caches of all scenes."""

    def folders() -> Iterator[RemoteFolder]:
        remote = (key_of(scene).remote for scene in scenes())
        return (one.folder for one in remote if one is not None)

    return Manifests(folders)


def placed(key: ArtifactKey, cache: RemoteFolder, scene: str, stage: Manifests) -> ArtifactKey:
    """The key of a scene's cache that lies below ``cache``, the scene set's folder of a store."""
    folder = cache / key.stage / scene / key.folder.name
    return replace(key, remote=RemoteArtifact(folder, stage))


def record_in_store(key: ArtifactKey) -> Record | None:
    """The record of a finished artifact in an object store; None of any other."""
    content = key.remote.manifest() if key.remote is not None else None
    if key.remote is None or content is None:
        return None
    return record_of(key.folder, content, key.remote.folder / METADATA)


def input_in_store(record: Record, name: str, identity: str) -> Record | None:
    """What made an artifact's input, where that lies in the object store; else None."""
    cache = cache_root() if name in _STAGES and record.scene is not None else None
    if cache is None:
        return None
    parts = (_STAGES[name], str(record.scene), identity[:12])
    folder = cache / "/".join((record.root.name, *parts))
    content = read_metadata(folder)
    if content is None or content.get("fingerprint") != identity:
        return None
    return record_of(record.root.joinpath(*parts), content, folder / METADATA)
