"""A scanned room as it is written: read by ScanNet++'s reader, exact truth, drifted poses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from data.errors import DataError
from data.geometry.meshes import read_mesh
from data.readers.scannetpp import read_groups, read_scan, read_surface
from data.rooms.clutter import CLUTTER_LABELS
from data.rooms.ids import room_kind, room_seed
from data.rooms.render import Renderer, fisheye_camera
from data.rooms.room import Room, make_room
from data.rooms.scan import choose_poses
from data.rooms.scanning.scan import Scanning, depth_frames, scan_walk, walk_through
from data.rooms.scanning.surface import nearest_surface
from data.rooms.scanning.walk import center
from data.types import Scan
from stages.configs import GenerateConfig
from stages.scene.generate_rooms import run_index, run_room, scene_ids
from tests.support.scans.rooms_fixture import SCANNED, read_written, tree_hashes


class World(NamedTuple):
    """One scanned room: its folder, what the reader makes of it, and the room in memory."""

    root: Path
    scan: Scan
    room: Room
    renderer: Renderer

    @property
    def folder(self) -> Path:
        return self.root / "data" / self.scan.scene_id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("scanned")
    run_room(root, "val", 0, SCANNED)
    run_index(root, SCANNED)
    scan = read_scan(root, scene_ids(SCANNED, "val")[0], "undistorted")
    seed = room_seed(SCANNED.seed, "val", 0)
    room = make_room(seed, room_kind(0), SCANNED.vertex_spacing, clutter=SCANNED.clutter)
    return World(root, scan, room, Renderer(room, fisheye_camera(24, 36, room.seed)))


SCANNING = Scanning(
    SCANNED.sensor,
    SCANNED.scan_views,
    (SCANNED.pose_drift, SCANNED.pose_drift_degrees),
    SCANNED.clutter,
    SCANNED.voxel,
)


def test_the_reader_reads_one_mesh_with_truth_and_quality(world: World) -> None:
    scan = world.scan
    assert len(scan.views) == SCANNED.views and len(scan.cloud) > 2000
    assert np.array_equal(scan.segment_ids, np.arange(len(scan.cloud)))
    labels = set(scan.truth.labels)
    assert {"floor", "wall", "bed"} <= labels and labels & set(CLUTTER_LABELS)
    surface = scan.truth.surface
    assert surface is not None and 0.3 < surface.coverage < 1
    assert 0 < surface.median_error < surface.error_90 < 0.1
    classes = (world.root / "metadata" / "semantic_classes.txt").read_text().split("\n")
    assert labels <= set(classes)
    # Objects are joined: triangles have corners of several objects, unlike in a clean room.
    owner = np.full(len(scan.cloud), -1)
    for object_id in scan.truth.object_ids:
        owner[scan.truth.points_of(object_id)] = object_id
    corners = owner[scan.triangles]
    assert (corners != corners[:, :1]).any(axis=1).mean() > 0.02


def test_every_vertex_belongs_to_the_nearest_true_object_or_to_none(world: World) -> None:
    scan, room = world.scan, world.room
    groups = read_groups(world.folder / "scans" / "segments_anno.json")
    labelled = np.zeros(len(scan.cloud), bool)
    for group in groups:
        labelled[group.segments] = True
    near = nearest_surface(scan.cloud.points, room.mesh, 0.06)
    assert np.array_equal(labelled, near.owner >= 0) and 0.7 < labelled.mean() < 1
    mesh = room.mesh
    for group in groups:
        owners = {room.objects[k].label for k in near.owner[group.segments].tolist()}
        assert group.name.label in owners
        # A pillow belongs to its bed, too, and nothing else to anything else.
        assert owners <= {group.name.label, "pillow"}
        corners = mesh.vertices[mesh.vertex_objects == near.owner[group.segments[0]]]
        gap = scan.cloud.points[group.segments[0]] - corners
        assert np.sqrt((gap * gap).sum(axis=1)).min() < 0.06 + SCANNED.vertex_spacing


def test_files_hold_the_believed_poses_and_pictures_show_the_true_ones(
    world: World, tmp_path: Path
) -> None:
    walk = walk_through(world.room, choose_poses(world.room, SCANNED.views), SCANNING)
    found = np.stack([view.world_to_camera for view in world.scan.views])
    assert np.allclose(found, walk.believed[walk.pictures], atol=1e-9)
    gaps = [center(a) - center(b) for a, b in zip(walk.true, walk.believed)]
    drift = np.sqrt(np.mean(np.sum(np.square(gaps), axis=1)))
    assert 0.25 * SCANNED.pose_drift < drift < 3 * SCANNED.pose_drift
    steady = SCANNED.model_copy(update={"pose_drift": 0.0, "pose_drift_degrees": 0.0})
    run_room(tmp_path, "val", 0, steady)
    kept, moved = (
        tree_hashes(root / "data" / world.scan.scene_id / "dslr") for root in (tmp_path, world.root)
    )
    same = {name for name in kept if kept[name] == moved[name]}
    assert all(name in same for name in kept if name.endswith((".JPG", ".png")))
    assert "colmap/images.txt" not in same


def test_depth_is_measured_at_true_poses_and_fused_at_believed_ones(world: World) -> None:
    walk = walk_through(world.room, choose_poses(world.room, SCANNED.views), SCANNING)
    assert len(walk.depth) == SCANNED.scan_views > SCANNED.views
    frames = list(depth_frames(world.renderer, walk, SCANNED.sensor))
    for frame, index in zip(frames, walk.depth.tolist(), strict=True):
        assert np.array_equal(frame.world_to_camera, walk.believed[index])
        true, _ = world.room.caster.render(frame.camera, walk.true[index])
        both = (frame.depth > 0) & (true > 0)
        assert both.mean() > 0.1
        assert np.median(np.abs(frame.depth - true)[both]) < 0.03
    fewer = Scanning(sensor="lidar", views=4, voxel=SCANNED.voxel)
    few_walk = walk_through(world.room, choose_poses(world.room, SCANNED.views), fewer)
    assert len(few_walk.depth) == 4 and len(few_walk.true) == SCANNED.views
    few = scan_walk(world.renderer, few_walk, fewer)
    whole = world.scan.truth.surface
    assert whole is not None and few.surface.coverage < 0.8 * whole.coverage


def test_queries_ask_for_what_the_scan_holds_and_miss_what_is_not_there(world: World) -> None:
    room = read_written(world.root, "val", world.scan.scene_id)
    assert len(room.records) >= 10
    in_room = {item.label for item in world.room.objects}
    for record in room.records:
        targets = record["object_id"]
        assert record["object_name"] not in CLUTTER_LABELS
        for target in targets:
            assert len(room.points[target]) >= 30 and room.labels[target] not in CLUTTER_LABELS
        if not targets and "color" not in record["description"]:
            plain = record["description"].endswith(f"the {record['object_name']}")
            assert not plain or record["object_name"] not in in_room


def test_the_mesh_has_colours_of_the_pictures_and_no_crumbs(world: World) -> None:
    mesh = read_mesh(world.folder / "scans" / "mesh_aligned_0.05.ply")
    assert mesh.colors.std() > 20
    assert len(np.unique(mesh.triangles)) == len(mesh.points)


def test_keys_of_scans_change_no_byte_of_a_clean_room(tmp_path: Path) -> None:
    tiny = GenerateConfig(
        train_rooms=1, val_rooms=1, views=2, height=32, width=48, vertex_spacing=0.3, seed=3
    )
    odd = {"sensor": "lidar", "scan_views": 9, "pose_drift": 0.1, "clutter": 7, "voxel": 0.1}
    run_room(tmp_path / "one", "val", 0, tiny)
    run_room(tmp_path / "two", "val", 0, tiny.model_copy(update=odd))
    assert tree_hashes(tmp_path / "one") == tree_hashes(tmp_path / "two")
    assert not list(tmp_path.rglob("scan_truth.json"))


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"coverage": -1, "median_error": 0, "error_90": 0}', "nonsense"]
)
def test_a_damaged_quality_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scan_truth.json"
    assert read_surface(path) is None
    path.write_text(text)
    with pytest.raises(DataError, match="scan_truth.json"):
        read_surface(path)
    path.write_text(json.dumps({"coverage": 0.5, "median_error": 0.01, "error_90": 0.02}))
    surface = read_surface(path)
    assert surface is not None and surface.error_90 == 0.02
