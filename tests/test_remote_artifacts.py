"""Caches in an object store: what they hold, what a failing store does to them, who else writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec.config
import numpy as np
import pytest

from data.artifacts import remote_zarr
from data.artifacts.links import ViewLinks, read_links, write_links
from data.artifacts.remote import RemoteFolder
from data.artifacts.remote_artifact import Manifests, RemoteArtifact
from data.artifacts.remote_checks import check_objects, objects_below
from data.artifacts.store import (
    METADATA,
    ArtifactKey,
    is_complete,
    read_metadata,
    sha256_of,
    writing_anywhere,
)
from data.artifacts.teacher import NO_SEG, TeacherWriter, ViewAnswers, read_teacher
from data.errors import ArtifactError, UserError
from tests.cli import REPOSITORY, environment
from tests.faulty_store import BUCKET, CACHE, Fault, FaultyStore, faulty_store

VIEWS, QUERIES, DIM = [f"view{i}" for i in range(5)], ["q0", "q1", "q2"], 4
QUICK = {"read_timeout": 2, "retries": {"mode": "standard", "max_attempts": 2}}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyStore]:
    with faulty_store() as running:
        yield running


@pytest.fixture
def store(server: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """The server, empty, as this process's S3, which is given up soon."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": QUICK})
    server.clear()
    return server


def key_at(root: Path, url: str = CACHE, scene: str = "scene0", seed: int = 0) -> ArtifactKey:
    """A teacher's cache below ``url``."""
    key = ArtifactKey.make(root, "run_teacher", 1, {"seed": seed}, {}, scene)
    folder = RemoteFolder(url) / "set" / "run_teacher" / scene / key.folder.name
    return replace(key, remote=RemoteArtifact(folder, Manifests(lambda: [folder])))


def prefix(key: ArtifactKey) -> str:
    """What the objects of a cache in ``BUCKET`` are called by, first."""
    return str(key.place).removeprefix(f"s3://{BUCKET}/")


def answers(view: int, seed: int = 0) -> ViewAnswers:
    """Made-up answers on a view, some without a mask."""
    rng = np.random.default_rng((view, seed))
    return ViewAnswers(
        np.array([1, NO_SEG, 1], np.uint8),
        rng.normal(size=(3, 6, 8)).astype(np.float32),
        rng.random(3).astype(np.float32),
        rng.normal(size=(3, DIM)).astype(np.float32),
        ("a", "no", "c"),
    )


def fill(key: ArtifactKey, views: int = len(VIEWS)) -> list[int]:
    """Make a cache, or as much of it as ``views``; the views that were written."""
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


def test_a_cache_in_a_bucket_holds_the_bytes_of_one_on_disk_and_its_metadata_is_put_last(
    store: FaultyStore, tmp_path: Path
) -> None:
    remote = key_at(tmp_path / "remote")
    local = replace(key_at(tmp_path / "local"), remote=None)
    assert not is_complete(remote) and fill(remote) == fill(local) == [0, 1, 2, 3, 4]
    assert is_complete(remote) and fill(remote) == []
    found = {n.removeprefix(prefix(remote) + "/"): c for n, c in store.objects().items()}
    content = json.loads(found.pop(METADATA))
    paths = [path for path in local.folder.rglob("*") if path.is_file() and path.name != METADATA]
    assert found == {str(path.relative_to(local.folder)): path.read_bytes() for path in paths}
    assert {name: (e["bytes"], e["sha256"]) for name, e in content["files"].items()} == {
        str(p.relative_to(local.folder)): (p.stat().st_size, sha256_of(p)) for p in paths
    }
    assert store.paths("PUT")[-1].endswith(METADATA)
    assert [path for path in tmp_path.rglob("remote/**/*") if path.is_file()] == [
        path for path in tmp_path.rglob("remote/**/*.lock")
    ]


@pytest.mark.parametrize("held", [2**28, 1])
def test_reading_gives_what_was_written_in_one_request_an_object_while_there_is_room(
    store: FaultyStore, tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_zarr, "_HELD", held)
    key, local = key_at(tmp_path), replace(key_at(tmp_path / "local"), remote=None)
    fill(key)
    fill(local)
    store.requests.clear()
    cache, beside = read_teacher(key.place), read_teacher(local.place)
    assert np.array_equal(cache.status, beside.status) and cache.answers == beside.answers
    assert np.array_equal(cache.seg_embeddings, beside.seg_embeddings)
    for view in (3, 0, 3, 1, 0, 4, 2):
        assert np.array_equal(cache.mask_logits(view), beside.mask_logits(view))
    masks = store.paths("GET", r"mask_logits/c/")
    assert len(masks) == (5 if held > 1 else 7)
    assert len(store.paths("GET", "list-type")) == 1


