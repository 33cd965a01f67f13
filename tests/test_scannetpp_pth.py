"""Prepared point sets: rows are no vertices, ids stay whole, and no file runs code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.readers.scannetpp_pth import hash_points, nearest, read_sampled_points
from data.types import Array
from tests.scannetpp_tree import SCENE, group_points, room


def sampled(seed: int = 0) -> dict[str, Any]:
    """As many rows as the room has vertices, each beside a vertex of another number."""
    points = room()[0].cloud.points.astype(np.float64)
    rng = np.random.default_rng(seed)
    vertex = rng.permutation(len(points))
    owner = np.full(len(points), -100)
    owner[group_points()[1]] = 200  # 8 bits would make -56 of it
    return {
        "scene_id": SCENE,
        "sampled_coords": points[vertex] + rng.uniform(-1e-3, 1e-3, (len(points), 3)),
        "sampled_colors": np.tile([0.0, 0.5, 1.0], (len(points), 1)),
        "sampled_labels": np.stack([owner, owner, owner], axis=1).astype(np.int16),
        "sampled_num_labels": np.ones(len(points), np.int16),
        "sampled_instance_labels": np.where(owner > 0, 1, -100)[vertex].astype(np.int16),
        "sampled_instance_anno_id": owner[vertex].astype(np.int16),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{SCENE}.pth"


def test_rows_come_with_their_types(path: Path) -> None:
    content = sampled()
    torch.save(content, path)
    found = read_sampled_points(path)
    assert found.scene_id == SCENE and not found.is_vertices
    assert len(found) == len(room()[0].cloud)
    assert found.points.dtype == np.float32
    np.testing.assert_allclose(found.points, content["sampled_coords"], atol=1e-6)
    assert found.colors.dtype == np.uint8 and (found.colors == [0, 128, 255]).all()
    for name, key in (
        ("class_ids", "sampled_labels"),
        ("num_groups", "sampled_num_labels"),
        ("instance_positions", "sampled_instance_labels"),
        ("object_ids", "sampled_instance_anno_id"),
    ):
        array = getattr(found, name)
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, content[key])
    assert found.object_ids is not None and found.object_ids.max() == 200
    assert found.segment_ids is None


def test_rows_are_not_vertices(path: Path) -> None:
    torch.save(sampled(), path)
    found = read_sampled_points(path)
    vertices = room()[0].cloud.points
    vertex = found.nearest_vertex(vertices)
    assert vertex.dtype == np.int32 and vertex.shape == (len(found),)
    distances = np.linalg.norm(vertices[vertex] - found.points, axis=1)
    brute = np.linalg.norm(vertices[None, ::7] - found.points[:50, None], axis=2).min(axis=1)
    assert distances.max() < 2e-3 and (distances[:50] <= brute + 1e-6).all()
    # Attaching by row would be noise: hardly any row is beside the vertex of its number.
    assert (vertex == np.arange(len(found))).mean() < 0.05
    mask = np.zeros(len(vertices), bool)
    mask[group_points()[1]] = True
    assert found.object_ids is not None
    on_object = np.asarray(found.object_ids == 200)
    apart = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    alone = apart.min(axis=1)[vertex] > 0.01  # vertices that share their place may be either
    assert alone.sum() > 100
    np.testing.assert_array_equal(mask[vertex][alone], on_object[alone])


def test_predictions_on_rows_reach_the_mesh(path: Path) -> None:
    torch.save(sampled(), path)
    found = read_sampled_points(path)
    vertices = room()[0].cloud.points
    row = found.nearest_row(vertices)
    assert row.shape == (len(vertices),)
    assert np.linalg.norm(found.points[row] - vertices, axis=1).max() < 2e-3


def test_nearest_by_hand() -> None:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [5, 5, 5]])
    queries = np.array([[0.4, 0, 0], [0.6, 0, 0], [9, 9, 9], [1, 0, 0]])
    assert nearest(queries, points).tolist() == [0, 1, 2, 1]
    with pytest.raises(ValueError, match="no point"):
        nearest(queries, np.zeros((0, 3)))


def test_the_hash_knows_points_and_their_order(path: Path) -> None:
    torch.save(sampled(), path)
    found = read_sampled_points(path)
    assert len(found.point_set_hash) == 64
    assert found.point_set_hash == hash_points(found.points)
    assert found.point_set_hash != hash_points(found.points[::-1])
    assert found.point_set_hash != hash_points(room()[0].cloud.points)
    torch.save(sampled(1), path)
    assert read_sampled_points(path).point_set_hash != found.point_set_hash


def test_files_of_vertices_say_so(path: Path) -> None:
    content = {key.replace("sampled", "vtx"): value for key, value in sampled().items()}
    content["vtx_coords"] = room()[0].cloud.points.astype(np.float64)
    torch.save(content, path)
    found = read_sampled_points(path)
    assert found.is_vertices and found.object_ids is not None
    np.testing.assert_array_equal(found.points, room()[0].cloud.points)


def test_tensors_are_taken_as_arrays_are(path: Path) -> None:
    content = {
        key: value if isinstance(value, str) else torch.from_numpy(value)
        for key, value in sampled().items()
    }
    torch.save(content, path)
    np.testing.assert_array_equal(
        read_sampled_points(path).object_ids, sampled()["sampled_instance_anno_id"]
    )


def test_files_of_older_numpy_are_read(path: Path) -> None:
    torch.save(sampled(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(
        read_sampled_points(path).object_ids, sampled()["sampled_instance_anno_id"]
    )


class Harmful:
    """Would make a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_no_code_of_a_file_is_run(path: Path, tmp_path: Path) -> None:
    torch.save({**sampled(), "extra": Harmful(tmp_path / "made")}, path)
    with pytest.raises(DataError) as caught:
        read_sampled_points(path)
    assert str(path) in str(caught.value) and "mkdir" in str(caught.value)
    assert "without running code" in str(caught.value)
    assert not (tmp_path / "made").exists()


