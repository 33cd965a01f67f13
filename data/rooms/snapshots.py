"""Render small labelled pictures of many rooms, for training and testing a 2D model.

Camera and poses are those of the demo. A picture is rendered larger than it is stored and then
reduced. The facts that queries need about a room's objects are stored beside the pictures as
``KnownObject``; no mesh or scan is written.
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
"""Value of ``object_ids`` for pixels without an object."""

FRAME = (320, 480)
"""Height and width of the demo's pictures."""
SMALL = (160, 240)
"""Height and width of the training pictures."""

_POSES = 24


@dataclass(frozen=True)
class KnownObject:
    """The facts of one object of a room that queries use.

    ``color`` is its unambiguous colour or "", ``all_colors`` are all colours that people might
    call it, ``host`` is the index of the object it stands on (-1: none).
    """

    label: str
    color: str
    all_colors: tuple[str, ...]
    host: int


@dataclass(frozen=True, eq=False)
class Snapshots:
    """Labelled pictures of several rooms.

    ``images`` (n, H, W, 3) uint8 RGB; ``object_ids`` (n, H, W) uint8, indices into
    ``rooms[room_of[i]]`` or ``NOTHING``; ``room_of`` (n,) int64, each picture's room; ``rooms``,
    the objects of each room.
    """

    images: Array
    object_ids: Array
    room_of: Array
    rooms: tuple[tuple[KnownObject, ...], ...]

    def __len__(self) -> int:
        return len(self.images)


def known_objects(room: Room) -> tuple[KnownObject, ...]:
    """Return the facts of each object of a room, by the rules of ``data.rooms.queries``."""
    colors = vertex_colors(room)
    objects = []
    for index, item in enumerate(room.objects):
        is_own = room.mesh.vertex_objects == index
        main, prominent = nominal_colors(room, index)
        seen_color = color_name(np.median(colors[is_own], axis=0)) if is_own.any() else ""
        clear_color = main if main == seen_color else ""
        objects.append(
            KnownObject(
                item.label,
                clear_color,
                tuple(sorted({*prominent, seen_color} - {""})),
                item.support,
            )
        )
    return tuple(objects)


def small_pictures(
    seed: Sequence[int], kind: str, views: int, spacing: float, oversampling: float
) -> Snapshots:
    """Render a room in pictures ``oversampling`` times as large as ``SMALL``, and reduce them."""
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
    """Render a room as in the demo: pictures of size ``FRAME``, fisheye, then undistorted."""
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
    """Concatenate the snapshots of several rooms."""
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
    """Draw ``views`` of the poses that a scan of the room would have."""
    rng = np.random.default_rng([*room.seed, 6])
    poses = choose_poses(room, max(views, _POSES))
    return [poses[int(i)] for i in rng.permutation(len(poses))[:views]]


def _as_bytes(object_ids: Array) -> Array:
    return np.where(object_ids < 0, NOTHING, object_ids).astype(np.uint8)


def _of_one_room(room: Room, images: list[Array], object_ids: list[Array]) -> Snapshots:
    room_of = np.zeros(len(images), np.int64)
    return Snapshots(np.stack(images), np.stack(object_ids), room_of, (known_objects(room),))


def write_snapshots(folder: Path, snapshots: Snapshots) -> None:
    """Write two arrays that can be memory-mapped, and ``rooms.json`` with the rooms' objects."""
    np.save(folder / "images.npy", snapshots.images)
    np.save(folder / "object_ids.npy", snapshots.object_ids)
    rooms = [[asdict(known) for known in room] for room in snapshots.rooms]
    content = {"room_of": snapshots.room_of.tolist(), "rooms": rooms}
    (folder / "rooms.json").write_text(json.dumps(content), encoding="utf-8")


def read_snapshots(folder: Path) -> Snapshots:
    """Open the snapshots in a folder; pictures are memory-mapped."""
    content = json.loads((folder / "rooms.json").read_text(encoding="utf-8"))
    rooms = tuple(
        tuple(KnownObject(k["label"], k["color"], tuple(k["all_colors"]), k["host"]) for k in room)
        for room in content["rooms"]
    )
    return Snapshots(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "object_ids.npy", mmap_mode="r"),
        np.array(content["room_of"], np.int64),
        rooms,
    )
