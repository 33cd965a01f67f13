"""Small labelled pictures of many rooms: what a 2D model is trained and judged on.

The camera and its poses are the demo's own; the picture is rendered somewhat larger than it
is stored and then reduced, as photographs are. What queries need to know of a room's objects
is kept beside the pictures as ``Known``; meshes and scans are never made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.geometry.undistort import Undistorter
from data.rooms.queries import color_name, nominal_colors
from data.rooms.render import Renderer, fisheye_camera, vertex_colors
from data.rooms.room import Room, make_room
from data.rooms.scan import choose_poses
from data.types import Array

NOTHING = 255
"""Value of ``object_ids`` where a picture shows no object."""

FRAME = (320, 480)
"""Height and width of the demo's pictures."""
SMALL = (160, 240)
"""Height and width of the pictures to learn from."""

_POSES = 24


@dataclass(frozen=True)
class Known:
    """One object of a room.

    ``color`` is its one clear colour or "", ``all_colors`` every colour it might be called,
    ``host`` the position of the object it stands on (-1 none).
    """

    label: str
    color: str
    all_colors: tuple[str, ...]
    host: int


@dataclass(frozen=True, eq=False)
class Snapshots:
    """Pictures of several rooms.

    ``images`` (n, H, W, 3) uint8 RGB; ``object_ids`` (n, H, W) uint8, positions in
    ``rooms[room_of[i]]``, ``NOTHING`` elsewhere; ``room_of`` (n,) int64; ``rooms`` the objects
    of each room.
    """

    images: Array
    object_ids: Array
    room_of: Array
    rooms: tuple[tuple[Known, ...], ...]

    def __len__(self) -> int:
        return len(self.images)


def known_objects(room: Room) -> tuple[Known, ...]:
    """What queries may say of each object, by the rules of ``data.rooms.queries``."""
    colors = vertex_colors(room)
    known = []
    for index, item in enumerate(room.objects):
        own = room.mesh.vertex_objects == index
        main, every = nominal_colors(room, index)
        seen = color_name(np.median(colors[own], axis=0)) if own.any() else ""
        clear = main if main == seen else ""
        known.append(Known(item.label, clear, tuple(sorted({*every, seen} - {""})), item.support))
    return tuple(known)


def small_pictures(
    seed: Sequence[int], kind: str, views: int, spacing: float, oversampling: float
) -> Snapshots:
    """One room in pictures of ``SMALL`` pixels, rendered larger and reduced."""
    room = make_room(seed, kind, spacing)
    pinhole = _undistorter(seed).camera
    large = (round(SMALL[0] * oversampling), round(SMALL[1] * oversampling))
    render = Renderer(room, pinhole.scaled(*large))
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1) for n, m in zip(SMALL, large)
    )
    images, object_ids = [], []
    for pose in _some_poses(room, views):
        picture = render(pose)
        reduced = Image.fromarray(picture.image).resize(SMALL[::-1], Image.Resampling.BILINEAR)
        images.append(np.asarray(reduced))
        object_ids.append(_as_bytes(picture.object_ids[rows[:, None], columns]))
    return _of_one_room(room, images, object_ids)


def demo_pictures(seed: Sequence[int], kind: str, views: int, spacing: float) -> Snapshots:
    """One room as the demo's pictures show it: its size, its lens, its undistortion."""
    room = make_room(seed, kind, spacing)
    lens = fisheye_camera(*FRAME, tuple(seed))
    undistorter = _undistorter(seed)
    photograph, look = Renderer(room, lens), Renderer(room, undistorter.camera)
    images, object_ids = [], []
    for pose in _some_poses(room, views):
        images.append(undistorter.image(photograph(pose).image))
        object_ids.append(_as_bytes(look(pose).object_ids))
    return _of_one_room(room, images, object_ids)


def join(parts: Sequence[Snapshots]) -> Snapshots:
    """Snapshots of several rooms as one."""
    shifts = np.cumsum([0, *(len(part.rooms) for part in parts)])
    return Snapshots(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.object_ids for part in parts]),
        np.concatenate([part.room_of + shift for part, shift in zip(parts, shifts)]),
        tuple(room for part in parts for room in part.rooms),
    )


def _undistorter(seed: Sequence[int]) -> Undistorter:
    return Undistorter.make(fisheye_camera(*FRAME, tuple(seed)))


def _some_poses(room: Room, views: int) -> list[Array]:
    """A random choice of the poses a scan of the room would have."""
    rng = np.random.default_rng([*room.seed, 6])
    poses = choose_poses(room, max(views, _POSES))
    return [poses[int(i)] for i in rng.permutation(len(poses))[:views]]


def _as_bytes(object_ids: Array) -> Array:
    return np.where(object_ids < 0, NOTHING, object_ids).astype(np.uint8)


def _of_one_room(room: Room, images: list[Array], object_ids: list[Array]) -> Snapshots:
    room_of = np.zeros(len(images), np.int64)
    return Snapshots(np.stack(images), np.stack(object_ids), room_of, (known_objects(room),))


def write_snapshots(folder: Path, snapshots: Snapshots) -> None:
    """Two arrays that can be mapped into memory, and the objects of the rooms."""
    np.save(folder / "images.npy", snapshots.images)
    np.save(folder / "object_ids.npy", snapshots.object_ids)
    rooms = [[asdict(known) for known in room] for room in snapshots.rooms]
    content = {"room_of": snapshots.room_of.tolist(), "rooms": rooms}
    (folder / "rooms.json").write_text(json.dumps(content), encoding="utf-8")


def read_snapshots(folder: Path) -> Snapshots:
    """The pictures of a folder, mapped, not loaded."""
    content = json.loads((folder / "rooms.json").read_text(encoding="utf-8"))
    rooms = tuple(
        tuple(Known(k["label"], k["color"], tuple(k["all_colors"]), k["host"]) for k in room)
        for room in content["rooms"]
    )
    return Snapshots(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "object_ids.npy", mmap_mode="r"),
        np.array(content["room_of"], np.int64),
        rooms,
    )
