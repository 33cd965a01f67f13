"""Caches in an object store: what they hold, who else writes, what is asked of the store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts import links as links_module
from data.artifacts import teacher, zarr_groups
from data.artifacts.cleanup import check_remote_artifact
from data.artifacts.links import ViewLinks, read_links, write_links
from data.artifacts.object_store import RemoteFolder
from data.artifacts.remote_artifact import Manifests, RemoteArtifact
from data.artifacts.store import METADATA, is_complete, read_metadata, sha256_of, writing_anywhere
from data.artifacts.teacher import TeacherWriter, read_teacher
from data.errors import ArtifactError, UserError
from tests.support.faulty_store import BUCKET, CACHE, FaultyStore
from tests.support.remote_world import DIM, QUERIES, VIEWS, answers, fill, key_at, prefix


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
    monkeypatch.setattr(zarr_groups, "_HELD", held)
    monkeypatch.setattr(teacher, "_HELD", 0)
    key, local = key_at(tmp_path), replace(key_at(tmp_path / "local"), remote=None)
    fill(key)
    fill(local)
    store.requests.clear()
    cache, beside = read_teacher(key.place), read_teacher(local.place)
    assert np.array_equal(cache.status, beside.status) and cache.answers == beside.answers
    assert np.array_equal(cache.seg_embeddings, beside.seg_embeddings)
    for view in (3, 0, 3, 1, 0, 4, 2):
        assert np.array_equal(cache.mask_logits(view), beside.mask_logits(view))
    records = store.paths("GET", r"views/c/")
    # Opening asks for each, and leaves one at most where there is no room for more.
    assert len(records) == 5 if held > 1 else len(records) in (11, 12)
    assert len(store.paths("GET", "list-type")) == 1


def test_links_in_a_bucket_are_those_on_disk(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "_CHUNK", 1 << 8)
    monkeypatch.setattr(links_module, "_SHARD", 1 << 12)
    rng = np.random.default_rng(3)
    views = []
    for name in VIEWS:
        ids = np.flatnonzero(rng.random(3_600) < 0.5).astype(np.int32)  # More than one shard.
        views.append(ViewLinks(name, ids, rng.random((len(ids), 2)).astype(np.float32)))
    place = RemoteFolder(f"{CACHE}/links")
    write_links(place, VIEWS, 3_600, views)
    tmp_path.joinpath("links").mkdir()
    write_links(tmp_path / "links", VIEWS, 3_600, views)
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
    assert fill(other) == [3, 4]
    cache = read_teacher(key.place)
    for view in range(5):
        drawn = cache.drawn[view]
        written = answers(view).mask_logits[drawn]
        assert np.abs(cache.mask_logits(view)[drawn] - written).max() < 0.1
    assert is_complete(key)


def test_a_writer_whose_objects_another_host_replaced_finishes_nothing(
    store: FaultyStore, tmp_path: Path
) -> None:
    key = key_at(tmp_path)
    with pytest.raises(UserError, match=r"views/c/3: another process wrote there"):
        with writing_anywhere(key, resumable=True) as place:
            assert place is not None
            writer = TeacherWriter(place, VIEWS, QUERIES)
            writer.begin((6, 8), (8.0, 6.0), DIM)
            writer.write_view(3, answers(3, seed=9))
            others = store.get(f"{prefix(key)}/teacher.zarr/views/c/3")
            for index in range(5):
                writer.write_view(index, answers(index))
            store.put(f"{prefix(key)}/teacher.zarr/views/c/3", others)
    assert not is_complete(key)
    assert fill(key) == [] and is_complete(key)


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
    assert check_remote_artifact(RemoteFolder(str(key.place)), lambda: None) == []


def test_a_writer_that_spoiled_what_another_host_finished_takes_its_metadata_away_and_goes_on(
    store: FaultyStore, tmp_path: Path
) -> None:
    key, other = key_at(tmp_path), key_at(tmp_path / "other machine")
    with writing_anywhere(key, resumable=True) as place:
        assert place is not None
        writer = TeacherWriter(place, VIEWS, QUERIES)
        writer.begin((6, 8), (8.0, 6.0), DIM)
        writer.write_view(0, answers(0))
        writer.write_view(1, answers(1, seed=9))
        ours = store.get(f"{prefix(key)}/teacher.zarr/views/c/1")
        store.delete(f"{prefix(key)}/teacher.zarr/views/c/1")
        fill(other)
        # As if view 1 had been put while the other host put its metadata.
        store.put(f"{prefix(key)}/teacher.zarr/views/c/1", ours)
        for index in range(1, 5):
            writer.write_view(index, answers(index))
            assert read_metadata(place) is None
    assert (
        is_complete(key) and check_remote_artifact(RemoteFolder(str(key.place)), lambda: None) == []
    )
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
    assert check_remote_artifact(folder, lambda: None) == []
    # Without tags a reader compares contents.
    damaged = folder / "teacher.zarr/views/c/0"
    size = len(damaged.read_bytes())
    damaged.write_text("x" * size)
    with pytest.raises(ArtifactError, match="views/c/0"):
        read_teacher(folder)
    folder.remove()
    assert folder.files() == {} and not damaged.exists()
    folder.remove()
