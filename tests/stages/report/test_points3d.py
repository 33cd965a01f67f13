"""Points and masks as the page's script unpacks them."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from data.types import PointCloud
from stages.report.points3d import Mode, Modes, pack_cloud, pack_masks, thinned
from tests.support.scans.tiny_scene import make_tiny_scene


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def test_positions_colours_and_normals_stand_where_the_format_says() -> None:
    scene, _ = make_tiny_scene()
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 3.0]], np.float32)
    normals = np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]], np.float32)
    colors = np.array([[1, 2, 3], [4, 5, 6], [250, 251, 252]], np.uint8)
    triangles = np.zeros((0, 3), np.int32)
    ids = np.zeros(3, np.int32)
    cloud = PointCloud(points, colors, normals)
    three = replace(
        scene, cloud=cloud, triangles=triangles, superpoint_ids=ids, views=(), depths=[]
    )
    packed = pack_cloud(three, 10)
    assert packed.step == 0.001 and packed.origin == (1.0, 0.5, 1.5)
    numbers = struct.unpack("<9h9B9b", unpacked(packed.text))
    assert numbers[:9] == (-1000, 1000, -1000, -500, -500, 500, -1500, -1500, 1500)
    assert numbers[9:18] == (1, 2, 3, 4, 5, 6, 250, 251, 252)
    # Without triangles nobody knows which side is free, so no point turns its back to anyone.
    assert numbers[18:] == (0,) * 9


@pytest.mark.parametrize("turned", [1, -1])
def test_normals_point_into_the_room_however_the_mesh_is_wound(turned: int) -> None:
    scene, _ = make_tiny_scene()
    cloud = replace(scene.cloud, normals=(turned * scene.cloud.normals).astype(np.float32))
    wound = replace(scene, cloud=cloud, triangles=scene.triangles[:, ::turned].copy())
    packed = pack_cloud(wound, len(cloud))
    stored = np.frombuffer(unpacked(packed.text), np.int8)[9 * len(cloud) :].reshape(-1, 3)
    room, height = scene.superpoint_ids == 0, cloud.points[:, 2]
    upright = room & (np.abs(scene.cloud.normals[:, 2]) == 1)
    assert (stored[upright & (height == 0), 2] == 127).all()
    assert (stored[upright & (height > 2), 2] == -127).all()


def test_a_large_scan_is_thinned_and_a_wide_one_keeps_its_ends() -> None:
    scene, _ = make_tiny_scene()
    wide = replace(scene, cloud=replace(scene.cloud, points=scene.cloud.points * 50))
    packed = pack_cloud(wide, 100)
    count = len(packed.kept)
    assert 60 <= count <= 100 and packed.num_points == len(scene.cloud)
    first = np.frombuffer(unpacked(packed.text), "<i2", 3 * count).reshape(3, count).T
    restored = first * packed.step + np.array(packed.origin)
    assert np.abs(restored - wide.cloud.points[packed.kept]).max() <= packed.step


def test_thinning_leaves_as_much_in_every_place() -> None:
    x, y = np.meshgrid(np.arange(40) / 10, np.arange(40) / 10)
    sparse = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    # Nine points more around each on the right: a scan that looked there for longer.
    crowd = np.concatenate([sparse[sparse[:, 0] > 2] + 0.004 * k for k in range(1, 10)])
    points = np.concatenate([crowd, sparse]).astype(np.float32)
    kept = points[thinned(points, 900)]
    left, right = int((kept[:, 0] < 2).sum()), int((kept[:, 0] > 2.04).sum())
    assert 400 <= len(kept) <= 900 and 0.7 < left / right < 1.4
    assert thinned(points, len(points)).tolist() == list(range(len(points)))
    assert len(thinned(np.zeros((5, 3), np.float32), 2)) == 1


def test_every_layer_is_a_bit_of_the_points_that_are_kept() -> None:
    scene, truth = make_tiny_scene()
    cloud = pack_cloud(scene, 200)
    bed, chair = truth.mask([11]), truth.mask([13])
    bits = np.frombuffer(
        unpacked(pack_masks(("a", "none", "b"), {"a": bed, "b": chair}, cloud)), "u1"
    )
    assert len(bits) == len(cloud.kept) <= 200
    assert ((bits == 1) == bed[cloud.kept]).all() and ((bits == 4) == chair[cloud.kept]).all()
    assert bed[cloud.kept].any() and chair[cloud.kept].any()


def test_a_scan_without_points_is_no_error() -> None:
    scene, _ = make_tiny_scene()
    nothing = PointCloud(np.zeros((0, 3), "f4"), np.zeros((0, 3), "u1"), np.zeros((0, 3), "f4"))
    none, ids = np.zeros((0, 3), np.int32), np.zeros(0, np.int32)
    packed = pack_cloud(replace(scene, cloud=nothing, triangles=none, superpoint_ids=ids), 10)
    assert unpacked(packed.text) == b"" and unpacked(pack_masks(("a",), {}, packed)) == b""


def test_modes_name_bits_and_refuse_what_no_script_could_show() -> None:
    modes = (Mode("plain", "Plain"), Mode("ab", "A and B", (("both", "x"),), "a", "b"))
    told = Modes(("b", "a"), modes, "ab").for_script()
    assert told == {
        "start": "ab",
        "modes": [
            {"name": "plain", "label": "Plain", "halves": [[-1, -1]], "captions": [], "legend": []},
            {
                "name": "ab",
                "label": "A and B",
                "halves": [[1, 0]],
                "captions": [],
                "legend": [["both", "x"]],
            },
        ],
    }
    twice = Mode("twice", "A and B", (), "a", "b", ("b", ""), ("left", "right"))
    (told_twice,) = cast(Any, Modes(("b", "a"), (twice,), "twice").for_script())["modes"]
    assert told_twice["halves"] == [[1, 0], [0, -1]]
    assert told_twice["captions"] == ["left", "right"]
    with pytest.raises(ValueError, match="modes of known layers"):
        Modes(("a", "b"), (replace(twice, beside=("c", "")),), "twice")
    with pytest.raises(ValueError, match="8 layers"):
        Modes(tuple("abcdefghi"), modes, "ab")
    with pytest.raises(ValueError, match="modes of known layers"):
        Modes(("a",), modes, "ab")
    with pytest.raises(ValueError, match="a first mode among them"):
        Modes(("a", "b"), modes, "other")
