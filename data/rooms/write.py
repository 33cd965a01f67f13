"""Write rooms in ScanNet++'s layout, and the dataset's splits, class lists and query files."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.errors import DataError
from data.geometry.meshes import write_ply
from data.geometry.undistort import Undistorter
from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.clutter import CLUTTER_LABELS
from data.rooms.queries import ExtraRecords, Fact, gather_facts, sample_records
from data.rooms.render import Renderer, anonymisation_mask, fisheye_camera
from data.rooms.room import Room, make_room
from data.rooms.scan import RoomScan, choose_poses, scan_room
from data.rooms.scanning.photographs import Photographer
from data.rooms.scanning.scan import (
    Scanning,
    channel_gains,
    scan_walk,
    scanned_facts,
    walk_through,
)
from data.types import Array, Camera

SEMANTIC_CLASSES = (*STRUCTURE, *LABELS)
INSTANCE_CLASSES = LABELS
_ALL_CLASSES = (*SEMANTIC_CLASSES, *CLUTTER_LABELS)
_JPEG_QUALITY = 93


def dump_json(path: Path, content: object) -> None:
    """Write compact JSON with a newline at the end."""
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def dump_lines(path: Path, lines: Sequence[str]) -> None:
    """Write one entry a line."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_scan(folder: Path, scan: RoomScan) -> None:
    """Write meshes, segments (one per vertex) and annotation groups."""
    folder.mkdir(parents=True, exist_ok=True)
    fields: list[tuple[str, str]] = [
        ("x", "f4"),
        ("y", "f4"),
        ("z", "f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
    ]
    vertices = np.empty(len(scan.vertices), dtype=[*fields, ("label", "i4")])
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = scan.vertices[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = scan.colors[:, channel]
    vertices["label"] = -100
    for group in sorted(scan.groups, key=lambda g: -len(g.vertex_ids)):
        vertices["label"][group.vertex_ids] = _ALL_CLASSES.index(group.label)
    plain = np.empty(len(vertices), dtype=fields)
    for name, _ in fields:
        plain[name] = vertices[name]
    write_ply(folder / "mesh_aligned_0.05.ply", plain, scan.triangles)
    write_ply(folder / "mesh_aligned_0.05_semantic.ply", vertices, scan.triangles)
    (folder / "mesh_aligned_0.05_mask.txt").write_text("")
    dump_json(folder / "segments.json", {"segIndices": list(range(len(scan.vertices)))})
    groups = [
        {
            "id": group.group_id,
            "objectId": group.object_id,
            "label": group.label,
            "segments": group.vertex_ids.tolist(),
            "obb": {
                "centroid": group.centroid.round(6).tolist(),
                "axesLengths": group.lengths.round(6).tolist(),
                "normalizedAxes": group.axes.T.ravel().round(9).tolist(),
            },
        }
        for group in scan.groups
    ]
    dump_json(folder / "segments_anno.json", {"segGroups": groups})


def write_pictures(
    folder: Path, names: Sequence[str], images: Sequence[Array], undistorter: Undistorter
) -> None:
    """Write the images and masks of ``dslr/``, fisheye and undistorted.

    ``images`` are (H, W, 3) uint8 RGB.
    """
    kinds = ("resized_images", "resized_anon_masks", "resized_undistorted_images")
    for kind in (*kinds, "resized_undistorted_masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    for view, (name, image) in enumerate(zip(names, images, strict=True)):
        mask = anonymisation_mask(image.shape[0], image.shape[1], view)
        shown = np.where(mask[..., None] == 0, np.uint8(127), image)
        stem = Path(name).stem
        cv2.imwrite(str(folder / "resized_images" / name), shown[..., ::-1], quality)
        cv2.imwrite(str(folder / "resized_anon_masks" / f"{stem}.png"), mask)
        flat = undistorter.image(np.ascontiguousarray(shown[..., ::-1]))
        cv2.imwrite(str(folder / "resized_undistorted_images" / name), flat, quality)
        flat_mask = undistorter.mask(mask)
        cv2.imwrite(str(folder / "resized_undistorted_masks" / f"{stem}.png"), flat_mask)


def quaternion(rotation: Array) -> Array:
    """Convert a rotation (3, 3) to a unit vector (w, x, y, z) with w >= 0."""
    r = rotation
    squares = np.array(
        [
            1 + r[0, 0] + r[1, 1] + r[2, 2],
            1 + r[0, 0] - r[1, 1] - r[2, 2],
            1 - r[0, 0] + r[1, 1] - r[2, 2],
            1 - r[0, 0] - r[1, 1] + r[2, 2],
        ]
    )
    a, b, c = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    d, e, f = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]
    w, x, y, z = squares
    rows = ((w, a, b, c), (a, x, d, e), (b, d, y, f), (c, e, f, z))
    q = np.array(rows[int(np.argmax(squares))])
    q = q / np.sqrt((q * q).sum())
    return np.asarray(-q if q[0] < 0 else q)


def write_colmap(
    folder: Path, camera: Camera, names: Sequence[str], poses: Sequence[Array], scan: RoomScan
) -> None:
    """Write ``dslr/colmap``: the fisheye camera's text model; images are not sorted by name."""
    folder.mkdir(parents=True, exist_ok=True)
    K = camera.K
    numbers = (K[0, 0], K[1, 1], K[0, 2], K[1, 2], *camera.distortion)
    values = " ".join(repr(float(v)) for v in numbers)
    header = (
        "# Camera list with one line of data per camera:\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, "
    )
    (folder / "cameras.txt").write_text(
        f"{header}PARAMS[]\n# Number of cameras: 1\n"
        f"1 {camera.model} {camera.width} {camera.height} {values}\n"
    )
    lines = ["# Image list with two lines of data per image:"]
    lines += ["#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"]
    lines += ["#   POINTS2D[] as (X, Y, POINT3D_ID)", f"# Number of images: {len(names)}"]
    for number, index in enumerate(sorted(range(len(names)), key=lambda i: (i * 7 % 5, i))):
        pose = poses[index]
        place = [*quaternion(pose[:3, :3]), *pose[:3, 3]]
        numbers_text = " ".join(repr(round(float(v), 14)) for v in place)
        lines.append(f"{number + 1} {numbers_text} 1 {names[index]}")
        lines.append("" if index % 2 else f"{camera.width / 3:.2f} {camera.height / 4:.2f} -1")
    dump_lines(folder / "images.txt", lines)
    rows = ["# 3D point list with one line of data per point:"]
    rows += ["#   POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    for number, row in enumerate(range(0, len(scan.vertices), max(1, len(scan.vertices) // 200))):
        x, y, z = (float(v) for v in scan.vertices[row])
        r, g, b = (int(v) for v in scan.colors[row])
        rows.append(f"{number + 1} {x:.6f} {y:.6f} {z:.6f} {r} {g} {b} 0.5")
    dump_lines(folder / "points3D.txt", rows)


def nerfstudio_pose(world_to_camera: Array) -> Array:
    """Convert a pose to camera-to-world (4, 4), OpenGL axes, in ScanNet++'s world (y, x, -z)."""
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -(rotation * translation[:, None]).sum(axis=0)
    pose[:3, 1:3] *= -1
    return np.asarray(pose[[1, 0, 2, 3]] * np.array([1, 1, -1, 1])[:, None])


def write_nerfstudio(
    folder: Path,
    fisheye: Camera,
    pinhole: Camera,
    names: Sequence[str],
    poses: Sequence[Array],
    test_names: Sequence[str],
) -> None:
    """Write ``dslr/nerfstudio``: the transforms files of both cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = [
        {
            "file_path": name,
            "mask_path": f"{Path(name).stem}.png",
            "transform_matrix": nerfstudio_pose(pose).round(14).tolist(),
            "is_bad": False,
        }
        for name, pose in zip(names, poses, strict=True)
    ]
    for camera, name in ((fisheye, "transforms"), (pinhole, "transforms_undistorted")):
        k1, k2, k3, k4 = camera.distortion or (0.0, 0.0, 0.0, 0.0)
        content = {
            "fl_x": float(camera.K[0, 0]),
            "fl_y": float(camera.K[1, 1]),
            "cx": float(camera.K[0, 2]),
            "cy": float(camera.K[1, 2]),
            "w": camera.width,
            "h": camera.height,
            "k1": k1,
            "k2": k2,
            "k3": k3,
            "k4": k4,
            "camera_model": camera.model,
            "has_mask": True,
            "frames": [f for f in frames if f["file_path"] not in test_names],
            "test_frames": [f for f in frames if f["file_path"] in test_names],
        }
        dump_json(folder / f"{name}.json", content)


_REMEDY = "Generate the rooms again."


@dataclass(frozen=True, eq=False)
class _Capture:
    """What is written of a room: pictures (H, W, 3) uint8 with poses, the scan, and its facts."""

    images: Sequence[Array]
    poses: Sequence[Array]
    scan: RoomScan
    facts: Sequence[Fact]


def _rendered(room: Room, camera: Camera, num_views: int) -> _Capture:
    """Capture a room without a sensor: its own mesh, exact poses and rendered pictures."""
    poses, renderer = choose_poses(room, num_views), Renderer(room, camera)
    images, pixels = [], []
    for pose in poses:
        picture = renderer(pose)
        images.append(picture.image)
        pixels.append(picture.pixels_of(len(room.objects)))
    scan = scan_room(room)
    return _Capture(images, poses, scan, gather_facts(room, scan, pixels))


def _scanned(
    room: Room, camera: Camera, num_views: int, scanning: Scanning, folder: Path
) -> _Capture:
    """Capture a room as a hand-held sensor does, and write ``scan_truth.json`` into ``folder``."""
    walk = walk_through(room, choose_poses(room, num_views), scanning)
    gains, photographer = channel_gains(room, walk), Photographer(camera)
    renderer = Renderer(room, camera)
    images, pixels = [], []
    for index in walk.pictures.tolist():
        picture = renderer(walk.true[index])
        pixels.append(picture.pixels_of(len(room.objects)))
        rng = np.random.default_rng([*room.seed, 11, index])
        taken = photographer(picture.image, picture.depth, walk.motion(index), gains[index], rng)
        images.append(taken)
    scanned = scan_walk(renderer, walk, scanning)
    folder.mkdir(parents=True, exist_ok=True)
    dump_json(folder / "scan_truth.json", asdict(scanned.surface))
    facts = scanned_facts(gather_facts(room, scan_room(room), pixels), room, scanned)
    return _Capture(images, list(walk.believed[walk.pictures]), scanned.scan, facts)


def write_room(
    root: Path,
    scene_id: str,
    split: str,
    seed: Sequence[int],
    kind: str,
    num_views: int,
    size: tuple[int, int],
    spacing: float,
    questions: int = 1,
    scale: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
    extra: tuple[int, int] = (0, 0),
    scanning: Scanning | None = None,
) -> None:
    """Make, render and write one room below ``root``; ``size`` is (height, width) in pixels.

    ``questions`` multiplies the number of queries. ``scale`` and ``corner`` are arguments of
    ``make_room``; ``extra`` holds the numbers of questions with answers and of searches.
    ``scanning`` tells how the room is scanned; None writes the room's own mesh, poses and pictures.
    """
    clutter = scanning.clutter if scanning else 0
    room = make_room(seed, kind, spacing, scale, corner, clutter)
    camera = fisheye_camera(*size, room.seed)
    folder = root / "data" / scene_id
    if scanning is None:
        taken = _rendered(room, camera, num_views)
    else:
        taken = _scanned(room, camera, num_views, scanning, folder / "scans")
    undistorter = Undistorter.make(camera)
    first = 100 + 37 * (int(scene_id[:4], 16) % 200)
    names = [f"DSC{first + 3 * view + view % 2:05d}.JPG" for view in range(num_views)]
    write_scan(folder / "scans", taken.scan)
    dslr = folder / "dslr"
    write_pictures(dslr, names, taken.images, undistorter)
    write_colmap(dslr / "colmap", camera, names, taken.poses, taken.scan)
    test = names[:: max(2, num_views // 2)][:2]
    write_nerfstudio(dslr / "nerfstudio", camera, undistorter.camera, names, taken.poses, test)
    train = [name for name in names if name not in test]
    lists = {"train": train, "test": test, "has_masks": True}
    dump_json(dslr / "train_test_lists.json", lists)
    facts = taken.facts
    more = ExtraRecords(kind, *extra) if any(extra) else None
    records = sample_records(
        scene_id, split, facts, names, size[0] * size[1], room.seed, questions, more
    )
    (root / "queries" / "rooms").mkdir(parents=True, exist_ok=True)
    dump_json(root / "queries" / "rooms" / f"{scene_id}.json", records)


def write_index(root: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Write the splits, class lists and query files of finished rooms.

    Raises DataError when a room's file cannot be read.
    """
    for split, names in splits.items():
        records = [r for name in names for r in _load(root / "queries" / "rooms" / f"{name}.json")]
        rows = ",\n".join(json.dumps(record) for record in records)
        (root / "queries" / f"{split}.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
        (root / "splits").mkdir(exist_ok=True)
        dump_lines(root / "splits" / f"nvs_sem_{split}.txt", names)
    counts: Counter[str] = Counter()
    for name in itertools.chain.from_iterable(splits.values()):
        annotation = _load(root / "data" / name / "scans" / "segments_anno.json")
        counts.update(group["label"] for group in annotation["segGroups"])
    _write_classes(root / "metadata", counts)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, "a finished room's JSON file", str(error), _REMEDY) from error


def _write_classes(folder: Path, counts: Counter[str]) -> None:
    benchmark = folder / "semantic_benchmark"
    benchmark.mkdir(parents=True, exist_ok=True)
    small = CLUTTER_LABELS if any(label in counts for label in CLUTTER_LABELS) else ()
    dump_lines(folder / "semantic_classes.txt", (*SEMANTIC_CLASSES, *small))
    dump_lines(folder / "instance_classes.txt", (*INSTANCE_CLASSES, *small))
    dump_lines(benchmark / "top100.txt", (*SEMANTIC_CLASSES, *small))
    dump_lines(benchmark / "top100_instance.txt", (*INSTANCE_CLASSES, *small))
    with open(benchmark / "map_benchmark.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["class", "count", "semantic_map_to", "instance_map_to"])
        for label in (*SEMANTIC_CLASSES, *small):
            writer.writerow([label, counts[label], "", "None" if label in STRUCTURE else ""])
