"""A synthetic teacher's cache in an object store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.artifacts.object_store import RemoteFolder
from data.artifacts.remote_artifact import Manifests, RemoteArtifact
from data.artifacts.store import ArtifactKey, writing_anywhere
from data.artifacts.teacher import NO_SEG, TeacherWriter, ViewAnswers
from tests.support.faulty_store import BUCKET, CACHE

VIEWS, QUERIES, DIM = [f"view{i}" for i in range(5)], ["q0", "q1", "q2"], 4
QUICK = {"read_timeout": 2, "retries": {"mode": "standard", "max_attempts": 2}}


def key_at(root: Path, url: str = CACHE, scene: str = "scene0", seed: int = 0) -> ArtifactKey:
    """Return the key of a teacher's cache below ``url``."""
    key = ArtifactKey.make(root, "run_teacher", 1, {"seed": seed}, {}, scene)
    folder = RemoteFolder(url) / "set" / "run_teacher" / scene / key.folder.name
    return replace(key, remote=RemoteArtifact(folder, Manifests(lambda: [folder])))


def prefix(key: ArtifactKey) -> str:
    """Return the prefix of the objects of a cache in ``BUCKET``."""
    return str(key.place).removeprefix(f"s3://{BUCKET}/")


def answers(view: int, seed: int = 0) -> ViewAnswers:
    """Return synthetic answers on a view, some without a mask."""
    rng = np.random.default_rng((view, seed))
    return ViewAnswers(
        np.array([1, NO_SEG, 1], np.uint8),
        rng.normal(size=(3, 6, 8)).astype(np.float32),
        rng.random(3).astype(np.float32),
        rng.normal(size=(3, DIM)).astype(np.float32),
        ("a", "no", "c"),
    )


def fill(key: ArtifactKey, views: int = len(VIEWS)) -> list[int]:
    """Write a cache, or the part of it in ``views``; return the written views."""
    written = []
    with writing_anywhere(key, resumable=True) as place:
        if place is not None:
            writer = TeacherWriter(place, VIEWS, QUERIES)
            writer.begin((6, 8), (8.0, 6.0), DIM)
            for index in writer.missing_views():
                if index == views:
                    raise KeyboardInterrupt
                writer.write_view(index, answers(index))
                written.append(index)
    return written