def test_links_in_a_bucket_are_those_on_disk(store: FaultyStore, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    views = []
    for name in VIEWS:
        ids = np.flatnonzero(rng.random(900_000) < 0.5).astype(np.int32)  # More than one shard.
        views.append(ViewLinks(name, ids, rng.random((len(ids), 2)).astype(np.float32)))
    place = RemoteFolder(f"{CACHE}/links")
    write_links(place, VIEWS, 900_000, views)
    tmp_path.joinpath("links").mkdir()
    write_links(tmp_path / "links", VIEWS, 900_000, views)
    here = {
        str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    }
    assert {n.removeprefix("runs/"): c for n, c in store.objects().items()} == here
    store.requests.clear()
    links = read_links(place)
    for index in (4, 0, 2, 4):
        assert np.array_equal(links.view(index).point_ids, views[index].point_ids)
        assert np.array_equal(links.view(index).uv, views[index].uv)
    asked = store.paths("GET", r"/c/")
    assert len(asked) == len(set(asked))


def test_a_killed_writer_loses_the_view_it_was_on(store: FaultyStore, tmp_path: Path) -> None:
    key, other = key_at(tmp_path), key_at(tmp_path / "other machine")
    with pytest.raises(KeyboardInterrupt):
        fill(key, views=3)
    assert not is_complete(key)
    # What was killed while it put the arrays of view 2, whose status comes last.
    assert fill(other) == [3, 4]
    cache = read_teacher(key.place)
    for view in range(5):
        drawn = cache.drawn[view]
        written = answers(view).mask_logits[drawn]
        assert np.abs(cache.mask_logits(view)[drawn] - written).max() < 0.1
    assert is_complete(key)


@pytest.mark.parametrize("status", [500, 503, "drop"])
def test_puts_and_gets_that_fail_once_are_tried_again(
    store: FaultyStore, tmp_path: Path, status: int | str
) -> None:
    key = key_at(tmp_path)
    store.faults += [
        Fault("PUT", r"mask_logits/c/2", status, times=1),
        Fault("PUT", r"metadata.json", status, times=1),
        Fault("GET", r"mask_logits/c/4", status, times=1),
    ]
    fill(key)
    read_teacher(key.place)
    assert [fault.times for fault in store.faults] == [0, 0, 0]
    assert len(store.paths("PUT", r"mask_logits/c/2")) == 2
    assert check_objects(RemoteFolder(str(key.place)), lambda: None) == []


@pytest.mark.parametrize("name", ["mask_logits/c/2/0/0/0", "status/c/0/0", METADATA, ".holder"])
def test_a_put_that_fails_for_good_is_told_once_by_its_name_and_a_rerun_goes_on(
    store: FaultyStore, tmp_path: Path, name: str
) -> None:
    key = key_at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fill(key, views=2)
    store.faults.append(Fault("PUT", name, 500))
    with pytest.raises(UserError, match="could not be written") as told:
        fill(key)
    text = str(told.value)
    assert f"{key.place}" in text and name in text and "run the same again" in text
    assert not is_complete(key) and read_metadata(key.place) is None
    store.faults.clear()
    todo = {"mask_logits/c/2/0/0/0": [2, 3, 4], "status/c/0/0": [2, 3, 4], METADATA: []}
    assert fill(key) == todo.get(name, [2, 3, 4])
    assert is_complete(key) and check_objects(RemoteFolder(str(key.place)), lambda: None) == []


def test_a_slow_read_is_waited_for_and_one_slower_than_the_limit_is_told(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_at(tmp_path)
    fill(key)
    once = {"read_timeout": 1, "retries": {"mode": "standard", "max_attempts": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": once})
    store.faults.append(Fault("GET", r"mask_logits/c/1", seconds=0.5, times=1))
    cache = read_teacher(key.place)
    assert np.isfinite(cache.mask_logits(1)).all() and store.faults[0].times == 0
    store.faults.append(Fault("GET", r"mask_logits/c/3", seconds=1.5))
    with pytest.raises(UserError, match=r"mask_logits/c/3/0/0/0: could not be read .*[Tt]imeout"):
        cache.mask_logits(3)
    store.faults.clear()
    assert np.isfinite(cache.mask_logits(3)).all()


@pytest.mark.parametrize("harm", ["gone", "short", "other", "metadata"])
def test_damaged_objects_are_named_by_reading_and_by_verify(
    store: FaultyStore, tmp_path: Path, harm: str
) -> None:
    key = key_at(tmp_path)
    fill(key)
    folder = RemoteFolder(str(key.place))
    name = METADATA if harm == "metadata" else "teacher.zarr/seg_embeddings/c/0/0/0"
    path, good = f"{prefix(key)}/{name}", store.get(f"{prefix(key)}/{name}")
    bad = {"short": good[:-1], "other": good[:-1] + bytes([good[-1] ^ 1]), "metadata": good[:90]}
    store.delete(path) if harm == "gone" else store.put(path, bad[harm])
    with pytest.raises(ArtifactError) as told:
        read_teacher(folder)
    assert f"{folder}{'' if harm == 'metadata' else f'/{name}'}: expected" in str(told.value)
    findings = check_objects(folder, lambda: None)
    assert [str(one.path) for one in findings] == [f"{folder}/{name}"]
    store.put(path, good)
    store.put(f"{prefix(key)}/teacher.zarr/more", b"1")
    (extra,) = check_objects(folder, lambda: None)
    assert extra.is_extra and str(extra.path).endswith("/more")
    read_teacher(folder)
    found = objects_below(RemoteFolder(CACHE))
    assert [str(one) for one in found.finished] == [str(folder)] and found.unfinished == ()
    store.delete(f"{prefix(key)}/{METADATA}")
    assert objects_below(RemoteFolder(CACHE)).unfinished == (folder,)


def test_an_object_put_again_with_the_same_bytes_under_another_tag_is_no_damage(
    store: FaultyStore, tmp_path: Path
) -> None:
    key = key_at(tmp_path)
    fill(key)
    path = f"{prefix(key)}/{METADATA}"
    content = json.loads(store.get(path))
    del content["checksum"]
    for entry in content["files"].values():
        entry["tag"] = "of another bucket"
    store.put(path, json.dumps(content).encode())
    read_teacher(key.place)


def test_a_writer_whose_objects_another_host_replaced_finishes_nothing(
    store: FaultyStore, tmp_path: Path
) -> None:
    key = key_at(tmp_path)
    with pytest.raises(UserError, match=r"status/c/0/0: another process wrote there"):
        with writing_anywhere(key, resumable=True) as place:
            assert place is not None
            writer = TeacherWriter(place, VIEWS, QUERIES)
            writer.begin((6, 8), (8.0, 6.0), DIM)
            for index in range(5):
                writer.write_view(index, answers(index))
                if index == 2:
                    status = store.get(f"{prefix(key)}/teacher.zarr/status/c/0/0")
            store.put(f"{prefix(key)}/teacher.zarr/status/c/0/0", status)
    assert not is_complete(key)
    assert fill(key) == [3, 4] and is_complete(key)


def test_a_writer_stops_when_another_host_has_finished(store: FaultyStore, tmp_path: Path) -> None:
    key, other = key_at(tmp_path), key_at(tmp_path / "other machine")
    with writing_anywhere(key, resumable=True) as place:
        assert place is not None
        writer = TeacherWriter(place, VIEWS, QUERIES)
        writer.begin((6, 8), (8.0, 6.0), DIM)
        writer.write_view(0, answers(0))
        assert fill(other) == [1, 2, 3, 4]
        store.requests.clear()
        writer.write_view(1, answers(1, seed=9))
        raise AssertionError("it went on")
    assert is_complete(key) and not store.paths("PUT")
    assert check_objects(RemoteFolder(str(key.place)), lambda: None) == []


def test_a_writer_that_spoiled_what_another_host_finished_takes_its_metadata_away_and_goes_on(
    store: FaultyStore, tmp_path: Path
) -> None:
    key, other = key_at(tmp_path), key_at(tmp_path / "other machine")
    with writing_anywhere(key, resumable=True) as place:
        assert place is not None
        writer = TeacherWriter(place, VIEWS, QUERIES)
        writer.begin((6, 8), (8.0, 6.0), DIM)
        writer.write_view(0, answers(0))
        status = store.get(f"{prefix(key)}/teacher.zarr/status/c/0/0")
        fill(other)
        # As if the arrays of view 0 had been put while the other host put its metadata.
        store.put(f"{prefix(key)}/teacher.zarr/status/c/0/0", status)
        for index in range(1, 5):
            writer.write_view(index, answers(index))
            assert read_metadata(place) is None
    assert is_complete(key) and check_objects(RemoteFolder(str(key.place)), lambda: None) == []
    assert not np.any(read_teacher(key.place).status == 0)


def test_the_metadata_of_a_stage_is_asked_for_together_and_absence_is_not_believed_twice(
    store: FaultyStore, tmp_path: Path
) -> None:
    one = key_at(tmp_path)
    folders = [RemoteFolder(CACHE) / "set" / f"scene{i}" / one.folder.name for i in range(40)]
    manifests = Manifests(lambda: folders)
    keys = [replace(one, remote=RemoteArtifact(folder, manifests)) for folder in folders]
    good = json.dumps({"fingerprint": one.fingerprint, "files": {}}).encode()
    paths = [str(f / METADATA).removeprefix(f"s3://{BUCKET}/") for f in folders]
    store.put(paths[7], good)
    store.put(paths[8], json.dumps({"fingerprint": "of another"}).encode())
    store.put(paths[9], b"{")
    assert [index for index, key in enumerate(keys) if is_complete(key)] == [7]
    assert len(store.paths("GET", "metadata.json")) == 40
    store.put(paths[20], good)
    assert is_complete(keys[20]) and is_complete(keys[7]) and not is_complete(keys[21])
    assert len(store.paths("GET", "metadata.json")) == 42


def test_other_stores_of_fsspec_do_as_well(tmp_path: Path) -> None:
    key = key_at(tmp_path, url=f"memory://bucket/{tmp_path.name}")
    with pytest.raises(KeyboardInterrupt):
        fill(key, views=2)
    assert not is_complete(key) and fill(key) == [2, 3, 4] and is_complete(key)
    cache = read_teacher(key.place)
    assert cache.view_ids == tuple(VIEWS) and np.isfinite(cache.mask_logits(2)).all()
    folder = RemoteFolder(str(key.place))
    assert check_objects(folder, lambda: None) == []
    # Without tags a reader compares contents.
    damaged = folder / "teacher.zarr/presence/c/0/0"
    size = len(damaged.read_bytes())
    damaged.write_text("x" * size)
    with pytest.raises(ArtifactError, match="presence/c/0/0"):
        read_teacher(folder)
    folder.remove()
    assert folder.files() == {} and not damaged.exists()
    folder.remove()


@pytest.mark.parametrize(
    ("cache", "change", "expected"),
    [
        ("s3://no-such-bucket/runs", {}, "there is no bucket 'no-such-bucket'"),
        ("caches/runs", {}, "expected an address such as s3://bucket/prefix"),
        ("gs://bucket/runs", {}, "gs:// needs a driver of fsspec that is not installed"),
        ("nonsense://bucket", {}, "MLLM3D_CACHE: nonsense://bucket: Protocol not known"),
        (CACHE, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_PROFILE"),
        (CACHE, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "could not be reached"),
        (CACHE, {"PYTHONPATH": "without"}, "pip install s3fs"),
    ],
)
def test_what_is_wrong_with_the_store_is_told_before_anything_is_made(
    store: FaultyStore, tmp_path: Path, cache: str, change: dict[str, str], expected: str
) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "s3fs.py").write_text("raise ImportError('no module named s3fs')\n")
    told = {
        **store.environment(),
        "MLLM3D_CACHE": cache,
        "FSSPEC_S3": json.dumps({"config_kwargs": QUICK}),
        **change,
    }
    path = os.pathsep.join([str(tmp_path / change.get("PYTHONPATH", "")), str(REPOSITORY)])
    env = environment(tmp_path / "output", **{**told, "PYTHONPATH": path})
    line: list[Any] = [sys.executable, "-m", "pipeline", "plan", "--scene-set", "demo"]
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env={k: v for k, v in env.items() if v},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert expected in done.stderr and done.stderr.count("\n") == 1 and len(done.stderr) < 600
    assert not (tmp_path / "output").exists()
