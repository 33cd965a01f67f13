"""Render small labelled pictures of many rooms, for training and testing a 2D model.

Camera and poses are those of the demo. A picture is rendered larger than it is stored and then
reduced. Scanned pictures are of rooms with small things lying about, taken by a hand-held camera.
The facts that queries need about a room's objects are stored beside the pictures as
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
from data.rooms.scanning.photographs import Photographer
from data.rooms.scanning.scan import Scanning, channel_gains, walk_through
from data.rooms.scanning.walk import FASTEST, FASTEST_TURN
from data.types import Array

NOTHING = 255
"""Value of ``object_ids`` for pixels without an object."""

FRAME = (320, 480)
"""Height and width of the demo's pictures."""
SMALL = (160, 240)
"""Height and width of the training pictures."""

_POSES = 24
_CLUTTER = Scanning().clutter
_EXPOSURE, _BALANCE = 0.25, 0.05


@dataclass(frozen=True)
class KnownObject:
    """The facts of one object of a room that queries use.

    ``label`` is one of ``data.rooms.catalog`` or of the small things of ``data.rooms.clutter``.
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
    seed: Sequence[int],
    kind: str,
    views: int,
    spacing: float,
    oversampling: float,
    scanned: bool = False,
) -> Snapshots:
    """Render a room in pictures ``oversampling`` times as large as ``SMALL``, and reduce them.

    Scanned pictures have random motion and exposure, more various than those of a walk.
    """
    room = make_room(seed, kind, spacing, clutter=_CLUTTER if scanned else 0)
    pinhole = _undistorter(seed).camera
    large = (round(SMALL[0] * oversampling), round(SMALL[1] * oversampling))
    render = Renderer(room, pinhole.scaled(*large))
    photographer = Photographer(render.camera)
    rng = np.random.default_rng([*room.seed, 12])
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1) for n, m in zip(SMALL, large)
    )
    images, object_ids = [], []
    for pose in _some_poses(room, views):
        picture = render(pose)
        image = picture.image
        if scanned:
            image = photographer(image, picture.depth, _motion(rng), _gains(rng), rng)
        reduced = Image.fromarray(image).resize(SMALL[::-1], Image.Resampling.BILINEAR)
        images.append(np.asarray(reduced))
        object_ids.append(_as_bytes(picture.object_ids[rows[:, None], columns]))
    return _of_one_room(room, images, object_ids)


def _motion(rng: np.random.Generator) -> Array:
    """Draw a motion (2, 3) as ``Walk.motion`` gives it, up to the fastest of a walk."""
    directions = rng.standard_normal((2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(directions * rng.random((2, 1)) * [[FASTEST_TURN], [FASTEST]])


def _gains(rng: np.random.Generator) -> Array:
    """Draw the gains (3,) of the channels RGB."""
    red, blue = np.exp(_BALANCE * rng.standard_normal(2))
    return np.asarray(2.0 ** (_EXPOSURE * rng.standard_normal()) * np.array([red, 1.0, blue]))


def demo_pictures(
    seed: Sequence[int], kind: str, views: int, spacing: float, scanned: bool = False
) -> Snapshots:
    """Render a room as in the demo: pictures of size ``FRAME``, fisheye, then undistorted.

    Scanned pictures are those of the scanned demo's walk through the room.
    """
    room = make_room(seed, kind, spacing, clutter=_CLUTTER if scanned else 0)
    lens = fisheye_camera(*FRAME, tuple(seed))
    undistorter = _undistorter(seed)
    render, look = Renderer(room, lens), Renderer(room, undistorter.camera)
    poses, photographs = (_walked if scanned else _looked)(room, render, views)
    images = [undistorter.image(photograph) for photograph in photographs]
    return _of_one_room(room, images, [_as_bytes(look(pose).object_ids) for pose in poses])


def _looked(room: Room, render: Renderer, views: int) -> tuple[list[Array], list[Array]]:
    """Return poses (4, 4) and rendered pictures."""
    poses = _some_poses(room, views)
    return poses, [render(pose).image for pose in poses]


def _walked(room: Room, render: Renderer, views: int) -> tuple[list[Array], list[Array]]:
    """Return poses (4, 4) of a walk through the room and the pictures taken there."""
    walk = walk_through(room, choose_poses(room, max(views, _POSES)), Scanning())
    gains, photographer = channel_gains(room, walk), Photographer(render.camera)
    rng = np.random.default_rng([*room.seed, 6])
    poses, images = [], []
    for index in rng.permutation(walk.pictures)[:views].tolist():
        pose, motion = walk.true[index], walk.motion(index)
        picture = render(pose)
        poses.append(pose)
        images.append(photographer(picture.image, picture.depth, motion, gains[index], rng))
    return poses, images


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
    """Return ids as uint8, ``NOTHING`` for no object and for small things beyond the 255th."""
    object_ids = np.where(object_ids < NOTHING, object_ids, -1)
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
