"""A person's own scan with a file damaged in hundreds of ways: one error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.geometry.meshes import read_mesh
from data.readers.posed_frames import PosedFrames, read_pinhole
from data.readers.rgbd import read_depth, read_scan
from data.readers.rgbd_layout import REMEDY, check_name, read_split
from data.types import View
from tests.support.damage import check_damaged, damaged_bytes, damaged_words
from tests.support.scans.rgbd_tree import DEPTH, IMAGE, INTRINSICS, MESH, POSE, SCENE, write_tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small scan: two frames, as each costs a read in every case."""
    folder = write_tree(tmp_path_factory.mktemp("rgbd") / SCENE)
    for index in range(2, 6):
        for name in (f"color/frame{index}.jpg", f"pose/frame{index}.txt"):
            (folder / name).unlink()
    yield folder
    read_scan(folder, SCENE, "")  # every damage was put right again


def views(folder: Path) -> tuple[View, ...]:
    frames = PosedFrames(folder, check_name, REMEDY)
    images = frames.images()
    return frames.views(images, read_pinhole(folder / INTRINSICS, images[min(images)], REMEDY))


@settings(max_examples=100)
@given(st.data())
def test_damaged_poses(folder: Path, data: st.DataObject) -> None:
    good = (folder / POSE).read_bytes()
    bad = data.draw(st.one_of(damaged_words(good), damaged_bytes(good)))

    def read() -> None:
        for view in views(folder):
            assert np.isfinite(view.world_to_camera).all()

    check_damaged(folder / POSE, bad, read)


@settings(max_examples=100)
@given(st.data())
def test_damaged_intrinsics(folder: Path, data: st.DataObject) -> None:
    path = folder / INTRINSICS
    good = path.read_bytes()
    bad = data.draw(st.one_of(damaged_words(good), damaged_bytes(good)))
    check_damaged(path, bad, lambda: read_pinhole(path, folder / IMAGE, REMEDY))


@settings(max_examples=100)
@given(st.data())
def test_damaged_images(folder: Path, data: st.DataObject) -> None:
    bad = data.draw(damaged_bytes((folder / IMAGE).read_bytes()))
    check_damaged(folder / IMAGE, bad, lambda: views(folder))


@settings(max_examples=100)
@given(st.data())
def test_damaged_depth(folder: Path, data: st.DataObject) -> None:
    """What is taken is depth of the image's shape, finite and not negative."""
    path, view = folder / DEPTH, views(folder)[1]
    bad = data.draw(damaged_bytes(path.read_bytes()))

    def read() -> None:
        depth = read_depth(path, view)
        assert depth.dtype == np.float32 and depth.ndim == 2
        assert (depth >= 0).all() and depth.max(initial=0) < 65.6

    check_damaged(path, bad, read)


@settings(max_examples=100)
@given(st.data())
def test_damaged_meshes(folder: Path, data: st.DataObject) -> None:
    bad = data.draw(damaged_bytes((folder / MESH).read_bytes()))
    check_damaged(folder / MESH, bad, lambda: read_mesh(folder / MESH))


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_damaged_lists(folder: Path, content: bytes) -> None:
    path = folder / "mine.txt"
    path.write_bytes(b"x")
    if not check_damaged(path, content, lambda: read_split(folder, "mine")):
        assert len(set(content.split())) >= 1
    path.unlink()