def changed(key: str, value: Any) -> dict[str, Any]:
    return {**sampled(), key: value}


COUNT = len(room()[0].cloud)
WRONG: list[tuple[Any, str]] = [
    ([1, 2], "list"),
    ({}, "sampled_coords"),
    (changed("scene_id", None), "scene_id"),
    (changed("scene_id", ""), "scene_id"),
    (changed("sampled_coords", [[0.0, 0.0, 0.0]]), "sampled_coords"),
    (changed("sampled_coords", np.zeros((0, 3))), "sampled_coords"),
    (changed("sampled_coords", np.zeros((COUNT, 2))), "sampled_coords"),
    (changed("sampled_coords", np.zeros((COUNT, 3), int)), "sampled_coords"),
    (changed("sampled_coords", np.full((COUNT, 3), np.nan)), "finite sampled_coords"),
    (changed("sampled_colors", np.full((COUNT, 3), 255.0)), "sampled_colors in 0 to 1"),
    (changed("sampled_colors", np.full((COUNT, 3), -0.1)), "sampled_colors in 0 to 1"),
    (changed("sampled_colors", np.full((COUNT, 3), np.nan)), "sampled_colors in 0 to 1"),
    (changed("sampled_colors", np.zeros((COUNT, 3), np.uint8)), "sampled_colors"),
    (changed("sampled_colors", np.zeros((COUNT - 1, 3))), "rows of sampled_colors"),
    (changed("sampled_labels", np.zeros(COUNT - 1, int)), "sampled_labels"),
    (changed("sampled_labels", np.zeros(COUNT)), "sampled_labels"),
    (changed("sampled_labels", np.zeros((COUNT, 1, 1), int)), "sampled_labels"),
    (changed("sampled_labels", np.full(COUNT, 2**40)), "sampled_labels"),
    (changed("sampled_segment_ids", None), "sampled_segment_ids"),
    (changed("sampled_instance_anno_id", np.zeros(COUNT, bool)), "sampled_instance_anno_id"),
]


@pytest.mark.parametrize(("content", "hint"), WRONG)
def test_wrong_content_is_named(path: Path, content: Any, hint: str) -> None:
    torch.save(content, path)
    with pytest.raises(DataError) as caught:
        read_sampled_points(path)
    assert str(path) in str(caught.value) and hint in str(caught.value)


def test_missing_cut_and_foreign_files_are_named(path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_sampled_points(path)
    torch.save(sampled(), path)
    whole = path.read_bytes()
    for content in (b"", b"404: not found\n", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_sampled_points(path)
        assert str(path) in str(caught.value)


def small_file(folder: Path, zipped: bool) -> bytes:
    rows: dict[str, Array] = {
        "sampled_coords": np.arange(12.0).reshape(4, 3),
        "sampled_colors": np.arange(12).reshape(4, 3) / 11,
        "sampled_labels": np.arange(4, dtype=np.int16),
    }
    path = folder / "small.pth"
    torch.save({"scene_id": SCENE, **rows}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=500)
@given(st.integers(0, 2**31), st.integers(1, 6), st.booleans(), st.booleans())
def test_damage_is_harmless_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, zipped: bool, cut: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = small_file(folder, zipped)
    path = folder / "small.pth"
    rng = np.random.default_rng(seed)
    bad = np.frombuffer(good, np.uint8).copy()
    bad[rng.integers(0, len(bad), count)] = rng.integers(0, 256, count)
    path.write_bytes(bad.tobytes()[: int(rng.integers(0, len(bad))) if cut else None])
    try:
        found = read_sampled_points(path)
        assert found.points.shape == (len(found), 3) and np.isfinite(found.points).all()
    except DataError as error:
        assert str(path) in str(error)
